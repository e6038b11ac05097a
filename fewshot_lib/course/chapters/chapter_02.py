"""Chapter 02: five clouds and the map of a classifier, curves of accuracy, an episode of texts to read."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewshot_lib.core import EpisodeResults, Episodes, History
from fewshot_lib.course.figures import say, show
from fewshot_lib.course.plots import COLOURS, band_plot, decision_regions, scatter_classes
from fewshot_lib.data import ClassDataset


def toy_classes(shots: int, outlier: float = 0.0) -> Tensor:
    """Five clouds in the plane (5, K, 2); one example of class 0 is moved to the right by ``outlier``."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.tensor([[1.0, 1.0], [4.0, 0.8], [6.5, 3.0], [4.2, 5.4], [1.2, 4.4]])
    points = centres.unsqueeze(1) + 0.55 * torch.randn(5, 10, 2, generator=generator)
    points = points[:, :shots].clone()
    points[0, 0, 0] += outlier
    return points


def regions(points: Tensor, classify: Callable[[Tensor], Tensor], title: str) -> Figure:
    """The plane in the colours of the answers, the examples (N, K, 2), and their means as large marks."""
    n_way, n_shot, _ = points.shape
    fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    decision_regions(ax, classify, (-1.0, 9.0, -1.5, 7.5))
    scatter_classes(ax, points.flatten(0, 1), torch.arange(n_way).repeat_interleave(n_shot), size=30)
    scatter_classes(ax, points.mean(1), torch.arange(n_way), size=170)
    ax.set(xlabel="feature 1", ylabel="feature 2", title=title)
    return fig


def training_curve(history: History, train_ways: int, n_way: int) -> None:
    """Shows the accuracy on training episodes (running mean) and on validation classes."""
    fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
    steps, values = history.smoothed("accuracy", max(1, len(history.metrics["accuracy"]) // 15))
    of_training = f"training episodes, {train_ways}-way (running mean)"
    ax.plot(steps, [100 * value for value in values], color=COLOURS[0], label=of_training)
    steps_looked, scores = zip(*history.validation, strict=True)
    percent = [100 * score for score in scores]
    of_validation = f"validation classes, {n_way}-way"
    ax.plot(steps_looked, percent, color=COLOURS[4], marker="s", linestyle="--", label=of_validation)
    ax.set(xlabel="training step (one episode each)", ylabel="accuracy in %")
    ax.legend()
    ax.grid(alpha=0.3)
    show(
        fig,
        alt="Accuracy on training episodes and on validation classes against the training step; both rise.",
        caption="Two different tasks (more ways in training): compare the shapes, not the heights.",
    )


def over_images(images: Sequence[float], curves: Mapping[str, Sequence[EpisodeResults]]) -> None:
    """Shows accuracy against the images seen in training, a band over training seeds for each network."""
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for number, (name, curve) in enumerate(curves.items()):
        band_plot(ax, images, curve, name, number)
    ax.set(xlabel="images seen in training", xticks=images, xticklabels=[f"{n:,.0f}" for n in images])
    ax.legend()
    n_seeds = next(iter(curves.values()))[0].n_seeds
    show(
        fig,
        alt="Accuracy on unseen classes against the number of images seen in training, for plain "
        "pre-training and for the ProtoNet, with bands over training seeds.",
        caption=f"Bands: 95 % intervals over {n_seeds} training seeds.",
    )


def over_shots(shots: Sequence[int], curves: Mapping[str, Sequence[EpisodeResults]], chance: float) -> None:
    """Shows accuracy against the number of examples per class, a band for each feature space."""
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for number, (space, curve) in enumerate(curves.items()):
        band_plot(ax, shots, curve, space, number)
    ax.axhline(100 * chance, color="black", linestyle="--", linewidth=1, label="chance")
    ax.set(xlabel="K, examples per class", xticks=shots)
    fig.legend(loc="outside upper center", ncols=4)
    show(
        fig,
        alt="Accuracy against the number of examples per class for raw input, pre-trained features and "
        "ProtoNet, with 95 % bands.",
        caption="Where you see no band, it is narrower than its line.",
    )


def by_method(results: Mapping[str, Sequence[EpisodeResults]], shots: Sequence[int], chance: float) -> None:
    """A row for each way to use names and examples, a panel for each number of shots."""
    rows = list(range(len(results)))[::-1]
    size = (2.4 + 3.2 * len(shots), 1.1 + 0.45 * len(rows))
    fig, axes = plt.subplots(1, len(shots), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for number, (ax, k) in enumerate(zip(axes[0], shots, strict=True)):
        for row, of_way in zip(rows, results.values(), strict=True):
            mean, ci95 = 100 * of_way[number].mean, 100 * of_way[number].ci95
            ax.errorbar(mean, row, xerr=ci95, fmt="o", markersize=4, color=COLOURS[0], capsize=4)
            above = {"textcoords": "offset points", "ha": "center", "fontsize": 10}
            ax.annotate(f"{mean:.1f}", (mean, row), xytext=(0, 7), **above)
        ax.axvline(100 * chance, color="black", linestyle="--", linewidth=1)
        ax.annotate(" chance", (100 * chance, 1), xycoords=("data", "axes fraction"), va="top", fontsize=9)
        ax.set(title=f"{k}-shot", xlim=(0, 100), xlabel="accuracy in % (95 % interval)")
        ax.set(yticks=rows, yticklabels=list(results), ylim=(-0.6, len(rows) - 0.2))
        ax.grid(axis="x", alpha=0.3)
    show(
        fig,
        alt="Accuracy with 95 % intervals, a row for each way to use names and examples, a panel for each "
        "number of shots; chance is dashed. "
        + " ".join(
            read_out((of_way[i] for of_way in results.values()), [f"{k}-shot, {way}" for way in results])
            for i, k in enumerate(shots)
        ),
        caption="Examples alone: the cosine prototypes. Names alone see no example: what differs between "
        "their panels is the episodes.",
    )


def read_out(results: Iterable[EpisodeResults], names: Sequence[str] | None = None) -> str:
    """The numbers of a figure, for who does not see it."""
    results = list(results)
    pairs = zip(names or [result.method for result in results], results, strict=True)
    return "; ".join(f"{name} {result.in_words}" for name, result in pairs) + "."


def read_aloud(texts: ClassDataset, episodes: Episodes, answer: Tensor) -> None:
    """Says of each query of the first episode what it is, and what was answered: way numbers (M,)."""
    names = [texts.class_names[c] for c in episodes.classes[0].tolist()]
    lines = [f"A {episodes.n_way}-way {episodes.n_shot}-shot episode of texts:\n"]
    queries = torch.stack([episodes.query[0].cpu(), episodes.query_labels[0].cpu(), answer.cpu()], 1)
    for row, truth, guess in queries.tolist():
        mark = "✓" if truth == guess else "✗"
        said = f"is **{names[truth]}**; the classifier says {names[guess]} {mark}"
        lines.append(f"- “{texts.inputs[row]}” {said}")
    say("\n".join(lines))
