"""The few kinds of picture the course draws, in one style.

Colours are near those of Okabe and Ito (2008), moved until each has a contrast of 3 to white paper and
colour-blind readers tell any two apart. Each class has a marker as well: nothing is said by colour alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fewshot_lib.core import EpisodeResults, Episodes
from fewshot_lib.data.dataset import ClassDataset

COLOURS = ["#005A9F", "#B38F0C", "#0A8C53", "#C45D94", "#B03200", "#1B97EA", "#000000", "#8C9A48"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
ON_THE_PLANE: dict[str, Any] = {"origin": "lower", "aspect": "auto"}
Limits = tuple[float, float, float, float]  # left, right, bottom, top
WORSE_BETTER = (COLOURS[4], "v"), (COLOURS[2], "^")  # colour and marker of a difference that is sure


def _percent(results: Sequence[EpisodeResults]) -> np.ndarray:
    """Means and the ends of their intervals, in percent: (3, n)."""
    return 100 * np.array([(r.mean, *r.interval) for r in results]).T


def interval_plot(
    results: Sequence[EpisodeResults], chance: float | None = None, labels: Sequence[str] | None = None
) -> Figure:
    """One row per result: the mean accuracy and its 95 % interval, with the chance level as a dashed line."""
    labels = list(labels or [r.method for r in results])
    fig, ax = plt.subplots(figsize=(7, 0.9 + 0.42 * len(results)), layout="constrained")
    rows = np.arange(len(results))[::-1]
    means, low, high = _percent(results)
    ax.errorbar(
        means, rows, xerr=[means - low, high - means], fmt="o", markersize=4, color=COLOURS[0], capsize=5
    )
    for row, mean in zip(rows, means, strict=True):
        above: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 7), "ha": "center"}
        ax.annotate(f"{mean:.1f}", (mean, row), fontsize=9, **above)
    if chance is not None:
        ax.axvline(100 * chance, color="black", linestyle="--", linewidth=1)
        ax.annotate(" chance", (100 * chance, 1), xycoords=("data", "axes fraction"), va="top", fontsize=9)
    ax.set(yticks=rows, yticklabels=labels, ylim=(-0.6, len(results) - 0.2), xlim=(0, 103))
    ax.set_xlabel("accuracy in % (mean and 95 % interval)")
    ax.grid(axis="x", alpha=0.3)
    return fig


def difference_plot(
    columns: Sequence[Sequence[EpisodeResults | None]],
    labels: Sequence[str],
    names: Sequence[str],
    zero: str | Sequence[str],
) -> Figure:
    """Paired differences with 95 % intervals: a panel per column, a row per label, and a line at ``zero``.

    zero: what the line is, for all panels or for each. None leaves a row empty.
    """
    zeros = [zero] * len(columns) if isinstance(zero, str) else zero
    rows = np.arange(len(labels))[::-1]
    size = (2.6 + 3.2 * len(columns), 0.9 + 0.28 * len(labels))
    fig, axes = plt.subplots(1, len(columns), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for ax, column, name, line in zip(axes[0], columns, names, zeros, strict=True):
        ax.axvline(0, color="black", linestyle="--", linewidth=1)
        for row, difference in zip(rows, column, strict=True):
            if difference is None:
                continue
            low, high = difference.interval
            colour, marker = ("dimgrey", "o") if low <= 0 <= high else WORSE_BETTER[low > 0]
            mean, width = 100 * difference.mean, 100 * difference.ci95
            ax.errorbar(mean, row, xerr=width, fmt=marker, color=colour, capsize=3)
        ax.set(title=name, yticks=rows, yticklabels=labels, ylim=(-0.7, len(labels) - 0.3))
        ax.set_xlabel(f"points against {line}\n(95 % interval)")
        ax.grid(axis="x", alpha=0.3)
    return fig


def band_plot(
    ax: Axes, x: Sequence[float], results: Sequence[EpisodeResults], label: str, number: int = 0
) -> None:
    """Mean accuracy against x, with the 95 % interval as a band; ``number`` picks colour and marker."""
    mean, low, high = _percent(results)
    ax.plot(x, mean, color=COLOURS[number], marker=MARKERS[number], label=label)
    ax.fill_between(x, low, high, color=COLOURS[number], alpha=0.25, linewidth=0)
    ax.set_ylabel("accuracy in % (band: 95 % interval)")
    ax.grid(alpha=0.3)


def picture(ax: Axes, image: Tensor, frame: str | None = None, letter: str = "") -> None:
    """One image (1, h, w), ink dark on paper, with a coloured frame and a letter in the corner."""
    image, most = image.cpu(), 255 if image.dtype == torch.uint8 else 1
    if len(image) == 3:
        ax.imshow(image.permute(1, 2, 0).numpy())
    else:
        ax.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=most)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=frame is not None, color=frame or "black", linewidth=2)
    if letter:
        style: dict[str, Any] = {"va": "top", "fontsize": 8, "weight": "bold", "color": frame or "black"}
        ax.text(0.04, 0.96, letter, transform=ax.transAxes, **style)


def episode_picture(
    dataset: ClassDataset, episodes: Episodes, number: int = 0, most_queries: int = 5
) -> Figure:
    """One episode: a row per way, its supports (S, in colour), then some queries (Q, in black).

    Of texts, a row is the beginning of the first support.
    """
    if dataset.is_text:
        return _episode_of_texts(dataset, episodes, number)
    shown = min(most_queries, episodes.n_query)
    columns = episodes.n_shot + shown
    size = (0.75 * columns + 2, 0.8 * episodes.n_way)
    fig, axes = plt.subplots(episodes.n_way, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")  # until it gets a picture: shots may vary
    for way in range(episodes.n_way):
        of_way = (episodes.query_labels[number] == way) & episodes.query_mask[number]
        queries = episodes.query[number][of_way][:shown].tolist()
        supports = episodes.support[number, way][episodes.support_mask[number, way]].tolist()
        for column, row in [*enumerate(supports), *enumerate(queries, start=episodes.n_shot)]:
            is_support = column < episodes.n_shot
            axes[way, column].axis("on")
            frame = COLOURS[way % len(COLOURS)] if is_support else "black"
            picture(axes[way, column], dataset.inputs[row], frame, "S" if is_support else "Q")
        name = dataset.class_names[episodes.classes[number, way]]
        axes[way, 0].set_ylabel(f"way {way}\n{name}", rotation=0, ha="right", va="center", fontsize=8)
    return fig


def _episode_of_texts(dataset: ClassDataset, episodes: Episodes, number: int) -> Figure:
    fig, ax = plt.subplots(figsize=(8, 0.4 * episodes.n_way + 0.4), layout="constrained")
    for way in range(episodes.n_way):
        row = int(episodes.support[number, way, 0])
        text = f"way {way} · {dataset.class_names[dataset.labels[row]]}: {dataset.inputs[row][:80]}"
        ax.text(0, episodes.n_way - way, text, fontsize=8)
    ax.set(ylim=(0, episodes.n_way + 1))
    ax.axis("off")
    return fig


def _plane(limits: Limits, size: int) -> Tensor:
    """The points (size², 2) of a grid, row by row from the bottom."""
    xs, ys = torch.linspace(*limits[:2], size), torch.linspace(*limits[2:], size)
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)


def decision_regions(ax: Axes, classify: Callable[[Tensor], Tensor], limits: Limits, size: int = 160) -> None:
    """Colours the plane by the predicted class, paler where the classifier is less sure.

    classify: points (m, 2) -> logits (m, n).  limits: left, right, bottom, top.
    """
    points = _plane(limits, size)
    with torch.no_grad():
        p = classify(points).softmax(-1)
    colours = torch.tensor([plt.matplotlib.colors.to_rgb(c) for c in COLOURS])[p.argmax(-1) % len(COLOURS)]
    certainty = (p.max(-1).values - 1 / p.shape[-1]) / (1 - 1 / p.shape[-1])
    strength = 0.15 + 0.4 * (certainty * 8).round().unsqueeze(-1) / 8  # in few shades: a small file
    image = ((1 - strength) + strength * colours).reshape(size, size, 3)
    ax.imshow(image.numpy(), interpolation="nearest", extent=limits, **ON_THE_PLANE)
    classes, borders = p.argmax(-1).reshape(size, size), np.arange(p.shape[-1]) + 0.5
    ax.contour(classes.numpy(), levels=borders, extent=limits, colors="white", linewidths=1.5)


def head_maps(points: Tensor, heads: dict[str, Callable[[Tensor], Tensor]]) -> Figure:
    """A decision map of each head on the same points (n, K, 2), and where not all of them agree.

    heads: name -> function from points (m, 2) to logits (m, n).
    """
    flat, labels = points.flatten(0, 1), torch.arange(len(points)).repeat_interleave(points.shape[1])
    (left, bottom), (right, top) = (flat.amin(0) - 1).tolist(), (flat.amax(0) + 1).tolist()
    limits = (left, right, bottom, top)
    fig, axes = plt.subplots(1, len(heads) + 1, figsize=(3.1 * (len(heads) + 1), 3.1), layout="constrained")
    for ax, (name, head) in zip(axes[:-1], heads.items(), strict=True):
        decision_regions(ax, head, limits)
        scatter_classes(ax, flat, labels, size=14)
        ax.set_title(f"{name}: {(head(flat).argmax(-1) == labels).float().mean():.0%} right", fontsize=10)
    answers = torch.stack([head(_plane(limits, 120)).argmax(-1) for head in heads.values()])
    differ = (answers != answers[0]).any(0).reshape(120, 120)
    axes[-1].imshow(differ.numpy(), cmap="gray_r", vmin=0, vmax=1.5, extent=limits, **ON_THE_PLANE)
    axes[-1].set_title(f"not all agree: {differ.float().mean():.0%} of the plane", fontsize=10)
    for ax in axes:
        ax.plot(0, 0, marker="+", markersize=12, color="black")
        ax.set_xlabel("feature 1  (+: the origin)")
    axes[0].set_ylabel("feature 2")
    return fig


def scatter_classes(ax: Axes, points: Tensor, labels: Tensor, size: float = 45, **style: Any) -> None:
    """Points (m, 2) with the colour and the marker of their class."""
    for c in labels.unique().tolist():
        x, y = points[labels == c].T.numpy()
        colour, marker = COLOURS[c % len(COLOURS)], MARKERS[c % len(MARKERS)]
        ax.scatter(x, y, s=size, color=colour, marker=marker, edgecolor="black", linewidth=0.6, **style)
