"""Which classes are for training, for validation, for testing: by list, by share, or from a file.

In few-shot learning classes are split, not examples (see ``dataset``). A list says exactly which; a file
keeps it. Shares cut one order of the classes: that of sha256("seed:name"). It depends on each class's name
alone, so a class that comes or goes moves at most one other across each cut, and no order of rows matters.
"""

import difflib
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from torch import Tensor

from fewshot_lib.data.dataset import class_ids
from fewshot_lib.data.own.labels import tidy
from fewshot_lib.data.own.split_files import by_part, read_split
from fewshot_lib.data.reporting import DataError

DEFAULT_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
LEAST = 2  # classes: with fewer a part can hold no episode

Split = Mapping[str, Iterable[str] | float] | str | Path | None


def split_classes(
    split: Split, class_names: Sequence[str], seed: int = 0, left_out: Iterable[str] = ()
) -> tuple[dict[str, Tensor], str]:
    """Class ids of every split, and the name of the split family.

    split: a mapping to lists of class names or to shares that add up to 1; shares in one text, "0.6/0.2/0.2"
    (train/val/test) or "0.8/0.2" (train/test); the path of a file (.json with lists, or .csv with the columns
    ``class`` and ``split``); or None for 0.6 / 0.2 / 0.2. Of few classes these give two to the test split
    first, then to the training split, then to the validation split, and none to one that could get but one.
    left_out: classes that were too small to be kept: a list may name them, to no effect.
    """
    split = DEFAULT_SHARES if split is None else split
    if isinstance(split, str) and (shares := shares_in(split)):
        split = shares
    if isinstance(split, str | Path):
        path = Path(split).expanduser()
        return _by_name(read_split(path), class_names, f"file {path}", left_out), f"file {path.name}"
    if not isinstance(split, Mapping) or not split:
        fix = "give '0.6/0.2/0.2', {'train': [names], …}, {'train': 0.6, …}, or the path of a file"
        raise ValueError(f"`split` is {split!r}: {fix}.")
    split = by_part(split)
    shares = {part: float(v) for part, v in split.items() if isinstance(v, Real) and not isinstance(v, bool)}
    if len(shares) == len(split):
        family = f"shares {'/'.join(f'{share:g}' for share in shares.values())}, seed {seed}"
        return _by_share(shares, class_names, seed), family
    if shares or any(isinstance(value, str) or not isinstance(value, Iterable) for value in split.values()):
        raise ValueError("`split` must map every split to a list of class names, or every split to a share.")
    return _by_name(split, class_names, "`split`", left_out), "by list"


def shares_in(text: str) -> dict[str, float] | None:
    """The shares of "0.6/0.2/0.2" or "0.8/0.2"; "1" puts every class in test. None for what is no numbers."""
    try:
        shares = [float(number) for number in text.split("/")]
    except ValueError:
        return None
    parts = {1: ["test"], 2: ["train", "test"], 3: ["train", "val", "test"]}.get(len(shares))
    if parts is None:
        raise ValueError(f"`split` is {text!r}: give the shares of train/val/test or of train/test.")
    return dict(zip(parts, shares, strict=True))


def _by_name(
    split: Mapping[str, Iterable[Any]], names: Sequence[str], source: str, left_out: Iterable[str]
) -> dict[str, Tensor]:
    number_of = {tidy(name): c for c, name in enumerate(names)} | {name: c for c, name in enumerate(names)}
    known = {tidy(name) for name in left_out}
    owner: dict[int, str] = {}
    parts: dict[str, list[int]] = {part: [] for part in split}
    for part, name in ((part, _written(name)) for part, listed in split.items() for name in listed):
        c = number_of.get(name, number_of.get(tidy(name)))
        if c is None and tidy(name) in known:
            continue
        if c is None:
            close = difflib.get_close_matches(name, names, n=1)
            there = f"the data has {', '.join(map(repr, names[:8]))}{', …' if len(names) > 8 else ''}"
            hint = f"did you mean {close[0]!r}?" if close else there
            raise DataError(f"{source} puts {name!r} in {part!r}, but there is no such class: {hint}")
        if c in owner:
            both = f"in {owner[c]!r} and in {part!r}"
            raise DataError(f"{source} puts {name!r} {both}: a class belongs to one split, once.")
        owner[c] = part
        parts[part].append(c)
    return {part: class_ids(sorted(listed)) for part, listed in parts.items()}


def _written(name: Any) -> str:
    """A class name of a list, where a number or a truth value stands for its spelling in a table."""
    if isinstance(name, bool):
        return str(name).lower()
    if isinstance(name, Integral) or (isinstance(name, Real) and float(name).is_integer()):
        return str(int(name))  # type: ignore[call-overload]
    if not isinstance(name, str | Real):
        raise ValueError(f"`split` lists {name!r}, which is no class name: give texts.")
    return str(name)


def _by_share(shares: Mapping[str, float], class_names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Cuts the order of the classes by share."""
    total = sum(shares.values())
    if not min(shares.values()) > 0 or not math.isclose(total, 1, abs_tol=1e-6):
        percent = f" Write {'/'.join(f'{share / 100:g}' for share in shares.values())}."
        found = f"shares must be positive and add up to 1 (here: {total:g})"
        raise ValueError(f"`split` is {dict(shares)}: {found}.{percent if total == 100 else ''}")
    n = len(class_names)
    is_default = shares == DEFAULT_SHARES
    sizes = _sizes(shares, n, LEAST if is_default else 0)
    if (empty := [part for part, size in sizes.items() if not size]) and not is_default:
        fix = "use fewer splits (split={'test': 1.0} puts every class in one), or lists of class names"
        found = f"`split` gives {empty[0]!r} a share of {shares[empty[0]]:g} of {n} classes, which is none"
        raise DataError(f"{found}: {fix}.")
    order = sorted(range(n), key=lambda c: _place(class_names[c], seed))
    ends = accumulate(sizes.values())
    return {
        part: class_ids(sorted(order[end - size : end]))
        for (part, size), end in zip(sizes.items(), ends, strict=True)
    }


def _place(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{tidy(name)}".encode("utf-8", "surrogatepass")).hexdigest()


def _sizes(shares: Mapping[str, float], n: int, least: int) -> dict[str, int]:
    """How many of n classes each part gets; each in turn goes to the part that is furthest below its share.

    So one class more is one more for one part and none fewer for any other, and no size is off its share by
    a whole class. Of ties the later part wins. Parts start with ``least`` classes each; where that is too
    many, val goes without, then train.
    """
    kept = ["test", "train", "val"][: max(1, n // least)] if least else list(shares)
    sizes = {part: min(n, least) if part in kept else 0 for part in shares}
    whole = sum(shares[part] for part in kept)
    for given in range(sum(sizes.values()) + 1, n + 1):
        below = {
            part: round(shares[part] / whole * given - sizes[part], 9) for part in shares if part in kept
        }
        sizes[max(reversed(below), key=below.__getitem__)] += 1
    return sizes
