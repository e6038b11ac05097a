"""The labels of examples: none missing, all of one kind, texts without what nobody sees."""

import warnings
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from fewshot_lib.data.own.labels import tidy
from fewshot_lib.data.reporting import first_few


def tidied(label: Any) -> Any:
    """A label as classes are called by it: a text as ``tidy`` makes it, anything else as it is."""
    return tidy(label) if isinstance(label, str) else label


def as_labels(y: Any, n: int, stacklevel: int = 5) -> np.ndarray:
    """Labels (n,) as an array, none missing: all texts, all numbers or all bool; texts are tidied.

    Warns of texts that were not, where ``stacklevel`` says. ValueError names the row of a missing label, and
    of one that is nothing of these: a date, a member of an Enum.
    """
    if isinstance(y, str | bytes | Mapping | Set):
        raise ValueError(f"`y` is a {type(y).__name__}: give a list with the label of every input, in order.")
    if not isinstance(getattr(y, "dtype", None), np.dtype):  # as objects: NaN is not "nan", Int64 no float
        y = np.asarray(y if hasattr(y, "__array__") else list(y), dtype=object)
    y = column_or_1d(y, warn=True)
    check_consistent_length(y, np.empty(n))
    given = y.tolist()
    values = [tidied(label) for label in given]
    for row, label in enumerate(values):
        if _missing(label):
            found = f"`y` is {given[row]!r} in row {row} (counted from 0)"
            raise ValueError(f"{found}: every input needs a label.")
    kinds = [None if y.dtype.kind in "mM" else _kind(label) for label in values]
    if None in kinds:
        row = kinds.index(None)
        found = f"`y` is {y[row]!r} in row {row} (counted from 0)"
        raise ValueError(f"{found}: make the labels texts, such as str(label), or numbers.")
    if len(set(kinds)) > 1:
        mixed = " and ".join(dict.fromkeys(map(str, kinds)))
        raise ValueError(f"`y` mixes {mixed}: make all labels of one kind.")
    if changed := {old: new for old, new in zip(given, values, strict=True) if old != new}:
        pairs = first_few(f"{old!r} as {new!r}" for old, new in changed.items())
        what = f"`y` is read without blanks and marks that nobody sees: {pairs}."
        warnings.warn(what, stacklevel=stacklevel)
    y = np.array(values) if changed or y.dtype == object else y
    if y.dtype.kind == "f":
        check_classification_targets(y)
    return y


def _kind(label: Any) -> str | None:
    """What kind of label it is, of those that can be told apart when saved and loaded; None: of none."""
    if isinstance(label, str):
        return "texts"
    if isinstance(label, bool | np.bool_):
        return "True or False"
    return "numbers" if isinstance(label, int | float | np.number) and not np.iscomplexobj(label) else None


def _missing(label: Any) -> bool:
    """None, an empty text, NaN and NaT (which differ from themselves) or pandas' NA (which does not say)."""
    try:
        return label is None or label == "" or bool(label != label)
    except TypeError:
        return True
