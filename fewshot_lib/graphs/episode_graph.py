r"""An episode as a graph: who may tell whom what.

The nodes of an episode are its supports, its queries, its classes and the task itself; unlabelled samples may
join. An edge j -> i lets node i read node j, and says in its features f_ij how the two are related. ``LINKS``
below is the whole rule. Inductive or transductive is a question about edges, not about layers: cut every edge
that leaves a query, and no stack of layers, however deep, can carry one query's features to another.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import check_axes, whole_number
from fewshot_lib.prototypes import class_means

# What a node stands for. The nodes of an episode lie in this order.
NodeKind = IntEnum("NodeKind", "SUPPORT QUERY CLASS TASK UNLABELLED", start=0)


class Relation(IntEnum):
    """What an edge says about its two ends."""

    SELF = 0  # a node and itself
    MEMBER = 1  # a support and its own class
    NON_MEMBER = 2  # a support and another class
    NEIGHBOUR = 3  # a sample, and one that is among the nearest to it
    CLASS_CLASS = 4
    TASK = 5  # a task and whatever is in its episode, or another task of its group
    QUERY = 6  # a class and a sample whose class is unknown


# Of an edge: the cosine of its ends, its relation (one-hot), and how many edges arrive at its target.
N_EDGE_FEATURES = 1 + len(Relation) + 1
NO_EDGE = -1

# Row: who tells. Column: who is told. Supports of a class become its MEMBERs, and samples near each other
# NEIGHBOURs, when the graph is built.
_X, _C, _T, _Q, _0 = Relation.NON_MEMBER, Relation.CLASS_CLASS, Relation.TASK, Relation.QUERY, NO_EDGE
LINKS = (
    # SUPPORT QUERY CLASS TASK UNLABELLED
    (_0, _0, _X, _T, _0),  # SUPPORT
    (_0, _0, _Q, _T, _0),  # QUERY: cut when inductive
    (_X, _Q, _C, _T, _Q),  # CLASS
    (_T, _T, _T, _T, _T),  # TASK
    (_0, _0, _Q, _T, _0),  # UNLABELLED
)

_AXES = {"support": "ENKd", "query": "EMd", "names": "ENd", "unlabelled": "EUd"}
_AXES |= {"support_mask": "ENK", "query_mask": "EM", "groups": "E"}


@dataclass(frozen=True, eq=False)
class EpisodeGraph:
    """E episodes as one disjoint union of V = E·P nodes and A edges.

    Episode e has the rows e·P … e·P + P − 1. No pair of nodes has two edges; what is masked out has its self
    loop only. The true label of a query is nowhere in here.
    """

    x: Tensor  # (V, d), features of length 1
    kind: Tensor  # (V,), NodeKind
    episode: Tensor  # (V,)
    way: Tensor  # (V,), the way of supports and classes, else −1
    present: Tensor  # (V,), False for what is masked out
    edges: Tensor  # (2, A), the row of the source over that of the target, as in PyTorch Geometric
    relation: Tensor  # (A,), Relation
    features: Tensor  # (A, N_EDGE_FEATURES)
    shape: tuple[int, ...]  # E, N, K, M, U

    def rows(self, kind: NodeKind) -> Tensor:
        """The rows of all nodes of one kind, (E, count): supports way by way, (E, N·K)."""
        per_episode = torch.arange(len(self.x), device=self.x.device).view(self.shape[0], -1)
        return per_episode[:, self.kind.view_as(per_episode)[0] == kind]


def episode_graph(
    support: Tensor,
    query: Tensor,
    names: Tensor | None = None,
    *,
    transductive: bool = False,
    neighbours: int = 3,
    task_nodes: bool = True,
    **extras: Tensor | None,
) -> EpisodeGraph:
    """support (E, N, K, d), query (E, M, d) -> their graph; gradients flow through x and the cosines.

    names: (E, N, d), features of the classes' names, the class nodes; without, the means of the supports are.
    transductive: whether edges may leave queries.
    neighbours: how many samples each sample reads, the nearest by cosine (supports, unless transductive).
    task_nodes: whether every episode has one, the mean of its supports.
    extras: support_mask (E, N, K) and query_mask (E, M), bool: False is padding; unlabelled (E, U, d), which
        take part if transductive; groups (E,): task nodes of episodes of one number read each other.
    """
    whole_number(0, neighbours=neighbours)
    sizes = _check(transductive, support=support, query=query, names=names, **extras)
    x, kind, way, present = _nodes(support, query, names, task_nodes, extras)
    n_episodes, n_nodes = present.shape
    cosines = x @ x.transpose(1, 2)  # (E, P, P)
    relations = _relations(kind, way, present, cosines.detach(), neighbours, transductive)
    place = episode, source, target = (relations != NO_EDGE).nonzero().unbind(1)
    edges = torch.stack([source, target]) + episode * n_nodes
    relation, cosine = relations[place].long(), cosines[place]
    x, kind = x.flatten(0, 1), kind.repeat(n_episodes)  # from here on, of all episodes
    if (groups := extras.get("groups")) is not None and task_nodes:
        linked = (groups.unsqueeze(1) == groups).fill_diagonal_(False)  # (E, E)
        links = (kind == NodeKind.TASK).nonzero().squeeze(1)[linked.nonzero().T]  # (2, B)
        edges = torch.cat([edges, links], 1)
        relation = torch.cat([relation, torch.full_like(links[0], Relation.TASK)])
        cosine = torch.cat([cosine, (x[links[0]] * x[links[1]]).sum(1)])
    # 0.2 is a constant: a scale taken from the batch would let a query see how many others there are.
    degree = 0.2 * torch.bincount(edges[1])[edges[1]].to(x.dtype).log1p()
    one_hot = F.one_hot(relation, len(Relation)).to(x.dtype)
    return EpisodeGraph(
        x=x,
        kind=kind,
        episode=torch.arange(n_episodes, device=x.device).repeat_interleave(n_nodes),
        way=way.repeat(n_episodes),
        present=present.flatten(),
        edges=edges,
        relation=relation,
        features=torch.cat([cosine.unsqueeze(1), one_hot, degree.unsqueeze(1)], 1),
        shape=tuple(sizes.get(axis, 0) for axis in "ENKMU"),
    )


def _check(transductive: bool, **tensors: Tensor | None) -> dict[str, Any]:
    """The size of every axis, of tensors that agree."""
    if unknown := sorted(tensors.keys() - _AXES):
        raise TypeError(f"`{unknown[0]}` is nothing that an episode graph has: use {', '.join(_AXES)}.")
    sizes = check_axes(**{name: (tensor, _AXES[name]) for name, tensor in tensors.items()})
    for name in ("support_mask", "query_mask"):
        if (mask := tensors.get(name)) is not None and mask.dtype != torch.bool:
            raise ValueError(f"`{name}` holds {mask.dtype}: it must be torch.bool, True for what counts.")
    if (unlabelled := tensors.get("unlabelled")) is not None and not transductive:
        found = f"has shape {tuple(unlabelled.shape)} and `transductive` is False"
        raise ValueError(f"`unlabelled` {found}: nobody may read it. Set transductive=True, or leave it out.")
    return sizes


def _nodes(
    support: Tensor, query: Tensor, names: Tensor | None, task_nodes: bool, extras: dict[str, Tensor | None]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (E, P, d), kind (P,), way (P,), and whether a node is there or only fills up, (E, P)."""
    e, n, k, d = support.shape
    support_mask, query_mask, unlabelled = map(extras.get, ("support_mask", "query_mask", "unlabelled"))
    if support_mask is None:
        support_mask = torch.ones(e, n, k, dtype=torch.bool, device=support.device)
    if query_mask is None:
        query_mask = support_mask.new_ones(query.shape[:2])
    parts = (  # in the order of NodeKind
        support.flatten(1, 2),
        query,
        class_means(support, support_mask) if names is None else names,
        class_means(support.reshape(e, 1, n * k, d), support_mask.reshape(e, 1, n * k))[:, : int(task_nodes)],
        query[:, :0] if unlabelled is None else unlabelled,
    )
    counts, ways = torch.tensor([part.shape[1] for part in parts]), torch.arange(n, device=support.device)
    kind = torch.arange(len(NodeKind)).repeat_interleave(counts).to(support.device)
    way = torch.full_like(kind, -1)
    way[kind == NodeKind.SUPPORT], way[kind == NodeKind.CLASS] = ways.repeat_interleave(k), ways
    present = torch.cat([support_mask.flatten(1), query_mask], 1)
    present = F.pad(present, (0, len(kind) - present.shape[1]), value=True)  # all others are always there
    return F.normalize(torch.cat(parts, 1), dim=-1), kind, way, present


def _relations(
    kind: Tensor, way: Tensor, present: Tensor, cosines: Tensor, neighbours: int, transductive: bool
) -> Tensor:
    """kind, way (P,), present (E, P), cosines (E, P, P) -> relation of source and target, (E, P, P)."""
    links = torch.tensor(LINKS, dtype=torch.int8, device=kind.device)[kind.unsqueeze(1), kind]  # (P, P)
    links[(links == Relation.NON_MEMBER) & (way.unsqueeze(1) == way)] = Relation.MEMBER
    unknown = (kind == NodeKind.QUERY) | (kind == NodeKind.UNLABELLED)
    sample = unknown | (kind == NodeKind.SUPPORT)
    sources = sample if transductive else kind == NodeKind.SUPPORT
    near = _nearest(cosines, sources.nonzero().squeeze(1), present, neighbours)
    relations = links.expand_as(cosines).masked_fill(near & sample, Relation.NEIGHBOUR)
    if not transductive:
        relations[:, unknown] = NO_EDGE  # the inductive rule
    relations.masked_fill_(~(present.unsqueeze(2) & present.unsqueeze(1)), NO_EDGE)
    relations.diagonal(dim1=1, dim2=2).fill_(Relation.SELF)
    return relations


def _nearest(cosines: Tensor, sources: Tensor, present: Tensor, k: int) -> Tensor:
    """cosines (E, P, P), rows of sources (S,), present (E, P) -> is a source among a target's k nearest?"""
    itself = torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device)
    allowed = (present.unsqueeze(1) & ~itself)[:, :, sources]  # (E, target, S)
    # The candidates alone, so that not even a tie is resolved by how many queries there are.
    nearest = cosines[:, :, sources].masked_fill(~allowed, -torch.inf).topk(min(k, len(sources)), -1).indices
    chosen = torch.zeros_like(allowed).scatter_(-1, nearest, True) & allowed
    return torch.zeros_like(cosines, dtype=torch.bool).index_copy_(1, sources, chosen.transpose(1, 2))


def reaches(graph: EpisodeGraph, n_steps: int | None = None) -> Tensor:
    """Whether information can get from row to column along at most n_steps edges (None: any), (V, V) bool.

    n_steps layers of any message passing compute row j from the rows that reach it, and from nothing else.
    """
    reach = torch.eye(len(graph.x), device=graph.x.device)
    step = reach.clone()
    step[graph.edges[0], graph.edges[1]] = 1
    for _ in range(len(graph.x) if n_steps is None else n_steps):
        reach = (reach @ step).clamp_max(1)
    return reach.bool()
