"""How poor must a task be to gain from others? The sizes among which chapter 08 chose, on validation classes.

    python benchmarks/poor_tasks.py [--seeds 100 101 102] [--out build/poor_tasks]

The packages of the docstrings are tasks, as in chapter 08, and each plays the poor task once: its training
classes are cut to 5, or all stay, with 10, 20 or all texts of each. The relational network is trained on the
poor task alone, and on it with the other packages, as in the chapter: 100 steps, as many episodes in a step.
It is judged on the *validation* classes of the poor package, 1-shot and 5-shot, after the last step, and with
other seeds than the chapter's. No test class is read. Differences are paired; intervals are over seeds.
Goes on, seed after seed, where it was interrupted; writes poor_tasks.md, the page, to ``--out``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from fewshot_lib import data
from fewshot_lib.core import EpisodeResults, PairedDifference, compare_paired, over_seeds
from fewshot_lib.course.chapters.chapter_08 import plan_tasks, poor
from fewshot_lib.data.cache import atomic_write
from fewshot_lib.encoders import TextEncoder, extract_features
from fewshot_lib.graphs import RelationalNetwork
from fewshot_lib.multitask import (
    RandomRotation,
    Task,
    TaskSampler,
    evaluate_tasks,
    task_episodes,
    train_jointly,
)
from fewshot_lib.prototypes import centred, name_features

N_WAY, SHOTS, TRAIN_QUERIES, STEPS, ALL = 5, (1, 5), 5, 100, 99
SIZES = tuple(itertools.product((N_WAY, ALL), (SHOTS[1] + TRAIN_QUERIES, 20, ALL)))  # classes, texts of each
PAGE = """# How poor must a task be?

`python benchmarks/poor_tasks.py` wrote this page.

{what}

| training classes | texts of each | gain, 1-shot | gain, 5-shot |
|---|---|---|---|
{rows}

Gain: accuracy with the other packages less accuracy alone, in points, ± half of the 95 % interval over
{number} seeds. Chapter 08 takes the size and the shots of the largest gain, and measures on packages that had
no part in this.
"""
Key = tuple[int, int, str, int, str]  # classes, texts, "alone" or "with", shots, package


def tasks_of_chapter() -> list[Task]:
    """The packages, their classes divided as in chapter 08, with features centred on the training classes."""
    ds = data.load("docstrings")
    plan = plan_tasks(ds, N_WAY, seed=0)
    learning = replace(ds, splits={"train": torch.cat([split["train"] for split in plan.tasks.values()])})
    encoder = TextEncoder()
    z, names = centred(learning, extract_features(encoder, ds), name_features(encoder, ds))
    return [Task(name, replace(ds, splits=split), z, names) for name, split in plan.tasks.items()]


def trained(on: list[Task], n_tasks: int, seed: int) -> RelationalNetwork:
    """After the last step; a step has as many episodes whatever the number of tasks."""
    torch.manual_seed(seed)
    model = RelationalNetwork(use_names=True)
    number = max(1, n_tasks // len(on))
    sampler = TaskSampler(on, N_WAY, SHOTS, TRAIN_QUERIES, number, augment=RandomRotation(), seed=seed)
    train_jointly(model, sampler, STEPS, lr=3e-3, validate=None, label="")
    return model


def measured(tasks: list[Task], seed: int) -> Iterator[tuple[Key, EpisodeResults]]:
    """The results of one seed, package after package."""
    for task, (n_classes, n_texts) in itertools.product(tasks, SIZES):
        few = poor(task, min(n_classes, len(task.classes("train"))), n_texts, seed)
        others = [other for other in tasks if other is not task]
        for way, on in (("alone", [few]), ("with", [few, *others])):
            model = trained(on, len(tasks), seed)
            for k in SHOTS:
                dealt = task_episodes([task], "val", N_WAY, k, 15, 100, seed=7)
                found = evaluate_tasks(model, [task], dealt, batch_size=25)[task.name]
                yield (n_classes, n_texts, way, k, task.name), found


def gain(seeds: list[dict[Key, EpisodeResults]], size: tuple[int, int], k: int) -> PairedDifference:
    """With the others less alone, k-shot, over all packages."""
    packages = list(dict.fromkeys(key[-1] for key in seeds[0]))

    def joined(way: str) -> EpisodeResults:
        rows = [over_seeds([found[(*size, way, k, package)] for found in seeds]) for package in packages]
        prints = " ".join(row.episodes_fingerprint for row in rows)
        accuracies = torch.cat([row.accuracies for row in rows], 1)
        return replace(rows[0], accuracies=accuracies, episodes_fingerprint=prints)

    return compare_paired(joined("with"), joined("alone"))


def page(seeds: list[dict[Key, EpisodeResults]]) -> str:
    """The table, a row for every size."""
    lines = []
    for size in SIZES:
        found = [gain(seeds, size, k) for k in SHOTS]
        cells = ["all" if number == ALL else str(number) for number in size]
        cells += [f"{100 * each.mean:+.2f} ± {100 * each.ci95:.2f}" for each in found]
        lines.append(f"| {' | '.join(cells)} |")
    return PAGE.format(what=__doc__.split("\n\n")[2].strip(), rows="\n".join(lines), number=len(seeds))


def main() -> None:
    """Trains what is not in the folder yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--out", type=Path, default=Path("build/poor_tasks"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    tasks, seeds = tasks_of_chapter(), []
    for seed in options.seeds:
        path = options.out / f"{seed}.pt"
        if not path.is_file():
            with atomic_write(path) as temporary:
                torch.save(dict(measured(tasks, seed)), temporary)
        seeds.append(torch.load(path, weights_only=False))
    text = page(seeds)
    (options.out / "poor_tasks.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
