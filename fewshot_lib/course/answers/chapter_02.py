"""Chapter 02: class means with a mask, the linear head, the cosine of normalised vectors, medians, ways."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.prototypes import class_means


def masked_means(support: Tensor, mask: Tensor) -> Tensor:
    """support (E, N, K, d), mask (E, N, K) -> means of the real examples (E, N, d)."""
    return class_means(support, mask)


def linear_head(means: Tensor) -> tuple[Tensor, Tensor]:
    """means (N, d) -> weights (N, d) and biases (N,) of the Euclidean classifier, equation (4)."""
    return 2 * means, -means.square().sum(-1)


def cosine_of_normalised(support: Tensor, query: Tensor) -> Tensor:
    """support (N, K, d), query (M, d) -> cosines (M, N) with the mean of the normalised examples."""
    return F.normalize(query, dim=-1) @ F.normalize(F.normalize(support, dim=-1).mean(-2), dim=-1).T


def colleague(support: Tensor, query: Tensor) -> Tensor:
    """The bug of exercise 2.3: the mean of unit vectors is taken for a unit vector."""
    return F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).mean(-2).T


def median_prototypes(support: Tensor) -> Tensor:
    """support (E, N, K, d) -> median of each feature (E, N, d); of an even number, the middle two's mean."""
    return torch.quantile(support, 0.5, dim=-2)


def fewer_ways(train: Callable, on_test: Callable, n_images: int, per_way: int) -> Callable[[int], float]:
    """The experiment: accuracy of a ProtoNet trained on n_way-way episodes, on the same number of images.

    train(n_way, steps) -> network. on_test(network) -> its result. per_way: images of a class in an episode.
    """
    return lambda n_way: on_test(train(n_way, max(1, n_images // (n_way * per_way)))).mean


MISTAKES = {
    "masked_means": {
        "you averaged over the padding too; count only the examples where the mask is True": lambda s, m: (
            s.mean(-2)
        ),
        "padded examples are zero in your sum, but still in your count": lambda s, m: (
            s * m.unsqueeze(-1)
        ).mean(-2),
    },
    "linear_head": {
        "the factor 2 is missing: multiply the square out again": lambda m: (m, -m.square().sum(-1)),
        "the sign of the bias: far-away means must be punished": lambda m: (2 * m, m.square().sum(-1)),
    },
    "cosine_of_normalised": {
        "this is still the colleague's version: the means have length below 1": colleague
    },
    "median_prototypes": {
        "that is the mean": lambda s: s.mean(-2),
        "with two examples you took the lower one; average the middle two": lambda s: s.median(-2).values,
    },
}
