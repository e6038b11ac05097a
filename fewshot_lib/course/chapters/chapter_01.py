"""Chapter 01: drawings of both kinds of classes, samples held back, the table of both settings, intervals."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from fewshot_lib.core import EpisodeResults, Episodes, EpisodeSampler, half_width
from fewshot_lib.course.figures import say, show
from fewshot_lib.course.lesson import Lesson
from fewshot_lib.course.plots import COLOURS, interval_plot, picture
from fewshot_lib.course.records import markdown
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4, TextEncoder, encode, extract_features

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


def inputs_of(dataset: ClassDataset, device: torch.device) -> Tensor:
    """Pictures as they are, (n, c, h, w); of texts what a frozen sentence encoder makes of them, (n, d)."""
    if dataset.is_text:
        return extract_features(TextEncoder().to(device), dataset)
    return torch.as_tensor(dataset.inputs)


def new_network(inputs: Tensor, device: torch.device) -> tuple[nn.Module, int]:
    """A feature extractor with random weights (a Conv4, of texts one layer), and its number of features."""
    if inputs.dim() == 2:
        return nn.Sequential(nn.Linear(inputs.shape[1], 128), nn.ReLU()).to(device), 128
    f = Conv4(in_channels=inputs.shape[1]).to(device)
    return f, encode(f, inputs[:1]).shape[1]


def hold_back(labels: Tensor, n_way: int, n_shot: int, seed: int) -> Tensor:
    """A random quarter of the samples, bool (n,); of small data sets what an episode needs."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[order[: len(labels) // 4]] = True
    return enough_for_episodes(held_out, order, labels, n_way, n_shot)


def episodes_of_seen(labels: Tensor, n_classes: int, lesson: Lesson) -> Episodes:
    """The lesson's episodes of held-out samples, labels (n,), of the classes that have enough of them.

    They have at most 3 queries of a class: only a few samples of each are held back.
    """
    sizes = torch.bincount(labels, minlength=n_classes)
    most = int(sizes.sort(descending=True).values[lesson.n_way - 1]) - lesson.n_shot
    n_query = min(lesson.n_query, 3, most)
    usable = (sizes >= lesson.n_shot + n_query).nonzero().squeeze(1)
    sampler = EpisodeSampler(labels, usable, lesson.n_way, lesson.n_shot, n_query, lesson.seed)
    return sampler.sample(lesson.n_episodes)


def as_result(accuracies: Tensor, method: str, n_given: int, episodes: Episodes) -> EpisodeResults:
    """Accuracies (E,) of a classifier that was given so many samples of each class, as ``evaluate`` does."""
    sizes = episodes.n_way, n_given, episodes.n_query
    return EpisodeResults(accuracies.unsqueeze(0), method, False, *sizes, episodes.fingerprint())


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
