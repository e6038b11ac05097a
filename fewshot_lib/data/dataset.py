"""A data set for few-shot learning: examples, their classes, and which *classes* are for training.

In supervised learning the examples are split. Here the classes are: a model is trained on some classes and
judged on others that it never saw. ``ClassDataset`` holds both facts, and refuses splits that share a class.
"""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fewshot_lib.data.reporting import DataError, first_few


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
        if len(self.domains) != self.n_classes:
            found = f"`domains` has {len(self.domains)} names but there are {self.n_classes} classes"
            raise ValueError(f"{found}: give one domain per class.")
        _check_names(self.class_names)
        self._check_labels()
        self._check_inputs()
        self._check_splits()

    def _check_labels(self) -> None:
        labels, n_classes = self.labels, self.n_classes
        if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
            found = (
                f"shape {tuple(labels.shape)} and dtype {labels.dtype}" if isinstance(labels, Tensor) else ""
            )
            found = found or f"type {type(labels).__name__}"
            raise ValueError(
                f"`labels` has {found}: give class ids, a tensor (n,) of int64; from_arrays makes them."
            )
        if len(self.inputs) != len(labels):
            found = f"`inputs` has {len(self.inputs)} examples but `labels` has {len(labels)}"
            raise ValueError(f"{found}: give one label per example.")
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, n_classes - 1)
        if low < 0 or high >= n_classes:
            found = f"`labels` runs from {low} to {high} but `class_names` has {n_classes} names"
            raise ValueError(f"{found}: labels must be in 0..{n_classes - 1}.")

    def _check_inputs(self) -> None:
        """Refuses texts that are none, and NaN: every distance to it would be NaN."""
        if isinstance(self.inputs, Tensor):
            if not self.inputs.is_floating_point():
                return
            finite = self.inputs.isfinite().reshape(len(self), -1) if len(self) else torch.ones(0, 1).bool()
            bad = (~finite.all(1)).nonzero().flatten().tolist()
            what, fix = "a value that is NaN or infinite", "repair it or leave it out"
        elif isinstance(self.inputs, list):
            bad = [i for i, text in enumerate(self.inputs) if not isinstance(text, str)]
            what, fix = "no text", "texts are strings, images one tensor"
        else:
            kind = type(self.inputs).__name__
            raise ValueError(
                f"`inputs` is of type {kind}: give a tensor or a list of texts; from_arrays helps."
            )
        if bad:
            more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
            where = f"no. {bad[0]}, of class {self.class_names[self.labels[bad[0]]]!r}{more}"
            raise ValueError(f"`inputs` holds {what} in example {where}: {fix}.")

    def _check_splits(self) -> None:
        owner: dict[int, str] = {}
        for split, c in ((split, c) for split, classes in self.splits.items() for c in classes.tolist()):
            if not 0 <= c < self.n_classes:
                found = f"`splits[{split!r}]` names class {c}"
                raise ValueError(f"{found}, but there are only {self.n_classes} classes.")
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
        """The examples of one split alone, with the same class ids."""
        rows, splits = self.rows(split), {split: self.classes(split)}
        return replace(self, inputs=self.take(rows), labels=self.labels[rows], splits=splits)

    def without_small_classes(self, min_examples: int) -> ClassDataset:
        """The classes with at least so many examples, counted anew; warns of those that are left out.

        1 leaves out none: a set may know of classes that it holds no examples of.
        """
        counts = dict(zip(self.class_names, self.counts.tolist(), strict=True))
        names, notes = large_classes(counts, min_examples, self.name)
        if not notes:
            return self
        warnings.warn(f"{self.name}: {notes[0]}.", stacklevel=3)
        small = self.counts < min_examples
        kept = (~small).nonzero().flatten()
        rows = (~small[self.labels]).nonzero().flatten()
        new_id = (~small).cumsum(0) - 1
        return replace(
            self,
            inputs=self.take(rows),
            labels=new_id[self.labels[rows]],
            class_names=names,
            domains=[self.domains[c] for c in kept],
            splits={split: new_id[ids[~small[ids]]] for split, ids in self.splits.items()},
        )

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


def _check_names(names: Sequence[str]) -> None:
    """Raises ValueError unless the names of the classes tell them apart, in print too."""
    first: dict[str, int] = {}
    for c, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"`class_names[{c}]` is {name!r}: give every class a name, a text.")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise ValueError(f"`class_names[{c}]` is {name!r}, which cannot be printed: rename the class.")
        if first.setdefault(name, c) != c:
            both = f"the name of classes {first[name]} and {c}"
            raise ValueError(f"`class_names` has {name!r} twice, as {both}: join or rename them.")


def large_classes(counts: Mapping[str, int], min_examples: int, source: str) -> tuple[list[str], list[str]]:
    """The classes with at least so many examples, in their order, and a sentence on those that have fewer."""
    if isinstance(min_examples, bool) or not hasattr(min_examples, "__index__") or min_examples < 1:
        raise ValueError(f"`min_examples` is {min_examples!r}: use a whole number, 1 or more.")
    small = [name for name, count in counts.items() if count < min_examples and min_examples > 1]
    if not small:
        return list(counts), []
    found = f"{len(small)} of {len(counts)} classes have fewer than {min_examples} examples"
    if len(small) == len(counts):
        raise DataError(f"{source}: {found}, all there are: lower `min_examples`.")
    listed = first_few(f"{name!r} ({counts[name]})" for name in small)
    return [c for c in counts if counts[c] >= min_examples], [f"{found} and are left out: {listed}"]


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
