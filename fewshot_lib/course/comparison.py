"""When is a learner's answer the same as the reference? Nested values, compared by form first, then by value.

Lenient where the difference teaches nothing: a number is a number whether Python, NumPy or torch holds it,
and an integer tensor may stand where floats were expected. Strict about shapes, lengths and keys.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

RTOL, ATOL = 1e-4, 1e-6


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.generic | bool | int | float | complex)


def _tensor(value: Any) -> Tensor:
    return (value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(value)).resolve_conj()


def form(value: Any) -> Any:
    """What two values must share to be compared at all: nesting, lengths, keys, and the shapes of arrays."""
    if isinstance(value, Mapping):
        return {key: form(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [form(part) for part in value]
    return tuple(_tensor(value).shape) if _is_array(value) else type(value)


def close(a: Any, b: Any) -> bool:
    """Whether both have the same form and values as close as ``torch.allclose`` asks; NaN equals NaN."""
    if form(a) != form(b):
        return False
    if isinstance(b, Mapping):
        return all(close(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return all(close(part_a, part_b) for part_a, part_b in zip(a, b, strict=True))
    if not _is_array(b):
        return bool(a == b)
    x, y = _tensor(a), _tensor(b)
    kind = torch.promote_types(x.dtype, y.dtype)
    if not (kind.is_floating_point or kind.is_complex):
        return torch.equal(x.to(kind), y.to(kind))
    return torch.allclose(x.to(kind), y.to(kind), rtol=RTOL, atol=ATOL, equal_nan=True)


def describe(value: Any) -> str:
    """The form of a value in words: "a tensor of shape (3, 4)", "a tuple of 2 (…)", "None"."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, value))}"
    kind = type(value).__name__
    if isinstance(value, list | tuple):
        parts = ", ".join([*map(describe, value[:4]), *(["…"] if len(value) > 4 else [])])
        return f"a {kind} of {len(value)}" + (f" ({parts})" if parts else "")
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def has_ellipsis(value: Any) -> bool:
    """Whether a placeholder ``...`` stands anywhere in the value."""
    parts = value.values() if isinstance(value, Mapping) else value
    return value is ... or (isinstance(value, Mapping | list | tuple) and any(map(has_ellipsis, parts)))


def copied(value: Any) -> Any:
    """A copy of nested tensors, arrays and generators; functions and modules are passed as they are."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(part) for part in value)
    return value
