"""When is a learner's answer the same as the reference? Nested values, compared by form first and by value then.

Lenient where the difference teaches nothing: a number is a number whether Python, NumPy or torch holds it, and an
integer tensor may stand where floats were expected. Strict about shapes, lengths and keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.generic | bool | int | float | complex)


def _tensor(value: Any) -> Tensor:
    return (value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(value)).resolve_conj()


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """(key, part) of a list, tuple or mapping; None for anything else."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return None


def same_form(a: Any, b: Any) -> bool:
    """Whether both have the same nesting, lengths, keys and shapes."""
    if _is_array(a) and _is_array(b):
        return _tensor(a).shape == _tensor(b).shape
    parts_a, parts_b = _parts(a), _parts(b)
    if parts_a is None or parts_b is None:
        return parts_a is parts_b and not _is_array(a) and not _is_array(b) and type(a) is type(b)
    if isinstance(a, Mapping) != isinstance(b, Mapping) or dict(parts_a).keys() != dict(parts_b).keys():
        return False
    return all(same_form(dict(parts_a)[key], part) for key, part in parts_b)


def close(a: Any, b: Any, rtol: float = 1e-4, atol: float = 1e-6) -> bool:
    """Whether both have the same form and values as close as ``torch.allclose`` asks; NaN equals NaN."""
    if not same_form(a, b):
        return False
    if _is_array(a):
        x, y = _tensor(a), _tensor(b)
        kind = torch.promote_types(x.dtype, y.dtype)
        if not (kind.is_floating_point or kind.is_complex):
            return torch.equal(x.to(kind), y.to(kind))
        return torch.allclose(x.to(kind), y.to(kind), rtol=rtol, atol=atol, equal_nan=True)
    parts = _parts(b)
    if parts is None:
        return bool(a == b)
    return all(close(dict(_parts(a))[key], part, rtol, atol) for key, part in parts)


def describe(value: Any) -> str:
    """The form of a value in words: "a tensor of shape (3, 4)", "a tuple of 2 (…)", "None"."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if value is None:
        return "None"
    parts = _parts(value)
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(repr(key) for key, _ in parts)}"
    if parts is not None:
        inner = ", ".join(describe(part) for _, part in parts[:4]) + (", …" if len(parts) > 4 else "")
        return f"a {type(value).__name__} of {len(parts)}" + (f" ({inner})" if parts else "")
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def has_ellipsis(value: Any) -> bool:
    """Whether a placeholder ``...`` stands anywhere in the value."""
    parts = _parts(value)
    return value is ... or (parts is not None and any(has_ellipsis(part) for _, part in parts))


def copied(value: Any) -> Any:
    """A copy of nested tensors, arrays and generators; other objects (functions, modules) are passed as they are."""
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
