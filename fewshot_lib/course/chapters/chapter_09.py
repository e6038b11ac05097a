"""Chapter 09: what the comparison shows, and how labels of one's own data are hidden to judge by."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.classifier import naming, picture_form, wilson
from fewshot_lib.course import contest, needs
from fewshot_lib.course.contest import Entrant, Setting, Table
from fewshot_lib.course.figures import show
from fewshot_lib.course.plots import COLOURS, MARKERS, decision_regions, scatter_classes
from fewshot_lib.course.records import markdown
from fewshot_lib.data import ClassDataset
from fewshot_lib.prototypes import SoftmaxHead

MEASURED = "07_episode_graphs"  # what the comparison needs of the data is what that chapter needs
# What figures show, for readers who cannot see them, and what is to be noticed.
CIRCLE = {
    "alt": "Map of the plane coloured by the predicted one of three classes, with the examples as marks and "
    "the names as stars.",
    "caption": "What to notice: at one shot the names turn the borders back to where they belong; at ten the "
    "examples have done so themselves.",
}


def circle() -> tuple[Tensor, Tensor]:
    """Three classes on the circle: examples (3, 10, 2) around the names (3, 2), the first of each odd."""
    angles = torch.tensor([0.1, 1.3, 2.6])
    turned = angles[:, None] + 0.45 * torch.randn(3, 10, generator=torch.Generator().manual_seed(4))
    turned[:, 0] = angles + torch.tensor([0.5, 0.6, -0.5])
    return torch.stack([turned.cos(), turned.sin()], -1), torch.stack([angles.cos(), angles.sin()], -1)


def circle_figure(head: SoftmaxHead, points: Tensor, names: Tensor, title: str) -> Figure:
    """What a head answers in the plane; examples (N, K, 2) as marks, names (N, 2) as stars."""
    fig, ax = plt.subplots(figsize=(5, 3.8), layout="constrained")
    decision_regions(ax, lambda xy: head(xy[None])[0], (-1.3, 1.3, -1.1, 1.3))
    n_way, shots, _ = points.shape
    scatter_classes(ax, points.flatten(0, 1), torch.arange(n_way).repeat_interleave(shots))
    for c, (x, y) in enumerate(names.tolist()):
        ax.plot(x, y, marker="*", markersize=20, color=COLOURS[c], markeredgecolor="black")
    ax.set(xlabel="feature 1", ylabel="feature 2", title=title)
    return fig


# Which method when


def to_compare(own: ClassDataset, n_way: int, n_shot: int, n_query: int) -> tuple[ClassDataset, str]:
    """The data that methods are compared on, and why it is not the reader's own, if it is not.

    Own texts with names that are words, if they give such episodes; else the docstrings of the course.
    """
    if not own.is_text:
        why = "most of the methods read class names, and pictures go without"
    elif not all(map(naming.is_word, own.class_names)):
        why = "its labels are codes, which say nothing to the methods that read names"
    elif found := needs.problems(MEASURED, own, n_way, n_shot, n_query):
        why = found[0].rstrip(".")
    else:
        return own, ""
    docstrings = data.load("docstrings")
    if problems := needs.problems(MEASURED, docstrings, n_way, n_shot, n_query):
        raise ValueError("\n".join(problems))
    return docstrings, why


def words_of(setting: Setting) -> str:
    """ "20 ways, 1 shot"."""
    ways, shots = setting
    return f"{ways} ways, {shots} shot{'s' * (shots > 1)}"


def show_differences(table: Table, reference: str, transductive: Sequence[str]) -> None:
    """Every method against the reference, in every setting."""
    show(
        contest.difference_panels(table, reference, transductive),
        alt=f"Paired differences to {reference} of the other methods against the number of examples per "
        "class, a column for each number of ways; below, the same nearer to zero.",
        caption=f"The line at zero is {reference}. Dashed: transductive, it sees all queries at once. What "
        "lies below the upper frame is worse by more than 25 points. The lower row is for the methods that "
        "come near.",
    )


def reasons(table: Table, few: Setting, many: Setting, reference: str) -> str:
    """Why it looks like this, one line for each reason that the results leave standing."""

    def worse(setting: Setting, *names: str) -> bool:
        return all(contest.against(table, setting, name, reference).interval[1] < 0 for name in names)

    head = "logistic regression (01)"
    possible = [
        (
            worse(few, head, "names, zero-shot (02)"),
            "*Few examples.* One example says where one text lies, its name where the class is meant to lie. "
            "The two err in different directions, so that reading both is better than reading either.",
        ),
        (
            worse(few, head) and not worse(many, head),
            "*Many examples.* What the name told is by then in the examples: the same head without names is "
            "not told apart any more.",
        ),
        (
            worse(many, "nearest mean (02)"),
            "*Class means* stay behind. A mean can only move; a trained head also learns which directions "
            "tell *these* classes apart.",
        ),
        (worse(many, "names, zero-shot (02)"), "*Names alone* learn nothing from more examples."),
        (
            worse(many, "names + means (02)"),
            "*Names + means* holds on to the name for too long. There the share of the name is fixed; in "
            "equation (1) it shrinks with every example.",
        ),
        (
            worse(few, "ProtoMAML (04)"),
            "*ProtoMAML* learned a whole linear layer and its rates on training classes, without a look at "
            "names or validation classes. Perhaps the layer fits these classes more than new ones.",
        ),
        (
            worse(few, "prompt, not tuned (05)"),
            "*The prompt that is not tuned* is behind. The small language model fills gaps, and nobody "
            "taught it to tell classes apart by its vector at a gap, as the sentence encoder was taught.",
        ),
    ]
    return "\n".join(f"- {reason}" for stands, reason in possible if stands)


def show_costs(costs: Mapping[str, tuple[Entrant, Mapping[Setting, tuple[float, int]]]]) -> None:
    """Time, memory and numbers of one task, of every method."""
    show(
        contest.cost_figure(costs),
        alt="As marks, for every method: milliseconds for one task, megabytes beside its inputs, and how "
        "many numbers it learns, for the task and before.",
        caption="One task alone, on this machine, to learn and to answer. Numbers learnt: a zero means that "
        "nothing is.",
    )


def show_ranks(ranks: Tensor, names: Sequence[str], difference: float) -> None:
    """Mean ranks, and how far apart they have to be."""
    show(
        contest.rank_figure(ranks, names, difference),
        alt="Mean rank of every inductive method over all settings, the best on top, and a band from the "
        "best mean, as wide as the critical difference.",
        caption="A method whose mean lies in the band is not told apart from the best. The larger a grey "
        "disc, the more settings have this rank.",
    )


def rule_table(table: Table, unbeaten: Mapping[Setting, Sequence[str]]) -> str:
    """Ways × shots: the best of the unbeaten methods, its accuracy, and how many others are level with it."""
    all_ways, all_shots = (sorted(set(numbers)) for numbers in zip(*unbeaten, strict=True))

    def cell(setting: Setting) -> str:
        results = {name: table[setting][name] for name in unbeaten[setting]}
        best = max(results.values(), key=lambda result: result.mean)
        name = next(name for name, result in results.items() if result is best)
        level = f" (+ {len(results) - 1} level)" if len(results) > 1 else ""
        return f"{name}, {100 * best.mean:.0f} ± {100 * best.ci95:.0f} %{level}"

    head = ["examples per class", *(f"{ways} ways" for ways in all_ways)]
    lines = [[str(shots), *(cell((ways, shots)) for ways in all_ways)] for shots in all_shots]
    return markdown(head, lines)


# Your data


def as_the_classifier_reads(own: ClassDataset, source: Any) -> ClassDataset:
    """A folder of pictures as their encoder likes them, in colour and larger; all else as it is."""
    if own.is_text or data.describe(source).kind != "folder":
        return own
    height, width, color = picture_form(None, None, None)
    asked = source if isinstance(source, Mapping) else {"source": source}
    return data.load({"size": (height, width), "color": color, **asked})


def hide_labels(
    own: ClassDataset, n_way: int, n_shot: int, most_classes: int, seed: int
) -> dict[str, list[int]]:
    """Rows that the classifier learns from ("labelled"), is judged by ("rest"), and of classes hidden whole.

    Of every class half of the examples are shown, at most 8 (or n_shot, if that is more), at least 2, so that
    one can be held out. A quarter of the classes is hidden whole ("foreign").
    """
    draw = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(own.n_classes, generator=draw).tolist()
    large = [c for c in shuffled if own.counts[c] > n_shot + 1][: max(most_classes, n_way)]
    rows: dict[str, list[int]] = {"labelled": [], "rest": [], "foreign": []}
    for number, c in enumerate(large):
        of_class = (own.labels == c).nonzero()[:, 0]
        of_class = of_class[torch.randperm(len(of_class), generator=draw)].tolist()[: n_shot + 30]
        shown = max(2, n_shot, min(8, len(of_class) // 2))
        if number < len(large) // 4:
            rows["foreign"] += of_class
        else:
            rows["labelled"] += of_class[:shown]
            rows["rest"] += of_class[shown:]
    return rows


def show_hidden() -> None:
    """Which labels are hidden, of four classes with eight examples each."""
    fig, ax = plt.subplots(figsize=(7.4, 2.5), layout="constrained")
    parts = {"the label is shown": range(4), "hidden, to judge by": range(4, 8), "hidden whole": range(8)}
    for number, (label, columns) in enumerate(parts.items()):
        places = [(x, y) for y in ([0] if label == "hidden whole" else [3, 2, 1]) for x in columns]
        style: dict[str, Any] = {"marker": MARKERS[number], "color": COLOURS[number], "markersize": 11}
        ax.plot(*zip(*places, strict=True), linestyle="", label=label, **style)
    ax.set(yticks=range(4), yticklabels=["class D", "class C", "class B", "class A"], xticks=[])
    ax.set(xlim=(-0.6, 7.6), ylim=(-0.6, 3.6), xlabel="examples")
    fig.legend(loc="outside right center", fontsize=9, labelspacing=1.2)
    show(
        fig,
        alt="A grid of four classes with eight examples each. Of three classes half of the labels are shown "
        "and half are hidden to judge by. Of the fourth class all are hidden.",
        caption="The classifier learns from the first kind. Its answers to the second are right or wrong; "
        "those to the third are always wrong, so it should refuse them.",
    )


def share(k: int, n: int) -> str:
    """ "5 of 24 (21%, 95 % interval 9% to 40%)"."""
    low, high = wilson(k, n)
    return f"{k} of {n} ({k / n:.0%}, 95 % interval {low:.0%} to {high:.0%})" if n else "none"


def show_refused(
    refused: Mapping[str, tuple[Sequence[int], int]], shares: Sequence[float], kind: str
) -> None:
    """What is refused against what may be: "your classes" -> how many at each share, of how many inputs."""
    fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for number, (whose, (counts, n)) in enumerate(refused.items()):
        if n:
            bounds = torch.tensor([wilson(k, n) for k in counts])
            middle = torch.tensor([k / n for k in counts])
            error = 100 * torch.stack([middle - bounds[:, 0], bounds[:, 1] - middle]).clamp_min(0)
            style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "capsize": 4}
            ax.errorbar([100 * s for s in shares], 100 * middle, yerr=error, label=whose, **style)
    ax.plot([0, 40], [0, 40], color="black", linestyle="--", linewidth=1, label="as asked for")
    ax.set(xlabel=f"share of your own {kind} that may be refused, in %", ylim=(-3, 103))
    ax.set_ylabel("refused in % (95 % interval)")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    alt = "Refused inputs of known and of foreign classes against the share that may be refused."
    show(fig, alt=alt, caption="What to notice: how far the foreign classes lie above the dashed line.")
