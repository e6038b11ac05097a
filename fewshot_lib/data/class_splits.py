"""Which classes are for training, for validation, for testing: by list, by share, or from a file.

In few-shot learning classes are split, not examples (see ``dataset``). A list says exactly which; shares and a seed draw
them; a file keeps the choice, so that everybody who uses the data compares the same thing.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .reporting import DataError
from .tables import decode

DEFAULT_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
Split = Mapping[str, Sequence[str]] | Mapping[str, float] | str | Path | None


def split_classes(split: Split, class_names: Sequence[str], seed: int = 0) -> tuple[dict[str, Tensor], str]:
    """Class ids of every split, and the name of the split family.

    split: a mapping to lists of class names; a mapping to shares that add up to 1; the path of a file (.json with such a
        mapping, or .csv with the columns ``class`` and ``split``); or None for 0.6 / 0.2 / 0.2.
    seed: for shares only: which classes are drawn.

    Raises ValueError for unknown or twice named classes, shares that do not add up or leave a split without a class, and
    DataError for a file that cannot be read.
    """
    if isinstance(split, str | Path):
        names = _from_file(Path(split))
        return _by_name(names, class_names, f"file {Path(split)}"), f"file {Path(split).name}"
    split = DEFAULT_SHARES if split is None else split
    if not isinstance(split, Mapping) or not split:
        raise ValueError(f"`split` is {split!r}: give {{'train': [names], …}}, {{'train': 0.6, …}}, or the path of a file.")
    if all(isinstance(share, int | float) for share in split.values()):
        shares = "/".join(f"{float(share):g}" for share in split.values())
        return _by_share(split, class_names, seed), f"shares {shares}, seed {seed}"
    if any(isinstance(names, str) or not isinstance(names, Sequence) for names in split.values()):
        raise ValueError("`split` must map every split to a list of class names, or every split to a share.")
    return _by_name(split, class_names, "`split`"), "by list"


def _by_name(split: Mapping[str, Sequence[str]], class_names: Sequence[str], source: str) -> dict[str, Tensor]:
    number_of = {name: c for c, name in enumerate(class_names)}
    owner: dict[str, str] = {}
    for part, names in split.items():
        for name in names:
            if name not in number_of:
                close = difflib.get_close_matches(str(name), class_names, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the data has {', '.join(map(repr, list(class_names)[:8]))}, …"
                raise ValueError(f"{source} puts {name!r} in {part!r}, but there is no such class: {hint}")
            if name in owner:
                raise ValueError(f"{source} puts {name!r} in {owner[name]!r} and in {part!r}: a class belongs to one split, once.")
            owner[name] = part
    return {part: torch.tensor(sorted(number_of[name] for name in names), dtype=torch.int64) for part, names in split.items()}


def _by_share(split: Mapping[str, float], class_names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Cuts one random order of the classes; the largest remainders get the classes that rounding leaves over."""
    if any(share <= 0 for share in split.values()) or not math.isclose(sum(split.values()), 1, abs_tol=1e-6):
        raise ValueError(f"`split` is {dict(split)}: shares must be positive and add up to 1 (here: {sum(split.values()):g}).")
    n = len(class_names)
    exact = [share * n for share in split.values()]
    sizes = [math.floor(size + 1e-9) for size in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda k: sizes[k] - exact[k])
    for k in by_remainder[: n - sum(sizes)]:
        sizes[k] += 1
    if 0 in sizes:
        part = list(split)[sizes.index(0)]
        raise ValueError(
            f"`split` gives {part!r} a share of {list(split.values())[sizes.index(0)]:g} of {n} classes, which is none: "
            "use fewer splits (split={'test': 1.0} puts every class in one), or lists of class names."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return {part: ids.sort().values for part, ids in zip(split, order.split(sizes), strict=True)}


def _from_file(path: Path) -> dict[str, list[str]]:
    """The lists of class names that a .json or .csv file holds."""
    content, _ = decode(path)
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(io.StringIO(content, newline="")) if row]
        if not rows or [cell.strip() for cell in rows[0]] != ["class", "split"] or any(len(row) != 2 for row in rows):
            raise DataError(f"{path}: a split file has two columns, and its first line is: class,split")
        names: dict[str, list[str]] = {}
        for name, part in rows[1:]:
            names.setdefault(part.strip(), []).append(name.strip())
        return names
    try:
        names = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is neither .csv nor JSON ({error.msg} in line {error.lineno}).") from None
    if not isinstance(names, dict) or not all(isinstance(part, list) for part in names.values()):
        raise DataError(f'{path}: a split file holds one object, {{"train": [class names], "val": […], "test": […]}}.')
    return names
