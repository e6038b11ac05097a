"""Chapter 03: what fine-tuning moves, where the query enters, what entropy does; clouds for the head maps."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import EpisodeResults
from fewshot_lib.course.figures import show
from fewshot_lib.course.plots import COLOURS, MARKERS, band_plot, difference_plot, scatter_classes
from fewshot_lib.course.schemes import arrow, box, canvas

FROZEN, FREE, PLAIN, UNLABELLED = "#DCEBF5", "#FBE3B5", "white", "#E7E7E7"


def clouds(norm: float = 1.0, shift: float = 0.0, centre: bool = False) -> Tensor:
    """Five clouds around the origin, class 0 ``norm`` times as far out; all shifted, then perhaps centred."""
    generator = torch.Generator().manual_seed(1)
    angles = torch.arange(5) * 2 * torch.pi / 5
    centres = 2.5 * torch.stack([angles.cos(), angles.sin()], -1)
    points = centres.unsqueeze(1) + 0.6 * torch.randn(5, 20, 2, generator=generator)
    points[0] *= norm
    points = points + shift
    return points - points.mean((0, 1)) if centre else points


def three_steps() -> None:
    """Pre-train, fine-tune, predict: what is frozen, and what the support moves."""
    fig, ax = canvas((10.4, 3.5))
    for x, title in (
        (1.5, "1 · pre-train, once"),
        (5.2, "2 · fine-tune, in every episode"),
        (9.0, "3 · predict"),
    ):
        ax.text(x, 3.25, title, ha="center", va="center", fontsize=12, weight="bold")
    box(ax, 1.5, 2.45, "many examples of the\ntraining classes")
    box(ax, 1.5, 0.75, "feature extractor $f$\n(frozen from now on)", FROZEN)
    arrow(ax, (1.5, 2.05), (1.5, 1.2))
    box(ax, 4.3, 2.45, "support\n(labelled)")
    box(ax, 4.3, 0.75, "$W$: one row $w_k$\nfor every class", FREE)
    arrow(ax, (4.3, 2.05), (4.3, 1.2))
    ax.text(4.2, 1.62, "start: class means", ha="right", va="center", fontsize=10)
    box(ax, 6.5, 0.75, "loss on\nthe support")
    arrow(ax, (5.25, 0.9), (5.85, 0.9))
    arrow(ax, (5.85, 0.6), (5.25, 0.6), color=COLOURS[4])
    ax.text(6.5, 1.5, "and back: a step\nagainst the gradient", color=COLOURS[4], ha="center", fontsize=10)
    box(ax, 9.0, 2.45, "query\n(label unknown)", UNLABELLED)
    box(ax, 9.0, 0.75, "answer: the class of the\nmost similar $w_k$")
    arrow(ax, (9.0, 2.0), (9.0, 1.2))
    ax.text(8.9, 1.62, "compare with $W$", ha="right", va="center", fontsize=10)
    show(
        fig,
        alt="Three columns of boxes. Pre-train, once: training classes lead to a frozen feature extractor. "
        "Fine-tune, in every episode: the support gives W its start, the class means, and a loop goes from W "
        "to the loss on the support and back. Predict: a query gets the class of the most similar row of W.",
        caption="Yellow is what fine-tuning moves; blue stays as it is.",
    )


def who_enters() -> None:
    """Inductive: each query alone. Transductive: all queries take part in the fine-tuning."""
    fig, axes = plt.subplots(1, 2, figsize=(10.4, 3.3), layout="constrained")
    for ax, title in zip(
        axes, ("inductive: every query alone", "transductive: all queries together"), strict=True
    ):
        ax.set(xlim=(0, 5.2), ylim=(0, 3.0))
        ax.axis("off")
        ax.set_title(title, fontsize=12, weight="bold")
        box(ax, 0.75, 2.3, "support")
        box(ax, 2.6, 2.3, "fine-tuned $W$", FREE)
        arrow(ax, (1.3, 2.3), (1.85, 2.3))
        for number, y in enumerate((1.35, 0.8, 0.25), start=1):
            box(ax, 0.75, y, f"query {number}", UNLABELLED)
            box(ax, 4.5, y, f"answer {number}")
            arrow(ax, (1.35, y), (3.85, y), color="dimgrey")
        arrow(ax, (2.6, 1.95), (2.6, 1.42 if ax is axes[0] else 1.4))
    for y in (1.35, 0.8, 0.25):
        arrow(axes[1], (1.3, y + 0.08), (2.15, 1.95), color=COLOURS[4], linestyle="--")
    axes[1].text(3.3, 1.72, "no labels,\nbut a say in $W$", color=COLOURS[4], fontsize=10, va="center")
    show(
        fig,
        alt="Two schemes. Inductive: the support gives W, and each query is answered with it. Transductive: "
        "dashed arrows lead from all queries to W as well, so they have a say in it.",
        caption="A transductive method knows more. It must be compared with its own kind, and its gain "
        "belongs to the queries that it saw.",
    )


def moved_weights(
    support: Tensor, query: Tensor, heads: Mapping[str, Sequence[Tensor]], at: Sequence[int]
) -> None:
    """The rows of W (N, 2) after each number of steps in ``at``, between the examples: a panel per head."""
    fig, axes = plt.subplots(
        1, len(heads), figsize=(5 * len(heads), 4.3), sharex=True, sharey=True, layout="constrained"
    )
    points = F.normalize(support.flatten(0, 1), dim=-1)
    labels = torch.arange(len(support)).repeat_interleave(support.shape[1])
    around = torch.linspace(0, 2 * torch.pi, 200)
    for ax, (name, states) in zip(axes, heads.items(), strict=True):
        ax.plot(around.cos(), around.sin(), color="grey", linewidth=0.8, zorder=0)
        for number, (steps, weights) in enumerate(zip(at, states, strict=True)):
            for k, (x, y) in enumerate(weights.tolist()):
                style = {"color": COLOURS[k], "alpha": 0.3 + 0.7 * number / max(1, len(at) - 1)}
                arrow(ax, (0, 0), (x, y), shrinkA=0, shrinkB=0, **style)
                ax.annotate(f"{steps}", (1.1 * x, 1.1 * y), ha="center", va="center", fontsize=10)
        scatter_classes(ax, points, labels, size=80)
        ax.scatter(*F.normalize(query, dim=-1).tolist(), marker="*", s=190, color="black", zorder=3)
        ax.set(title=name, aspect="equal", xlabel="feature 1", xlim=(-0.95, 1.9), ylim=(-0.95, 1.9))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("feature 2")
    show(
        fig,
        alt="Two planes with the four support examples on the unit circle. The two weight arrows start "
        "between their examples and turn away from the other class; they get longer, more so in the "
        "product head.",
        caption=f"Arrows: the rows of W after {', '.join(map(str, at))} steps. Circles and squares: the "
        "support. Star: the query. After the most steps each arrow has turned beyond its own examples.",
    )


def entropy_slope(paths: Sequence[Sequence[float]]) -> None:
    """H(p) of two classes against p_0, and on it the steps of some predictions downhill."""
    fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    p = np.linspace(1e-6, 1 - 1e-6, 400)
    ax.plot(p, _two_class_entropy(p), color="black", linewidth=1.5)
    for number, path in enumerate(paths):
        values = np.array(path)
        colour, marker = COLOURS[number], MARKERS[number]
        ax.plot(
            values,
            _two_class_entropy(values),
            color=colour,
            marker=marker,
            linewidth=2.5,
            label=f"from {path[0]:.2f}",
        )
    ax.set(
        xlabel="$p_0$: probability of class 0 (class 1 has the rest)",
        ylabel="entropy $H(p)$ in nats",
        ylim=(-0.03, 0.8),
    )
    ax.legend(loc="lower center")
    ax.grid(alpha=0.3)
    show(
        fig,
        alt="The entropy of two classes as a hill over the probability of class 0, highest at one half. "
        "Steps from 0.60 go down to the right, from 0.35 down to the left, and from 0.50 nowhere.",
        caption="Entropy makes every prediction surer of what it says already.",
    )


def _two_class_entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


def over_steps(
    at: Sequence[int], gains: Mapping[str, Sequence[EpisodeResults]], losses: Mapping[str, Sequence[float]]
) -> None:
    """Left: points against no fine-tuning after each number of steps. Right: the loss on the support."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained")
    for number, (name, gain) in enumerate(gains.items()):
        band_plot(left, at, gain, name, number)
        right.plot(at, losses[name], color=COLOURS[number], marker=MARKERS[number], label=name)
    left.axhline(0, color="black", linestyle="--", linewidth=1)
    left.set(ylabel="points against no fine-tuning", title="accuracy on the queries")
    right.set(ylabel="cross-entropy in nats", title="loss on the support", yscale="log")
    for ax in (left, right):
        first = max(1, sorted(at)[1])
        ax.set_xscale("symlog", linthresh=first)
        ax.set_xlim(-0.1 * first, 1.2 * max(at))
        ax.set(xticks=at, xticklabels=at, xlabel="fine-tuning steps")
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    left.legend()
    falls = [
        f"{'rises first' if loss[1] > loss[0] else 'falls'} with {name}" for name, loss in losses.items()
    ]
    show(
        fig,
        alt="Left: points against no fine-tuning after each number of steps, a line with a band for each "
        f"number of shots. Right: the loss on the support, which {'; '.join(falls)}.",
        caption="Where the loss on the right falls and the accuracy on the left does not rise, the head "
        "learns its examples and nothing else.",
    )


def gains(columns: Sequence[Sequence[EpisodeResults]], labels: Sequence[str], names: Sequence[str]) -> None:
    """Differences from no fine-tuning, all panels on one scale."""
    fig = difference_plot(columns, labels=labels, names=names, zero="no fine-tuning")
    low, high = (end(ax.get_xlim()[i] for ax in fig.axes) for i, end in ((0, min), (1, max)))
    for ax in fig.axes:
        ax.set_xlim(low, high)
    show(
        fig,
        alt=f"Difference from no fine-tuning with 95 % intervals. Panels of one scale: {', '.join(names)}. "
        f"Rows: {'; '.join(label.replace(chr(10), ' ') for label in labels)}.",
        caption="Green ▲: better than no fine-tuning, red ▼: worse, grey ●: not told apart."
        + (" (T): transductive." if any("(T)" in label for label in labels) else ""),
    )
