"""How what cannot work is refused, before any work is done: its name, the value found, what to do instead."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"`{name}` is {value!r}: use one of {', '.join(map(repr, allowed))}.")


def positive(or_zero: bool = False, **values: float) -> None:
    """Raises ValueError for the first of the named values that is not above 0 (or, ``or_zero``, is below)."""
    for name, value in values.items():
        if not (value > 0 or (or_zero and value == 0)):
            raise ValueError(f"`{name}` is {value}: it must be {'0 or more' if or_zero else 'positive'}.")


def whole_number(lowest: int = 1, **values: int) -> None:
    """Raises ValueError for the first of the named values that is no whole number from ``lowest`` on."""
    for name, value in values.items():
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < lowest:
            raise ValueError(f"`{name}` is {value!r}: use a whole number, {lowest} or more.")


def check_steps(name: str, steps: Sequence[int]) -> None:
    """Raises ValueError unless there are numbers of steps, whole and not negative."""
    if not len(steps) or not all(isinstance(step, int) and step >= 0 for step in steps):
        found = steps[0] if name == "steps" else steps
        raise ValueError(f"`{name}` is {found}: give whole numbers of steps, 0 or more.")


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
