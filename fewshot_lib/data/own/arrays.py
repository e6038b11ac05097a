"""Inputs and labels that are in memory already, as a ``ClassDataset``: lists, numpy, torch, pandas.

Nothing is guessed about what is missing: a text, a label or a pixel that is none is refused by its row,
counted from 0 as Python counts.
"""

import reprlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset, large_classes
from fewshot_lib.data.own.array_images import images_from
from fewshot_lib.data.own.class_splits import Split, split_classes
from fewshot_lib.data.own.labels import tidy
from fewshot_lib.data.own.table_files import NO_CHARACTER
from fewshot_lib.data.reporting import first_few


def from_arrays(
    inputs: Tensor | np.ndarray | Sequence[Any],
    labels: Tensor | np.ndarray | Sequence[Any],
    class_names: Sequence[str] | None = None,
    split: Split = None,
    seed: int = 0,
    name: str = "arrays",
    min_examples: int = 1,
) -> ClassDataset:
    """Inputs and labels that are in memory already.

    inputs: n texts (a list, an array, a pandas column), or images as (n, height, width),
    (n, channels, height, width) or (n, height, width, channels): uint8, floating point in 0..1, or other
    numbers, which are scaled to these by the range of all.
    labels: n class ids (in 0..C-1 if ``class_names`` is given), n class names, or a one-hot matrix (n, C).
    class_names: C names; None takes the distinct labels, sorted.
    split, seed: which classes are for training, validation and testing; see ``class_splits.split_classes``.
    min_examples: classes with fewer examples are left out.
    """
    data, notes = _examples(inputs)
    values, alike = _values(labels)
    if not values:
        raise ValueError("`inputs` and `labels` are empty: give at least one example.")
    if len(data) != len(values):
        found = f"`inputs` has {len(data)} examples but `labels` has {len(values)}"
        raise ValueError(f"{found}: give one label per example.")
    names, ids = _classes(values, class_names)
    counts = np.bincount(ids, minlength=len(names)).tolist()
    kept, small = large_classes(dict(zip(names, counts, strict=True)), min_examples, name)
    if len(kept) < len(names):
        new_id = {names.index(name): c for c, name in enumerate(kept)}
        rows = [row for row, c in enumerate(ids) if c in new_id]
        ids = [new_id[ids[row]] for row in rows]
        data = data[rows] if isinstance(data, Tensor) else [data[row] for row in rows]
    splits, family = split_classes(split, kept, seed, left_out=set(names) - set(kept))
    for note in notes + alike + small:
        warnings.warn(f"{name}: {note}.", stacklevel=2)
    target = torch.tensor(ids, dtype=torch.int64)
    return ClassDataset(data, target, kept, splits, name=name, split_family=family)


def _examples(inputs: Any) -> tuple[Tensor | list[str], list[str]]:
    """Texts or images, and what was done to them in sentences."""
    if isinstance(inputs, str | bytes | Mapping | Set) or not isinstance(inputs, Iterable):
        kind = "one text" if isinstance(inputs, str) else f"of type {type(inputs).__name__}"
        raise ValueError(f"`inputs` is {kind}: give a list of texts, a tensor or an array.")
    if hasattr(inputs, "to_numpy"):  # a column or a table of pandas
        inputs = inputs.to_numpy()
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OUST":
        inputs = inputs[:, 0] if inputs.ndim == 2 and inputs.shape[1] == 1 else inputs
        if inputs.ndim != 1:
            raise ValueError(f"`inputs` has shape {inputs.shape}: give n texts, one column.")
        inputs = inputs.tolist()
    if isinstance(inputs, Tensor | np.ndarray):
        return images_from(inputs)
    inputs = list(inputs)
    if inputs and all(isinstance(item, np.ndarray | Tensor) for item in inputs):
        if len(shapes := {tuple(item.shape) for item in inputs}) > 1:
            found = " and ".join(map(str, sorted(shapes)[:2]))
            raise ValueError(f"`inputs` holds images of shapes {found}: give all of them one size.")
        return images_from(np.stack([np.asarray(item) for item in inputs]))
    return _texts(inputs), []


def _texts(texts: list[Any]) -> list[str]:
    _refuse_missing("inputs", "text", texts)
    if bad := [row for row, text in enumerate(texts) if not isinstance(text, str)]:
        found = f"among the texts is {reprlib.repr(texts[bad[0]])} (row {bad[0]})"
        raise ValueError(f"`inputs` must be texts, a tensor or an array; {found}.")
    if bad := [row for row, text in enumerate(texts) if NO_CHARACTER.search(text)]:
        found = f"half a character (a lone surrogate), or none (NUL), in {_rows(bad)}"
        raise ValueError(f"`inputs` holds {found}: repair them where they were cut.")
    return [str(text) for text in texts]  # numpy's texts are of a type of their own


def _values(labels: Any) -> tuple[list[Any], list[str]]:
    """A list of class ids or class names, all of one type, none missing; and what to say of them."""
    columns = [str(column) for column in labels.columns] if hasattr(labels, "columns") else None
    given = _as_list(labels)
    if given and all(isinstance(value, list | tuple | np.ndarray) for value in given):
        given = _one_column(given, columns)
    values = [_plain(value) for value in given]
    _refuse_missing("labels", "class", values)
    kinds = {str, int, bool} & {type(value) for value in values[:1]}
    if odd := [row for row, value in enumerate(values) if type(value) not in kinds]:
        found = f"row {odd[0]} is {reprlib.repr(values[odd[0]])}"
        raise ValueError(f"`labels` must be all class names (strings) or all class ids (integers); {found}.")
    spelt = defaultdict(set)
    for value, raw in zip(values, given, strict=True):
        spelt[value].add(raw if isinstance(raw, str) else value)
    alike = [repr(value) for value, spellings in spelt.items() if len(spellings) > 1]
    what = "labels that differ only by what cannot be seen, read as one class"
    return values, [f"{what}: {first_few(alike)}"] if alike else []


def _plain(value: Any) -> Any:
    """One label, a tidy name where it is a text, of no numpy and no torch; 2.0 is 2."""
    if value is np.ma.masked:
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        return tidy(str(value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_list(labels: Any) -> list[Any]:
    if isinstance(labels, str | bytes | Mapping | Set) or not isinstance(labels, Iterable):
        raise ValueError(f"`labels` is of type {type(labels).__name__}: give one class per example.")
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
    labels = labels.to_numpy() if hasattr(labels, "to_numpy") else labels
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "mM":
        raise ValueError(f"`labels` has dtype {labels.dtype}: give class names (strings) or ids (integers).")
    if getattr(labels, "ndim", 1) not in (1, 2):
        raise ValueError(f"`labels` has shape {tuple(labels.shape)}: give one class per example.")
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)


def _one_column(rows: list[Any], columns: list[str] | None) -> list[Any]:
    """Class ids of one-hot rows (their names where the columns have names), or the only column there is."""
    if {len(row) for row in rows} == {1}:
        return [row[0] for row in rows]
    for i, row in enumerate(rows):
        cells = list(row)
        if (
            len(cells) != len(rows[0])
            or any(_is_missing(c) or c not in (0, 1) for c in cells)
            or sum(cells) != 1
        ):
            found = f"row {i} is no one-hot row (a single 1, else 0, for each of {len(rows[0])} classes)"
            raise ValueError(f"`labels` is a matrix, but {found}: give one class per example.")
    ids = [list(row).index(1) for row in rows]
    return [columns[c] for c in ids] if columns else ids


def _classes(values: list[Any], class_names: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """The names of the classes, and the class id of every example."""
    distinct: list[Any]
    if class_names is None:
        distinct = sorted(set(values))
        names = [str(value) for value in distinct]
    elif isinstance(class_names, str | Mapping | Set):
        raise ValueError(
            f"`class_names` is a {type(class_names).__name__}: give a list, in the order of the ids."
        )
    else:
        names = [tidy(str(name)) for name in class_names]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ValueError(f"`class_names` holds {twice[0]!r} twice: give every class its own name.")
        distinct = names if isinstance(values[0], str) else list(range(len(names)))
    position = {value: c for c, value in enumerate(distinct)}
    if unknown := [row for row, value in enumerate(values) if value not in position]:
        known = f"none of the {len(names)} `class_names` (ids run from 0)"
        raise ValueError(
            f"`labels` holds {reprlib.repr(values[unknown[0]])}, which is {known}; {_rows(unknown)}."
        )
    return names, [position[value] for value in values]


def _refuse_missing(argument: str, what: str, values: list[Any]) -> None:
    if bad := [row for row, value in enumerate(values) if _is_missing(value)]:
        found = f"`{argument}` has no {what} in {_rows(bad)}, but {values[bad[0]]!r}"
        raise ValueError(f"{found}: fill it in, or leave the row out.")


def _is_missing(value: Any) -> bool:
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True  # the last two are how pandas says it
    return not value.strip() if isinstance(value, str) else isinstance(value, float) and value != value


def _rows(rows: list[int]) -> str:
    """The rows for a message, counted from 0."""
    return f"row{'s' if len(rows) > 1 else ''} {first_few(rows)} (counted from 0)"
