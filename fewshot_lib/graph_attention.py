r"""Graph attention by hand: how much each node listens to each of those it may read.

An edge j -> i lets node i read node j; f_ij are the features of the edge (neither paper has them; they come in as in
PyTorch Geometric). With the features h_j of the nodes that i reads,

    (1)  e_ij = LeakyReLU(aᵀ[W h_i ‖ W h_j ‖ U f_ij])            GAT (Veličković et al. 2018, arXiv:1710.10903, eq. 1, 3)
    (2)  e_ij = aᵀ LeakyReLU(W_r h_i + W_l h_j + U f_ij)          GATv2 (Brody et al. 2022, arXiv:2105.14491, eq. 7)
    (3)  α_ij = exp(e_ij) / Σ_j' exp(e_ij')                      over the edges that arrive at i (GAT, eq. 2)
    (4)  h_i' = Σ_j α_ij W h_j                                   all heads side by side (GAT, eq. 4 and 5; W_l in GATv2)

Without edge features (1) is LeakyReLU(s_j + t_i), which grows with s_j whoever reads: every node i ranks the others alike.
That is *static* attention; (2) is dynamic. ``ranking_count`` counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def edge_softmax(scores: Tensor, target: Tensor, n_nodes: int) -> Tensor:
    """Equation (3): scores (A, H), target (A,) -> α (A, H), which adds up to 1 over the edges that arrive at a node.

    As in every softmax the largest score is subtracted first. Nodes without an edge have nothing to add up.
    """
    index = target.unsqueeze(1).expand_as(scores)
    largest = scores.new_zeros(n_nodes, scores.shape[1]).scatter_reduce(0, index, scores.detach(), "amax", include_self=False)
    weights = (scores - largest[target]).exp()
    return weights / weights.new_zeros(largest.shape).index_add(0, target, weights)[target]


class GraphAttention(nn.Module):
    """Equations (3) and (4); a subclass has the scores. Names and shapes of the weights are PyTorch Geometric's.

    So ``load_state_dict(conv.state_dict())`` takes over a ``GATConv`` or ``GATv2Conv(..., add_self_loops=False)``.
    """

    def __init__(self, out_channels: int, heads: int, edge_dim: int | None) -> None:
        super().__init__()
        self.heads, width = heads, heads * out_channels
        self.lin_edge = None if edge_dim is None else nn.Linear(edge_dim, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, edges: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (V, d), edges (2, A), features (A, edge_dim) -> (new features (V, heads · out_channels), α (A, heads)).

        Raises ValueError for edge features without ``edge_dim``, and the other way round.
        """
        if (features is None) != (self.lin_edge is None):
            fix = "give the features of the edges" if features is None else "make the layer with edge_dim=features.shape[1]"
            raise ValueError(f"`features` is {'None' if features is None else tuple(features.shape)}: {fix}.")
        sent, scores = self.scores(x, edges, features)
        attention = edge_softmax(scores, edges[1], len(x))
        messages = attention.unsqueeze(-1) * sent[edges[0]]  # (A, H, C)
        return sent.new_zeros(sent.shape).index_add(0, edges[1], messages).flatten(1) + self.bias, attention

    def scores(self, x: Tensor, edges: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """What every node sends, W h (V, H, C), and the scores e (A, H)."""
        raise NotImplementedError

    def split(self, values: Tensor) -> Tensor:
        """(..., H·C) -> (..., H, C)."""
        return values.unflatten(-1, (self.heads, -1))

    def new_attention(self) -> nn.Parameter:
        """A vector a for each head, (1, H, C)."""
        return nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, self.heads, len(self.bias) // self.heads)))


class GATAttention(GraphAttention):
    """Equation (1): a is split into the parts that look at the source, the target and the edge."""

    def __init__(self, in_channels: int, out_channels: int, heads: int = 1, edge_dim: int | None = None) -> None:
        super().__init__(out_channels, heads, edge_dim)
        self.lin = nn.Linear(in_channels, heads * out_channels, bias=False)
        self.att_src, self.att_dst = self.new_attention(), self.new_attention()
        self.att_edge = None if edge_dim is None else self.new_attention()

    def scores(self, x: Tensor, edges: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        values = self.split(self.lin(x))
        scores = (values * self.att_src).sum(-1)[edges[0]] + (values * self.att_dst).sum(-1)[edges[1]]
        if features is not None:
            scores = scores + (self.split(self.lin_edge(features)) * self.att_edge).sum(-1)
        return values, F.leaky_relu(scores, 0.2)


class GATv2Attention(GraphAttention):
    """Equation (2): the nonlinearity stands between the features and a, so that who reads changes the order."""

    def __init__(self, in_channels: int, out_channels: int, heads: int = 1, edge_dim: int | None = None) -> None:
        super().__init__(out_channels, heads, edge_dim)
        self.lin_l, self.lin_r = (nn.Linear(in_channels, heads * out_channels) for _ in range(2))
        self.att = self.new_attention()

    def scores(self, x: Tensor, edges: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        sent = self.split(self.lin_l(x))
        hidden = sent[edges[0]] + self.split(self.lin_r(x))[edges[1]]
        if features is not None:
            hidden = hidden + self.split(self.lin_edge(features))
        return sent, (F.leaky_relu(hidden, 0.2) * self.att).sum(-1)


def ranking_count(scores: Tensor) -> int:
    """scores (targets, sources) -> how many different orders the targets bring the sources into: 1 if attention is static."""
    return len(scores.argsort(dim=-1, stable=True).unique(dim=0))
