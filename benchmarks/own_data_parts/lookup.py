"""The classifier itself on features that are known: an encoder that looks them up."""

from __future__ import annotations

import torch
from own_data_draws import Set
from torch import Tensor, nn

from fewshot_lib.classifier import FewShotClassifier


class Lookup(nn.Module):
    """Stands for the encoder: "text 7" and "name 3" -> what it made of them."""

    max_tokens = 128

    def __init__(self, known: Set) -> None:
        super().__init__()
        self.text = nn.Parameter(known.features, requires_grad=False)
        self.name = nn.Parameter(known.names, requires_grad=False)

    def forward(self, written: list[str]) -> Tensor:
        places = (each.split() for each in written)
        return torch.stack([getattr(self, kind)[int(row)] for kind, row in places])


def fitted(known: Set, rows: Tensor, method: str | None = None) -> FewShotClassifier:
    """The default classifier, or another, on these examples of a set, with their words."""
    labels = known.labels[rows].tolist()
    names = {label: f"name {label}" for label in labels}
    classifier = FewShotClassifier(method, encoder=Lookup(known.with_words(rows)), names=names, template="{}")
    return classifier.fit(written(rows), labels)


def written(rows: Tensor) -> list[str]:
    """How ``Lookup`` knows some texts."""
    return [f"text {row}" for row in rows.tolist()]
