"""Chapter 07: pictures of episode graphs and of what class nodes collect; a contest of where a graph pays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

from fewshot_lib import prototypes
from fewshot_lib.core import EpisodeResults, Episodes, PairedDifference, compare_paired, evaluate, over_seeds
from fewshot_lib.course import needs
from fewshot_lib.course.lesson import Lesson
from fewshot_lib.course.plots import COLOURS, MARKERS, band_plot
from fewshot_lib.course.records import markdown
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4, TextEncoder, encode, extract_features
from fewshot_lib.graphs import EpisodeGraph, NodeKind, Relation

# Colour and line style, so that nothing is said by colour alone.
EDGE_STYLE: dict[Relation, tuple[str, Any]] = {
    Relation.MEMBER: (COLOURS[2], "-"),
    Relation.NON_MEMBER: ("grey", ":"),
    Relation.NEIGHBOUR: (COLOURS[1], "--"),
    Relation.CLASS_CLASS: (COLOURS[5], "-."),
    Relation.TASK: (COLOURS[3], ":"),
    Relation.QUERY: (COLOURS[0], "-"),
}
NODE_SHAPE = {kind: MARKERS[kind] for kind in NodeKind}
# What figures show, for readers who cannot see them, and what is to be noticed.
WORDS = {
    "who reads whom": {
        "alt": "One episode of two classes as a graph in three panels. Supports and classes tell each other. "
        "Inductive: supports and classes tell the queries. Transductive: queries tell the classes, too.",
        "caption": "Arrows point from the node that tells to the node that is told. Colours of nodes: the "
        "class, where it is known. What to notice: in the middle panel no arrow leaves a query.",
    },
    "orders": {
        "alt": "Histograms of the number of different orders in which 40 nodes rank the same 8 nodes: "
        "always 1 with GAT, many with GATv2.",
        "caption": "200 layers with random weights. What to notice: GAT always gives one order, whatever "
        "its width. A query that should listen to class 2 and a query that should listen to class 4 need "
        "different orders.",
    },
    "reach": {
        "alt": "Which node hears which other node after one and after several layers, inductive and "
        "transductive.",
        "caption": "Dark: the row's node hears, over one edge or several, what the column's node holds. What "
        "to notice: with transductive = False the columns of the queries are empty but for the queries "
        "themselves, however many layers there are. That is the whole proof. With True everybody hears "
        "everybody from the second layer on.",
    },
    "rounds": {
        "alt": "Three vectors and the class node c in the plane, in three panels. The arrow of the odd "
        "example gets thinner from round to round, and the class node turns away from it.",
        "caption": "The wider an arrow, the more the class node (dashed) listens to it. The node turns away "
        "from the odd example, so that in the next round its edge is weaker still.",
    },
    "collects": {
        "alt": "Arrows from two names and four examples to two class nodes, as wide as their weights. The "
        "first example of class 0 counts most for it, the second hardly at all.",
        "caption": "What a class node collects, with the weights of the napkin. Dotted: edges to the other "
        "class, which our rule leaves at zero and the network may use.",
    },
    "curves": {
        "alt": "Accuracy on training and on validation classes during training, a panel for each family.",
        "caption": "One training each; bands: 95 % intervals over episodes. A gap that opens is what was "
        "learned about these classes, and about no others.",
    },
    "regimes": {
        "alt": "Points of accuracy over names as examples, with intervals, of all methods in each situation.",
        "caption": "Test classes, one scale. Dashed: names as examples in that situation. The network is the "
        "mean of its trainings; all intervals are over test episodes.",
    },
    "loudness": {
        "alt": "Histograms of the weights of right and of wrong examples in their class, in both rounds.",
        "caption": "Validation classes. Dashed: as loud as at the start, before the first round. Wrong and "
        "right examples are told apart by how they lie to each other and to the names, by nothing else.",
    },
    "stepping stone": {
        "alt": "Two class nodes, an unlabelled example u and a query q as arrows in the plane, before and "
        "after the class nodes have read u. The query changes from class 1 to class 0.",
        "caption": "The unlabelled example lies between class 0 and the query. It draws the node of class 0 "
        "towards itself, and the query becomes its neighbour.",
    },
}


def prepare(lesson: Lesson, dataset: ClassDataset) -> tuple[Tensor, Tensor | None]:
    """Features (n, d) of the examples and (C, d) of the names, centred on the training classes.

    Texts: of the frozen sentence encoder. Images have no names, and a Conv4 that is trained here.
    """
    if isinstance(dataset.inputs, list):
        reader = TextEncoder().to(lesson.device)
        named = prototypes.name_features(reader, dataset)
        return prototypes.centred(dataset, extract_features(reader, dataset), named)
    network = Conv4(in_channels=dataset.inputs.shape[1]).to(lesson.device)
    n_steps, n_way = lesson.pick(smoke=10, laptop=200, gpu=2000), min(20, len(dataset.classes("train")))
    n_query = needs.training_queries(dataset, lesson.n_shot, lesson.n_query)
    prototypes.train_prototypical(network, dataset, n_steps, n_way=n_way, n_query=n_query, seed=lesson.seed)
    return prototypes.centred(dataset, encode(network, dataset.inputs))


Change = Callable[..., Tensor]  # (method, support, query, names, query_mask) -> logits (E, M, N)


class Inside(nn.Module):
    """A few-shot method inside a situation: it sees an episode only after ``change``."""

    def __init__(self, method: Any, change: Change, uses_names: bool = True) -> None:
        super().__init__()
        self.method, self.change = method, change
        self.name, self.transductive, self.uses_names = method.name, method.transductive, uses_names

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        names: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        return self.change(self.method, support, query, names, query_mask)


class Contest:
    """Trained networks against methods that need no training, in one situation after the other.

    results: situation -> method -> what it reaches on test classes, the network's last, (trainings, E).
    chosen: (situation, opponent) -> the opponent with the settings that were best on validation classes.
    gains: situation -> the networks' mean against the opponent that is best on the test episodes.
    """

    def __init__(
        self, lesson: Lesson, dataset: ClassDataset, features: Tensor, names: Tensor | None, n_validation: int
    ) -> None:
        self.lesson, self.dataset, self.n_validation = lesson, dataset, n_validation
        self.features, self.names = features, names
        self.results: dict[str, dict[str, EpisodeResults]] = {}
        self.chosen: dict[tuple[str, str], Any] = {}
        self.gains: dict[str, PairedDifference] = {}
        self._tuned: list[tuple[str, str]] = []

    def measured(self, methods: Sequence[Any], episodes: Episodes) -> EpisodeResults:
        """The accuracy of one method, or of the networks of all trainings."""
        return over_seeds(
            [evaluate(each, episodes, self.features, 100, names=self.names) for each in methods]
        )

    def hold(
        self,
        situation: str,
        networks: Sequence[Inside],
        deal: Callable[[str, int], Episodes],
        grids: Mapping[str, Sequence[Any]],
        **facts: Any,
    ) -> str:
        """All methods in one situation; its result in a sentence.

        deal: (split, number) -> episodes. grids: opponent -> the methods among which validation classes
        choose. facts: of all results, where the situation has changed them (n_shot=1).
        """
        validation, test = deal("val", self.n_validation), deal("test", self.lesson.n_episodes)
        change, uses_names = networks[0].change, networks[0].uses_names
        found = {}
        for name, grid in grids.items():
            rivals = [Inside(method, change, uses_names) for method in grid]
            best = rivals[0]
            if len(rivals) > 1:
                best = max(rivals, key=lambda rival: self.measured([rival], validation).mean)
                self._tuned.append((situation, name))
            found[name] = replace(self.measured([best], test), method=name, **facts)
            self.chosen[situation, name] = best.method
        ours = replace(self.measured(networks, test), **facts)
        self.results[situation] = found | {ours.method: ours}
        best_rival = max(found.values(), key=lambda result: result.mean)
        self.gains[situation] = gain = lead(ours, best_rival)
        title = f"{ours.method} − {best_rival.method}, {situation}"
        self.lesson.record(title, gain, dataset=self.dataset, note=f"mean of {ours.n_seeds} trainings")
        single = 100 * (ours.accuracies - best_rival.accuracies).mean(1)
        return (
            f"**{situation}**: {', '.join(f'{each.method} {each.mean:.1%}' for each in found.values())}; "
            f"{ours.method} {ours.mean:.1%}, **{gain.verdict}** {best_rival.method}: {gain.in_words}; "
            f"single trainings {single.min():+.1f} to {single.max():+.1f}."
        )

    def settings(self) -> str:
        """What was chosen among several, as a table in Markdown."""
        rows = [[*where, _settings(self.chosen[where])] for where in self._tuned]
        return markdown(["situation", "opponent", "settings"], rows)


def _settings(method: Any) -> str:
    """The fields of a method that has some, else its name."""
    return repr(method) if is_dataclass(method) else method.name


def lead(networks: EpisodeResults, rival: EpisodeResults) -> PairedDifference:
    """The paired gain of the mean of all trainings: its interval is over episodes."""
    gain = compare_paired(networks, rival)
    return replace(gain, accuracies=gain.accuracies.mean(0, keepdim=True))


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
    """title -> reach (V, V) bool as of ``reaches``, for the first episode: the row listens to the column."""
    kinds = [kind for kind in NodeKind if graph.rows(kind).shape[1]]
    words, rows = list(map(in_words, kinds)), torch.cat([graph.rows(kind)[0] for kind in kinds])
    edges = torch.tensor([0, *(graph.rows(kind).shape[1] for kind in kinds)]).cumsum(0)
    middle = ((edges[1:] + edges[:-1]).float() / 2 - 0.5).tolist()
    size = (4 * len(reaches), 3.9)
    fig, axes = plt.subplots(1, len(reaches), figsize=size, layout="constrained", squeeze=False)
    for ax, (title, reach) in zip(axes[0], reaches.items(), strict=True):
        ax.imshow(reach[rows][:, rows].T.float(), cmap="Greys", vmin=0, vmax=1.6, interpolation="nearest")
        for edge in edges[1:-1].tolist():
            ax.axhline(edge - 0.5, color=COLOURS[4], linewidth=0.8)
            ax.axvline(edge - 0.5, color=COLOURS[4], linewidth=0.8)
        ax.set(xticks=middle, yticks=middle, xlabel="who is heard", ylabel="who listens")
        ax.set_xticklabels(words, fontsize=8, rotation=30, ha="right")
        ax.set_yticklabels(words, fontsize=8)
        ax.tick_params(length=0)
        ax.set_title(title, fontsize=10)
    return fig


def who_reads_whom_figure(views: Mapping[str, EpisodeGraph]) -> Figure:
    """An inductive and a transductive graph of one episode: what classes read, and what queries say."""
    asked = (Relation.QUERY,)
    panels: dict[str, tuple[str, tuple[Relation, ...]]] = {
        "supports and classes": ("inductive", (Relation.MEMBER, Relation.NON_MEMBER, Relation.CLASS_CLASS)),
        "inductive: queries listen": ("inductive", asked),
        "transductive: queries talk": ("transductive", asked),
    }
    fig, axes = plt.subplots(1, 4, figsize=(11.5, 3.4), layout="constrained", width_ratios=[1, 1, 1, 0.5])
    for ax, (title, (kind, relations)) in zip(axes, panels.items(), strict=False):
        draw_episode(ax, views[kind], relations=relations)
        ax.set_title(title, fontsize=11)
        ax.set_ylim(0, 1)  # no task node above
    shown = (NodeKind.SUPPORT, NodeKind.CLASS, NodeKind.QUERY)
    graph_legend(axes[-1], (*panels["supports and classes"][1], *asked), shown)
    return fig


def orders_figure(counts: Mapping[str, Sequence[int]]) -> Figure:
    """Histograms: with how many random layers do 40 readers have so many different orders?"""
    fig, axes = plt.subplots(1, len(counts), figsize=(8, 2.8), sharey=True, layout="constrained")
    for number, (ax, (name, found)) in enumerate(zip(axes, counts.items(), strict=True)):
        ax.hist(found, bins=range(1, 42, 2), color=COLOURS[1 - number], edgecolor="black", linewidth=0.4)
        mean = sum(found) / len(found)
        ax.set(title=f"{name}: {mean:.1f} orders on average", xlabel="different orders among 40 readers")
        ax.set(xlim=(0, 41), ylabel="random layers" if number == 0 else "")
    return fig


def vector(
    ax: Axes, end: Sequence[float], label: str, number: int, width: float = 2, style: str = "-"
) -> None:
    """An arrow from the origin with its label beyond the head."""
    x, y = map(float, end)
    arrow = {"arrowstyle": "-|>", "color": COLOURS[number], "linewidth": width, "linestyle": style}
    ax.annotate("", (x, y), (0, 0), arrowprops=arrow | {"shrinkA": 0, "shrinkB": 0})
    length = max((x * x + y * y) ** 0.5, 1e-6)
    place = (x + 0.17 * x / length, y + 0.13 * y / length)
    ax.annotate(label, place, ha="center", va="center", fontsize=9, color="black")


def _plane(ax: Axes, title: str) -> None:
    ax.set(xlim=(-0.95, 1.4), ylim=(-0.12, 1.25), aspect="equal", xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    ax.axhline(0, color="grey", linewidth=0.8, zorder=0)
    ax.axvline(0, color="grey", linewidth=0.8, zorder=0)


def rounds_figure(members: Tensor, weights: Sequence[Tensor], nodes: Sequence[Tensor]) -> Figure:
    """Three examples (3, 2) of a class and its node, round by round: the wider, the more it is heard."""
    fig, axes = plt.subplots(1, len(weights), figsize=(3.3 * len(weights), 2.5), layout="constrained")
    for round_number, (ax, a, node) in enumerate(zip(axes, weights, nodes, strict=True)):
        _plane(ax, "start: all alike" if round_number == 0 else f"after round {round_number}")
        for i, (example, weight) in enumerate(zip(members, a.tolist(), strict=True)):
            vector(ax, example.tolist(), f"$z_{i}$", 0, width=0.6 + 7 * weight)
        vector(ax, node.tolist(), "c", 4, style="--")
        ax.set_xlabel("weights " + ", ".join(f"{weight:.2f}" for weight in a.tolist()))
    return fig


def stepping_stone_figure(before: Tensor, after: Tensor, unlabelled: Tensor, query: Tensor) -> Figure:
    """Two class nodes (2, 2) before and after they have read an unlabelled example, and a query."""
    fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.9), layout="constrained")
    for ax, title, nodes in zip(axes, ("labelled only", "with u"), (before, after), strict=True):
        answer = int((nodes / nodes.norm(dim=1, keepdim=True) @ query).argmax())
        _plane(ax, f"{title}: the query goes to class {answer}")
        for k, node in enumerate(nodes):
            vector(ax, (node / node.norm()).tolist(), f"$c_{k}$", k, width=2.5)
        vector(ax, unlabelled.tolist(), "u", 2, width=1.2, style=":" if nodes is before else "-")
        vector(ax, query.tolist(), "q", 6, width=1.2, style="--")
    return fig


def collects_figure(weights: Mapping[str, Sequence[float]], classes: Sequence[str]) -> Figure:
    """What class nodes collect: an arrow from every source to every class, as wide as its weight is large."""
    fig, ax = plt.subplots(figsize=(7.4, 3.4), layout="constrained")
    rows = {source: 1 - i / (len(weights) - 1) for i, source in enumerate(weights)}
    places = [0.75, 0.25] if len(classes) == 2 else [1 - i / (len(classes) - 1) for i in range(len(classes))]
    totals = [sum(weight[k] for weight in weights.values()) for k in range(len(classes))]
    for source, weight in weights.items():
        ax.annotate(source, (0, rows[source]), ha="right", va="center", fontsize=10)
        for k, y in enumerate(places):
            share = weight[k] / totals[k]
            style: dict[str, Any] = {
                "color": COLOURS[k],
                "linewidth": 0.5 + 7 * share,
                "arrowstyle": "-|>",
                "shrinkA": 3,
            }
            if weight[k] == 0:
                style |= {"color": "grey", "linestyle": ":"}
            ax.annotate("", (0.93, y), (0.02, rows[source]), arrowprops=style | {"shrinkB": 3})
            if weight[k]:
                x = 0.28 if k == 0 else 0.2
                at = (x, rows[source] + (y - rows[source]) * (x - 0.02) / 0.91)
                box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
                ax.annotate(f"{weight[k]:.1f}", at, ha="center", va="center", fontsize=9, bbox=box)
    for k, (name, y) in enumerate(zip(classes, places, strict=True)):
        circle: dict[str, Any] = {"boxstyle": "circle,pad=0.4", "facecolor": "white"}
        circle |= {"edgecolor": COLOURS[k], "linewidth": 2}
        ax.annotate(name, (1, y), ha="center", va="center", fontsize=11, bbox=circle)
    ax.set(xlim=(-0.45, 1.1), ylim=(-0.1, 1.1))
    ax.axis("off")
    return fig


def curves_figure(curves: Mapping[str, Sequence[tuple[int, dict[str, EpisodeResults]]]]) -> Figure:
    """Accuracy by training step, a panel per model and a band for training and for validation classes."""
    words = {"train": "training classes, new episodes", "val": "validation classes"}
    fig, axes = plt.subplots(
        1, len(curves), figsize=(1 + 2.7 * len(curves), 3.3), sharey=True, layout="constrained"
    )
    for ax, (name, curve) in zip(axes, curves.items(), strict=True):
        for number, (split, label) in enumerate(words.items()):
            band_plot(ax, [step for step, _ in curve], [found[split] for _, found in curve], label, number)
        ax.set_title(name, fontsize=10)
        ax.set(xlabel="training steps", ylabel="accuracy in %" if ax is axes[0] else "")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(words))
    return fig


def regimes_figure(regimes: Mapping[str, Mapping[str, EpisodeResults]]) -> Figure:
    """Regime -> method -> result: points over the first method of each regime, all on one scale."""
    n_rows = sum(len(methods) for methods in regimes.values()) - len(regimes)
    fig, ax = plt.subplots(figsize=(8.4, 1 + 0.3 * (n_rows + len(regimes))), layout="constrained")
    row, ticks = 0, {}
    for regime, methods in regimes.items():
        (bar, zero), *others = methods.items()
        ax.annotate(
            f"{regime}  (0: {bar}, {zero.mean:.1%})",
            (0.01, row),
            fontsize=9,
            weight="bold",
            xycoords=("axes fraction", "data"),
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
        for name, result in others:
            row += 1
            difference, ours = lead(result, zero), "relational" in name
            style: dict[str, Any] = {
                "color": COLOURS[0 if ours else 1],
                "marker": MARKERS[0 if ours else 1],
                "capsize": 3,
            }
            ax.errorbar(100 * difference.mean, row, xerr=100 * difference.ci95, **style)
            ticks[row] = name
        row += 1
    ax.axvline(0, color="black", linestyle="--", linewidth=1)
    ax.set(yticks=list(ticks), yticklabels=list(ticks.values()), ylim=(row - 0.4, -0.7))
    ax.set_xlabel("points of accuracy over the method in brackets (95 % interval)")
    ax.grid(axis="x", alpha=0.3)
    return fig


def loudness_figure(rounds: Sequence[Tensor], n_wrong: int) -> Figure:
    """Weights of examples (E, N, K) in every round; the first ``n_wrong`` of a class are wrong."""
    fig, axes = plt.subplots(1, len(rounds), figsize=(9, 3), sharex=True, sharey=True, layout="constrained")
    most = max(float(found.quantile(0.99)) for found in rounds)
    for number, (ax, found) in enumerate(zip(axes, rounds, strict=True), start=1):
        parts = {"wrong label": found[..., :n_wrong], "right label": found[..., n_wrong:]}
        for colour, hatch, (label, part) in zip(COLOURS[:2], ("//", ""), parts.items(), strict=True):
            weights = part.flatten().clamp(0, most).cpu().numpy()
            ax.hist(weights, bins=40, range=(0, most), density=True, alpha=0.6, color=colour, hatch=hatch)
            ax.patches[-1].set_label(label)
        ax.axvline(1, color="black", linestyle="--", linewidth=1)
        ax.set(title=f"round {number}", xlabel="weight, as a multiple of the start's", yticks=[])
    axes[0].set_ylabel("share of examples")
    axes[0].legend()
    return fig
