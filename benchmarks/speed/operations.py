"""Counts the operations of torch inside a ``with``, and the largest number of bytes they held at one time."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Operations(TorchDispatchMode):
    """``counts`` of every operation; ``peak``: the most bytes that their results held."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.alive, self.peak, self.known = 0, 0, WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        for storage in _storages((args, kwargs)):
            self.known.setdefault(storage, True)  # made outside
        out = function(*args, **(kwargs or {}))
        self.counts[str(function)] += 1
        for storage in _storages(out):
            if storage not in self.known:
                self.known[storage] = True
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return out

    def _freed(self, n_bytes: int) -> None:
        self.alive -= n_bytes


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
