r"""An episode as a graph: who may tell whom what.

The nodes of an episode are its supports, its queries, its classes and the task itself; unlabelled samples may join. An
edge j -> i lets node i read node j, and says in its features f_ij how the two are related. ``LINKS`` below is the whole
rule. Inductive or transductive is a question about edges, not about layers: cut every edge that leaves a query, and no
stack of layers, however deep, can carry one query's features to another.

The layers that read such a graph are in ``graph_attention``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.prototypes import class_means


class NodeKind(IntEnum):
    """What a node stands for. The nodes of an episode lie in this order."""

    SUPPORT = 0
    QUERY = 1
    CLASS = 2
    TASK = 3
    UNLABELLED = 4


class Relation(IntEnum):
    """What an edge says about its two ends."""

    SELF = 0  # a node and itself
    MEMBER = 1  # a support and its own class
    NON_MEMBER = 2  # a support and another class
    NEIGHBOUR = 3  # a sample, and one that is among the nearest to it
    CLASS_CLASS = 4
    TASK = 5  # a task and whatever is in its episode, or another task of its group
    QUERY = 6  # a class and a sample whose class is unknown


N_EDGE_FEATURES = 1 + len(Relation) + 1  # cosine of both ends, one-hot of the relation, in-degree of the target
NO_EDGE = -1

# Row: who tells. Column: who is told. Own classes become MEMBER, and neighbouring samples NEIGHBOUR, when the graph is built.
_X, _C, _T, _Q, _0 = Relation.NON_MEMBER, Relation.CLASS_CLASS, Relation.TASK, Relation.QUERY, NO_EDGE
LINKS = (
    # SUPPORT QUERY CLASS TASK UNLABELLED
    (_0, _0, _X, _T, _0),  # SUPPORT
    (_0, _0, _Q, _T, _0),  # QUERY: cut when inductive
    (_X, _Q, _C, _T, _Q),  # CLASS
    (_T, _T, _T, _T, _T),  # TASK
    (_0, _0, _Q, _T, _0),  # UNLABELLED
)
# A constant: a scale taken from the batch would let a query see how many others there are.
_DEGREE_SCALE = 1 / 5
_AXES = {"support": "ENKd", "query": "EMd", "labels": "ENd", "unlabelled": "EUd", "support_mask": "ENK", "query_mask": "EM", "groups": "E"}


@dataclass(frozen=True, eq=False)
class EpisodeGraph:
    """A batch of E episodes as one disjoint union of V = E·P nodes and A edges; episode e has the rows e·P, …, e·P + P − 1.

    ``edges`` holds the row of the source over the row of the target, as in PyTorch Geometric. No pair occurs twice.
    What is masked out has a self loop and no other edge. The true label of a query is nowhere in here.
    """

    x: Tensor  # (V, d), features of length 1
    kind: Tensor  # (V,), NodeKind
    episode: Tensor  # (V,)
    way: Tensor  # (V,), the way of supports and classes, else −1
    edges: Tensor  # (2, A)
    relation: Tensor  # (A,), Relation
    features: Tensor  # (A, N_EDGE_FEATURES)
    shape: tuple[int, int, int, int, int]  # E, N, K, M, U

    def rows(self, kind: NodeKind) -> Tensor:
        """The rows of all nodes of one kind, (E, count): supports way by way, (E, N·K)."""
        per_episode = torch.arange(len(self.x), device=self.x.device).view(self.shape[0], -1)
        return per_episode[:, self.kind.view_as(per_episode)[0] == kind]


def episode_graph(
    support: Tensor,
    query: Tensor,
    labels: Tensor | None = None,
    *,
    transductive: bool = False,
    neighbours: int = 3,
    task_nodes: bool = True,
    groups: Tensor | None = None,
    unlabelled: Tensor | None = None,
    support_mask: Tensor | None = None,
    query_mask: Tensor | None = None,
) -> EpisodeGraph:
    """support (E, N, K, d), query (E, M, d) -> one graph of all episodes, in which gradients flow through x and the cosines.

    labels: (E, N, d), features of the classes' names, which are then the class nodes; without, the means of the supports are.
    transductive: whether edges may leave queries. neighbours: how many samples each sample reads, the nearest by cosine
    (supports only, unless transductive). task_nodes: one per episode, the mean of all its supports.
    groups: (E,); task nodes of episodes with the same number are linked (None, or no task nodes: every episode alone).
    unlabelled: (E, U, d), samples without label that take part. support_mask (E, N, K), query_mask (E, M): False is padding.

    Raises ValueError for shapes that do not fit, a negative ``neighbours``, and unlabelled samples in an inductive graph.
    """
    tensors = {"support": support, "query": query, "labels": labels, "unlabelled": unlabelled}
    sizes = _check(tensors | {"support_mask": support_mask, "query_mask": query_mask, "groups": groups}, neighbours, transductive)
    shape = tuple(sizes.get(axis, 0) for axis in "ENKMU")
    x, kind, way, present = _nodes(support, query, labels, unlabelled, task_nodes, support_mask, query_mask)
    n_episodes, n_per_episode = present.shape
    cosines = x @ x.transpose(1, 2)  # (E, P, P)
    relations = _relations(kind, way, present, cosines.detach(), neighbours, transductive)
    episode, source, target = (relations != NO_EDGE).nonzero().unbind(1)
    relation, cosine = relations[episode, source, target].long(), cosines[episode, source, target]
    edges = torch.stack([source, target]) + episode * n_per_episode
    if groups is not None and task_nodes:
        linked = (groups.unsqueeze(1) == groups).fill_diagonal_(False).nonzero().T  # (2, B), episode to episode
        tasks = x[:, kind == NodeKind.TASK].squeeze(1)
        edges = torch.cat([edges, linked * n_per_episode + (kind == NodeKind.TASK).nonzero()], 1)
        relation = torch.cat([relation, relation.new_full((linked.shape[1],), Relation.TASK)])
        cosine = torch.cat([cosine, (tasks @ tasks.T)[linked[0], linked[1]]])
    number = torch.arange(n_episodes, device=x.device).repeat_interleave(n_per_episode)
    features = _edge_features(cosine, relation, edges[1], len(number))
    return EpisodeGraph(x.flatten(0, 1), kind.repeat(n_episodes), number, way.repeat(n_episodes), edges, relation, features, shape)


def _nodes(
    support: Tensor,
    query: Tensor,
    labels: Tensor | None,
    unlabelled: Tensor | None,
    task_nodes: bool,
    support_mask: Tensor | None,
    query_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (E, P, d), kind (P,), way (P,), and whether a node is there or only fills up, (E, P)."""
    e, n, k, d = support.shape
    if support_mask is None:
        support_mask = torch.ones(e, n, k, dtype=torch.bool, device=support.device)
    if query_mask is None:
        query_mask = support_mask.new_ones(query.shape[:2])
    classes = class_means(support, support_mask) if labels is None else labels
    task = class_means(support.reshape(e, 1, n * k, d), support_mask.reshape(e, 1, n * k))  # (E, 1, d)
    parts = [support.flatten(1, 2), query, classes, task[:, : int(task_nodes)], query[:, :0] if unlabelled is None else unlabelled]
    counts = torch.tensor([part.shape[1] for part in parts], device=support.device)
    kind = torch.arange(len(NodeKind), device=support.device).repeat_interleave(counts)  # the parts are in the order of NodeKind
    ways = torch.arange(n, device=support.device)
    way = torch.full_like(kind, -1)
    way[kind == NodeKind.SUPPORT], way[kind == NodeKind.CLASS] = ways.repeat_interleave(k), ways
    always = query_mask.new_ones(e, parts[3].shape[1] + parts[4].shape[1])
    present = torch.cat([support_mask.flatten(1), query_mask, support_mask.any(-1), always], 1)
    return F.normalize(torch.cat(parts, 1), dim=-1), kind, way, present


def _relations(kind: Tensor, way: Tensor, present: Tensor, cosines: Tensor, neighbours: int, transductive: bool) -> Tensor:
    """kind (P,), way (P,), present (E, P), cosines (E, P, P) -> the relation of every source and target, (E, P, P), or NO_EDGE."""
    links = torch.tensor(LINKS, dtype=torch.int8, device=kind.device)[kind.unsqueeze(1), kind]  # (P, P)
    links[(links == Relation.NON_MEMBER) & (way.unsqueeze(1) == way)] = Relation.MEMBER
    unknown = (kind == NodeKind.QUERY) | (kind == NodeKind.UNLABELLED)
    sample = unknown | (kind == NodeKind.SUPPORT)
    telling = sample if transductive else kind == NodeKind.SUPPORT
    near = _nearest(cosines, telling.nonzero().squeeze(1), present, neighbours) & sample  # a target that is no sample has none
    relations = links.expand_as(cosines).masked_fill(near, Relation.NEIGHBOUR)
    if not transductive:
        relations[:, unknown] = NO_EDGE  # the inductive rule
    relations.masked_fill_(~(present.unsqueeze(2) & present.unsqueeze(1)), NO_EDGE)
    relations.diagonal(dim1=1, dim2=2).fill_(Relation.SELF)
    return relations


def _nearest(cosines: Tensor, telling: Tensor, present: Tensor, k: int) -> Tensor:
    """cosines (E, P, P), rows ``telling`` (S,), present (E, P) -> (E, P, P) bool: the source is among the target's k nearest."""
    itself = torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device)
    allowed = (present.unsqueeze(1) & ~itself)[:, :, telling]  # (E, target, S)
    # The candidates alone, so that not even a tie is resolved by how many queries there are.
    nearest = cosines[:, :, telling].masked_fill(~allowed, -torch.inf).topk(min(k, len(telling)), -1).indices
    chosen = torch.zeros_like(allowed).scatter_(-1, nearest, True) & allowed
    return torch.zeros_like(cosines, dtype=torch.bool).index_copy_(1, telling, chosen.transpose(1, 2))


def _edge_features(cosine: Tensor, relation: Tensor, target: Tensor, n_nodes: int) -> Tensor:
    """cosine (A,), relation (A,), target (A,) -> (A, N_EDGE_FEATURES)."""
    degree = torch.bincount(target, minlength=n_nodes)[target].to(cosine.dtype).log1p() * _DEGREE_SCALE
    return torch.cat([cosine.unsqueeze(1), F.one_hot(relation, len(Relation)).to(cosine.dtype), degree.unsqueeze(1)], 1)


def _check(tensors: dict[str, Tensor | None], neighbours: int, transductive: bool) -> dict[str, int]:
    """The size of every axis. Raises ValueError where two tensors do not agree, and for settings out of range."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        axes, known = _AXES[name], "".join(f", {axis} = {sizes[axis]}" for axis in _AXES[name] if axis in sizes)
        if tensor.dim() != len(axes) or any(sizes.setdefault(a, size) != size for a, size in zip(axes, tensor.shape, strict=True)):
            raise ValueError(f"`{name}` has shape {tuple(tensor.shape)}: it must be ({', '.join(axes)}){known.replace(',', ' with', 1)}.")
        if name.endswith("mask") and tensor.dtype != torch.bool:
            raise ValueError(f"`{name}` holds {tensor.dtype}: it must be torch.bool, True for what counts. Use mask.bool().")
    if not isinstance(neighbours, int) or neighbours < 0:
        raise ValueError(f"`neighbours` is {neighbours!r}: use a whole number, 0 (no such edges) or more.")
    if tensors["unlabelled"] is not None and not transductive:
        raise ValueError(
            f"`unlabelled` has shape {tuple(tensors['unlabelled'].shape)} and `transductive` is False: samples without label "
            "take part in a transductive graph only. Set transductive=True, or leave them out."
        )
    return sizes


def reaches(graph: EpisodeGraph, n_steps: int | None = None) -> Tensor:
    """Whether information can get from row i to row j along at most ``n_steps`` edges (None: any number), (V, V) bool.

    n_steps layers of any message passing compute row j from the rows that reach it, and from nothing else.
    """
    reach = torch.eye(len(graph.x), device=graph.x.device)
    step = reach.clone()
    step[graph.edges[0], graph.edges[1]] = 1
    for _ in range(len(graph.x) if n_steps is None else n_steps):
        further = (reach @ step).clamp_max(1)
        if torch.equal(further, reach):
            break
        reach = further
    return reach.bool()
