"""Chapter 04: its schemes and figures, its small network and episodes, and inverted letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fewshot_lib.core import EpisodeResults, Episodes, EpisodeSampler, mean_interval, train_classifier
from fewshot_lib.course import needs
from fewshot_lib.course.lesson import Lesson
from fewshot_lib.course.plots import COLOURS, MARKERS, picture
from fewshot_lib.course.schemes import arrow, box
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4

BLUE, ORANGE, GREEN, PINK, RED = COLOURS[:5]


def two_loops() -> Figure:
    """MAML as a scheme: three tasks adapt from one start, and their query losses move the start."""
    fig, ax = plt.subplots(figsize=(9.5, 4), layout="constrained")
    box(ax, 0.6, 2, "start θ", "#cfe3f2", 1.1)
    for t, y in enumerate((3, 2, 1), start=1):
        arrow(ax, (1.25, 2), (2.2, y))
        box(ax, 3.1, y, rf"task {t}: $\varphi_{{1}}$", width=1.6)
        arrow(ax, (4.0, y), (5.2, y))
        ax.text(4.6, y + 0.13, "more steps", ha="center", fontsize=9)
        box(ax, 6.1, y, rf"task {t}: $\varphi_{{m}}$", width=1.6)
        arrow(ax, (7.0, y), (8.0, y))
        box(ax, 8.8, y, f"query loss {t}", "#fbe3c0", 1.5)
        arrow(ax, (9.65, y), (10.3, 2))
    box(ax, 10.9, 2, "mean", "#fbe3c0", 1.0)
    ax.plot([10.9, 10.9, 0.6], [1.65, 0.2, 0.2], color=RED, linewidth=2.2)
    arrow(ax, (0.6, 0.19), (0.6, 1.65), color=RED, linewidth=2.2)
    below = "outer loop: the gradient of the mean, through all steps, moves θ"
    ax.text(5.75, 0.28, below, ha="center", va="bottom", fontsize=11, color="#a03c00")
    ax.text(4.6, 3.5, "inner loop: gradient steps on the support", ha="center", fontsize=11, color=BLUE)
    ax.text(8.8, 3.5, "queries judge", ha="center", fontsize=11)
    ax.set(xlim=(-0.1, 11.6), ylim=(0, 3.8))
    ax.axis("off")
    return fig


def two_directions() -> Figure:
    """One task, three steps: FOMAML takes the last gradient alone, Reptile the way to where they end."""
    curvature, minimum, start = torch.tensor([1.0, 5.0]), torch.tensor([4.0, 0.0]), torch.tensor([0.0, 2.0])
    path = torch.stack([minimum + (1 - 0.13 * curvature) ** s * (start - minimum) for s in range(4)])
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharex=True, sharey=True, layout="constrained")
    x, y = torch.meshgrid(torch.linspace(-1.5, 5, 60), torch.linspace(-1.2, 3, 60), indexing="xy")
    height = (curvature * (torch.stack([x, y], -1) - minimum) ** 2).sum(-1)
    for ax, name in zip(axes, ("FOMAML", "Reptile"), strict=True):
        ax.contour(x, y, height, levels=[1, 4, 9, 16, 25, 36], colors="lightgrey", linewidths=0.9)
        ax.plot(*path.T, color=BLUE, marker="o", markersize=5, linewidth=1.6)
        ax.plot(*minimum, "k+", markersize=12)
        for s, point in enumerate(path):
            label = "θ" if s == 0 else rf"$\varphi_{s}$"
            beside = (7, 5) if name == "FOMAML" else (-20, -13)  # where no arrow passes
            ax.annotate(label, point.tolist(), beside, textcoords="offset points", fontsize=12)
        ax.set(title=name, xticks=[], yticks=[], xlim=(-1.5, 5), ylim=(-1.2, 3))
    last = 0.45 * curvature * (minimum - path[-1])
    for begin, colour in ((path[-1], "dimgrey"), (path[0], RED)):
        arrow(axes[0], tuple(begin.tolist()), tuple((begin + last).tolist()), color=colour, linewidth=2.6)
    axes[0].set_xlabel("the gradient at the end, used at the start")
    end = path[0] + 0.75 * (path[-1] - path[0])
    arrow(axes[1], tuple(path[0].tolist()), tuple(end.tolist()), color=RED, linewidth=2.6)
    axes[1].set_xlabel("a part of the way to where the steps ended")
    return fig


def landscape(curvature: Tensor, minimum: Tensor, theta: Tensor, m: int, alpha: float) -> Figure:
    """Left: the loss after m inner steps and the paths of the tasks. Right: the loss at every inner step."""
    fig, (ax, curves) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=[3, 2])
    axis = torch.linspace(-5, 5, 81)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).unsqueeze(2)  # (81, 81, 1, 2)
    left = (1 - alpha * curvature) ** m
    after = 0.5 * (curvature * (left * (points - minimum)) ** 2).sum(-1).mean(-1)  # (81, 81)
    levels = after.min() + (after.quantile(0.9) - after.min()) * torch.linspace(0.02, 1, 9) ** 2
    ax.contour(axis, axis, after, levels=levels.tolist(), colors="grey", linewidths=0.7)
    for t in range(len(minimum)):
        path = torch.stack(
            [minimum[t] + (1 - alpha * curvature[t]) ** s * (theta - minimum[t]) for s in range(m + 1)]
        )
        losses = 0.5 * (curvature[t] * (path - minimum[t]) ** 2).sum(-1)
        style: dict[str, Any] = {"color": COLOURS[t], "marker": MARKERS[t]}
        ax.plot(*path.T.clamp(-9, 9), color=COLOURS[t], marker=".", markersize=4)
        ax.plot(*minimum[t], markersize=9, linestyle="", **style)
        curves.plot(range(m + 1), losses.clamp_min(1e-3), markersize=4, label=f"task {t + 1}", **style)
    ax.plot(*theta, "k*", markersize=13, label="start")
    ax.set(xlim=(-5, 5), ylim=(-4, 4.5), xlabel="weight 1", ylabel="weight 2")
    ax.set_title(f"mean loss after {m} steps, as contours")
    ax.legend(loc="lower left")
    curves.set(xlabel="inner steps", ylabel="loss of the task", yscale="log", xlim=(-0.5, max(m, 1) + 0.5))
    curves.set_title(f"step size α = {alpha:g}")
    curves.legend()
    curves.grid(alpha=0.3)
    return fig


def settling(paths: Mapping[str, Tensor], minimum: Tensor) -> Figure:
    """Where each method settles as the number of inner steps grows: name -> places (n, 2)."""
    fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for number, (name, path) in enumerate(paths.items()):
        line: dict[str, Any] = {"color": COLOURS[number + 3], "marker": MARKERS[number], "markevery": 5}
        ax.plot(*path.T, markersize=9 - 2 * number, linewidth=5 - 1.5 * number, label=name, **line)
    for t, place in enumerate(minimum):
        ax.plot(*place, color=COLOURS[t], marker=MARKERS[t], markersize=9, linestyle="")
        ax.annotate(f"  task {t + 1}", place.tolist())
    ax.plot(*minimum.mean(0), "k+", markersize=12, label="mean of the minima")
    ax.set(xlabel="weight 1", ylabel="weight 2", xlim=(-3.5, 4))
    ax.legend()
    ax.grid(alpha=0.3)
    return fig


def error_curves(curves: Mapping[str, Tensor]) -> Figure:
    """Squared error against the inner steps: name -> errors of tasks (T, steps), mean and 95 % interval."""
    fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
    for number, (name, error) in enumerate(curves.items()):
        at = range(error.shape[1])
        low, high = zip(*(mean_interval(error[:, s]) for s in at), strict=True)
        ax.plot(at, error.mean(0), color=COLOURS[number], marker=MARKERS[number], label=name)
        ax.fill_between(at, low, high, color=COLOURS[number], alpha=0.25, linewidth=0)
    ax.set(xlabel="inner steps at test time", ylabel="squared error on the queries", yscale="log", xticks=at)
    ax.set_yticks([0.25, 0.5, 1, 2, 4], labels=["0.25", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    ax.grid(alpha=0.3)
    return fig


def sine_fits(
    answers: Mapping[str, Tensor], x: Tensor, support: tuple[Tensor, Tensor], steps: Sequence[int]
) -> Figure:
    """One wave: name -> what a network says (steps, n) at x (n,). The support, as x and y, tells the wave."""
    at, y = support
    wave = torch.stack([at.sin(), at.cos()], 1).pinverse() @ y  # of A sin(x + phase) = a sin x + b cos x
    truth = wave[0] * x.sin() + wave[1] * x.cos()
    size = (3.6 * len(answers), 3.4)
    fig, axes = plt.subplots(1, len(answers), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for ax, (name, lines) in zip(axes[0], answers.items(), strict=True):
        ax.plot(x, truth, color="grey", linewidth=7, label="true wave")
        for number, (line, style) in enumerate(zip(lines, (":", "--", "-"), strict=False)):
            label = f"{steps[number]} inner step{'' if steps[number] == 1 else 's'}"
            ax.plot(x, line, color=COLOURS[number], linestyle=style, linewidth=2, label=label)
        ax.plot(*support, "k^", label="support")
        ax.set(title=name, xlabel="x")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("y")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return fig


def inverted(inputs: Tensor) -> Tensor:
    """Black for white in images (n, c, h, w), the other sign in vectors (n, d)."""
    if inputs.dim() == 2:
        return -inputs
    return (255 if inputs.dtype == torch.uint8 else 1) - inputs


def worlds_figure(worlds: Mapping[str, Tensor], rows: Tensor) -> Figure:
    """A row for each way of drawing: eight of the rows (n,) of the data set, as images or as bars."""
    some = rows[:: max(1, len(rows) // 8)][:8]
    size = (1.0 * len(some) + 1.2, 1.05 * len(worlds))
    fig, axes = plt.subplots(len(worlds), len(some), figsize=size, squeeze=False, layout="constrained")
    for line, (name, inputs) in zip(axes, worlds.items(), strict=True):
        for ax, row in zip(line, some.tolist(), strict=True):
            if inputs.dim() == 2:
                ax.bar(range(20), inputs[row, :20].cpu(), color=BLUE)
                ax.set(xticks=[], yticks=[])
            else:
                picture(ax, inputs[row], frame="lightgrey")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    return fig


def gains_figure(
    gains: Mapping[str, Mapping[str, Sequence[EpisodeResults]]], shots: Sequence[int], zero: str
) -> Figure:
    """Differences to one learner against the shots, a panel per way of drawing, all on one scale.

    gains: way of drawing -> learner -> a paired difference for each number of shots.
    """
    size = (2.7 * len(gains), 3.6)
    fig, axes = plt.subplots(1, len(gains), figsize=size, sharey=True, layout="constrained")
    for ax, (world, lines) in zip(axes, gains.items(), strict=True):
        ax.axhline(0, color="black", linestyle="--", linewidth=1)
        for number, (name, differences) in enumerate(lines.items()):
            mean = [100 * d.mean for d in differences]
            half = [100 * d.ci95 for d in differences]
            at = [place + 0.24 * (number - (len(lines) - 1) / 2) for place in range(len(shots))]
            style: dict[str, Any] = {"color": COLOURS[number], "fmt": MARKERS[number], "capsize": 3}
            ax.errorbar(at, mean, half, linewidth=2, label=name, **style)
        ax.set(title=world, xlabel="K, shots", xticks=range(len(shots)), xticklabels=shots)
        ax.set_xlim(-0.5, len(shots) - 0.5)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(f"points against\n{zero}")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


# What the learners are made of, and asked


def small_network(inputs: Tensor, width: int, seed: int) -> nn.Module:
    """A strided Conv4 for images (n, c, h, w), one layer for features (n, d)."""
    torch.manual_seed(seed)
    if inputs.dim() == 2:
        return nn.Sequential(nn.Linear(inputs.shape[1], width), nn.BatchNorm1d(width), nn.ReLU())
    return Conv4(in_channels=inputs.shape[1], width=width, downsample="stride")


def pretrained(ds: ClassDataset, inputs: Tensor, width: int, n_images: int, seed: int) -> nn.Module:
    """The small network, trained on so many images to name all training classes."""
    rows, labels = ds.training_set("train")
    network = small_network(inputs, width, seed).to(inputs.device)
    head = nn.Linear(width, len(ds.classes("train"))).to(inputs.device)
    settings: dict[str, Any] = {"batch_size": 64, "lr": 3e-3, "seed": seed, "label": ""}
    train_classifier(
        network, head, inputs[rows.to(inputs.device)], labels, max(1, n_images // 64), **settings
    )
    return network


def episodes_by_shots(
    ds: ClassDataset, lesson: Lesson, shots: Sequence[int], counts: Mapping[str, int]
) -> dict[tuple[str, int], Episodes]:
    """(split, shots) -> episodes, of each split as many as counts says."""
    smallest = needs.smallest(ds, *counts)
    found = {}
    for split, number in counts.items():
        for k in shots:
            sizes = lesson.n_way, k, min(lesson.n_query, smallest - k)
            sampler = EpisodeSampler(ds.labels, ds.classes(split), *sizes, seed=lesson.seed + k)
            found[split, k] = sampler.sample(number)
    return found
