"""Pictures of episode graphs: the nodes and edges of one episode, and who can be told by whom."""

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from fewshot_lib.course.plots import COLOURS, MARKERS
from fewshot_lib.graphs import EpisodeGraph, NodeKind, Relation

# Colour and line style, so that nothing is said by colour alone.
EDGE_STYLE: dict[Relation, tuple[str, Any]] = {
    Relation.MEMBER: (COLOURS[2], "-"),
    Relation.NON_MEMBER: ("lightgrey", ":"),
    Relation.NEIGHBOUR: (COLOURS[1], "--"),
    Relation.CLASS_CLASS: (COLOURS[5], "-."),
    Relation.TASK: (COLOURS[3], ":"),
    Relation.QUERY: (COLOURS[0], "-"),
}
NODE_SHAPE = {kind: MARKERS[kind] for kind in NodeKind}


def in_words(member: NodeKind | Relation) -> str:
    """ "non-member" for NON_MEMBER."""
    return member.name.lower().replace("_", "-")


def places(graph: EpisodeGraph, episode: int) -> dict[int, tuple[float, float]]:
    """Row -> (x, y): supports on the left, classes in the middle, queries on the right, the task above."""
    columns = {NodeKind.SUPPORT: 0.0, NodeKind.CLASS: 1.0, NodeKind.QUERY: 2.0, NodeKind.UNLABELLED: 2.6}
    found: dict[int, tuple[float, float]] = {}
    for kind, x in columns.items():
        rows = graph.rows(kind)[episode].tolist()
        found |= {row: (x, 1 - (i + 0.5) / len(rows)) for i, row in enumerate(rows)}
    return found | {row: (1.0, 1.12) for row in graph.rows(NodeKind.TASK)[episode].tolist()}


def draw_episode(
    ax: Axes, graph: EpisodeGraph, episode: int = 0, relations: tuple[Relation, ...] = tuple(EDGE_STYLE)
) -> None:
    """The nodes of one episode and its edges of the given relations; self loops are left out."""
    place = places(graph, episode)
    arrow = {"arrowstyle": "-|>", "linewidth": 0.9, "shrinkA": 7, "shrinkB": 7}
    arrow["connectionstyle"] = "arc3,rad=0.15"  # the two directions of a pair do not hide each other
    for (source, target), number in zip(graph.edges.T.tolist(), graph.relation.tolist(), strict=True):
        relation = Relation(number)
        if source != target and source in place and target in place and relation in relations:
            colour, style = EDGE_STYLE[relation]
            properties = arrow | {"color": colour, "linestyle": style}
            ax.annotate("", place[target], place[source], arrowprops=properties)
    for row, (x, y) in place.items():
        kind, way = NodeKind(int(graph.kind[row])), int(graph.way[row])
        colour = COLOURS[way % len(COLOURS)] if way >= 0 else "white"
        ax.plot(x, y, marker=NODE_SHAPE[kind], markersize=11, color=colour, markeredgecolor="black")
    ax.set(xlim=(-0.25, 2.3 + 0.5 * bool(graph.shape[4])), ylim=(-0.05, 1.25))
    ax.axis("off")


def graph_legend(ax: Axes, relations: tuple[Relation, ...], kinds: tuple[NodeKind, ...]) -> None:
    """Nodes by shape, edges by line."""
    white: dict[str, Any] = {"linestyle": "", "color": "white", "markeredgecolor": "black", "markersize": 9}
    handles = [Line2D([], [], marker=NODE_SHAPE[kind], label=in_words(kind), **white) for kind in kinds]
    for relation in relations:
        colour, style = EDGE_STYLE[relation]
        handles.append(Line2D([], [], color=colour, linestyle=style, label=in_words(relation)))
    ax.legend(handles=handles, loc="center left", fontsize=8, frameon=False)
    ax.axis("off")


def reach_figure(reaches: dict[str, Tensor], graph: EpisodeGraph) -> Figure:
    """title -> reach (V, V) bool: who (row) reaches whom (column) in the first episode, kind by kind."""
    kinds = [kind for kind in NodeKind if graph.rows(kind).shape[1]]
    words, rows = list(map(in_words, kinds)), torch.cat([graph.rows(kind)[0] for kind in kinds])
    edges = torch.tensor([0, *(graph.rows(kind).shape[1] for kind in kinds)]).cumsum(0)
    middle = ((edges[1:] + edges[:-1]).float() / 2 - 0.5).tolist()
    size = (4 * len(reaches), 3.9)
    fig, axes = plt.subplots(1, len(reaches), figsize=size, layout="constrained", squeeze=False)
    for ax, (title, reach) in zip(axes[0], reaches.items(), strict=True):
        ax.imshow(reach[rows][:, rows].float(), cmap="Greys", vmin=0, vmax=1.6, interpolation="nearest")
        for edge in edges[1:-1].tolist():
            ax.axhline(edge - 0.5, color=COLOURS[4], linewidth=0.8)
            ax.axvline(edge - 0.5, color=COLOURS[4], linewidth=0.8)
        ax.set(xticks=middle, yticks=middle, xlabel="is told by the row", ylabel="tells the column")
        ax.set_xticklabels(words, fontsize=8, rotation=30, ha="right")
        ax.set_yticklabels(words, fontsize=8)
        ax.tick_params(length=0)
        ax.set_title(title, fontsize=10)
    return fig
