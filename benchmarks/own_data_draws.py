"""What ``own_data.py`` measures on: classes of the published sets, and draws of a few examples of each.

A draw takes the given number of examples of each class, and the whole rest is tested. Features and names are
those of a frozen encoder.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.classifier.naming import TEMPLATE, spoken
from fewshot_lib.core import Method, half_width
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import TextEncoder, encode, extract_features

ALL = ("train", "val", "test")
PER_CLASS = 60  # texts of a class that take part in the choice, and in what comes after it
FIRST = 200  # texts of a class that take part in a comparison; of HWU64, all
SEED = 1000  # and on: seeds that no choice was made on


class Draw(NamedTuple):
    """support (1, N, K, d), query (1, M, d), names (1, N, d), labels of the queries (M,)."""

    support: Tensor
    query: Tensor
    names: Tensor
    labels: Tensor


class Set(NamedTuple):
    """Features (n, d), labels (n,) counted from 0, features of the names (N, d), of some classes."""

    features: Tensor
    labels: Tensor
    names: Tensor

    def draw(self, n_shot: int, seed: int) -> Draw:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=generator)
        rows = [order[self.labels[order] == c] for c in range(len(self.names))]
        support = torch.stack([own[:n_shot] for own in rows])
        rest = torch.cat([own[n_shot:] for own in rows])
        parts = self.features[support], self.features[rest], self.names
        return Draw(*(part.unsqueeze(0) for part in parts), self.labels[rest])


def chosen(dataset: ClassDataset, splits: tuple[str, ...], per_class: int | None) -> tuple[Tensor, Tensor]:
    """Classes (N,) of some splits, and their rows (n,), perhaps only the first examples of each."""
    classes = torch.cat([dataset.classes(split) for split in splits]).sort().values
    rows = torch.isin(dataset.labels, classes).nonzero()[:, 0]
    if per_class is not None:
        rows = torch.cat([rows[dataset.labels[rows] == c][:per_class] for c in classes])
    return classes, rows


def read(name: str, encoder: TextEncoder, splits: tuple[str, ...], per_class: int | None = None) -> Set:
    """The classes of some splits of a data set, perhaps only the first examples of each."""
    dataset = data.load(name)
    classes, rows = chosen(dataset, splits, per_class)
    whole = per_class is None  # then its features are kept on the disk
    features = extract_features(encoder, dataset)[rows] if whole else encode(encoder, dataset.take(rows))
    said = [TEMPLATE.format(spoken(dataset.class_names[c])) for c in classes.tolist()]
    return Set(features, torch.searchsorted(classes, dataset.labels[rows]), encode(encoder, said))


def compared(name: str) -> tuple[tuple[str, ...], int | None]:
    """Splits and texts of a class that take part in a comparison: of HWU64 all, of others see ``FIRST``."""
    return (ALL, None) if name == "hwu64" else (("test",), FIRST)


def accuracy(method: Method, draw: Draw) -> float:
    """Of one draw, in %."""
    extra = {"names": draw.names} if getattr(method, "uses_names", False) else {}
    logits = method(draw.support, draw.query, **extra)[0]
    return 100 * (logits.argmax(-1) == draw.labels).double().mean().item()


def interval(values: list[float], form: str = ".1f") -> str:
    """The mean over draws, with its 95 % interval."""
    found = torch.tensor(values, dtype=torch.float64)
    return f"{found.mean():{form}} ± {half_width(found):{form}}"
