"""Chapter 07: softmax over edges, dynamic attention, the rule that keeps queries apart, another medicine."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def edge_softmax(scores: Tensor, target: Tensor, n_nodes: int) -> Tensor:
    """scores (A,), target (A,) -> attention (A,), which adds up to 1 over the edges that arrive at a node."""
    largest = torch.full((n_nodes,), -torch.inf).index_reduce(0, target, scores, "amax")
    weights = (scores - largest[target]).exp()
    return weights / torch.zeros(n_nodes).index_add(0, target, weights)[target]


def _over_sources(scores: Tensor, target: Tensor, n_nodes: int) -> Tensor:
    return scores.softmax(0)


def dynamic_scores(h: Tensor, w_left: Tensor, w_right: Tensor, w: Tensor) -> Tensor:
    """Equation (3): h (V, d), W_left and W_right (d, c), w (c,) -> e (V, V), row: who reads."""
    return F.leaky_relu((h @ w_right).unsqueeze(1) + (h @ w_left).unsqueeze(0), 0.2) @ w


def may_read(kind: Tensor, transductive: bool) -> Tensor:
    """kind (P,), 0 support, 1 query, 2 class -> (P, P) bool: may the row's node read the column's?"""
    allowed = torch.ones(len(kind), len(kind), dtype=torch.bool)
    if not transductive:
        allowed &= (kind != 1).unsqueeze(0) | torch.eye(len(kind), dtype=torch.bool)
    return allowed


def medicine(trained: Callable, change: Callable) -> Callable[[Any], tuple[float, float]]:
    """The experiment: what a training with an augmentation changes on training and on validation classes.

    trained("projected", augment=…) -> model, curve. change(curve, split) -> the end against the start.
    """

    def run(augment: Any) -> tuple[float, float]:
        _, curve = trained("projected", augment=augment)
        return change(curve, "train").mean, change(curve, "val").mean

    return run


def _static_scores(h: Tensor, w_left: Tensor, w_right: Tensor, w: Tensor) -> Tensor:
    return F.leaky_relu((h @ w_right @ w).unsqueeze(1) + (h @ w_left @ w).unsqueeze(0), 0.2)


def _without_itself(kind: Tensor, transductive: bool) -> Tensor:
    everybody = torch.ones(len(kind), len(kind), dtype=torch.bool)
    return everybody if transductive else everybody & (kind != 1)


MISTAKES = {
    "edge_softmax": {
        "this is one softmax over all edges: each node needs its own": _over_sources,
        "large scores overflow: subtract the largest score of each node first": lambda s, t, n: (
            s.exp() / torch.zeros(n).index_add(0, t, s.exp())[t]
        ),
        "these weights do not add up to 1: divide by the sum over the node's edges": lambda s, t, n: (
            s - torch.full((n,), -torch.inf).index_reduce(0, t, s, "amax")[t]
        ).exp(),
    },
    "dynamic_scores": {
        "this is GAT: w is applied before the LeakyReLU, so all nodes rank alike": _static_scores,
        "rows and columns are turned round: the row reads (w_right), the column is read (w_left)": (
            lambda h, left, right, w: dynamic_scores(h, left, right, w).T
        ),
    },
    "may_read": {
        "queries still read other queries": lambda kind, transductive: may_read(kind, True),
        "a query must still read itself": _without_itself,
        "it is the reading *of* queries that is forbidden: queries may read supports and classes": (
            lambda kind, transductive: may_read(kind, transductive).T
        ),
    },
}
