"""RESULTS.md and results/*.csv, from what programs recorded: no number on them is typed.

``benchmarks/field.py`` leaves a JSON file per *cell*: a method on a data set, in a split family, with a
number of shots, an encoder, a seed. ``fewshot results --publish`` adds the cells to ``results/field.csv``, a
line each, and writes the page from that table, from ``benchmarks/metaprompting.csv``, from
``results/field_choices.csv``, and from ``results/published.csv``, the figures of papers with their marks and
sources. A table may have gaps: what has no cell is "not run".
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fewshot_lib.course.records import csv_table
from fewshot_lib.course.results.page import page, telling
from fewshot_lib.course.results.rows import Cell
from fewshot_lib.data.cache import write_whole
from fewshot_lib.data.reporting import DataError

IDENTITY = ("family", "set", "encoder", "tuned", "max_tokens", "method", "shots", "seed")
NUMBERS = ("mean", "std", "ci95", "minus_names", "minus_names_ci95", "seconds", "training_seconds")
WHOLE = ("shots", "seed", "n_way", "n_query", "episodes", "texts", "max_tokens", "threads")
COLUMNS = (
    *("family", "set", "encoder", "tuned", "method", "shots", "seed", "kind", *NUMBERS),
    *("n_way", "n_query", "episodes", "texts", "max_tokens", "precision", "features"),
    *("settings", "baseline", "split", "fingerprint", "device", "threads", "versions"),
)
TABLE, PUBLISHED = Path("results/field.csv"), Path("results/published.csv")
PROMPTS, CHOICES = Path("benchmarks/metaprompting.csv"), Path("results/field_choices.csv")
PAGE, README = Path("RESULTS.md"), Path("README.md")
MARKERS = ("<!-- results: written by fewshot results --publish -->", "<!-- end of results -->")


def publish(cells: Path, say: Callable[[str], None] = print) -> bool:
    """Writes the table, the page, and the README's rows, in the folder of the course.

    cells: the folder of ``benchmarks/field.py``. What the table holds already stays, unless measured again.
    """
    if not PUBLISHED.is_file():
        raise DataError(f"There is no {PUBLISHED} here: run this in the folder of the course.")
    found = list(read_cells(cells))
    if not found and not TABLE.is_file():
        raise DataError(
            f"There is no cell in {cells}: measure some, `python benchmarks/field.py --out {cells}`."
        )
    merged = {identity(cell): cell for cell in (read_table(TABLE) if TABLE.is_file() else []) + found}
    write_whole(TABLE, csv_of([merged[key] for key in sorted(merged)]))
    table = read_table(TABLE)  # rounded: the page says what the table says
    write_whole(PAGE, page(table, *map(read_lines, (PUBLISHED, PROMPTS, CHOICES))))
    readme = README.read_text(encoding="utf-8") if README.is_file() else ""
    if all(marker in readme for marker in MARKERS):
        (begin, rest), end = readme.split(MARKERS[0], 1), MARKERS[1]
        write_whole(README, f"{begin}{MARKERS[0]}\n{telling(table)}\n{end}{rest.split(end, 1)[1]}")
    say(f"{len(found):,} cells read, {len(table):,} in {TABLE}; {PAGE} written.")
    return True


def identity(cell: Mapping[str, Any]) -> tuple:
    """What a cell is of: of two such the later counts."""
    return tuple(cell[name] for name in IDENTITY)


def read_cells(folder: Path) -> Iterable[Cell]:
    """The cells of a folder, without the accuracies of single episodes."""
    for path in sorted(folder.rglob("*.json")):
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
            yield {name: cell[name] for name in COLUMNS}
        except (ValueError, KeyError, TypeError) as error:
            fix = "delete it, and measure the cell again"
            raise DataError(f"{path} is no cell of benchmarks/field.py ({error!r}): {fix}.") from error


def read_table(path: Path) -> list[Cell]:
    """The cells of a csv file by :func:`csv_of`."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path} has other columns than {', '.join(COLUMNS)}: restore it with git.")
        try:
            return [_typed(line) for line in reader]
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}. Restore it with git.") from error


def _typed(line: Mapping[str, str]) -> Cell:
    kinds = dict.fromkeys(NUMBERS, float) | dict.fromkeys(WHOLE, int)
    return {name: kinds.get(name, str)(line[name]) for name in COLUMNS}


def csv_of(cells: Iterable[Cell]) -> str:
    """A line per cell, accuracies as fractions."""
    return csv_table([cell | {name: f"{cell[name]:.6g}" for name in NUMBERS} for cell in cells], COLUMNS)


def read_lines(path: Path) -> list[dict[str, str]]:
    """The lines of a csv file, as text, such as the figures of papers; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
