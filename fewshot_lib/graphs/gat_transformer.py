r"""The GAT-Transformer: graph attention along the edges of an episode, and a Transformer over all of it.

Every block looks at the nodes of an episode (supports, queries, classes, task) in two ways at once, after
GraphGPS (Rampášek et al. 2022, arXiv:2205.12454, equations 2-5):

    (1)  h_local  = GATv2(h, edges, relations)                along the edges, with their features
    (2)  h_global = MultiHeadAttention(h, h, h)               all nodes of the episode (Vaswani et al. 2017)
    (3)  h ← h + h_local + h_global,   h ← h + MLP(h)         each on a layer norm of h

Both kinds of attention obey one rule: unless transductive, no node reads a query but that query itself. What
the blocks write is added to the label+prototype start,

    (4)  c_k = μ_k/‖μ_k‖ + l_k/‖l_k‖ + W_c h_k,   q ← q/‖q‖ + W_q h_q,   p(k | q) ∝ exp(cos(q, c_k)/τ)

with W_c = W_q = 0 at first: on features of length 1 the untrained model *is* ``prototypes.name_mix``. The
nodes' features are projected (W h), so that this family can express anything, and can learn the training
classes by heart. ``relational`` cannot. ``combined`` takes both.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.core import whole_number
from fewshot_lib.graphs.attention import GATv2Attention
from fewshot_lib.graphs.episode_graph import N_EDGE_FEATURES, EpisodeGraph, NodeKind, episode_graph
from fewshot_lib.prototypes import class_means, cosine_logits


@dataclass(frozen=True)
class Blocks:
    """How many blocks of which size; ``graph`` is attention (1), ``transformer`` (2): one may be left out."""

    hidden: int = 64
    heads: int = 4
    n_blocks: int = 2
    graph: bool = True
    transformer: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        whole_number(1, hidden=self.hidden, heads=self.heads, n_blocks=self.n_blocks)
        if self.hidden % self.heads:
            fix = "hidden must be a multiple of heads"
            raise ValueError(f"`hidden` is {self.hidden} and `heads` is {self.heads}: {fix}.")
        if not (self.graph or self.transformer):
            raise ValueError("`graph` and `transformer` are both False: a block needs at least one of them.")


class Block(nn.Module):
    """Equations (1)-(3): nodes (V, h) of a graph of E episodes -> (V, h)."""

    def __init__(self, size: Blocks) -> None:
        super().__init__()
        hidden, heads, dropout = size.hidden, size.heads, size.dropout
        per_head = hidden // heads
        self.local = GATv2Attention(hidden, per_head, heads, N_EDGE_FEATURES, dropout) if size.graph else None
        self.overall = (
            nn.MultiheadAttention(hidden, heads, dropout, batch_first=True) if size.transformer else None
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * hidden, hidden)
        )

    def forward(self, h: Tensor, graph: EpisodeGraph | None, hidden_from: Tensor) -> Tensor:
        """hidden_from (E, P, P): as ``GATTransformer.hidden_from`` says. graph: where there are edges."""
        normed = self.norms[0](h)
        if self.local is not None and graph is not None:
            h = h + self.local(normed, graph.edges, graph.features)[0]
        if self.overall is not None:
            nodes = normed.view(len(hidden_from), -1, h.shape[-1])  # (E, P, h)
            mask = hidden_from.repeat_interleave(self.overall.num_heads, 0)
            heard, _ = self.overall(nodes, nodes, nodes, attn_mask=mask, need_weights=False)
            h = h + heard.flatten(0, 1)
        return h + self.mlp(self.norms[1](h))


class GATTransformer(nn.Module):
    """A few-shot method: support (E, N, K, d), query (E, M, d), names (E, N, d) -> logits (E, M, N).

    use_names: whether it uses the classes' names; without (or without ``names``) their means stand in.
    transductive: whether other nodes may read a query.
    linked: whether task nodes read those of the other tasks' episodes, along edges (1). Every call then needs
        ``groups`` (E,), which ``multitask`` gives it in training and in testing alike.
    """

    def __init__(
        self,
        n_features: int,
        blocks: Blocks = Blocks(),
        *,
        use_names: bool = True,
        transductive: bool = False,
        task_nodes: bool = True,
        linked: bool = False,
        name: str = "GAT-Transformer",
    ) -> None:
        super().__init__()
        if linked and not (task_nodes and blocks.graph and blocks.n_blocks > 1):
            fix = "it needs task nodes, graph attention, and two blocks or more"
            raise ValueError(f"`linked` is True, but no class would hear of another task: {fix}.")
        self.uses_names, self.uses_groups, self.transductive = use_names, linked, transductive
        self.task_nodes, self.name = task_nodes, name
        self.enter = nn.Linear(n_features, blocks.hidden)
        self.kinds = nn.Embedding(len(NodeKind), blocks.hidden)
        self.blocks = nn.ModuleList(Block(blocks) for _ in range(blocks.n_blocks))
        self.leave = nn.LayerNorm(blocks.hidden)
        self.to_class, self.to_query = (nn.Linear(blocks.hidden, n_features) for _ in range(2))
        for parameter in (*self.to_class.parameters(), *self.to_query.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, support: Tensor, query: Tensor, names: Tensor | None = None, **extras: Any) -> Tensor:
        """extras: masks, unlabelled samples, and groups, as in ``episode_graph``."""
        classes, queries, _ = self.adapt(support, query, names, **extras)
        return cosine_logits(queries, classes)

    def adapt(
        self, support: Tensor, query: Tensor, names: Tensor | None = None, **extras: Any
    ) -> tuple[Tensor, Tensor, EpisodeGraph]:
        """Equation (4): class vectors (E, N, d), query vectors (E, M, d), and the graph they come from."""
        if support.shape[-1] != self.enter.in_features:
            fix = f"this model was made for n_features={self.enter.in_features}"
            raise ValueError(f"`support` has {support.shape[-1]} features: {fix}.")
        if (extras.get("groups") is not None) != self.uses_groups:
            fix = "give the group of each episode" if self.uses_groups else "make the model with linked=True"
            raise ValueError(f"`groups` is {extras.get('groups')}: {fix}.")
        names = names if self.uses_names else None
        support = F.normalize(support, dim=-1)
        graph = episode_graph(
            support, query, names, transductive=self.transductive, task_nodes=self.task_nodes, **extras
        )
        hidden_from = self.hidden_from(graph)
        scale = self.enter.in_features**0.5  # entries near 1, as linear layers like them
        h = self.enter(graph.x * scale) + self.kinds(graph.kind)
        for block in self.blocks:
            h = block(h, graph, hidden_from)
        h = self.leave(h)
        means = F.normalize(class_means(support, extras.get("support_mask")), dim=-1)
        classes, queries = graph.rows(NodeKind.CLASS), graph.rows(NodeKind.QUERY)
        # In the graph a class enters as its name, or as its mean.
        of_classes = means + graph.x[classes] + self.to_class(h[classes])
        return of_classes, graph.x[queries] + self.to_query(h[queries]), graph

    def hidden_from(self, graph: EpisodeGraph) -> Tensor:
        """For (2): True where a node (row) must not read another (column) of its episode, (E, P, P)."""
        silent = ~graph.present
        if not self.transductive:
            silent |= graph.kind == NodeKind.QUERY
        silent = silent.view(graph.shape[0], 1, -1)  # (E, 1, P)
        return silent & ~torch.eye(silent.shape[-1], dtype=torch.bool, device=silent.device)
