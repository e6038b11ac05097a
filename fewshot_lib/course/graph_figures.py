"""Pictures of episode graphs: the nodes and edges of one episode, and who can be told by whom."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from fewshot_lib.course.plots import COLOURS, MARKERS
from fewshot_lib.graphs import EpisodeGraph, NodeKind, Relation

EDGE_STYLE = {  # colour and line style, so that nothing is said by colour alone
    Relation.MEMBER: (COLOURS[2], "-"),
    Relation.NON_MEMBER: ("lightgrey", ":"),
    Relation.NEIGHBOUR: (COLOURS[1], "--"),
    Relation.CLASS_CLASS: (COLOURS[5], "-."),
    Relation.TASK: (COLOURS[3], ":"),
    Relation.QUERY: (COLOURS[0], "-"),
}
NODE_SHAPE = {kind: MARKERS[kind] for kind in NodeKind}


def in_words(member: NodeKind | Relation) -> str:
    """ "non member" for NON_MEMBER."""
    return member.name.lower().replace("_", "-")


def places(graph: EpisodeGraph, episode: int) -> dict[int, tuple[float, float]]:
    """Row -> (x, y): supports on the left, class nodes in the middle, queries on the right, the task above."""
    found, columns = {}, {NodeKind.SUPPORT: 0.0, NodeKind.CLASS: 1.0, NodeKind.QUERY: 2.0, NodeKind.UNLABELLED: 2.6}
    for kind, x in columns.items():
        rows = graph.rows(kind)[episode].tolist()
        found |= {row: (x, 1 - (i + 0.5) / len(rows)) for i, row in enumerate(rows)}
    found |= {row: (1.0, 1.12) for row in graph.rows(NodeKind.TASK)[episode].tolist()}
    return found


def draw_episode(ax: Axes, graph: EpisodeGraph, episode: int = 0, relations: tuple[Relation, ...] = tuple(EDGE_STYLE)) -> None:
    """The nodes of one episode and its edges of the given relations; self loops are left out."""
    at = places(graph, episode)
    for (source, target), relation in zip(graph.edges.T.tolist(), graph.relation.tolist(), strict=True):
        if source != target and source in at and target in at and Relation(relation) in relations:
            colour, style = EDGE_STYLE[Relation(relation)]
            bend = "arc3,rad=0.15"  # the two directions of a pair do not hide each other
            arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "linewidth": 0.9, "shrinkA": 7, "shrinkB": 7}
            ax.annotate("", at[target], at[source], arrowprops=arrow | {"connectionstyle": bend})
    for row, (x, y) in at.items():
        kind, way = NodeKind(graph.kind[row].item()), graph.way[row].item()
        colour = COLOURS[way % len(COLOURS)] if way >= 0 else "white"
        ax.plot(x, y, marker=NODE_SHAPE[kind], markersize=11, color=colour, markeredgecolor="black")
    ax.set(xlim=(-0.25, 2.3 + 0.5 * bool(graph.shape[4])), ylim=(-0.05, 1.25))
    ax.axis("off")


def graph_legend(ax: Axes, relations: tuple[Relation, ...], kinds: tuple[NodeKind, ...]) -> None:
    """Nodes by shape, edges by line."""
    nodes = [
        Line2D([], [], linestyle="", marker=NODE_SHAPE[k], color="white", markeredgecolor="black", markersize=9, label=in_words(k))
        for k in kinds
    ]
    edges = [Line2D([], [], color=EDGE_STYLE[r][0], linestyle=EDGE_STYLE[r][1], label=in_words(r)) for r in relations]
    ax.legend(handles=nodes + edges, loc="center left", fontsize=8, frameon=False)
    ax.axis("off")


def reach_map(ax: Axes, reach: Tensor, graph: EpisodeGraph, episode: int = 0) -> None:
    """reach (V, V) bool -> who (row) reaches whom (column) in one episode, with lines between the kinds of nodes."""
    kinds = [kind for kind in NodeKind if graph.rows(kind).shape[1]]
    rows = torch.cat([graph.rows(kind)[episode] for kind in kinds])
    ax.imshow(reach[rows][:, rows].float(), cmap="Greys", vmin=0, vmax=1.6, interpolation="nearest")
    edges = torch.tensor([0, *(graph.rows(kind).shape[1] for kind in kinds)]).cumsum(0)
    for edge in edges[1:-1].tolist():
        ax.axhline(edge - 0.5, color=COLOURS[4], linewidth=0.8)
        ax.axvline(edge - 0.5, color=COLOURS[4], linewidth=0.8)
    middle = ((edges[1:] + edges[:-1]).float() / 2 - 0.5).tolist()
    ax.set(xticks=middle, yticks=middle, xlabel="is told by the row", ylabel="tells the column")
    ax.set_xticklabels([in_words(kind) for kind in kinds], fontsize=8, rotation=30, ha="right")
    ax.set_yticklabels([in_words(kind) for kind in kinds], fontsize=8)
    ax.tick_params(length=0)


def reach_figure(reaches: dict[str, Tensor], graph: EpisodeGraph) -> Figure:
    """One ``reach_map`` per title."""
    fig, axes = plt.subplots(1, len(reaches), figsize=(4 * len(reaches), 3.9), layout="constrained", squeeze=False)
    for ax, (title, reach) in zip(axes[0], reaches.items(), strict=True):
        reach_map(ax, reach, graph)
        ax.set_title(title, fontsize=10)
    return fig
