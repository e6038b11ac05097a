"""Label names as features: what a class is *called* is an example, too.

The name of a class goes through the same encoder as the texts, inside a sentence ("this is news about {}."), and gives a
vector l_k. Three classifiers that every few-shot text result must be compared with:

    zero-shot:   logits = cos(f(x), l_k) / τ                             the names alone, no example
    mix:         logits = cos(f(x), l_k + μ_k) / τ                       l_k and μ_k of length 1, as in equation (2)
    probe:       logistic regression on the support features             the examples alone, but trained

In text the names carry most of what can be known at one shot, so a method that only sees examples may lose to a method
that sees none (Yin et al. 2019, arXiv:1909.00161, for zero-shot classification with names).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import TextEncoder, encode
from fewshot_lib.evaluation import method
from fewshot_lib.prototypes import class_means, cosine_logits, mask_ways

LABEL_TEMPLATE = "this is news about {}."


def label_features(encoder: TextEncoder, dataset: ClassDataset, template: str = LABEL_TEMPLATE) -> Tensor:
    """Features (C, d) of all class names, each inside the template. Raises ValueError for a template without {}."""
    if template.count("{}") != 1:
        raise ValueError(f"`template` is {template!r}: it must contain {{}} once, where the name goes.")
    return encode(encoder, [template.replace("{}", name) for name in dataset.class_names])


@method("label names, zero-shot", transductive=False, uses_labels=True)
def zero_shot(support: Tensor, query: Tensor, labels: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """query (E, M, d), labels (E, N, d) -> logits (E, M, N); the support is not looked at."""
    return mask_ways(cosine_logits(query, labels), support_mask)


@method("label names + prototypes", transductive=False, uses_labels=True)
def label_mix(support: Tensor, query: Tensor, labels: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """support (E, N, K, d), query (E, M, d), labels (E, N, d) -> logits (E, M, N)."""
    means = F.normalize(class_means(support, support_mask), dim=-1) + F.normalize(labels, dim=-1)
    return mask_ways(cosine_logits(query, means), support_mask)


@method("logistic regression", transductive=False)
def logistic_regression(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """scikit-learn's logistic regression on features of length 1, episode by episode: (E, N, K, d), (E, M, d) -> (E, M, N)."""
    support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
    mask = torch.ones(support.shape[:3], dtype=torch.bool) if support_mask is None else support_mask.cpu()
    logits = torch.full((*query.shape[:2], support.shape[1]), -torch.inf, dtype=torch.float64)
    for e in range(len(support)):
        ways = mask[e].nonzero()[:, 0]
        probe = LogisticRegression(C=10, max_iter=1000).fit(support[e].cpu()[mask[e]].numpy(), ways.numpy())
        logits[e][:, torch.from_numpy(probe.classes_)] = torch.from_numpy(probe.predict_log_proba(query[e].cpu().numpy())).double()
    return logits.float().to(support.device)  # Apple GPUs have no float64
