"""Remembering or generalising: accuracy on unseen classes against the number of classes trained on.

    python benchmarks/unseen_classes.py [--datasets docstrings glyphs] [--seeds 3] [--steps 600]

Heads on fixed features, each trained on 5, 10, 20, … and all training classes (nested choices, a seed
each) and tested on classes that it never saw, and on those that it did:

    projected           x + W₂ GELU(W₁ x), then cosine prototypes: a Prototypical Network on features
    in-context          a Transformer over [feature; label code] tokens
    in-context, alone   the same without the cosines that it adds to: all that it can do is learnt
    GAT-Transformer     graph attention and a Transformer over projected features
    relational          attention that sees how things are related, and nothing else

All but the third start as cosine prototypes, so that whatever they gain or lose was learnt. 5-way, without
names, 1 to 5 shots in training, 1 and 5 in testing, 15 queries a class; the same number of steps whatever the
number of classes, nothing chosen on validation classes, the last step kept. docstrings: 384 numbers by the
frozen all-MiniLM-L6-v2. glyphs: the pictures themselves, 14 × 14 pixels less their mean. Differences to
prototypes are paired, intervals over seeds, each with a choice of classes and test episodes of its own. Goes
on where it was interrupted; writes unseen_classes.csv, a row for every training, and unseen_classes.md, the
table, to ``--out``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from own_data_draws import table_head, table_row
from torch import Tensor, nn

from fewshot_lib import data
from fewshot_lib.core import half_width, seed_everything
from fewshot_lib.course.records import csv_table
from fewshot_lib.course.results.publishing import read_lines
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.cache import write_whole
from fewshot_lib.encoders import TextEncoder, extract_features
from fewshot_lib.graphs import GATTransformer, InContext, RelationalNetwork
from fewshot_lib.multitask import Task, TaskSampler, evaluate_tasks, task_episodes, train_jointly
from fewshot_lib.prototypes import class_means, cosine_logits, cosine_prototypes

COUNTS, N_WAY, SHOTS, N_EPISODES = (5, 10, 20, 40, 80, 160, 320), 5, (1, 5), 300
COLUMNS = "dataset head classes seed shots unseen gain seen seen_gain seconds".split()
Row = dict[str, str]


class Projected(nn.Module):
    """A Prototypical Network on features: support (E, N, K, d), query (E, M, d) -> logits (E, M, N)."""

    transductive, name = False, "projected"

    def __init__(self, n_features: int, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, hidden), nn.GELU(), nn.Linear(hidden, n_features))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        support, query = self.moved(support), self.moved(query)
        return cosine_logits(query, class_means(support))

    def moved(self, x: Tensor) -> Tensor:
        """A feature of length 1, and what was learnt to add to it."""
        x = F.normalize(x, dim=-1)
        return x + self.layers(x * x.shape[-1] ** 0.5)


# head -> how it is made for features of a width, and its learning rate, that of the chapters
HEADS: dict[str, tuple[Callable[[int], nn.Module], float]] = {
    "projected": (Projected, 1e-3),
    "in-context": (partial(InContext, use_names=False), 1e-3),
    "in-context, alone": (partial(InContext, use_names=False, start=False), 1e-3),
    "GAT-Transformer": (partial(GATTransformer, use_names=False), 1e-3),
    "relational": (lambda width: RelationalNetwork(use_names=False), 5e-3),
}


def features_of(dataset: ClassDataset) -> Tensor:
    """Of texts those of the encoder; of pictures their pixels less the mean of the training classes."""
    if dataset.is_text:
        return extract_features(TextEncoder(), dataset)
    pixels = F.avg_pool2d(dataset.inputs.float() / 255, 2).flatten(1)
    return pixels - pixels[dataset.rows("train")].mean(0)


def with_classes(task: Task, n_classes: int, seed: int) -> Task:
    """The task with some of its training classes (the first of a random order) and no validation classes."""
    classes = task.classes("train")
    chosen = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))[:n_classes]]
    splits = {"train": chosen.sort().values, "test": task.classes("test")}
    return Task(task.name, replace(task.dataset, splits=splits), task.features)


def trained(head: str, task: Task, n_steps: int, seed: int) -> nn.Module:
    """After so many steps of eight episodes each."""
    make, lr = HEADS[head]
    seed_everything(seed)
    model = make(task.features.shape[1])
    sampler = TaskSampler([task], N_WAY, (min(SHOTS), max(SHOTS)), 5, 8, seed=seed)
    label = f"{task.name}, {head}, {len(task.classes('train'))} classes, seed {seed}"
    train_jointly(model, sampler, n_steps, lr=lr, label=label)
    return model.eval()


def cell(task: Task, head: str, n_steps: int, seed: int) -> list[Row]:
    """The rows of one training: in %, and what was gained over prototypes on the same episodes."""
    start = time.process_time()
    model = trained(head, task, n_steps, seed)
    rows = []
    for n_shot in SHOTS:
        row = {"dataset": task.name, "head": head, "seed": seed, "shots": n_shot}
        row |= {"classes": len(task.classes("train"))}
        for split, column in (("test", "unseen"), ("train", "seen")):
            dealt = task_episodes([task], split, N_WAY, n_shot, 15, N_EPISODES, seed)
            found, without = (
                evaluate_tasks(m, [task], dealt, 100)[task.name].mean for m in (model, cosine_prototypes)
            )
            gain = "gain" if column == "unseen" else "seen_gain"
            row |= {column: f"{100 * found:.2f}", gain: f"{100 * (found - without):.2f}"}
        rows.append({name: str(value) for name, value in row.items()})
    return [row | {"seconds": f"{time.process_time() - start:.0f}"} for row in rows]


def table(rows: list[Row]) -> str:
    """Points gained over prototypes on unseen (on seen) classes, with their interval over seeds."""
    lines = []
    for name, n_shot in sorted({(row["dataset"], row["shots"]) for row in rows}):
        own = [row for row in rows if (row["dataset"], row["shots"]) == (name, n_shot)]
        counts = sorted({int(row["classes"]) for row in own})
        start = [float(row["unseen"]) - float(row["gain"]) for row in own]
        lines += [f"### {name}, {n_shot}-shot: prototypes {sum(start) / len(start):.1f} %\n"]
        lines += table_head("head", *(f"{n} classes" for n in counts))
        for head in (head for head in HEADS if any(row["head"] == head for row in own)):
            cells = (points([r for r in own if r["head"] == head and int(r["classes"]) == n]) for n in counts)
            lines.append(table_row(head, *cells))
        lines.append("")
    return "\n".join(lines)


def points(rows: list[Row]) -> str:
    """Gain on unseen classes ± half its 95 % interval over seeds, and the gain on seen ones in brackets."""
    if not rows:
        return "not run"
    unseen, seen = (torch.tensor([float(row[name]) for row in rows]) for name in ("gain", "seen_gain"))
    half = f" ± {half_width(unseen):.1f}" if len(rows) > 1 else ""
    return f"{unseen.mean():+.1f}{half} ({seen.mean():+.1f})"


def main() -> None:
    """Trains what is not in the file yet, seed after seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["docstrings", "glyphs"])
    parser.add_argument("--heads", nargs="+", choices=list(HEADS), default=list(HEADS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("build/unseen_classes"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read_lines(options.out / "unseen_classes.csv")
    tasks = []
    for name in options.datasets:
        dataset = data.load(name)
        tasks.append(Task(name, dataset, features_of(dataset)))
    for seed in range(options.seeds):
        for task in tasks:
            every = len(task.classes("train"))
            for n_classes in [*(n for n in COUNTS if n < every), every]:
                part = with_classes(task, n_classes, seed)
                for head in options.heads:
                    key = (task.name, head, str(n_classes), str(seed))
                    if key not in {(r["dataset"], r["head"], r["classes"], r["seed"]) for r in rows}:
                        rows += cell(part, head, options.steps, seed)
                        write_whole(options.out / "unseen_classes.csv", csv_table(rows, COLUMNS))
    text = table(rows)
    (options.out / "unseen_classes.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
