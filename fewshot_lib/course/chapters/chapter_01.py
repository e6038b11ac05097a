"""Chapter 01: drawings of both kinds of classes, samples held back, the table of both settings, intervals."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from fewshot_lib.core import EpisodeResults, half_width
from fewshot_lib.course.figures import say, show
from fewshot_lib.course.plots import COLOURS, interval_plot, picture
from fewshot_lib.course.records import markdown
from fewshot_lib.data import ClassDataset

WALL = 14, 4  # columns and rows of drawings
Row = tuple[str, str, EpisodeResults]  # a classifier, "seen" or "unseen" classes, what it reaches


def wall(dataset: ClassDataset, split: str) -> None:
    """Shows some classes of a split, a column each; of texts one example each of the first five."""
    classes, (columns, rows) = dataset.classes(split), WALL
    if dataset.is_text:
        examples = [int((dataset.labels == c).nonzero()[0]) for c in classes[:5].tolist()]
        lines = [f"- *{dataset.class_names[dataset.labels[i]]}*: {dataset.inputs[i]}" for i in examples]
        say("\n".join([f"**{split}**\n", *lines]))
        return
    classes = classes[:: max(1, len(classes) // columns)][:columns]
    rows = min(rows, int(dataset.counts[classes].min()))
    size = 0.62 * columns, 2.7
    fig, axes = plt.subplots(rows, len(classes), figsize=size, layout="constrained", squeeze=False)
    for column, c in enumerate(classes.tolist()):
        for row, i in enumerate((dataset.labels == c).nonzero().squeeze(1)[:rows].tolist()):
            picture(axes[row, column], dataset.inputs[i])
    fig.suptitle(f"{split}: one column per class, {rows} drawings each", fontsize=10)
    show(
        fig,
        alt=f"Drawings of {split} classes: each column is a letter, "
        f"drawn {rows} times with different distortions.",
    )


def enough_for_episodes(held_out: Tensor, order: Tensor, labels: Tensor, n_way: int, n_shot: int) -> Tensor:
    """The samples held back; where they are too few for an episode, a support and a query of every class.

    held_out (n,): bool. order (n,): the samples in a random order. One of each class is left to train on.
    """
    n_classes = int(labels.max()) + 1
    sizes = torch.bincount(labels[held_out], minlength=n_classes)
    if (sizes > n_shot).sum() >= n_way:
        return held_out
    result = torch.zeros_like(held_out)
    for c in range(n_classes):
        result[order[labels[order] == c][1 : n_shot + 2]] = True
    return result


def compared(rows: Sequence[Row], n_way: int) -> None:
    """Shows the rows as a table, and below it as a figure."""
    title = f"**Supervised against few-shot, {n_way}-way, chance {1 / n_way:.0%}**"
    head = ["classifier", "test samples", "test classes", "examples given", "accuracy"]
    lines = [
        [name, "unseen", f"**{classes}**", f"{result.n_shot} per class", result.in_words]
        for name, classes, result in rows
    ]
    say(f"{title}\n\n{markdown(head, lines)}")
    labels = [f"{name}\n({classes} classes)" for name, classes, _ in rows]
    show(
        interval_plot([result for *_, result in rows], chance=1 / n_way, labels=labels),
        alt="Accuracies with 95 % intervals of the five rows of the table, "
        "from the supervised head to raw input.",
        caption="The step from the first row to the third is the price of new classes and few examples.",
    )


def deviation_and_interval(accuracies: Tensor) -> None:
    """Mean, standard deviation and 95 % interval of the first 5, 10, … of the accuracies (E,), in percent."""
    sizes = [n for n in (5, 10, 25, 50, 100, 250, 500) if n < len(accuracies)] + [len(accuracies)]
    means, deviations, halves = (
        100 * torch.tensor([float(statistic(accuracies[:n])) for n in sizes])
        for statistic in (torch.mean, torch.std, half_width)
    )
    fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for widths, colour, alpha, label in (
        (deviations, COLOURS[1], 0.25, "± standard deviation"),
        (halves, COLOURS[0], 0.5, "95 % interval of the mean"),
    ):
        ax.fill_between(
            sizes, means - widths, (means + widths).clamp(max=100), color=colour, alpha=alpha, label=label
        )
    ax.plot(sizes, means, color="black", marker="o", label="mean so far")
    ax.set(xscale="log", xticks=sizes, xticklabels=sizes, xlabel="number of episodes", ylabel="accuracy in %")
    fig.legend(loc="outside upper center", ncols=3)
    show(
        fig,
        alt="Mean accuracy against the number of episodes: the standard deviation stays wide, "
        "the interval shrinks.",
        caption="The standard deviation is a property of the episodes and does not shrink. "
        "The interval does, with the square root of their number. (Of 5 episodes it is wider than the "
        "deviation: t is 2.78 there. Bands are cut at 100 %.)",
    )
