"""A data set for few-shot learning: examples, their classes, and which *classes* are for training.

In supervised learning the examples are split. Here the classes are: a model is trained on some classes and
judged on others that it never saw. ``ClassDataset`` holds both facts, and refuses splits that share a class.
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
        n, n_classes = len(self.labels), self.n_classes
        if len(self.inputs) != n:
            found = f"`inputs` has {len(self.inputs)} examples but `labels` has {n}"
            raise ValueError(f"{found}: give one label per example.")
        if len(self.domains) != n_classes:
            found = f"`domains` has {len(self.domains)} names but there are {n_classes} classes"
            raise ValueError(f"{found}: give one domain per class.")
        low, high = (int(self.labels.min()), int(self.labels.max())) if n else (0, n_classes - 1)
        if low < 0 or high >= n_classes:
            found = f"`labels` runs from {low} to {high} but `class_names` has {n_classes} names"
            raise ValueError(f"{found}: labels must be in 0..{n_classes - 1}.")
        owner: dict[int, str] = {}
        for split, c in ((split, c) for split, classes in self.splits.items() for c in classes.tolist()):
            if not 0 <= c < n_classes:
                found = f"`splits[{split!r}]` names class {c}"
                raise ValueError(f"{found}, but there are only {n_classes} classes.")
            if c in owner:
                found = f"`splits` puts class {c} ({self.class_names[c]!r}) in {owner[c]!r} and in {split!r}"
                rule = "a class that is trained on must not be tested on"
                raise ValueError(f"{found}: {rule}. Keep it in one split.")
            owner[c] = split

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_text(self) -> bool:
        return isinstance(self.inputs, list)

    def need_tensors(self) -> None:
        """Raises ValueError for texts: who calls this trains on tensors."""
        if self.is_text:
            fix = "encode them, and train on replace(dataset, inputs=features)"
            raise ValueError(f"`dataset` holds texts, and this trains on tensors: {fix}.")

    @property
    def counts(self) -> Tensor:
        """Examples per class, (C,) int64."""
        return torch.bincount(self.labels, minlength=self.n_classes)

    def __len__(self) -> int:
        return len(self.labels)

    def classes(self, split: str) -> Tensor:
        """Class ids of a split, (c,) int64."""
        if split not in self.splits:
            raise ValueError(f"`split` is {split!r}; {self.name} has {', '.join(map(repr, self.splits))}.")
        return self.splits[split]

    def rows(self, split: str) -> Tensor:
        """Indices of the examples whose class is in the split, (m,) int64, ascending."""
        return torch.isin(self.labels, self.classes(split)).nonzero().squeeze(1)

    def only(self, split: str) -> ClassDataset:
        """The examples of one split alone, with the same class ids: for who need not see the rest."""
        rows, splits = self.rows(split), {split: self.classes(split)}
        return replace(self, inputs=self.take(rows), labels=self.labels[rows], splits=splits)

    def training_set(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """For supervised training: the rows of a split (m,), and their classes counted from 0 (m,)."""
        rows, classes = self.rows(split), self.classes(split).sort().values
        return rows, torch.searchsorted(classes, self.labels[rows])

    def take(self, rows: Tensor | Sequence[int]) -> Tensor | list[str]:
        """The inputs at indices (m,), or where a mask (n,) is True: a tensor (m, ...) or m texts."""
        rows = torch.as_tensor(rows, dtype=None if len(rows) else torch.int64).cpu()
        chosen = torch.arange(len(self))[rows]
        if isinstance(self.inputs, list):
            return [self.inputs[i] for i in chosen.tolist()]
        return self.inputs[chosen]

    def fingerprint(self) -> str:
        """sha256 over the inputs, the same on every machine: a cache key."""
        digest = hashlib.sha256()
        if isinstance(self.inputs, list):
            for text in self.inputs:
                raw = text.encode("utf-8", "surrogatepass")
                digest.update(len(raw).to_bytes(8, "little") + raw)
        else:
            digest.update(repr((tuple(self.inputs.shape), str(self.inputs.dtype))).encode())
            digest.update(self.inputs.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        parts = ", ".join(f"{split} {len(classes)}" for split, classes in self.splits.items())
        shape = "" if isinstance(self.inputs, list) else "x".join(map(str, self.inputs.shape[1:]))
        size = f"{len(self):,} {'texts' if self.is_text else f'images {shape}'}, {self.n_classes} classes"
        return f"ClassDataset({self.name}/{self.split_family}: {size}: {parts})"


def class_ids(ids: Sequence[int]) -> Tensor:
    """Class ids, (c,) int64."""
    return torch.tensor(ids, dtype=torch.int64)


def splits_of(split_of: Sequence[str]) -> dict[str, Tensor]:
    """Class ids of train, val and test, from the split of every class."""
    parts = ("train", "val", "test")
    return {part: class_ids([c for c, split in enumerate(split_of) if split == part]) for part in parts}


def chosen_family(name: str, families: Sequence[str], split_family: str | None) -> str:
    """The split family asked for, or the first one, which is the default."""
    if split_family is None:
        return families[0]
    if split_family not in families:
        raise ValueError(f"`split_family` is {split_family!r}; {name} has {', '.join(map(repr, families))}.")
    return split_family
