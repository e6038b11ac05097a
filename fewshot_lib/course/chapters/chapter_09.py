"""Chapter 09: what the comparison shows, and how labels of one's own data are hidden to judge by."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.classifier import naming, picture_form, wilson
from fewshot_lib.course import contest, needs
from fewshot_lib.course.contest import Entrant, Setting, Table, words_of
from fewshot_lib.course.figures import show
from fewshot_lib.course.measured import measured_tables
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


def show_differences(
    table: Table, reference: str, transductive: Sequence[str], names: Sequence[str], ways: Sequence[int]
) -> None:
    """Some methods against the reference, against the number of examples, at some numbers of ways."""
    show(
        contest.difference_panels(table, reference, transductive, names, ways),
        alt=f"Paired differences to {reference} of {len(names)} methods against the number of examples per "
        f"class, a panel for each number of ways: {' and '.join(map(str, ways))}.",
        caption=f"The line at zero is {reference}. Dashed: transductive, it sees all queries at once. What "
        f"lies below the frame is worse by more than {-contest.LOWEST} points.",
    )


def folded_differences(table: Table, reference: str) -> str:
    """Every method against the reference with the fewest and the most examples: a folded table."""
    shots = sorted({k for _, k in table})
    settings = [s for s in table if s[1] in (shots[0], shots[-1])]
    names = [name for name in table[settings[0]] if name != reference]

    def cell(name: str, setting: Setting) -> str:
        found = contest.against(table, setting, name, reference)
        return f"{100 * found.mean:+.1f} ± {100 * found.ci95:.1f}"

    lines = [[name, *(cell(name, setting) for setting in settings)] for name in names]
    head = markdown(["points against it", *map(words_of, settings)], lines)
    return f"<details><summary>All methods, in numbers</summary>\n\n{head}\n\n</details>"


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


# What many draws say, where a few texts cannot: tables of benchmarks/own_data.md

OWN_DATA = "own_data"
OF_ITS_TEXTS = {  # what may be the reason why words help, or not
    "reuters": "news of goods and finance repeat the terms of their trade",
    "amazon": "reviews say in everyday words what they like, whatever the article",
}


def _numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", cell)]


def _for_shots(columns: Sequence[str], n_examples: float) -> str:
    """Of columns such as "4 examples (…)" that for the number nearest to one's own."""
    return min(columns, key=lambda column: abs(int(column.split()[0]) - n_examples))


def _short(heading: str) -> str:
    """ "hwu64: 64 classes, 10 draws" -> "hwu64, 64 classes"."""
    return heading.rsplit(",", 1)[0].replace(":", ",")


def measured_weights(n_examples: float, n_judged: int) -> str:
    """What choosing λ brings on five data sets, and why texts as few as these cannot show it."""
    tables = measured_tables(OWN_DATA, "Names that do not fit")
    columns = list(next(iter(tables.values()))[0])[1:]
    column, fewest, most = _for_shots(columns, n_examples), columns[0], columns[-1]

    def gains(rows: Sequence[Mapping[str, str]], number: int, column: str) -> list[str]:
        return rows[number][column].split("(")[1].rstrip(")").split("; ")  # over λ = 3, over no names

    lines = [
        [_short(name), gains(rows, 0, column)[0], *gains(rows, -1, column)] for name, rows in tables.items()
    ]
    head = ["data set", "names right: over λ = 3", "all wrong: over λ = 3", "all wrong: over no names"]
    over_3 = {line[0]: _numbers(line[2]) for line in lines}
    best = max(over_3, key=lambda name: over_3[name][0])
    (least, *_), (gain, around) = min(over_3.values()), over_3[best]
    at_ends = [max(_numbers(gains(rows, -1, c)[0])[0] for rows in tables.values()) for c in (fewest, most)]
    lost = min(_numbers(line[3])[0] for line in lines)
    kept = min(_numbers(line[1])[0] for line in lines) + 0.0  # no "-0.0"
    text = 100 / n_judged
    return (
        f"Points that choosing λ brings, {column.split()[0]} examples of each class, many draws:\n\n"
        f"{markdown(head, lines)}\n\n"
        f"**Look at {best.split(',')[0]}, all names wrong: {gain:+.1f} ± {around:.1f} points over λ = 3**, "
        "the most of all. The reason may be that a wrong name with λ = 3 weighs nearly as much as all "
        f"examples of its class. It fits that with {fewest.split()[0]} examples up to {at_ends[0]:+.1f} "
        f"points are gained, with {most.split()[0]} only {at_ends[1]:+.1f}. With right names choosing costs "
        f"nothing ({kept:+.1f} at worst), since λ = 3 is among the values tried. At most {-lost:.1f} points "
        "are missing to a fit without names, for λ cannot fall below 0.3.\n\n"
        f"Why could the {n_judged} hidden labels not show it? One of them is {text:.1f} "
        f"points: gains of {least:+.1f} to {gain:+.1f} points are {max(1, round(least / text))} to "
        f"{max(1, round(gain / text))} of them."
    )


def measured_words(n_judged: int) -> str:
    """What words bring on five data sets, and why texts as few as these cannot show it."""
    tables = measured_tables(OWN_DATA, "A few examples of all classes at once")
    lines = []
    for name, rows in tables.items():
        (without,) = (row for row in rows if row["method"] == "without the words")
        lines.append([_short(name), *(cell.split("(")[1].rstrip(")") for cell in list(without.values())[1:])])
    head = ["data set", *list(next(iter(tables.values()))[0])[1:]]
    at_one = {line[0].split(",")[0]: _numbers(line[1]) for line in lines}
    most, least = max(at_one, key=lambda name: at_one[name]), min(at_one, key=lambda name: at_one[name])
    at_last = [_numbers(line[-1])[0] for line in lines]
    largest = max(_numbers(cell)[0] for line in lines for cell in line[1:])
    (up, around), (down, about), text = at_one[most], at_one[least], 100 / n_judged
    why = "; ".join(OF_ITS_TEXTS[name] for name in (most, least) if name in OF_ITS_TEXTS)
    return (
        f"Points that words bring, many draws:\n\n{markdown(head, lines)}\n\n"
        f"**Look at the first column, rows {most} and {least}: {up:+.1f} ± {around:.1f} and {down:+.1f} ± "
        f"{about:.1f} points.** With one example of a class nobody can tell whether a word belongs to the "
        f"class or to this one text{f' ({why}: a reason that is not tested)' if why else ''}. With "
        f"{head[-1].split()[0]} examples the words bring {min(at_last):+.1f} to {max(at_last):+.1f} points: "
        "words that come back in several examples are no chance.\n\n"
        f"Why could the {n_judged} hidden labels not show it? One of them is {text:.1f} "
        f"points; the largest entry of the table is {largest:.1f}."
    )


def measured_suggestions(n_labels: int, n_pool: int) -> str:
    """What suggestions bring over labels at random, and why one's own file cannot show it."""
    lines, gains = [], {}
    for name, rows in measured_tables(OWN_DATA, "What to label next").items():
        _, suggested, at_random, difference = rows[1].values()
        n = int(rows[1]["texts labelled besides"])
        lines.append([_short(name), suggested, at_random, difference])
        gains[name.split(":")[0]] = _numbers(difference), n / int(re.findall(r"(\d+) classes", name)[0])
    head = ["data set", f"{n} texts that it suggests", f"{n} at random", "difference, in points"]
    best = max(gains, key=lambda name: gains[name][0])
    rest = [per_class for name, (_, per_class) in gains.items() if name != best]
    shown = sum(gain > around for (gain, around), _ in gains.values())
    (gain, around), per_class = gains[best]
    return (
        f"Accuracy in %, from one example of each class on, several draws:\n\n{markdown(head, lines)}\n\n"
        f"**Look at the last column: suggesting is better than chance on {shown} of {len(gains)} data sets, "
        f"most on {best}, {gain:+.1f} ± {around:.1f} points.** There the {n} labels are {per_class:.1f} for "
        f"each class, elsewhere {min(rest):.1f} to {max(rest):.1f}: it may be that one label can mend a "
        "class whose only example is odd, and that there were enough for most of these (not tested).\n\n"
        f"Why could your own file not show it? {n_labels} of the {n_pool} were asked for: where most of "
        "the pool is labelled, it hardly matters which, and only "
        f"{n_pool - n_labels} are left to judge by."
    )


def refused_in_words(k: int, n: int, asked: float, n_held_out: int, n_examples: float, kind: str) -> str:
    """How many of one's own inputs are refused at a share asked for, on which side of the line, and why.

    k of n inputs; the cut was made by ``n_held_out`` examples, which are a sample as well.
    """
    side = "above" if k > asked * n else "below" if k < asked * n else "on"
    spread = (k / n * (1 - k / n) / n + asked * (1 - asked) / max(1, n_held_out)) ** 0.5
    gap, around = 100 * (k / n - asked), 196 * spread
    why = (
        f"So few {kind} allow it: {n_held_out} held-out examples made the cut and {n} {kind} are judged by "
        f"it, so that the gap of {gap:+.0f} points has an interval of ± {around:.0f}. **It may be chance.**"
        if abs(gap) <= around
        else f"That is more than chance does to {n} {kind} (± {around:.0f} points): they are not like the "
        "labelled ones."
    )
    many = []
    for rows in measured_tables(OWN_DATA, "Knowing when it does not know").values():
        row = min(rows, key=lambda row: abs(int(row["examples"]) - n_examples))
        many.append(_numbers(row[f"refused at {asked:g}, of its classes"])[0])
    return (
        f"Look at {asked:.0%}: of your own classes {share(k, n)} are refused, **{side} the line**. {why} "
        f"Over many draws of {len(many)} data sets of texts, with {row['examples']} examples of each class, "
        f"{min(many):.1f} to {max(many):.1f} % are."
    )


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
