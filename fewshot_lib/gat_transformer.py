r"""The GAT-Transformer: graph attention along the edges of an episode, and a Transformer over all of it.

Every block looks at the nodes of an episode (supports, queries, classes, task) in two ways at once, after GraphGPS (Rampášek et
al. 2022, arXiv:2205.12454, equations 2-5):

    (1)  h_local  = GATv2(h, edges, relations)                along the edges, with their features (Brody et al. 2022)
    (2)  h_global = MultiHeadAttention(h, h, h)               all nodes of the episode (Vaswani et al. 2017)
    (3)  h ← h + h_local + h_global,   h ← h + MLP(h)         each on a layer norm of h

``mix="alternating"`` adds (1) before it computes (2). Both kinds of attention obey one rule: unless transductive, no node
reads a query but that query itself. What the blocks write is added to the label+prototype start,

    (4)  c_k = μ_k/‖μ_k‖ + l_k/‖l_k‖ + W_c h_k,   q ← q/‖q‖ + W_q h_q,   p(k | q) ∝ exp(cos(q, c_k)/τ)

with W_c = W_q = 0 at first: on features of length 1 the untrained model *is* ``labels.label_mix``. The nodes' features are
projected (W h), so that this family can express anything, and can learn the training classes by heart. ``relational`` cannot.
``Combined`` takes both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from fewshot_lib.graphs import N_EDGE_FEATURES, EpisodeGraph, NodeKind, episode_graph
from fewshot_lib.prototypes import class_means, cosine_logits, mask_ways
from fewshot_lib.relational import N_DESCRIPTORS, Relations

MIXES = ("parallel", "alternating")


class Block(nn.Module):
    """Equations (1)-(3): nodes (V, h) of a graph of E episodes -> (V, h). ``graph`` or ``transformer`` may be left out."""

    def __init__(self, hidden: int, heads: int, dropout: float, *, graph: bool, transformer: bool, mix: str) -> None:
        super().__init__()
        self.alternating = mix == "alternating" and graph and transformer  # with one of them there is nothing to alternate
        self.local = (
            GATv2Conv(hidden, hidden // heads, heads=heads, edge_dim=N_EDGE_FEATURES, add_self_loops=False, dropout=dropout)
            if graph
            else None
        )
        self.everywhere = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True) if transformer else None
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3 if self.alternating else 2))
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * hidden, hidden))

    def forward(self, h: Tensor, graph: EpisodeGraph, hidden_from: Tensor) -> Tensor:
        """hidden_from (E, P, P): True where the row's node must not read the column's."""
        read = self.norms[0](h)
        if self.local is not None:
            h = h + self.local(read, graph.edges, graph.features)
        if self.everywhere is not None:
            read = self.norms[1](h) if self.alternating else read
            episodes = read.view(len(hidden_from), -1, h.shape[-1])  # (E, P, h)
            mask = hidden_from.repeat_interleave(self.everywhere.num_heads, 0)
            h = h + self.everywhere(episodes, episodes, episodes, attn_mask=mask, need_weights=False)[0].flatten(0, 1)
        return h + self.mlp(self.norms[-1](h))


class GATTransformer(nn.Module):
    """A few-shot method: support (E, N, K, d), query (E, M, d), labels (E, N, d) -> logits (E, M, N), with d = n_features.

    graph, transformer: whether blocks have (1), and (2). use_labels: whether class nodes and start use the classes' names; without
    (or without ``labels``) the class means stand in. task_nodes: whether every episode has one. neighbours: see ``graphs.episode_graph``.

    groups, unlabelled: see there, too. Groups speak along edges: without (1) or task nodes they change nothing, and with one parallel
    block what a task node hears reaches no class any more.

    Raises ValueError for an unknown ``mix``, sizes below 1, a ``hidden`` that ``heads`` do not divide, blocks with nothing in
    them, and features that are not n_features long.
    """

    def __init__(
        self,
        n_features: int,
        hidden: int = 64,
        heads: int = 4,
        n_blocks: int = 2,
        *,
        graph: bool = True,
        transformer: bool = True,
        mix: str = "parallel",
        use_labels: bool = True,
        task_nodes: bool = True,
        transductive: bool = False,
        neighbours: int = 3,
        dropout: float = 0.1,
        temperature: float = 0.1,
        name: str = "GAT-Transformer",
    ) -> None:
        super().__init__()
        if mix not in MIXES:
            raise ValueError(f"`mix` is {mix!r}: use one of {', '.join(map(repr, MIXES))}.")
        for argument, value in (("hidden", hidden), ("heads", heads), ("n_blocks", n_blocks)):
            if value < 1:
                raise ValueError(f"`{argument}` is {value}: it must be at least 1.")
        if hidden % heads:
            raise ValueError(f"`hidden` is {hidden} and `heads` is {heads}: hidden must be a multiple of heads.")
        if not (graph or transformer):
            raise ValueError("`graph` and `transformer` are both False: a block needs at least one of them.")
        self.uses_labels, self.transductive, self.task_nodes, self.neighbours = use_labels, transductive, task_nodes, neighbours
        self.temperature, self.name = temperature, name
        self.enter = nn.Linear(n_features, hidden)
        self.kinds = nn.Embedding(len(NodeKind), hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, dropout, graph=graph, transformer=transformer, mix=mix) for _ in range(n_blocks))
        self.leave = nn.LayerNorm(hidden)
        self.to_class, self.to_query = (nn.Linear(hidden, n_features) for _ in range(2))
        for layer in (self.to_class, self.to_query):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        labels: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        unlabelled: Tensor | None = None,
    ) -> Tensor:
        classes, query, *_ = self.adapt(support, query, labels, support_mask, query_mask, groups=groups, unlabelled=unlabelled)
        return mask_ways(cosine_logits(query, classes, self.temperature), support_mask)

    def adapt(
        self,
        support: Tensor,
        query: Tensor,
        labels: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        unlabelled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, EpisodeGraph, Tensor]:
        """Equation (4): class vectors (E, N, d), query vectors (E, M, d), their graph, and supports (E, N, K, d) rewritten like queries."""
        if support.shape[-1] != self.enter.in_features:
            raise ValueError(f"`support` has {support.shape[-1]} features: this model was made for n_features={self.enter.in_features}.")
        labels = labels if self.uses_labels else None
        support = F.normalize(support, dim=-1)
        graph = episode_graph(
            support,
            query,
            labels,
            transductive=self.transductive,
            neighbours=self.neighbours,
            task_nodes=self.task_nodes,
            groups=groups,
            unlabelled=unlabelled,
            support_mask=support_mask,
            query_mask=query_mask,
        )
        h = self.enter(graph.x * graph.x.shape[-1] ** 0.5) + self.kinds(graph.kind)  # entries near 1, as linear layers like them
        hidden_from = self.hidden_from(graph, support_mask, query_mask)
        for block in self.blocks:
            h = block(h, graph, hidden_from)
        h = self.leave(h)
        means = F.normalize(class_means(support, support_mask), dim=-1)
        start = means + (means if labels is None else F.normalize(labels, dim=-1))
        classes = start + self.to_class(h[graph.rows(NodeKind.CLASS)])
        queries = F.normalize(query, dim=-1) + self.to_query(h[graph.rows(NodeKind.QUERY)])
        return classes, queries, graph, support + self.to_query(h[graph.rows(NodeKind.SUPPORT)]).view_as(support)

    def embed(self, support: Tensor, query: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Supports (E, N, K, d), queries (E, M, d) and class vectors (E, N, d) as the blocks rewrite them: for ``auxiliary_losses``."""
        classes, queries, _, supports = self.adapt(support, query, labels)
        return supports, queries, classes

    def hidden_from(self, graph: EpisodeGraph, support_mask: Tensor | None, query_mask: Tensor | None) -> Tensor:
        """For (2): True where a node (row) must not read another (column) of its episode, (E, P, P)."""
        kind = graph.kind.view(graph.shape[0], -1)  # (E, P)
        silent = torch.zeros_like(kind, dtype=torch.bool)
        if not self.transductive:
            silent |= kind == NodeKind.QUERY
        if support_mask is not None:
            silent[kind == NodeKind.SUPPORT] |= ~support_mask.flatten()
            silent[kind == NodeKind.CLASS] |= ~support_mask.any(-1).flatten()
        if query_mask is not None:
            silent[kind == NodeKind.QUERY] |= ~query_mask.flatten()
        itself = torch.eye(kind.shape[1], dtype=torch.bool, device=kind.device)
        return silent.unsqueeze(1) & ~itself


class Combined(nn.Module):
    """Both families: logits = (1 − g) · relational + g · projected, g = sigmoid(a linear function of the task's descriptors).

    Both start as the label+prototype mix, and so does this.
    Raises ValueError where one is transductive and the other is not, and where they differ in the use of names.
    """

    def __init__(self, relational: nn.Module, projected: nn.Module, name: str = "relational + GAT-Transformer") -> None:
        super().__init__()
        for fact in ("transductive", "uses_labels"):
            if getattr(relational, fact) != getattr(projected, fact):
                values = f"{getattr(relational, fact)} for one model and {getattr(projected, fact)} for the other"
                raise ValueError(f"`{fact}` is {values}: use the same.")
        self.relational, self.projected, self.name = relational, projected, name
        self.transductive, self.uses_labels = relational.transductive, relational.uses_labels
        self.gate_of_task = nn.Linear(N_DESCRIPTORS, 1)
        nn.init.zeros_(self.gate_of_task.weight)
        nn.init.zeros_(self.gate_of_task.bias)

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        labels: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        groups: Tensor | None = None,
    ) -> Tensor:
        gate = self.gate(support, query, labels, support_mask)
        masks = (support_mask, query_mask)
        simple, rich = self.relational(support, query, labels, *masks), self.projected(support, query, labels, *masks, groups=groups)
        # A gate times the −∞ of a way that is only padding would have no gradient.
        simple, rich = (logits.masked_fill(logits == -torch.inf, 0) for logits in (simple, rich))
        return mask_ways((1 - gate) * simple + gate * rich, support_mask)

    def gate(self, support: Tensor, query: Tensor, labels: Tensor | None = None, support_mask: Tensor | None = None) -> Tensor:
        """How much of the projected family an episode gets, (E, 1, 1)."""
        labels = labels if self.uses_labels else None
        return torch.sigmoid(self.gate_of_task(Relations.of(support, query, labels, support_mask).task)).unsqueeze(1)
