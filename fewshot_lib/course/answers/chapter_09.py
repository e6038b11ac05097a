"""Chapter 09: mean ranks, the gradient of names as examples, is this input foreign, what to label next."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_ranks(accuracies: Tensor) -> Tensor:
    """accuracies (S, M) of M methods in S settings -> (M,): 1 is the best; equals share the mean rank."""
    better = (accuracies.unsqueeze(1) > accuracies.unsqueeze(2)).sum(-1)
    equal = (accuracies.unsqueeze(1) == accuracies.unsqueeze(2)).sum(-1)  # with itself
    return (better + (equal + 1) / 2).mean(0)


def _places(accuracies: Tensor) -> Tensor:
    return accuracies.argsort(dim=1, descending=True).argsort(dim=1).float().add(1).mean(0)


def head_gradient(W: Tensor, x: Tensor, y: Tensor, weights: Tensor, C: float) -> Tensor:
    """Of equation (1) in W (N, d), without a bias: x (n, d), y (n,), weights (n,) -> (N, d)."""
    error = F.one_hot(y, len(W)) - (x @ W.T).softmax(-1)
    return W - C * (weights.unsqueeze(1) * error).T @ x


def p_values(held_out: Tensor, new: Tensor) -> Tensor:
    """held_out (n,), new (m,) -> (m,): the share of n + 1 that looks at most as familiar, itself included."""
    return ((held_out <= new.unsqueeze(1)).sum(1) + 1) / (len(held_out) + 1)


def next_to_label(probabilities: Tensor, features: Tensor, chosen: Tensor) -> int:
    """The row of the largest doubt × novelty: probabilities (m, N), features (m, d), chosen (m,).

    Features have length 1; novelty is the distance to the nearest chosen one.
    """
    return _largest(_doubt(probabilities) * (1 - _cosines(features, chosen).amax(1)), chosen)


def _doubt(probabilities: Tensor) -> Tensor:
    top = probabilities.topk(2, -1).values
    return 1 - (top[:, 0] - top[:, 1])


def _cosines(features: Tensor, chosen: Tensor) -> Tensor:
    return features @ features[chosen].T


def _largest(value: Tensor, chosen: Tensor) -> int:
    return int(value.masked_fill(chosen, -torch.inf).argmax())


MISTAKES = {
    "mean_ranks": {
        "rank 1 is the *largest* accuracy": lambda a: mean_ranks(-a),
        "methods that are equal share the mean of their places": _places,
        "a mean over settings: one number for each method, not for each setting": lambda a: mean_ranks(a.T),
    },
    "head_gradient": {
        "the name counts more than an example: its error is multiplied by its weight": (
            lambda W, x, y, weights, C: head_gradient(W, x, y, torch.ones_like(weights), C)
        ),
        "the term ½‖W‖² has a gradient, too: W": lambda W, x, y, weights, C: (
            head_gradient(W, x, y, weights, C) - W
        ),
        "the loss falls where the right class gets *more*: the sign of the sum is wrong": (
            lambda W, x, y, weights, C: 2 * W - head_gradient(W, x, y, weights, C)
        ),
        "C multiplies the examples, and not ½‖W‖²": lambda W, x, y, weights, C: head_gradient(
            W, x, y, weights, 1.0
        ),
    },
    "p_values": {
        "count the new input itself: with n held-out examples the smallest p is 1/(n + 1), never 0": (
            lambda held_out, new: (held_out <= new.unsqueeze(1)).float().mean(1)
        ),
        "foreign is what looks *less* familiar: count held-out examples that are at most as familiar": (
            lambda held_out, new: p_values(-held_out, -new)
        ),
        "equally familiar counts, too: ≤ and not <": lambda held_out, new: (
            ((held_out < new.unsqueeze(1)).sum(1) + 1) / (len(held_out) + 1)
        ),
    },
    "next_to_label": {
        "doubt alone asks the same question again: multiply by the distance to what is chosen": (
            lambda p, x, chosen: _largest(_doubt(p), chosen)
        ),
        "a *small* lead of the first class over the second is doubt": lambda p, x, chosen: _largest(
            (1 - _doubt(p)) * (1 - _cosines(x, chosen).amax(1)), chosen
        ),
        "the distance to the *nearest* chosen one, not the mean distance": lambda p, x, chosen: _largest(
            _doubt(p) * (1 - _cosines(x, chosen).mean(1)), chosen
        ),
    },
}
