"""Chapter 06 and its optional notebooks: schemes, figures, the rows of the benchmark, the quiz's data."""

import math
import sysconfig
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from fewshot_lib.core import EpisodeResults, PairedDifference, compare_paired
from fewshot_lib.course.plots import COLOURS, MARKERS, difference_plot
from fewshot_lib.course.records import markdown
from fewshot_lib.course.schemes import arrow, box
from fewshot_lib.data import ClassDataset, from_arrays
from fewshot_lib.data.made.docstrings import public_docstrings
from fewshot_lib.data.made.summaries import summary

ABLATION = "minus its 0-inner-step ablation, paired"
NOT_PYTHON = set("site-packages dist-packages test idlelib lib2to3 turtledemo ensurepip distutils".split())
SHARED, OF_TASK, FROZEN = "#CFE3F2", "#FBE3B5", "#E6E6E6"  # pale colours of three kinds of box


def thinned(ds: ClassDataset, most: int) -> ClassDataset:
    """At most this many texts of each class: the first ones."""
    place = F.one_hot(ds.labels, ds.n_classes).cumsum(0).gather(1, ds.labels.unsqueeze(1))[:, 0]
    rows = (place <= most).nonzero()[:, 0]
    return replace(ds, inputs=ds.take(rows), labels=ds.labels[rows])


# Schemes


def two_loops() -> Figure:
    """MetaPrompting: what tasks share, what each has for itself, and the way of the gradient back."""
    fig, ax = plt.subplots(figsize=(9.4, 4.3), layout="constrained")
    box(ax, 4.5, 3.9, "start θ of the prompt", SHARED, 2.6)
    for x, name in ((1.5, "task 1"), (4.5, "task 2"), (7.5, "task T")):
        box(ax, x, 2.4, f"m steps on the support\nof {name}", OF_TASK, 2.4, 0.75)
        box(ax, x, 1.3, "its own prompt φ", OF_TASK, 2.4)
        box(ax, x, 0.3, "loss on its queries", OF_TASK, 2.4)
        arrow(ax, (4.5 + 0.25 * (x - 4.5), 3.6), (x, 2.82))
        arrow(ax, (x, 1.98), (x, 1.6))
        arrow(ax, (x, 1.0), (x, 0.6))
    ax.text(6, 1.3, "…", ha="center", va="center", fontsize=18)
    back: dict[str, Any] = {"linestyle": "--", "color": COLOURS[4], "linewidth": 1.8}
    for x in (1.5, 4.5, 7.5):
        ax.plot([x, x], [0.02, -0.25], **back)
    ax.plot([1.5, 9.15, 9.15], [-0.25, -0.25, 3.9], **back)
    arrow(ax, (9.15, 3.9), (5.85, 3.9), **back)
    ax.text(
        7.6,
        4.05,
        "outer loop: the mean\nof all gradients moves θ",
        ha="center",
        fontsize=10,
        color=COLOURS[4],
    )
    ax.text(0.15, 3.75, "inner loop: downwards,\nfor each task alone", fontsize=10)
    ax.set(xlim=(0.1, 9.4), ylim=(-0.35, 4.6))
    ax.axis("off")
    return fig


def prompt_enters() -> Figure:
    """One text on its way to a prediction: tokens, the gap, and the two halves of the verbalizer."""
    fig, ax = plt.subplots(figsize=(9.4, 3.9), layout="constrained")
    tokens = [("the", FROZEN), ("text", FROZEN), ("$θ_1$", SHARED), ("$θ_2$", SHARED), ("$θ_3$", SHARED)]
    tokens += [("$θ_4$", SHARED), ("[MASK]", FROZEN), ("$θ_5$", SHARED)]
    for place, (token, colour) in enumerate(tokens):
        box(ax, 0.6 + 0.95 * place, 0.35, token, colour, 0.86)
        arrow(ax, (0.6 + 0.95 * place, 0.62), (0.6 + 0.95 * place, 1.05), linewidth=1)
    box(ax, 3.95, 1.35, "language model, frozen", FROZEN, 7.6)
    arrow(ax, (6.3, 1.62), (6.3, 2.05))
    box(ax, 6.3, 2.3, "h", "white", 0.8)
    box(ax, 2.6, 2.3, "compare with the words\nof each class name", OF_TASK, 3.0, 0.7)
    box(ax, 2.6, 3.35, "compare with the mean\nof each class's support", OF_TASK, 3.0, 0.7)
    arrow(ax, (5.88, 2.3), (4.14, 2.3))
    arrow(ax, (6.0, 2.57), (4.14, 3.3))
    box(ax, 0.3, 2.8, "p", "white", 0.5)
    arrow(ax, (1.08, 2.35), (0.58, 2.68))
    arrow(ax, (1.08, 3.3), (0.58, 2.95))
    for y, colour, meaning in ((3.5, SHARED, "learned on all tasks"), (3.0, OF_TASK, "reads the support")):
        box(ax, 7.15, y, "", colour, 0.3, 0.26)
        ax.text(7.4, y, meaning, va="center", fontsize=10)
    ax.set(xlim=(0, 9.4), ylim=(0.05, 3.8))
    ax.axis("off")
    return fig


# Figures of results


def landscape(
    loss: Tensor, plane: Tensor, paths: Tensor, curves: Mapping[str, tuple[Tensor, Tensor]], steps: int
) -> Figure:
    """Toy tasks: the loss (n, n) after ``steps`` over the plane (n, n, 2) of starts, and curves of some.

    paths: where p starts go, (steps + 1, p, 2). curves: name -> start (2,), and query losses after 0, 1, …
    steps.
    """
    axis = plane[0, :, 0]
    fig, (ax, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained", width_ratios=[3, 2])
    fig.colorbar(ax.contourf(axis, axis, loss, levels=12, cmap="cividis"), ax=ax)
    for path in paths.transpose(0, 1):
        ax.plot(*path.T, color="white", linewidth=1)
        ax.plot(*path[-1], color="white", marker=".", markersize=4)
    for number, (name, (start, curve)) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": COLOURS[(3, 4, 2)[number]], "marker": MARKERS[number]}
        ax.plot(*start, **style, markersize=11, markeredgecolor="white")
        right.plot(range(len(curve)), curve, **style, markevery=5, label=name)
    right.axvline(steps, color="grey", linestyle=":")
    ax.set(xlabel="prompt, number 1", ylabel="prompt, number 2", title=f"mean query loss after {steps} steps")
    right.set(xlabel="inner steps", title="mean query loss from three starts")
    right.legend(fontsize=9)
    right.grid(alpha=0.3)
    return fig


def spread_curves(spreads: Sequence[float], losses: Mapping[str, Sequence[float]]) -> Figure:
    """Mean query loss of new toy tasks against how much tasks differ, a line for each start."""
    fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for number, (name, line) in enumerate(losses.items()):
        ax.plot(spreads, line, color=COLOURS[number], marker=MARKERS[number], label=name)
    ax.set(xlabel="how much the tasks differ", ylabel="query loss on new tasks")
    ax.legend()
    ax.grid(alpha=0.3)
    return fig


def grouped_plot(groups: Mapping[str, Sequence[EpisodeResults]], chance: float) -> Figure:
    """Accuracies with intervals over episodes: a colour per group, in which the best row is on top."""
    rows = [(name, r) for name, group in groups.items() for r in sorted(group, key=lambda r: -r.mean)]
    fig, ax = plt.subplots(figsize=(7.6, 1.0 + 0.42 * len(rows)), layout="constrained")
    order = list(groups)
    for place, (name, result) in enumerate(rows):
        number, mean = order.index(name), 100 * result.mean
        style: dict[str, Any] = {"color": COLOURS[(0, 4, 2, 3)[number]], "fmt": MARKERS[number], "capsize": 4}
        label = None if place and rows[place - 1][0] == name else name
        ax.errorbar(mean, place, xerr=100 * result.ci95, label=label, **style)
        above: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 6), "ha": "center"}
        ax.annotate(f"{mean:.1f}", (mean, place), fontsize=9, **above)
    ax.axvline(100 * chance, color="black", linestyle="--", linewidth=1)
    ax.set(yticks=range(len(rows)), yticklabels=[result.method for _, result in rows], xlim=(0, 100))
    ax.set_xlabel("accuracy in % (95 % interval over episodes; dashed: chance)")
    ax.set_ylim(len(rows) - 0.4, -0.8)
    ax.grid(axis="x", alpha=0.3)
    fig.legend(loc="outside upper center", ncols=len(groups))
    return fig


# The benchmark's rows


@dataclass(frozen=True)
class Row:
    """A difference of the benchmark: mean and half-width of the 95 % interval, as fractions."""

    mean: float
    ci95: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - self.ci95, self.mean + self.ci95

    @property
    def verdict(self) -> str:
        low, high = self.interval
        return "not told apart from" if low <= 0 <= high else ("better than" if low > 0 else "worse than")

    @property
    def in_words(self) -> str:
        low, high = (100 * end for end in self.interval)
        return f"{100 * self.mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def with_shots(table: Sequence[Mapping[str, str]], n_shot: int) -> list[Mapping[str, str]]:
    """The rows of the benchmark with so many examples of a class."""
    return [row for row in table if row["shots"] == str(n_shot)]


def ablation_rows(table: Sequence[Mapping[str, str]]) -> dict[str, dict[str, Row]]:
    """What moves ("frozen LM", "LoRA") -> data set -> MetaPrompting minus the same with 0 inner steps."""
    found: dict[str, dict[str, Row]] = {}
    for row in table:
        name, _, what = row["method"].partition(", ")
        if name == "MetaPrompting" and " ± " in row[ABLATION]:
            mean, width = (float(part) / 100 for part in row[ABLATION].split(" ± "))
            found.setdefault(what, {})[row["data set"]] = Row(mean, width)
    return found


def interval_of(table: Sequence[Mapping[str, str]], dataset: str, method: str) -> tuple[float, float]:
    """The 95 % interval of an accuracy of the benchmark, in percent."""
    (row,) = (row for row in table if (row["data set"], row["method"]) == (dataset, method))
    low, high = row["95 % interval"].split(" to ")
    return float(low), float(high)


def averaged(rows: Mapping[str, Row]) -> Row:
    """The mean over data sets; their episodes are independent, so the squares of the widths add up.

    The same in whichever order they come: a last digit may round either way.
    """
    means, squares = zip(*((row.mean, row.ci95**2) for row in rows.values()), strict=True)
    return Row(math.fsum(means) / len(rows), math.fsum(squares) ** 0.5 / len(rows))


def ablation_figure(found: Mapping[str, Mapping[str, Row]], titles: Mapping[str, str]) -> Figure:
    """Differences to the ablation: a panel for what moves, a row per data set, the mean of all below."""
    names = sorted(
        next(iter(found.values())), key=lambda name: -sum(rows[name].mean for rows in found.values())
    )
    columns: Any = [[*(rows[name] for name in names), averaged(rows)] for rows in found.values()]
    labels = [*names, f"mean of the {len(names)}"]
    fig = difference_plot(columns, labels, [titles[what] for what in found], "0 inner steps")
    ends = [100 * end for column in columns for row in column for end in row.interval]
    for ax in fig.axes:  # one scale
        ax.set_xlim(min(0, *ends) - 1, max(0, *ends) + 1)
    return fig


# Sentences that follow the numbers


def beside_the_paper(
    lm: str, max_tokens: int, n_soft: int, verbalizer: str, steps: int, n_tasks: int, inner: int
) -> str:
    """A table: the paper's run and this one."""
    rows = [
        ("language model", "BERT-base, all weights move", f"{lm}, frozen"),
        ("tokens of a text", "up to 500", f"up to {max_tokens}, with the template"),
        ("soft tokens", "1 word of the template, by an LSTM", f"{n_soft}: all its words"),
        ("verbalizer", "words of the class's name", f"{verbalizer}, equation (4)"),
        (
            "training episodes",
            "at most 6,000, one per outer step",
            f"{steps * n_tasks:,}, {n_tasks} per step",
        ),
        ("inner loop", "3 steps of SGD, rate 5·10⁻⁵, second order", f"{inner} of SGD, first order"),
        ("inner rate α", "not searched, as far as we know", "chosen on validation classes"),
        ("test", "15 epochs of AdamW", "the same steps as in the inner loop"),
    ]
    return markdown(["", "the paper and its code", "here"], rows)


def of_rates(found: Mapping[float, EpisodeResults], chosen: float) -> str:
    """Which inner rate was chosen, and whether the grid was wide enough."""
    each = ", ".join(f"α = {alpha:g}: {result.mean:.1%}" for alpha, result in found.items())
    edge = ", at the edge of the grid: a wider one might hold a better rate" * (
        chosen in (min(found), max(found))
    )
    return f"Validation classes, after adaptation: {each}. Chosen: **α = {chosen:g}**{edge}."


def of_share(share: float, low: float, high: float, gain: EpisodeResults) -> str:
    """The share of the gain that is left without an inner loop, with its bootstrap interval."""
    if gain.interval[0] <= 0:
        return "In this run MetaPrompting is not told apart from random prompts: there is no gain to share."
    found = f"**The share that is left without any inner step: {share:.0%}** (95 % bootstrap interval "
    found += f"{low:.0%} to {high:.0%}). "
    if low >= 1:
        return (
            found + "The whole interval lies above 100 %: here the loop costs something, and earns nothing."
        )
    loop = f"So the loop may have earned up to {1 - low:.0%} of the gain"
    sure = ", or nothing: the interval holds 100 %." if high >= 1 else f", and at least {1 - high:.0%}."
    return found + loop + sure + " That is for these trainings, on other episodes; others may differ."


def of_spreads(spreads: Sequence[float], none: Sequence[float], ten: Sequence[float]) -> str:
    """Where the loop costs and where it pays, on the toy tasks of section 5."""
    why = {  # place in the curve -> why the loop would cost there, why it would pay
        0: ("two examples are noisy, and there is nothing to adapt to", "the start was not the best one"),
        4: ("one prompt serves all tasks", "no single prompt serves tasks that pull in different directions"),
    }
    told = ["At spread 0 all tasks are alike."]
    for place, reasons in why.items():
        pays = ten[place] < none[place]
        told.append(
            f"Spread {spreads[place]:g}: loss {none[place]:.3f} without a step, {ten[place]:.3f} with ten. "
            f"The loop **{'pays' if pays else 'costs'}**: {reasons[pays]}."
        )
    return " ".join([*told, "(Tested here, on the toy: only the spread changed.)"])


def of_verbalizers(found: Mapping[str, tuple[EpisodeResults, EpisodeResults, PairedDifference]]) -> str:
    """What tuning brings to plain words, to calibrated ones, and to words and examples, in this order, as
    results before it, after it, and their difference; and whether it repairs what each lacks.
    """
    rows = [(name, f"{a.mean:.1%}", f"{b.mean:.1%}", d.in_words) for name, (a, b, d) in found.items()]
    table = markdown(["verbalizer", "before tuning", "after", "what tuning brings"], rows)
    (plain, _, gain), (calibrated, _, of_calibrated), (_, _, of_both) = found.values()
    alone, rest = compare_paired(calibrated, plain), compare_paired(gain, of_calibrated)
    examples = compare_paired(of_calibrated, of_both)
    told = f"Calibration alone, without a step and without an example, gives {alone.in_words}. "
    if min(alone.interval[0], rest.interval[0]) > 0:
        told += f"And tuning brings plain words {rest.in_words} more than calibrated ones. So it repairs "
        told += "*calibration*, which costs no step. "
    else:
        told += "But tuning does not surely bring plain words more than calibrated ones. "
    seen = "is seen" if examples.interval[0] > 0 else "is not seen"
    told += f"That equation (4) reads the *examples* already {seen} in what is left to gain: what calibrated "
    told += f"words gain, minus what (4) gains, is {examples.in_words}."
    return f"{table}\n\n{told} ({plain.n_episodes} episodes; the last row also compares words by a cosine.)"


def of_benchmark(found: Mapping[str, Mapping[str, Row]], here: PairedDifference) -> str:
    """What the committed rows say together, beside the difference of this run."""
    rows = [row for each in found.values() for row in each.values()]
    positive, sure = sum(row.mean > 0 for row in rows), sum(row.interval[0] > 0 for row in rows)
    best = max(found["LoRA"], key=lambda name: found["LoRA"][name].mean)
    frozen, lora = (averaged(found[what]) for what in ("frozen LM", "LoRA"))
    pays = "the loop **pays**" if min(frozen.interval[0], lora.interval[0]) > 0 else "the loop may pay"
    more = ", and more where the model moves as well" if lora.mean > frozen.mean else ""
    disagrees = here.interval[0] <= 0 and frozen.interval[0] > 0
    reason = (
        "So it **depends on the data and on the budget**. The two runs differ in both, and in the start, "
        "the steps, the α of the test and the length of the texts. Which of these is the reason is not known."
    )
    return (
        f"{positive} of {len(rows)} differences are above zero, {sure} surely so; the largest is that of "
        f"*{best}*. On these data sets {pays}{more}: by {frozen.in_words} with a frozen model and "
        f"by {lora.in_words} with adapters, on average. (The intervals know other episodes of these data "
        "sets. They know neither other data sets nor another training.)"
        f"\n\nIn section 4 of this run it was {here.in_words}. "
        f"{reason if disagrees else 'The two agree.'}"
    )


def _without_a_step(table: Sequence[Mapping[str, str]], what: str, names: Sequence[str]) -> float:
    """Mean accuracy in percent, over these data sets, of the ablation with 0 inner steps."""
    found = [row for row in table if row["data set"] in names and row["method"] == f"0 inner steps, {what}"]
    return sum(float(row["accuracy in %"]) for row in found) / len(found)


def of_more_shots(one: Sequence[Mapping[str, str]], more: Sequence[Mapping[str, str]]) -> str:
    """Rows of the benchmark with one and with more examples of a class: on the data sets that have both, what
    the loop earned with each, and what the same method reaches without a step."""
    names = sorted({row["data set"] for row in more})
    rows, less = [], True
    for what, words in (("frozen LM", "the prompt"), ("LoRA", "adapters, too")):
        few, many = (averaged({n: ablation_rows(t)[what][n] for n in names}) for t in (one, more))
        before, after = (_without_a_step(table, what, names) for table in (one, more))
        rows.append((words, few.in_words, many.in_words, f"{before:.1f} % → {after:.1f} %"))
        less &= many.mean < few.mean and after > before
    earned = [f"earned by the loop, {table[0]['shots']}-shot" for table in (one, more)]
    table = markdown(
        ["what moves", *earned, f"without a step, {one[0]['shots']} → {more[0]['shots']} shots"], rows
    )
    told = f"On {', '.join(names[:-1])} and {names[-1]}:\n\n{table}\n\n"
    if less:
        told += (
            "With more examples the loop earns **less**. The verbalizer compares queries with the examples: "
            "without a step it already uses them all (last column). What one example could not say, a step "
            "had to find out; five say it themselves. (A reading of these rows, not tested here.)"
        )
    return told


def verdicts(
    here: Mapping[str, PairedDifference],
    spread: tuple[str, float, float],
    table: Sequence[Mapping[str, str]],
) -> str:
    """A table: what the papers claim, what they did not ask, and what was seen.

    here: claim -> difference of this run; only the first claim is a paper's. spread: verdict and interval of
    the spread after meta-learning minus that before. table: of the benchmark's page.
    """
    found = ablation_rows(table)
    alone, learned = "prompt tuning from words, LoRA", "MetaPrompting, LoRA"
    above = [
        name
        for name in found["LoRA"]
        if interval_of(table, name, learned)[0] > interval_of(table, name, alone)[1]
    ]
    whole, mean = averaged(found["frozen LM"]), f"the same, {table[0]['shots']}-shot, mean of the data sets"
    words, low, high = spread
    first, *others = [(claim, "here", d.verdict, d.in_words) for claim, d in here.items()]
    pretrained = "a meta-learned start beats the pre-trained one, the model moves as well"
    seen = f"better on {len(above)} of {len(found['LoRA'])}"
    rows: list[tuple[str, ...]] = [
        ("MetaPrompting", pretrained, "benchmark", seen, "intervals that do not touch"),
        ("MetaPrompting", *first),
        (
            "MetaPrompting",
            "results vary less after meta-learning",
            "here",
            words,
            f"{low:+.1f} to {high:+.1f} points",
        ),
        ("*not asked*", *others[0]),
        ("*not asked*", mean, "benchmark", whole.verdict, whole.in_words),
        *(("*not asked*", *row) for row in others[1:]),
    ]
    return markdown(["who", "claim", "where", "verdict", "difference"], rows)


# Data of the wrap-up quiz


def standard_library() -> ClassDataset:
    """What Python's own modules say about themselves: 20 to 30 docstring summaries, a class is a module."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for path in sorted(root.rglob("*.py")):
        parts = [part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"][:2]
        private = any(part.startswith("_") for part in parts) or not parts
        if private or NOT_PYTHON.intersection(parts) or "tests" in path.parts:
            continue
        found[" ".join(parts)] |= dict.fromkeys(filter(None, map(summary, public_docstrings(path))))
    kept = {name: list(texts)[:30] for name, texts in sorted(found.items()) if len(texts) >= 20}
    pairs = [(text, name) for name, texts in kept.items() for text in texts]
    return from_arrays([text for text, _ in pairs], [name for _, name in pairs], name="standard library")
