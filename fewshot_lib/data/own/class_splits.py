"""Which classes are for training, for validation, for testing: by list, by share, or from a file.

In few-shot learning classes are split, not examples (see ``dataset``). A list says exactly which; shares and
a seed draw them; a file keeps the choice, so that everybody who uses the data compares the same thing.
"""

import csv
import difflib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewshot_lib.data.dataset import class_ids
from fewshot_lib.data.own.tables import decode
from fewshot_lib.data.reporting import DataError

DEFAULT_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}

Split = Mapping[str, Sequence[str] | float] | str | Path | None


def split_classes(split: Split, class_names: Sequence[str], seed: int = 0) -> tuple[dict[str, Tensor], str]:
    """Class ids of every split, and the name of the split family.

    split: a mapping to lists of class names or to shares that add up to 1; the path of a file (.json with
    lists, or .csv with the columns ``class`` and ``split``); or None for 0.6 / 0.2 / 0.2, drawn by the seed.
    """
    if isinstance(split, str | Path):
        names = _from_file(Path(split))
        return _by_name(names, class_names, f"file {Path(split)}"), f"file {Path(split).name}"
    split = DEFAULT_SHARES if split is None else split
    if not isinstance(split, Mapping) or not split:
        fix = "give {'train': [names], …}, {'train': 0.6, …}, or the path of a file"
        raise ValueError(f"`split` is {split!r}: {fix}.")
    shares = {part: float(value) for part, value in split.items() if isinstance(value, int | float)}
    if len(shares) == len(split):
        family = f"shares {'/'.join(f'{share:g}' for share in shares.values())}, seed {seed}"
        return _by_share(shares, class_names, seed), family
    lists = {part: value for part, value in split.items() if isinstance(value, Sequence)}
    if len(lists) < len(split) or any(isinstance(value, str) for value in lists.values()):
        raise ValueError("`split` must map every split to a list of class names, or every split to a share.")
    return _by_name(lists, class_names, "`split`"), "by list"


def _by_name(split: Mapping[str, Sequence[str]], names: Sequence[str], source: str) -> dict[str, Tensor]:
    number_of = {name: c for c, name in enumerate(names)}
    owner: dict[str, str] = {}
    for part, name in ((part, name) for part, listed in split.items() for name in listed):
        if name not in number_of:
            close = difflib.get_close_matches(str(name), names, n=1)
            known = f"the data has {', '.join(map(repr, names[:8]))}, …"
            hint = f"did you mean {close[0]!r}?" if close else known
            raise ValueError(f"{source} puts {name!r} in {part!r}, but there is no such class: {hint}")
        if name in owner:
            both = f"in {owner[name]!r} and in {part!r}"
            raise ValueError(f"{source} puts {name!r} {both}: a class belongs to one split, once.")
        owner[name] = part
    return {part: class_ids(sorted(map(number_of.__getitem__, listed))) for part, listed in split.items()}


def _by_share(split: Mapping[str, float], class_names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Cuts one random order of the classes; what rounding leaves over goes to the largest remainders."""
    total = sum(split.values())
    if min(split.values()) <= 0 or not math.isclose(total, 1, abs_tol=1e-6):
        raise ValueError(
            f"`split` is {dict(split)}: shares must be positive and add up to 1 (here: {total:g})."
        )
    n = len(class_names)
    sizes = {part: math.floor(share * n + 1e-9) for part, share in split.items()}
    by_remainder = sorted(split, key=lambda part: sizes[part] - split[part] * n)
    for part in by_remainder[: n - sum(sizes.values())]:
        sizes[part] += 1
    if empty := [part for part, size in sizes.items() if not size]:
        fix = "use fewer splits (split={'test': 1.0} puts every class in one), or lists of class names"
        found = f"`split` gives {empty[0]!r} a share of {split[empty[0]]:g} of {n} classes, which is none"
        raise ValueError(f"{found}: {fix}.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).split(list(sizes.values()))
    return {part: ids.sort().values for part, ids in zip(split, order, strict=True)}


def _from_file(path: Path) -> dict[str, list[str]]:
    """The lists of class names that a .json or .csv file holds."""
    content, _ = decode(path)
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(io.StringIO(content, newline="")) if row]
        header = [cell.strip() for cell in rows[0]] if rows else []
        if header != ["class", "split"] or any(len(row) != 2 for row in rows):
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
        shape = '{"train": [class names], "val": […], "test": […]}'
        raise DataError(f"{path}: a split file holds one object, {shape}.")
    return names
