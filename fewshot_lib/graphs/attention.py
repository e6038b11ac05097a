r"""Graph attention by hand: how much each node listens to each of those it may read.

An edge j -> i lets node i read node j; f_ij are the features of the edge (the papers have none; they come in
as in PyTorch Geometric). With the features h_j of the nodes that i reads,

    (1)  e_ij = LeakyReLU(aᵀ[W h_i ‖ W h_j])          GAT (Veličković et al. 2018, arXiv:1710.10903, eq. 1, 3)
    (2)  e_ij = aᵀ LeakyReLU(W_r h_i + W_l h_j + U f_ij) GATv2 (Brody et al. 2022, arXiv:2105.14491, eq. 7)
    (3)  α_ij = exp(e_ij) / Σ_j' exp(e_ij')           over the edges that arrive at i (GAT, eq. 2)
    (4)  h_i' = Σ_j α_ij W h_j                        all heads side by side (GAT, eq. 4, 5; W_l in GATv2)

(1) is LeakyReLU(s_j + t_i), which grows with s_j whoever reads: every node i ranks the others alike. That is
*static* attention; (2) is dynamic. ``ranking_count`` counts.

Names, shapes and first values of the weights are PyTorch Geometric's: one seed gives both the same layer, and
``load_state_dict(conv.state_dict())`` takes over a ``GATConv`` or ``GATv2Conv(..., add_self_loops=False)``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def edge_softmax(scores: Tensor, target: Tensor, n_nodes: int) -> Tensor:
    """Equation (3): scores (A, H), target (A,) -> α (A, H), which adds up to 1 over a target's edges.

    As in every softmax the largest score is subtracted first. Nodes without an edge have nothing to add up.
    """
    index = target.unsqueeze(1).expand_as(scores)
    empty = scores.new_zeros(n_nodes, scores.shape[1])
    largest = empty.scatter_reduce(0, index, scores.detach(), "amax", include_self=False)
    weights = (scores - largest[target]).exp()
    return weights / torch.zeros_like(empty).index_add(0, target, weights)[target]


def pass_messages(sent: Tensor, attention: Tensor, edges: Tensor) -> Tensor:
    """Equation (4): what nodes send (V, H, C), α (A, H), edges (2, A) -> what they hear (V, H·C)."""
    messages = attention.unsqueeze(-1) * sent[edges[0]]  # (A, H, C)
    return torch.zeros_like(sent).index_add(0, edges[1], messages).flatten(1)


def initialise(*weights: nn.Linear | Tensor | None) -> None:
    """Draws weights from ±√(6 / (rows + columns)) (Glorot and Bengio 2010), as PyTorch Geometric does.

    Biases, too, although their values are good already: so the two consume equally many random numbers.
    """
    for weight in weights:
        if isinstance(weight, nn.Linear):
            initialise(weight.weight)
            if weight.bias is not None:
                bound = weight.in_features**-0.5
                nn.init.uniform_(weight.bias, -bound, bound)
        elif weight is not None:
            bound = (6 / (weight.shape[-2] + weight.shape[-1])) ** 0.5
            nn.init.uniform_(weight, -bound, bound)


class GATAttention(nn.Module):
    """Equation (1): a is split into the parts that look at the source and at the target."""

    def __init__(self, in_channels: int, out_channels: int, heads: int = 1) -> None:
        super().__init__()
        self.att_src, self.att_dst = (nn.Parameter(torch.empty(1, heads, out_channels)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(heads * out_channels))
        self.lin = nn.Linear(in_channels, heads * out_channels, bias=False)
        initialise(self.lin, self.att_src, self.att_dst)

    def forward(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """x (V, d), edges (2, A) -> (new x (V, heads · out_channels), α (A, heads))."""
        sent = self.lin(x).unflatten(-1, self.att_src.shape[1:])
        scores = (sent * self.att_src).sum(-1)[edges[0]] + (sent * self.att_dst).sum(-1)[edges[1]]
        attention = edge_softmax(F.leaky_relu(scores, 0.2), edges[1], len(x))
        return pass_messages(sent, attention, edges) + self.bias, attention


class GATv2Attention(nn.Module):
    """Equation (2): the nonlinearity comes before a, so that who reads changes the order.

    dropout: the share of edges that are not heard, in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        edge_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width, self.dropout = heads * out_channels, dropout
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        self.bias = nn.Parameter(torch.zeros(width))
        self.lin_l, self.lin_r = nn.Linear(in_channels, width), nn.Linear(in_channels, width)
        self.lin_edge = None if edge_dim is None else nn.Linear(edge_dim, width, bias=False)
        initialise(self.lin_l, self.lin_r, self.lin_edge, self.att)

    def forward(self, x: Tensor, edges: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (V, d), edges (2, A), features (A, edge_dim) -> (new x (V, heads · out_channels), α)."""
        sent = self.lin_l(x)
        hidden = self.lin_r(x)[edges[1]] + sent[edges[0]]
        if features is not None and self.lin_edge is not None:
            hidden = hidden + self.lin_edge(features)
        elif features is not None:
            fix = "make the layer with edge_dim=features.shape[1]"
            raise ValueError(f"`features` is {tuple(features.shape)}: {fix}.")
        elif self.lin_edge is not None:
            raise ValueError("`features` is None: give the features of the edges.")
        sent, hidden = (values.unflatten(-1, self.att.shape[1:]) for values in (sent, hidden))
        attention = edge_softmax((F.leaky_relu(hidden, 0.2) * self.att).sum(-1), edges[1], len(x))
        heard = F.dropout(attention, self.dropout, self.training)
        return pass_messages(sent, heard, edges) + self.bias, attention


def ranking_count(scores: Tensor) -> int:
    """scores (targets, sources) -> in how many orders the targets rank the sources; 1: static."""
    return len(scores.argsort(dim=-1, stable=True).unique(dim=0))
