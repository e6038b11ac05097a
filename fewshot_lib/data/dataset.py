"""A data set for few-shot learning: examples, their classes, and which *classes* are for training.

In supervised learning the examples are split. Here the classes are: a model is trained on some classes and judged on
others that it never saw. ``ClassDataset`` holds both facts, and refuses splits that share a class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassDataset:
    """Examples with class labels, and disjoint sets of classes.

    inputs: images as one tensor (n, channels, height, width), or n texts as a list of strings.
    labels: class id of every example, (n,) int64, in 0..C-1.
    class_names: C readable names; ``class_names[c]`` belongs to label c.
    splits: split name ("train", "val", "test") -> class ids, (c,) int64. No class stands in two splits.
    domains: C names of what each class belongs to (a script, a package); "" where there is no such thing.
    name, split_family: what a result must be quoted with ("huffpost", "bao").

    Raises ValueError where lengths, labels or splits contradict each other.
    """

    inputs: Tensor | list[str]
    labels: Tensor
    class_names: list[str]
    splits: dict[str, Tensor]
    domains: list[str] = field(default_factory=list)
    name: str = "unnamed"
    split_family: str = "default"

    def __post_init__(self) -> None:
        if not self.domains:
            object.__setattr__(self, "domains", [""] * self.n_classes)
        if len(self.inputs) != len(self.labels):
            raise ValueError(f"`inputs` has {len(self.inputs)} examples but `labels` has {len(self.labels)}: give one label per example.")
        if len(self.domains) != self.n_classes:
            raise ValueError(f"`domains` has {len(self.domains)} names but there are {self.n_classes} classes: give one domain per class.")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.n_classes:
            raise ValueError(
                f"`labels` runs from {int(self.labels.min())} to {int(self.labels.max())} but `class_names` has {self.n_classes} names: "
                f"labels must be in 0..{self.n_classes - 1}."
            )
        owner: dict[int, str] = {}
        for split, classes in self.splits.items():
            for c in classes.tolist():
                if not 0 <= c < self.n_classes:
                    raise ValueError(f"`splits[{split!r}]` names class {c}, but there are only {self.n_classes} classes.")
                if c in owner:
                    raise ValueError(
                        f"`splits` puts class {c} ({self.class_names[c]!r}) in {owner[c]!r} and in {split!r}: "
                        "a class that is trained on must not be tested on. Keep it in one split."
                    )
                owner[c] = split

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_text(self) -> bool:
        return isinstance(self.inputs, list)

    @property
    def counts(self) -> Tensor:
        """Examples per class, (C,) int64."""
        return torch.bincount(self.labels, minlength=self.n_classes)

    def __len__(self) -> int:
        return len(self.labels)

    def classes(self, split: str) -> Tensor:
        """Class ids of a split, (c,) int64. Raises ValueError for a split that does not exist."""
        if split not in self.splits:
            raise ValueError(f"`split` is {split!r}; {self.name} has {', '.join(map(repr, self.splits))}.")
        return self.splits[split]

    def rows(self, split: str) -> Tensor:
        """Indices of the examples whose class is in the split, (m,) int64, ascending."""
        return torch.isin(self.labels, self.classes(split)).nonzero().squeeze(1)

    def only(self, split: str) -> ClassDataset:
        """The examples of one split alone, with the same class ids: for an encoder that need not see the rest."""
        rows = self.rows(split)
        return replace(self, inputs=self.take(rows), labels=self.labels[rows], splits={split: self.classes(split)})

    def training_set(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """For ordinary supervised training: the rows of a split (m,), and their classes counted from 0 (m,)."""
        rows, classes = self.rows(split), self.classes(split).sort().values
        return rows, torch.searchsorted(classes, self.labels[rows])

    def take(self, rows: Tensor | Sequence[int]) -> Tensor | list[str]:
        """The inputs at these indices (m,), or where a mask (n,) is True: a tensor (m, ...) or a list of m texts."""
        chosen = torch.arange(len(self))[torch.as_tensor(rows, dtype=None if len(rows) else torch.int64).cpu()]
        return [self.inputs[i] for i in chosen.tolist()] if self.is_text else self.inputs[chosen]

    def fingerprint(self) -> str:
        """sha256 over the inputs: the same data gives the same string on every machine. Used as a cache key."""
        digest = hashlib.sha256()
        if self.is_text:
            for text in self.inputs:
                raw = text.encode("utf-8", "surrogatepass")
                digest.update(len(raw).to_bytes(8, "little") + raw)
        else:
            digest.update(repr((tuple(self.inputs.shape), str(self.inputs.dtype))).encode())
            digest.update(self.inputs.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        parts = ", ".join(f"{split} {len(classes)}" for split, classes in self.splits.items())
        kind = "texts" if self.is_text else "images " + "x".join(map(str, self.inputs.shape[1:]))
        return f"ClassDataset({self.name}/{self.split_family}: {len(self):,} {kind}, {self.n_classes} classes: {parts})"
