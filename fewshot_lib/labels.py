"""Label names as features: what a class is *called* is an example, too.

The name of a class goes through the same encoder as the texts, inside a sentence ("this is news about {}."), and gives a
vector l_k. Three classifiers that every few-shot text result must be compared with:

    zero-shot:   logits = cos(f(x), l_k) / τ                             the names alone, no example
    mix:         logits = cos(f(x), l_k + μ_k) / τ                       l_k and μ_k of length 1, as in equation (2)
    probe:       logistic regression on the support features             the examples alone, but trained

Features of one data set share a direction ("this is a headline"), and the names another; ``centred`` takes both away.

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


def centred(dataset: ClassDataset, features: Tensor, label_features: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Features (n, d) of length 1, less the mean of the *training* examples, and of length 1 again; names (C, d) likewise.

    SimpleShot's CL2N (Wang et al. 2019, arXiv:1911.04623, section 3): what the whole data set shares says nothing about its classes.
    Inductive: no validation or test class is looked at. Raises ValueError where the data set has no training examples.
    """
    rows = dataset.rows("train").to(features.device)
    if not len(rows):
        raise ValueError(f"`dataset` is {dataset.name}, without any example of a training class: there is no mean to take away.")

    def less_mean(vectors: Tensor, chosen: Tensor) -> Tensor:
        vectors = F.normalize(vectors, dim=-1)
        return F.normalize(vectors - vectors[chosen].mean(0), dim=-1)

    names = None if label_features is None else less_mean(label_features, dataset.classes("train").to(label_features.device))
    return less_mean(features, rows), names


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
