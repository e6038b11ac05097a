"""Examples that were given twice: a copy is no second example.

Held out, an example would be answered by its copy, and the classifier would think itself better than it is.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

SHOWN = 3  # rows that a warning names


def without_copies(inputs: Any, labels: np.ndarray, classes: np.ndarray) -> tuple[Any, np.ndarray]:
    """Texts or pictures (n) and labels (n,), counted from 0, without the copies inside a class.

    Warns of them, and of an input that has two labels, of which both stay.
    """
    first: dict[tuple[Any, int], int] = {}
    other: dict[Any, int] = {}
    copies, torn = [], []
    for row, (key, label) in enumerate(zip(_keys(inputs), labels.tolist(), strict=True)):
        if first.setdefault((key, label), row) != row:
            copies.append(row)
        elif labels[other.setdefault(key, row)] != label:
            torn.append((other[key], row))
    if torn:
        _say_of(torn, labels, classes)
    if not copies:
        return inputs, labels
    _say(f"{_listed(copies)} repeat an example of the same class: each counts once")
    kept = np.setdiff1d(np.arange(len(labels)), copies)
    return inputs[kept] if isinstance(inputs, Tensor) else [inputs[row] for row in kept], labels[kept]


def _keys(inputs: Any) -> Sequence[Any]:
    """Of texts, themselves without blanks around them; of pictures, their digests."""
    if not isinstance(inputs, Tensor):
        return [text.strip() for text in inputs]
    return [hashlib.sha256(picture.contiguous().numpy().tobytes()).digest() for picture in inputs]


def _say_of(torn: list[tuple[int, int]], labels: np.ndarray, classes: np.ndarray) -> None:
    shown = [
        f"{a} and {b} ({', '.join(repr(classes[labels[row]].item()) for row in (a, b))})"
        for a, b in torn[:SHOWN]
    ]
    more = f" and {len(torn) - SHOWN} more pairs" if len(torn) > SHOWN else ""
    _say(f"rows {', '.join(shown)}{more} are the same under two labels: correct one of each", 6)


def _listed(rows: list[int]) -> str:
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"rows {', '.join(map(str, rows[:SHOWN]))}{more}"


def _say(what: str, level: int = 5) -> None:
    warnings.warn(f"`X`: {what} (rows counted from 0).", stacklevel=level)
