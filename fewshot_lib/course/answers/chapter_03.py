"""Chapter 03: the gradient of the cross-entropy, entropy from logits, what makes a method transductive."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import Method
from fewshot_lib.finetuning import entropy


def gradient(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """x (S, d), y (S,), weights (N, d) -> gradient of the mean cross-entropy (N, d), by autograd."""
    weights = weights.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(x @ weights.T, y), weights)[0]


def mean_entropy(logits: Tensor) -> Tensor:
    """logits (M, N) -> mean entropy of Softmax(logits), in nats."""
    return entropy(logits).mean()


def is_transductive(method: Method, support: Tensor, query: Tensor) -> bool:
    """Whether the first query's logits change when all other queries are replaced."""
    others = torch.cat([query[:, :1], 2 * query[:, 1:].flip(1) + 1], 1)
    return not torch.allclose(method(support, query)[:, :1], method(support, others)[:, :1], atol=1e-5)


def _naive_entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return -(p * p.log()).sum(-1).mean()


MISTAKES = {
    "gradient": {
        "the sign: this is true minus predicted": lambda x, y, w: -gradient(x, y, w),
        "this is the sum over the examples; equation (3) has the mean": lambda x, y, w: (
            len(x) * gradient(x, y, w)
        ),
        "you forgot to subtract the truth": lambda x, y, w: (x @ w.T).softmax(-1).T @ x / len(x),
    },
    "mean_entropy": {
        "the sign: entropy is never negative": lambda v: -mean_entropy(v),
        "with large logits this is not a number: 0 · log 0. Use log_softmax": _naive_entropy,
        "this is the sum over the queries": lambda v: entropy(v).sum(),
    },
    "is_transductive": {
        "you call everything inductive: did you replace the other queries?": lambda *case: False,
        "you call everything transductive: compare the first query only": lambda *case: True,
        "it is turned round": lambda *case: not is_transductive(*case),
    },
}
