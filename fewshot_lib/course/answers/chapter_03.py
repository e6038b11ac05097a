"""Chapter 03: the gradient of the cross-entropy, entropy from logits, what is transductive, more classes."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import Method, compare_paired, evaluate
from fewshot_lib.data import ClassDataset
from fewshot_lib.finetuning import choose, entropy
from fewshot_lib.prototypes import class_means, cosine_logits, cosine_prototypes


def gradient(z: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """z (n, d), y (n,), weights (N, d) -> gradient of the mean cross-entropy (N, d), by autograd."""
    weights = weights.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(z @ weights.T, y), weights)[0]


def mean_entropy(logits: Tensor) -> Tensor:
    """logits (M, N) -> mean entropy of Softmax(logits), in nats."""
    return entropy(logits).mean()


def is_transductive(method: Method, support: Tensor, query: Tensor) -> bool:
    """Whether the first query's logits change when all other queries are replaced."""
    others = torch.cat([query[:, :1], 2 * query[:, 1:].flip(1) + 1], 1)
    return not torch.allclose(method(support, query)[:, :1], method(support, others)[:, :1], atol=1e-5)


def gain_of_fine_tuning(
    episodes_of: Callable,
    candidates: Mapping[str, Method],
    features: Tensor,
    dataset: ClassDataset,
    seed: int,
) -> Callable[[int, int, int, int], float]:
    """The experiment of exercise 3.4: settings chosen anew for these ways and shots, then tested once."""

    def gain(n_way: int, k: int, n_val: int, n_test: int) -> float:
        val, test = episodes_of("val", k, n_val, seed + 1, n_way), episodes_of("test", k, n_test, seed, n_way)
        best = choose(candidates, val, features, dataset).method
        without = evaluate(cosine_prototypes, test, features)
        return compare_paired(evaluate(best, test, features), without).mean

    return gain


def centred_cosines(support: Tensor, query: Tensor, mean: Tensor) -> Tensor:
    """support (E, N, K, d), query (E, M, d), mean (d,) -> cosines (E, M, N), of the optional notebook."""
    return cosine_logits(query - mean, class_means(support - mean), temperature=1.0)


def _naive_entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return -(p * p.log()).sum(-1).mean()


MISTAKES = {
    "gradient": {
        "the sign: this is true minus predicted": lambda z, y, w: -gradient(z, y, w),
        "this is the sum over the examples; equation (3) has the mean": lambda z, y, w: (
            len(z) * gradient(z, y, w)
        ),
        "you forgot to subtract the truth": lambda z, y, w: (z @ w.T).softmax(-1).T @ z / len(z),
    },
    "mean_entropy": {
        "the sign: entropy is never negative": lambda v: -mean_entropy(v),
        "with large logits this is not a number: 0 · log 0. Use log_softmax": _naive_entropy,
        "this is the sum over the queries": lambda v: entropy(v).sum(),
    },
    "centred_cosines": {
        "the queries are to be centred, too": lambda s, q, m: centred_cosines(s, q + m, m),
        "the supports are to be centred, too": lambda s, q, m: centred_cosines(s + m, q, m),
        "you added the mean": lambda s, q, m: centred_cosines(s, q, -m),
    },
    "is_transductive": {
        "you call everything inductive: did you replace the other queries?": lambda *case: False,
        "you call everything transductive: compare the first query only": lambda *case: True,
        "it is turned round": lambda *case: not is_transductive(*case),
    },
}
