"""How what cannot work is refused, before any work is done: its name, the value found, what to do instead."""

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"`{name}` is {value!r}: use one of {', '.join(map(repr, allowed))}.")


def positive(or_zero: bool = False, **values: float) -> None:
    """Raises ValueError for the first of the named values that is not above 0 (or, ``or_zero``, is below)."""
    for name, value in values.items():
        if not ((number := _number(value)) > 0 or (or_zero and number == 0)):
            raise ValueError(f"`{name}` is {value!r}: it must be {'0 or more' if or_zero else 'positive'}.")


def whole_number(lowest: int = 1, **values: int) -> None:
    """Raises ValueError for the first of the named values that is no whole number from ``lowest`` on."""
    for name, value in values.items():
        if not is_whole(value) or value < lowest:
            raise ValueError(f"`{name}` is {value!r}: use a whole number, {lowest} or more.")


def is_whole(value: object) -> bool:
    """Whether this is one whole number, of Python, NumPy or torch; True is none."""
    try:
        operator.index(value)  # type: ignore[arg-type]  # whether it is one is the question
    except TypeError:
        return False
    return not isinstance(value, (bool, np.bool_))


def random_numbers(seed: int) -> torch.Generator:
    """A generator of its own, the same for the same seed; ValueError unless this is a whole number."""
    if not is_whole(seed) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"`seed` is {seed!r}: use a whole number of at most 63 bits.")
    return torch.Generator().manual_seed(int(seed))


def a_list(**values: object) -> None:
    """Raises ValueError for the first of the named values that is one text: as a list it would be letters."""
    for name, value in values.items():
        if isinstance(value, (str, bytes)):
            raise ValueError(f"`{name}` is the one text {value!r}: give a list, [{value!r}].")


def rate(**values: object) -> float:
    """The named value as a float, of Python, NumPy or pandas; raises ValueError unless it is finite, >= 0."""
    ((name, value),) = values.items()
    if not 0 <= (number := _number(value)) < math.inf:
        raise ValueError(f"`{name}` is {value!r}: use a number, 0 or more.")
    return number


def _number(value: Any) -> float:
    """One number of Python, NumPy or torch as a float; NaN for what is none."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def whole_numbers(name: str, values: Any) -> Tensor:
    """Class ids or row numbers (n,) as int64, from a tensor, an array, a pandas column or a list.

    Raises ValueError, with the row, for what is no whole number: a name, a missing value, a row of a table.
    """
    found = _read(name, values)
    if found.dim() != 1:
        fix = "one-hot rows are `.argmax(1)`" if found.dim() == 2 else "put it into a list"
        raise ValueError(f"`{name}` has shape {tuple(found.shape)}: give one whole number each ({fix}).")
    whole = found.to(torch.int64)
    if found.is_floating_point() and len(bad := (whole != found).nonzero()):
        raise ValueError(
            f"`{name}` has {found[bad[0, 0]].item()} in row {int(bad[0, 0])}: use whole numbers."
        )
    return whole


def feature_rows(name: str, values: Any, used: Tensor | None = None) -> Tensor:
    """Features (n, ...) as a tensor, from a tensor, an array, a pandas table or lists: a row per example.

    Raises ValueError, with the rows, where one is NaN or infinite: it would be scored like any other. used:
    the rows (m,) that matter; None: all.
    """
    rows = numbers(name, values)
    if rows.dim() == 0:
        raise ValueError(f"`{name}` is the one number {rows.item()}: give one row per example.")
    if used is not None and len(used) and not 0 <= (row := int(used.max())) < len(rows):
        fix = "give one row per example of the same data set"
        raise ValueError(f"`{name}` has {len(rows)} rows, and row {row} is asked for: {fix}.")
    if rows.is_floating_point():
        _check_finite(name, rows, used)
    return rows


def _check_finite(name: str, rows: Tensor, used: Tensor | None) -> None:
    if rows.sum().isfinite():  # NaN and infinity would make the sum so, and this is far quicker
        return
    finite = rows.isfinite().reshape(len(rows), math.prod(rows.shape[1:])).all(1)  # (n,)
    if used is not None and not finite.all():
        used = used.to(finite.device)
        finite = finite.new_ones(finite.shape).index_copy(0, used, finite[used])
    if finite.all():
        return
    bad = (~finite).nonzero()[:, 0].tolist()
    kind = "NaN" if rows[bad[0]].isnan().any() else "an infinite number"
    others = f" (and {len(bad) - 1:,} more rows have)" if len(bad) > 1 else ""
    fix = "leave these examples out, or compute their features again"
    raise ValueError(f"`{name}` has {kind} in row {bad[0]}{others}: {fix}.")


def numbers(name: str, values: Any) -> Tensor:
    """A tensor as it is; an array, a pandas table or lists as one, in the precision that models have.

    A missing value becomes NaN. Raises ValueError for what is no number.
    """
    found = _read(name, values)
    in_float = found.is_floating_point() and not isinstance(values, Tensor)
    return found.to(torch.get_default_dtype()) if in_float else found


def _read(name: str, values: Any) -> Tensor:
    if isinstance(values, Tensor) and not values.is_complex():
        return values.to_dense()
    try:
        return torch.from_numpy(_plain_array(values))
    except (TypeError, ValueError):
        kind = f"complex {type(values).__name__}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"`{name}` ({kind}) cannot be read as numbers: give a tensor, an array or a list."
        ) from None


def _plain_array(values: Any) -> np.ndarray:
    """Of a kind, byte order and layout that torch takes, and that may be written to."""
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(float), np.nan)
    elif hasattr(values, "to_numpy") and hasattr(values, "isna") and np.any(values.isna()):
        values = values.to_numpy(dtype=float, na_value=np.nan)
    found = np.asarray(values)
    if found.dtype.kind not in "biufO":  # of all others torch or float() would take some: dates, texts
        raise TypeError
    if found.dtype.kind == "O" or found.dtype == np.longdouble:
        found = found.astype(float)  # Python's own numbers, among which one may be missing
    elif found.dtype.kind == "u" and found.dtype.itemsize > 1:
        found = found.astype(np.int64)
    return np.require(found, found.dtype.newbyteorder("="), ["C", "W"])


def check_steps(name: str, steps: Any) -> list[int]:
    """Numbers of steps as Python's own; raises ValueError unless they are whole and not negative."""
    found = list(steps) if np.ndim(steps) else []
    if not found or not all(is_whole(step) and step >= 0 for step in found):
        shown = steps[0] if name == "steps" else steps
        raise ValueError(f"`{name}` is {shown!r}: give whole numbers of steps, 0 or more.")
    return [int(step) for step in found]


def check_axes(**tensors: tuple[Tensor | None, str]) -> dict[str, int | tuple[int, ...]]:
    """The size of every axis of some named tensors: {"E": 2, "N": 5, …}. One letter stands for one size.

    Each is given with its axes, ``query=(query, "EMd")``; the last may be "…", for all axes from there on.
    None is left out. Raises ValueError for the first tensor that does not fit those before it.
    """
    sizes: dict[str, int | tuple[int, ...]] = {}
    for name, (tensor, axes) in tensors.items():
        if tensor is None:
            continue
        found: list[Any] = list(tensor.shape)
        if axes.endswith("…") and len(found) >= len(axes):
            found[len(axes) - 1 :] = [tuple(found[len(axes) - 1 :])]
        if len(found) != len(axes) or any(sizes.get(a, n) != n for a, n in zip(axes, found, strict=True)):
            known = ", ".join(f"{axis} = {sizes[axis]}" for axis in axes if axis in sizes)
            needed = f"({', '.join(axes)})" + (f" with {known}" if known else "")
            raise ValueError(f"`{name}` has shape {tuple(tensor.shape)}: it must be {needed}.")
        sizes |= dict(zip(axes, found, strict=True))
    return sizes


def check_shapes(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> None:
    """Raises ValueError unless support (E, N, K, …), query (E, M, …), support_mask (E, N, K) fit together."""
    check_axes(support=(support, "ENK…"), query=(query, "EM…"), support_mask=(support_mask, "ENK"))
    if support_mask is not None:
        check_supports(support_mask)


def check_supports(support_mask: Tensor) -> None:
    """Raises ValueError unless every class has an example: support_mask (E, N, K)."""
    without = (~support_mask.any(-1)).nonzero()
    if len(without):
        found = "has no example of way {1} in episode {0}".format(*without[0].tolist())
        raise ValueError(f"`support_mask` {found}: every class needs at least one, or must be left out.")


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around the import of packages that come with an extra of the installation: "text" or "multitask"."""
    try:
        yield
    except ModuleNotFoundError as error:
        fix = f"pip install 'fewshot-lib[{name}]'"
        raise ModuleNotFoundError(f"The package {error.name} is missing: {fix}.", name=error.name) from None
