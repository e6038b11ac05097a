"""Another choice of texts: what RESULTS.md would say with other texts of the same test classes.

    FEWSHOT_BF16=1 python benchmarks/field_choices.py [--sets huffpost reuters 20news amazon] [--choices 5]
    python benchmarks/field_choices.py --choices 0

``field.py`` measures on a part of the texts of each test class, a random choice that is fixed; its intervals
are over episodes of these texts. Here the same rows are measured on choices that have no text in common, in
the same way as there: all-MiniLM-L6-v2, split family ``bao``, episodes drawn with the same seed, what is
trained trained once (its classes are others). Choice 0 is that of RESULTS.md.

What was measured is a line of ``--out`` each and is not measured again; the page is written of what is there
(``--choices 0`` measures nothing).
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import field_data as fd
import torch
from field_rows import BASELINE, ROWS, Trained

from fewshot_lib.core import Method, bfloat16_asked, compare_paired, evaluate, pick_device
from fewshot_lib.course.records import csv_table, markdown
from fewshot_lib.course.results.page import ENCODERS, IN_README
from fewshot_lib.course.results.publishing import read_lines
from fewshot_lib.course.results.rows import FOUR, SHOTS
from fewshot_lib.course.results.short import deviation_of_mean, over_choices
from fewshot_lib.data.cache import write_whole

HERE = Path(__file__).parent
TABLE, PAGE = HERE.parent / "results" / "field_choices.csv", HERE / "field_choices.md"
FAMILY, ENCODER = "bao", "minilm"
COLUMNS = ("set", "choice", "method", "shots", "mean", "ci95", "minus_names", "minus_names_ci95", "precision")
Line = Mapping[str, str]


@functools.cache
def trained(row: str) -> Method:
    """A row of ``field.py``, trained with seed 0 on all sets of the family where it is to be trained."""
    method, encoder = ROWS[row], fd.Encoder(ENCODER)
    if not isinstance(method, Trained):
        return method
    tasks = [fd.prepared(name, FAMILY, encoder).task for name in fd.SETS if fd.has_family(name, FAMILY)]
    return method([task for task in tasks if len(task.classes("train")) >= fd.N_WAY], 0)


def measure(name: str, choice: int, rows: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of one choice of the texts of a set."""
    prepared = fd.prepared(name, FAMILY, fd.Encoder(ENCODER), choice)
    precision = "bfloat16" if bfloat16_asked(pick_device()) else "float32"
    for n_shot in SHOTS:
        episodes, task = prepared.episodes[n_shot], prepared.task
        found = {row: evaluate(trained(row), episodes, task.features, 50, names=task.names) for row in rows}
        for row, result in found.items():
            numbers = [result.mean, result.ci95, 0.0, 0.0]
            if row != BASELINE:
                difference = compare_paired(result, found[BASELINE])
                numbers[2:] = difference.mean, difference.ci95
            facts = [name, str(choice), row, str(n_shot), *(f"{each:.6g}" for each in numbers), precision]
            yield dict(zip(COLUMNS, facts, strict=True))


def deviations(lines: Sequence[Line], row: str, n_shot: int, what: str = "mean") -> tuple[float, float]:
    """Standard deviations of the mean over the four sets, in points: over choices, and of episodes alone."""
    interval = "ci95" if what == "mean" else f"{what}_ci95"
    halves = [over_choices(lines, name, row, n_shot, interval)[0] for name in FOUR]
    each = [over_choices(lines, name, row, n_shot, what) for name in FOUR]
    return deviation_of_mean(each), math.hypot(*halves) / 1.96 / len(FOUR)


def place(some: Sequence[float]) -> str:
    """Of the first among all, the highest first."""
    higher = sum(each > some[0] for each in some)
    return f"{higher + 1} of {len(some)}"


def by_set(lines: Sequence[Line]) -> Iterator[list[str]]:
    """Rows of the first table: names as examples on each set."""
    for name in FOUR:
        for n_shot in SHOTS:
            found = over_choices(lines, name, BASELINE, n_shot)
            half = over_choices(lines, name, BASELINE, n_shot, "ci95")[0]
            spread = ["all its texts take part", "–", "–"]
            if len(found) > 1:
                ends, deviation = f"{min(found):.1f} to {max(found):.1f}", statistics.stdev(found)
                spread = [ends, place(found), f"{deviation:.2f}"]
            yield [name, str(n_shot), str(len(found)), f"{found[0]:.1f}", *spread, f"{half / 1.96:.2f}"]


def by_row(lines: Sequence[Line], what: str) -> Iterator[list[str]]:
    """Rows of the second and third table: the mean of the four sets, or how far it is from the baseline's."""
    for row in IN_README:
        if what != "mean" and row == BASELINE:
            continue
        cells = [row]
        for n_shot in SHOTS:
            first = statistics.mean(over_choices(lines, name, row, n_shot, what)[0] for name in FOUR)
            of_choices, of_episodes = deviations(lines, row, n_shot, what)
            number = f"{first:.1f}" if what == "mean" else f"{first:+.1f}"
            cells += [number, f"{of_choices:.2f}", f"{of_episodes:.2f}"]
        yield cells


def page(lines: Sequence[Line]) -> str:
    """field_choices.md."""
    found = {(name, k): over_choices(lines, name, BASELINE, k) for name in FOUR for k in SHOTS}
    widest = max(max(some) - min(some) for some in found.values())
    means = [deviations(lines, BASELINE, k) for k in SHOTS]
    others = [row for row in IN_README if row != BASELINE]
    gaps = [deviations(lines, row, k, "minus_names")[0] for row in others for k in SHOTS]
    compared = [some for some in found.values() if len(some) > 1]
    n_highest = sum(some[0] == max(some) for some in compared)
    of_all = [statistics.mean(statistics.mean(found[name, k]) for name in FOUR) for k in SHOTS]
    of_first = [statistics.mean(found[name, k][0] for name in FOUR) for k in SHOTS]
    told = " and ".join(
        f"{a:.1f} for {b:.1f} at {k}-shot" for a, b, k in zip(of_all, of_first, SHOTS, strict=True)
    )
    several = [name for name in FOUR if len(found[name, SHOTS[0]]) > 1]
    taken = ", ".join(f"{fd.texts_of_test_classes(name)} texts ({name})" for name in several)
    precision = ", ".join(sorted({line["precision"] for line in lines}))
    head = ["standard deviation over choices", "of episodes alone"]
    columns = ["method", *(f"{each}, {k}-shot" for k in SHOTS for each in ("RESULTS.md", *head))]
    first = ["data set", "shots", "choices", "RESULTS.md", "lowest to highest", "its place", *head]
    parts = [
        "# Another choice of texts",
        f"With other texts of the same test classes, {BASELINE} moves by up to {widest:.1f} points on a "
        "single set (highest less lowest), and the mean of the four sets by a standard deviation of "
        f"{_ends(each[0] for each in means)} points, of which episodes alone would make "
        f"{_ends(each[1] for each in means)}. How far a method is from {BASELINE}, on the same texts, moves "
        f"by {_ends(gaps)}. The choice of RESULTS.md, which was the first, is the highest in {n_highest} of "
        f"{len(compared)} cases: the mean over all choices is {told}.",
        "Written by `FEWSHOT_BF16=1 python benchmarks/field_choices.py` from "
        "[results/field_choices.csv](../results/field_choices.csv), a line per measurement: "
        f"{ENCODERS[ENCODER]}, frozen, split family `{FAMILY}`, {fd.N_EPISODES:,} episodes, {precision}. Of "
        f"each test class a choice takes {taken}, and no text is in two; the first choice is that of "
        "[RESULTS.md](../RESULTS.md). Training and validation texts stay, and *relational* is trained once, "
        "with seed 0: in RESULTS.md it is the mean of its seeds.",
        f"## {BASELINE.capitalize()}, set by set",
        markdown(first, by_set(lines)),
        "*Its place*: of the choice of RESULTS.md, 1 of n is the highest. The standard deviation holds what "
        "other episodes change as well; the last column says how much these would change by themselves. Over "
        "three to five choices it is itself a rough figure.",
        "## The mean of the four sets",
        markdown(columns, by_row(lines, "mean")),
        f"## Less {BASELINE}",
        "In points, the mean of the four sets, each method and the baseline on the same texts and episodes.",
        markdown(columns, by_row(lines, "minus_names")),
    ]
    return "\n\n".join(parts) + "\n"


def _ends(numbers: Iterable[float]) -> str:
    """The smallest and the largest, or one number where both read alike."""
    ends = sorted({f"{each:.2f}" for each in numbers}, key=float)
    return ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"


def main() -> None:
    """Measures what is not there, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=FOUR, default=list(FOUR))
    parser.add_argument("--choices", type=int, default=5, help="at most, of each set")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = read_lines(options.out)
    known = {(line["set"], line["choice"]) for line in lines}
    for name in options.sets:
        for choice in range(min(options.choices, fd.n_choices(fd.load(name, FAMILY)))):
            if (name, str(choice)) not in known:
                lines += measure(name, choice, IN_README)
                write_whole(options.out, csv_table(lines, COLUMNS))
                print(f"{name}, choice {choice}", flush=True)
    write_whole(PAGE, page(lines))


if __name__ == "__main__":
    main()
