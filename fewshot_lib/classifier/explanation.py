"""Why an input got its label: the nearest examples, and what each example and name added to the answer.

For names as examples the second is exact: a logit is a sum over the training set (equation (3) of
``prototypes.names_as_examples``), so the lead of the label over the runner-up is one, too. And a logit is
linear in the features, so each word has its part in that lead.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.classifier.words import WithWords
from fewshot_lib.prototypes import NamesAsExamples

MOST_WORDS = 3
LETTERS = 100  # of a text, where an explanation is printed


@dataclass(frozen=True)
class Explanation:
    """Of one input.

    label, against: the likeliest class and the second. probability: of the first.
    nearest: (row of the training set, its label, its text or None, cosine), the nearest first.
    name_share: which part of what speaks for the label against the second comes from class names; None where
    the method does not add up.
    words: (word piece, what it adds to the lead over the second, in logits), those that add most; none where
    the method has no linear head, or there are no words beside the encoder.
    """

    label: Any
    against: Any
    probability: float
    nearest: list[tuple[int, Any, str | None, float]]
    name_share: float | None
    words: list[tuple[str, float]]

    def __str__(self) -> str:
        lines = [f"{self.label} (probability {self.probability:.0%}; next: {self.against})"]
        if self.name_share is not None:
            lines.append(f"{self.name_share:.0%} of what speaks for it comes from the names of the classes")
        if self.words:
            said = ", ".join(f"{piece} {added:+.2f}" for piece, added in self.words)
            lines.append(f"words that add to its lead: {said}")
        for row, label, text, cosine in self.nearest:
            shown = f"row {row}" if text is None else " ".join(text[: 2 * LETTERS].split())
            cut = " …" if len(shown) > LETTERS else ""
            lines.append(f"  {cosine:.2f}  {label}: {shown[:LETTERS]}{cut}")
        return "\n".join(lines)


def explain(classifier: Any, features: Tensor, n: int) -> Explanation:
    """Of features (1, d), by a fitted ``FewShotClassifier``."""
    p = classifier._probabilities(classifier._logits(features))[0]
    first, second = p.topk(2).indices.tolist()
    cosines = (F.normalize(classifier.features_, dim=-1) @ F.normalize(features, dim=-1).T)[:, 0]
    nearest, known = [], classifier.classes_.tolist()
    for row in cosines.argsort(descending=True)[:n].tolist():
        text = None if classifier.inputs_ is None else classifier.inputs_[row]
        nearest.append((row, known[classifier.labels_[row]], text, float(cosines[row])))
    return Explanation(
        known[first],
        known[second],
        float(p[first]),
        nearest,
        _name_share(classifier, features, first, second),
        _words(classifier, features, first, second),
    )


def _name_share(classifier: Any, features: Tensor, first: int, second: int) -> float | None:
    """What names add to the lead of the first over the second, of all that adds to it."""
    method, names = classifier.method_, classifier.name_features_
    if not isinstance(method, NamesAsExamples) or names is None or not method.uses_names:
        return None
    support, mask = classifier.support_.unsqueeze(0), classifier.mask_.unsqueeze(0)
    x, weights = (part[0].double() for part in method.training_set(support, names.unsqueeze(0), mask))
    p = classifier.head_(x.flatten(0, 1).unsqueeze(0))[0].softmax(-1).unflatten(0, x.shape[:2])
    own = torch.eye(len(x)).unsqueeze(1)  # class of every example, (N, 1, N)
    dual = method.C_of(len(x)) * weights.unsqueeze(-1) * (own - p)  # (N, K + 1, N)
    cosines = x @ F.normalize(features, dim=-1)[0].double()
    added = ((dual[..., first] - dual[..., second]) * cosines).clamp_min(0)
    return float(added[:, -1].sum() / added.sum().clamp_min(1e-12))


def _words(classifier: Any, features: Tensor, first: int, second: int) -> list[tuple[str, float]]:
    """What single words add to the lead of the first over the second."""
    encoder, head = classifier.encoder_, classifier.head_
    if not isinstance(encoder, WithWords) or head is None:
        return []
    pieces, own = encoder.words.pieces, slice(-encoder.words.width, -1)
    lead = (head.weights[0, first] - head.weights[0, second])[own]
    added = lead * F.normalize(features.double(), dim=-1)[0, own]
    most = [column for column in added.argsort(descending=True)[:MOST_WORDS].tolist() if added[column] > 0]
    said = encoder.tokenizer.convert_ids_to_tokens(pieces[most].tolist())
    return list(zip(said, added[most].tolist(), strict=True))
