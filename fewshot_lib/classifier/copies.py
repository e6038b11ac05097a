"""Examples that were given twice: a copy is no second example.

Held out, an example would be answered by its copy, and the classifier would think itself better than it is.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fewshot_lib.data.reporting import first_few


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
    _say(f"rows {first_few(copies)} repeat an example of the same class: each counts once")
    kept = np.setdiff1d(np.arange(len(labels)), copies)
    return inputs[kept] if isinstance(inputs, Tensor) else [inputs[row] for row in kept], labels[kept]


def _keys(inputs: Any) -> Sequence[Any]:
    """Of texts, themselves without blanks around them; of pictures, their digests."""
    if not isinstance(inputs, Tensor):
        return [text.strip() for text in inputs]
    return [hashlib.sha256(picture.contiguous().numpy().tobytes()).digest() for picture in inputs]


def _say_of(torn: list[tuple[int, int]], labels: np.ndarray, classes: np.ndarray) -> None:
    names = [tuple(repr(classes[labels[row]].item()) for row in pair) for pair in torn]
    shown = [f"{a} and {b} ({', '.join(own)})" for (a, b), own in zip(torn, names, strict=True)]
    _say(f"rows {first_few(shown)} are the same under two labels: correct one of each", 6)


def _say(what: str, level: int = 5) -> None:
    warnings.warn(f"`X`: {what} (rows counted from 0).", stacklevel=level)
