"""Chapter 07: the softmax over the edges of a node, dynamic attention, and the rule that keeps queries apart."""

from __future__ import annotations

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


def dynamic_scores(h: Tensor, w_left: Tensor, w_right: Tensor, a: Tensor) -> Tensor:
    """h (V, d), W_l and W_r (d, c), a (c,) -> e (V, V), row: who reads, column: who is read. GATv2, equation (3) of the notebook."""
    return F.leaky_relu((h @ w_right).unsqueeze(1) + (h @ w_left).unsqueeze(0), 0.2) @ a


def may_read(kind: Tensor, transductive: bool) -> Tensor:
    """kind (P,), 0 support, 1 query, 2 class -> (P, P) bool: may the row's node read the column's?"""
    allowed = torch.ones(len(kind), len(kind), dtype=torch.bool)
    if not transductive:
        allowed &= (kind != 1).unsqueeze(0) | torch.eye(len(kind), dtype=torch.bool)
    return allowed


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
        "this is GAT: a is applied before the LeakyReLU, so all nodes rank alike": lambda h, left, right, a: F.leaky_relu(
            (h @ right @ a).unsqueeze(1) + (h @ left @ a).unsqueeze(0), 0.2
        ),
        "rows and columns are turned round: the row reads (W_r), the column is read (W_l)": lambda h, left, right, a: (
            dynamic_scores(h, left, right, a).T
        ),
    },
    "may_read": {
        "queries still read other queries": lambda kind, transductive: torch.ones(len(kind), len(kind), dtype=torch.bool),
        "a query must still read itself": lambda kind, transductive: (
            torch.ones(len(kind), len(kind), dtype=torch.bool)
            if transductive
            else (kind != 1).unsqueeze(0).expand(len(kind), len(kind)).clone()
        ),
        "it is the reading *of* queries that is forbidden: queries may read supports and classes": lambda kind, transductive: (
            may_read(kind, True) if transductive else may_read(kind, False).T
        ),
    },
}
