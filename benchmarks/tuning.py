"""``fit(…, tune_encoder=True)`` beside the frozen encoder, on the draws of ``own_data.py``.

    python benchmarks/tuning.py --datasets hwu64 huffpost --shots 2 4 8 --draws 5
    python benchmarks/tuning.py --choose --datasets hwu64 huffpost amazon --shots 2 4 --draws 3
    python benchmarks/tuning.py --page

Of HWU64 all 64 classes, of the other sets the *test* classes of the default split, the first 200 texts of
each; both are asked about the same 1,500 texts of what a draw leaves over, those of ``setfit_peer.py``, so
that differences are paired. Where the classifier keeps the frozen encoder, the difference is 0 and counts.
Seconds are those of the process's CPU on one thread, where there is no GPU. Results go to ``--out`` one by
one, a line of JSON each, what is there is not computed again, and ``--page`` prints their table.
``--choose`` compares learning rates and numbers of steps, and the tuned features alone with frozen and tuned
ones together, on eight training and validation classes a draw: in points over the frozen encoder.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from own_data_draws import chosen, compared, interval, table_head, table_row
from setfit_peer import RESULTS, SETFIT, clock, exactness, examples, keep, results

from fewshot_lib import data
from fewshot_lib.classifier import FewShotClassifier, tuning
from fewshot_lib.core import pick_device

N_CLASSES, N_ASKED, N_WORDS = 8, 40, 32  # of a choice: classes, texts of each asked about, and their words


def measure(name: str, n_shot: int, draw: int) -> dict[str, Any]:
    """One draw, by the frozen encoder and by the one that is tuned where that proves itself."""
    texts, labels, asked, truth = examples(name, n_shot, draw, *compared(name))
    right = np.array(truth)
    frozen = FewShotClassifier().fit(texts, labels)
    with warnings.catch_warnings(), clock() as taken:
        warnings.simplefilter("ignore")  # of an encoder that stays frozen: it is in the table
        after = FewShotClassifier().fit(texts, labels, tune_encoder=True)
    found = {"dataset": name, "shots": n_shot, "draw": draw, "classes": len(frozen.classes_)}
    for kind, classifier in (("frozen", frozen), ("tuned", after)):
        found[kind] = round(100 * float((classifier.predict(asked) == right).mean()), 4)
        found[f"{kind}_said"] = round(100 * classifier.accuracy_, 4)
    found |= {"taken": isinstance(after.encoder_, tuning.TunedEncoder), "device": pick_device().type}
    return found | taken


def choose(name: str, n_shot: int, draw: int) -> Iterator[str]:
    """Rows of the table of settings, of one draw of classes that nothing is measured on."""
    texts, labels, asked, right = of_few_classes(name, n_shot, draw)
    frozen = FewShotClassifier().fit(texts, labels)
    before = (frozen.predict(asked) == right).mean()

    def gain(encoder: torch.nn.Module) -> str:
        other = FewShotClassifier(encoder=encoder).fit(texts, labels)
        return f"{100 * ((other.predict(asked) == right).mean() - before):+.1f}"

    tuning.EPOCHS = 1
    for tuning.LR, tuning.STEPS in itertools.product((3e-4, 1e-3), (8, 30)):
        encoder = tuning.tune_on(frozen, frozen.rows_[frozen.mask_])
        yield table_row(name, n_shot, draw, tuning.LR, tuning.STEPS, gain(encoder.tuned), gain(encoder))


def of_few_classes(name: str, n_shot: int, draw: int) -> tuple[list[str], list[str], list[str], np.ndarray]:
    """Texts and labels to learn from, and to be asked about: of training and validation classes, cut."""
    dataset, generator = data.load(name), torch.Generator().manual_seed(draw)
    classes, rows = chosen(dataset, ("train", "val"), None)
    parts: tuple[list, ...] = ([], [], [], [])
    for c in classes[torch.randperm(len(classes), generator=generator)[:N_CLASSES]].tolist():
        own = rows[dataset.labels[rows] == c]
        own = own[torch.randperm(len(own), generator=generator)[: n_shot + N_ASKED]]
        cut = [" ".join(text.split()[:N_WORDS]) for text in dataset.take(own)]
        for part, found in zip(parts[::2], (cut[:n_shot], cut[n_shot:]), strict=True):
            part += found
        parts[1].extend([dataset.class_names[c]] * n_shot)
        parts[3].extend([dataset.class_names[c]] * (len(cut) - n_shot))
    return *parts[:3], np.array(parts[3])


def table(rows: list[dict[str, Any]], of_setfit: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the page; of_setfit: results of ``setfit_peer.py``, the most exact of a draw."""
    theirs = {
        (r["dataset"], r["shots"], r["draw"]): r["accuracy"]
        for r in sorted(of_setfit, key=lambda r: exactness(r["precision"]))
        if r["method"] == SETFIT
    }
    columns = ["data set", "examples", "draws", "frozen", "tuned", "difference", "less SetFit", "tuned in"]
    yield from table_head(*columns, "a fit takes")
    of_cells = itertools.groupby(
        sorted(rows, key=lambda r: (r["dataset"], r["shots"])),
        lambda r: (r["dataset"], r["classes"], r["shots"]),
    )
    gains = []
    for (name, n_classes, n_shot), group in of_cells:
        drawn = list(group)
        gains.append([r["tuned"] - r["frozen"] for r in drawn])
        less = [r["tuned"] - theirs[key] for r in drawn if (key := (name, n_shot, r["draw"])) in theirs]
        cells = [f"{name}, {n_classes} classes", n_shot, len(drawn)]
        measured = *([r[kind] for r in drawn] for kind in ("frozen", "tuned")), gains[-1], less
        cells += [*map(with_interval, measured), f"{sum(r['taken'] for r in drawn)} of {len(drawn)}"]
        timed = [r["cpu_seconds"] for r in drawn if r["device"] == "cpu"]
        yield table_row(*cells, f"{np.mean(timed):.0f} s" if timed else "")
    if len(gains) > 1:
        mean = with_interval([float(np.mean(each)) for each in gains])
        yield f"{table_row('mean of the rows', '', len(rows), '', '', mean)} | | |"


def with_interval(values: list[float]) -> str:
    """Their mean with its interval, which one value has not."""
    return interval(values) if len(values) > 1 else "".join(f"{value:.1f}" for value in values)


def main() -> None:
    """Measures, or prints the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["hwu64", "huffpost", "reuters", "amazon", "20news"])
    parser.add_argument("--shots", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--page", action="store_true", help="print the table of the results, measure nothing")
    parser.add_argument("--setfit", type=Path, default=RESULTS, help="its results")
    parser.add_argument("--choose", action="store_true", help="print how settings compare")
    parser.add_argument("--out", type=Path, default=Path("results/tuning.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.page:
        print("\n".join(table(results(options.out), results(options.setfit))))
        return
    keys = itertools.product(options.datasets, options.shots, range(options.draws))
    if options.choose:
        print(*table_head("data set", "examples", "draw", "rate", "steps", "tuned alone", "both"), sep="\n")
        for line in itertools.chain.from_iterable(itertools.starmap(choose, keys)):
            print(line, flush=True)
        return
    known = {(r["dataset"], r["shots"], r["draw"]) for r in results(options.out)}
    for key in keys:
        if key not in known:
            keep(options.out, measure(*key))


if __name__ == "__main__":
    main()
