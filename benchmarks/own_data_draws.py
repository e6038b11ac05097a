"""What ``own_data.py`` measures on: classes of the published sets, and draws of a few examples of each.

A draw takes the given number of examples of each class, and the whole rest is tested. Features and names are
those of a frozen encoder, with the words of the examples beside them (``classifier.words``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.classifier.naming import TEMPLATE, spoken
from fewshot_lib.classifier.words import WEIGHT, Words
from fewshot_lib.core import Method, half_width
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import TextEncoder, encode, extract_features, tokens_of

ALL = ("train", "val", "test")
PER_CLASS = 60  # texts of a class that take part in the choice, and in what comes after it
FIRST = 200  # texts of a class that take part in a comparison; of HWU64, all
SEED = 1000  # and on: seeds that no choice was made on, but those of the words and of the names' weight


class Draw(NamedTuple):
    """support (1, N, K, d), query (1, M, d), names (1, N, d), labels of the queries (M,)."""

    support: Tensor
    query: Tensor
    names: Tensor
    labels: Tensor


class Set(NamedTuple):
    """Some classes of a data set, as an encoder sees them.

    features (n, d), labels (n,) counted from 0, names (N, d): features. tokens (n, L), said (N, L'): ids of
    the encoder's tokenizer, of the texts and of the names alone.
    """

    features: Tensor
    labels: Tensor
    names: Tensor
    tokens: Tensor
    said: Tensor
    tokenizer: Any

    def draw(self, n_shot: int, seed: int, words: float = WEIGHT) -> Draw:
        """words: α, 0 leaves them out."""
        support, rest = self.dealt(n_shot, seed)
        seen = self.with_words(support.flatten(), words)
        parts = seen.features[support], seen.features[rest], seen.names
        return Draw(*(part.unsqueeze(0) for part in parts), self.labels[rest])

    def dealt(self, n_shot: int, seed: int) -> tuple[Tensor, Tensor]:
        """Rows of the support (N, K) and of the rest (m,)."""
        return dealt(self.labels, len(self.names), n_shot, seed)

    def with_words(self, support: Tensor, weight: float = WEIGHT) -> Set:
        """The set as a classifier sees it that has these examples (n,)."""
        if not weight:
            return self
        words = Words.of(self.tokenizer, self.tokens[support], weight)
        features, names = counted(words, self.tokens), words.of_names(self.said)
        pairs = (self.features, features), (self.names, names)
        both = [torch.cat([F.normalize(x, dim=-1), own], -1) for x, own in pairs]
        return self._replace(features=both[0], names=both[1])

    def of(self, classes: Tensor, names: Tensor) -> Set:
        """Some of the classes, called as some rows ``names`` of all names."""
        place = torch.full((len(self.names),), -1)
        place[classes] = torch.arange(len(classes))
        own = place[self.labels] >= 0
        texts, called = (self.features[own], place[self.labels[own]]), (self.names[names],)
        return Set(*texts, *called, self.tokens[own], self.said[names], self.tokenizer)


def dealt(labels: Tensor, n_way: int, n_shot: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the examples (N, K) and of the rest (m,), of labels (n,)."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rows = [order[labels[order] == c] for c in range(n_way)]
    return torch.stack([own[:n_shot] for own in rows]), torch.cat([own[n_shot:] for own in rows])


def counted(words: Words, ids: Tensor) -> Tensor:
    """Words of many texts, (n, V + 1)."""
    return torch.cat([words(part) for part in ids.split(128)])


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
    aloud = [spoken(dataset.class_names[c]) for c in classes.tolist()]
    names = encode(encoder, [TEMPLATE.format(name) for name in aloud])
    tokens = [tokens_of(encoder, list(texts))["input_ids"] for texts in (dataset.take(rows), aloud)]
    labels = torch.searchsorted(classes, dataset.labels[rows])
    return Set(features, labels, names, *tokens, encoder.tokenizer)


def compared(name: str) -> tuple[tuple[str, ...], int | None]:
    """Splits and texts of a class that take part in a comparison: of HWU64 and tables all, else ``FIRST``."""
    return (ALL, None) if name == "hwu64" or is_table(name) else (("test",), FIRST)


def is_table(name: str) -> bool:
    """Whether a data set is one of those that ``outside.py`` writes."""
    return name.endswith(".csv")


def called(name: str) -> str:
    """What the pages call a data set."""
    return Path(name).stem


def accuracy(method: Method, draw: Draw) -> float:
    """Of one draw, in %."""
    extra = {"names": draw.names} if getattr(method, "uses_names", False) else {}
    logits = method(draw.support, draw.query, **extra)[0]
    return 100 * (logits.argmax(-1) == draw.labels).double().mean().item()


def table_row(*cells: object) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table_head(*columns: object) -> list[str]:
    """The first two lines of a Markdown table."""
    return [table_row(*columns), "|---" * len(columns) + "|"]


def interval(values: list[float], form: str = ".1f") -> str:
    """The mean over draws, with its 95 % interval."""
    found = torch.tensor(values, dtype=torch.float64)
    return f"{found.mean():{form}} ± {half_width(found):{form}}"
