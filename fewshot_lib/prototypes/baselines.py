"""Baselines: what a class is *called* is an example, too; and simple classifiers of the examples.

The name of a class goes through the same encoder as the texts, inside a sentence ("this is news about {}."),
and gives a vector l_k. In text the names carry most of what can be known at one shot, so a method that only
sees examples may lose to one that sees none (Yin et al. 2019, arXiv:1909.00161):

    zero-shot:   logits = cos(f(x), l_k) / τ                  the names alone, no example
    mix:         logits = cos(f(x), l_k + μ_k) / τ            l_k and μ_k of length 1
    probe:       logistic regression on the support           the examples alone, but trained

Features of one data set share a direction ("this is a headline"), and the names another; ``centred`` and
``simple_shot`` take it away (SimpleShot: Wang et al. 2019, arXiv:1911.04623).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import Method, check_axes, feature_rows, few_shot_method
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import TextEncoder, encode
from fewshot_lib.prototypes.means import class_means, cosine_logits, euclidean_prototypes

NAME_TEMPLATE = "this is news about {}."


def name_features(encoder: TextEncoder, dataset: ClassDataset, template: str = NAME_TEMPLATE) -> Tensor:
    """Features (C, d) of all class names, each inside the template, in place of its one {}."""
    if template.count("{}") != 1:
        raise ValueError(f"`template` is {template!r}: it must contain {{}} once, where the name goes.")
    return encode(encoder, [template.replace("{}", name) for name in dataset.class_names])


def centred(
    dataset: ClassDataset, features: Tensor, names: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Features (n, d) of length 1, less the mean of the *training* examples, and of length 1 again.

    names: the features (C, d) of the names, likewise. Inductive: no validation or test class is looked at.
    """
    rows = dataset.rows("train")
    if not len(rows):
        found = f"{dataset.name}, without any example of a training class"
        raise ValueError(f"`dataset` is {found}: use one that has them, there is no other mean to take away.")

    def less_mean(what: str, vectors: Tensor, chosen: Tensor) -> Tensor:
        vectors = F.normalize(feature_rows(what, vectors, chosen), dim=-1)
        return F.normalize(vectors - vectors[chosen.to(vectors.device)].mean(0), dim=-1)

    named = None if names is None else less_mean("names", names, dataset.classes("train"))
    return less_mean("features", features, rows), named


@few_shot_method("label names, zero-shot", transductive=False, uses_names=True)
def zero_shot(support: Tensor, query: Tensor, names: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """Cosines to the names alone: query (E, M, d), names (E, N, d) -> logits (E, M, N)."""
    check_axes(query=(query, "EMd"), names=(names, "ENd"))
    return cosine_logits(query, names)


@few_shot_method("label names + prototypes", transductive=False, uses_names=True)
def name_mix(support: Tensor, query: Tensor, names: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """Cosines to name + mean: support (E, N, K, d), query (E, M, d), names (E, N, d) -> logits (E, M, N)."""
    check_axes(support=(support, "ENKd"), query=(query, "EMd"), names=(names, "ENd"))
    means = F.normalize(class_means(support, support_mask), dim=-1) + F.normalize(names, dim=-1)
    return cosine_logits(query, means)


@few_shot_method("logistic regression", transductive=False)
def logistic_regression(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """scikit-learn's logistic regression on features of length 1: (E, N, K, d), (E, M, d) -> (E, M, N)."""
    from sklearn.linear_model import LogisticRegression  # a second to import: only those who use it wait

    support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
    mask = torch.ones(support.shape[:3], dtype=torch.bool) if support_mask is None else support_mask.cpu()
    logits = []
    for x, asked, real in zip(support.cpu(), query.cpu(), mask, strict=True):
        probe = LogisticRegression(C=10, max_iter=1000).fit(x[real].numpy(), real.nonzero()[:, 0].numpy())
        logits.append(torch.from_numpy(probe.predict_log_proba(asked.numpy())).float())
    return torch.stack(logits).to(support.device)


def simple_shot(centre: Tensor) -> Method:
    """SimpleShot (CL2N): x̂ = (f(x) − centre)/‖f(x) − centre‖, then the nearest mean of the x̂ of a class.

    centre (d,): of the *training* classes, ``features[dataset.rows("train")].mean(0)``.
    """
    centre = feature_rows("centre", centre)

    @few_shot_method("SimpleShot", transductive=False)
    def run(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
        support, query = (F.normalize(x - centre.to(x), dim=-1) for x in (support, query))
        return euclidean_prototypes(support, query, support_mask=support_mask)

    return run
