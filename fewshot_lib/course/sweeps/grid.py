"""What a person types for a grid: ``n_shot=1,5 seed=0..4`` is ten points, in the order typed."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fewshot_lib.course.running.parameters import NAMES, parse_assignments, read_value

MOST_POINTS = 100_000
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


def parse_grid(assignments: Iterable[str]) -> dict[str, list[Any]]:
    """["n_shot=1,5", "seed=0..2"] -> {"n_shot": [1, 5], "seed": [0, 1, 2]}; values as for ``run -p``."""
    grid: dict[str, list[Any]] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name in grid:
            raise ValueError(f"`-p {name}` is given twice: give it once, with commas between its values.")
        for part in itertools.chain(*map(_unfolded, _split(text))):
            given = parse_assignments([f"{name}={part}" if "=" in assignment else assignment])
            grid.setdefault(name, []).append(given[name])
    return grid


def parse_seeds(text: str) -> list[int]:
    """ "0..4" or "0,3,7": the training seeds of ``fewshot run --seeds``."""
    return parse_grid([f"seed={text}"])["seed"]


def _split(text: str) -> list[str]:
    """The parts between commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (depth or not parts[-1].strip()):  # not the one in "it's.csv"
            quote = letter
        elif letter == "," and not depth:
            parts.append("")
            continue
        else:
            depth = max(0, depth + (letter in "[{") - (letter in "]}"))
        parts[-1] += letter
    return parts


def _unfolded(text: str) -> Iterator[str]:
    """The numbers of a range, both ends included."""
    if (ends := _RANGE.fullmatch(text.strip())) is None:
        yield text
        return
    first, last = int(ends[1]), int(ends[2])
    if not first <= last < first + MOST_POINTS:
        raise ValueError(f"`{text.strip()}` is no range: write FIRST..LAST, as in 0..4.")
    yield from map(str, range(first, last + 1))


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value per parameter, the last parameter turning fastest."""
    size = 1
    for name, values in grid.items():
        if not (values := list(values)):
            raise ValueError(f"`{name}` has no value: give at least one.")
        size *= len(values)
    if size > MOST_POINTS:
        raise ValueError(f"That makes {size:,} points: at most {MOST_POINTS:,} at a time.")
    return [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]


def typed(name: str, value: Any) -> str:
    """An assignment as a person would type it: :func:`parse_grid` reads this one value from it."""
    plain = isinstance(value, str) and "," not in value and not _RANGE.fullmatch(value)
    if plain and value.strip() == value and value and read_value(value, a_name=name in NAMES) == value:
        return f"{name}={value}"
    return f"{name}={value!r}"


def in_words(parameters: Mapping[str, Any], names: Iterable[str]) -> str:
    """The named parameters, for a line of a report: "n_shot=5 seed=1"."""
    return " ".join(typed(name, parameters[name]) for name in names if name in parameters)


def swept(parameters: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the parameters that do not have the same value everywhere."""
    values: dict[str, set[str]] = {}
    for each in parameters:
        for name, value in each.items():
            values.setdefault(name, set()).add(repr(value))
    return [name for name, found in values.items() if len(found) > 1]
