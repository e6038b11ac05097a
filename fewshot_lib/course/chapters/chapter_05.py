"""Chapter 05: its schemes and figures, texts with a missing word, and an interval over seeds and episodes.

The interval is that of a mean over two things that could have been drawn otherwise: Satterthwaite (1946), An
Approximate Distribution of Estimates of Variance Components, Biometrics Bulletin 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fewshot_lib.core import Episodes, PairedDifference
from fewshot_lib.course.figures import show
from fewshot_lib.course.measured import measured_table
from fewshot_lib.course.plots import COLOURS, MARKERS, difference_plot
from fewshot_lib.course.records import markdown
from fewshot_lib.course.schemes import arrow, box, canvas
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import MaskedLM

GAP = "[MASK]"
TRAINED, FROZEN, TEXT, PLAIN = "#FBE3B5", "#E6E6E6", "#CFE3F2", "#FFFFFF"  # pale colours of boxes


# Texts


def plain(text: str, most: int = 90) -> str:
    """A text as it can stand in a table."""
    return " ".join(text.split())[:most].translate(str.maketrans("|*_`", "/· '", "$"))


def table_of_guesses(ds: ClassDataset, rows: Sequence[int], guesses: Sequence[str]) -> str:
    """Texts, their classes and what a model put into the gap, as a markdown table."""
    lines = [
        [plain(str(ds.inputs[row])), plain(ds.class_names[ds.labels[row]]), found]
        for row, found in zip(rows, guesses, strict=True)
    ]
    return markdown(["a text of a training class", "its class", "likeliest words at the gap"], lines)


def missing_words(
    texts: Sequence[str], words: Sequence[str], most: int, length: int = 14
) -> tuple[list[str], Tensor]:
    """Texts in which one of these words is replaced by [MASK], and which word: at most so many of each.

    It is the first of them of which there are not enough yet. Of the first sentence so many words are kept,
    and the gap is neither one of the first two nor the last.
    """
    found: dict[str, list[str]] = {word: [] for word in words}
    for text in texts:
        tokens = text.split(". ")[0].split()[:length]
        wanted = {word for word in words if len(found[word]) < most}
        at = next((i for i, token in enumerate(tokens[:-1]) if i > 1 and token in wanted), None)
        if at is not None and GAP not in text:
            found[tokens[at]].append(" ".join([*tokens[:at], GAP, *tokens[at + 1 :]]))
    labels = torch.arange(len(words)).repeat_interleave(torch.tensor([len(found[word]) for word in words]))
    return [text for word in words for text in found[word]], labels


def with_gap(lm: MaskedLM, texts: Sequence[str], n_soft: int = 0) -> Tensor:
    """Ids (n, L) of texts that hold their own [MASK], after so many soft tokens −1, −2, …"""
    before = [lm.tokenizer.cls_token_id, *range(-1, -1 - n_soft, -1)]
    pieces = lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = [torch.tensor([*before, *ids, lm.tokenizer.sep_token_id]) for ids in pieces]
    padded = pad_sequence(rows, batch_first=True, padding_value=lm.tokenizer.pad_token_id)
    return padded.to(lm.word_embeddings.device)


def page_rows(methods: Sequence[str]) -> list[dict[str, str]]:
    """The rows of these methods in the results on the published sets."""
    by_name = {row["method"]: row for row in measured_table("gat_transformer")}
    return [by_name[method] for method in methods]


# Features of the texts that are read at all


def rows_of(*episodes: Episodes) -> Tensor:
    """The rows (n,) of the data set that stand in these episodes, each once."""
    parts = [part.flatten() for each in episodes for part in (each.support, each.query)]
    return torch.cat(parts).unique()


def as_table(features: Tensor, rows: Tensor, size: int) -> Tensor:
    """Features (n, d) of these rows (n,) in a table for all texts, (size, d), zero where none was read."""
    table = features.new_zeros(size, features.shape[1])
    return table.index_copy(0, rows.to(features.device), features)


# An interval over seeds and episodes


def mean_squares(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a (R, E) -> mean squares of seeds, of episodes and of the rest."""
    n_seeds, n_episodes = a.shape
    rest = a - a.mean(1, keepdim=True) - a.mean(0) + a.mean()
    freedom = (n_seeds - 1) * (n_episodes - 1)
    return n_episodes * a.mean(1).var(), n_seeds * a.mean(0).var(), rest.square().sum() / freedom


def half_width(a: Tensor) -> float:
    """Half of the 95 % interval of the mean of a (R, E), over seeds and episodes: equation (6).

    Where (6) falls below what seeds alone or episodes alone would give, the largest of the three is taken.
    """
    n_seeds, n_episodes = a.shape
    parts = torch.stack(mean_squares(a.double()))
    total = max(parts[0] + parts[1] - parts[2], parts[0], parts[1])
    counts = torch.tensor([n_seeds - 1, n_episodes - 1, (n_seeds - 1) * (n_episodes - 1)])
    freedom = total**2 / (parts**2 / counts).sum()  # Satterthwaite's rule
    return float(stdtrit(float(freedom), 0.975) * (total / a.numel()).sqrt())


@dataclass(frozen=True, eq=False)
class OverBoth(PairedDifference):
    """A difference of several seeds whose interval is over seeds and episodes."""

    @property
    def ci95(self) -> float:
        """Half of the interval, as a share."""
        return half_width(self.accuracies)


def evidence(difference: OverBoth, n_seeds: int, n_episodes: int, other: str) -> Figure:
    """A difference with three intervals, from the first seeds and episodes: over either, and over both."""
    part = replace(difference, accuracies=difference.accuracies[:n_seeds, :n_episodes])
    over_seeds = PairedDifference(**vars(part))
    over_episodes = replace(over_seeds, accuracies=part.accuracies.mean(0, keepdim=True))
    rows = ["over episodes only", "over seeds only", "over both, eq. (6)"]
    title = f"{n_seeds} seeds, {n_episodes} episodes"
    fig = difference_plot([[over_episodes, over_seeds, part]], rows, [title], other)
    fig.axes[0].set_xlim(-60, 60)
    return fig


# Schemes


def _row(ax: Axes, y: float, cells: Sequence[tuple[str, str]]) -> list[float]:
    """Boxes side by side, as wide as their words; the places of their centres."""
    centres, right = [], 0.0
    for text, colour in cells:
        width = 0.32 + 0.115 * len(text)
        centres.append(right + width / 2)
        box(ax, centres[-1], y, text, colour, width)
        right += width + 0.14
    return centres


def show_gap() -> None:
    """From a text to a class: template with a gap, model, one vector at the gap, words, classes."""
    fig, ax = canvas((9.5, 3.9), (-0.2, 10.4), (-0.35, 4.2))
    words = [(word, PLAIN) for word in ("The", "topic", "is")]
    text = [(word, TEXT) for word in ("Compute", "the", "shortest", "path")]
    centres = _row(ax, 0, [*words, (GAP, TRAINED), (":", PLAIN), *text])
    gap = centres[3]
    box(ax, 4.35, 1.2, "language model: reads everything, in both directions", FROZEN, 8.5)
    for x in centres:
        arrow(ax, (x, 0.3), (x, 0.9), color="dimgrey")
    arrow(ax, (gap, 1.5), (gap, 2.05))
    box(ax, gap, 2.35, "h", TRAINED, 0.5)
    arrow(ax, (gap + 0.35, 2.35), (4.3, 2.35))
    box(ax, 5.75, 2.35, "a score for every word", PLAIN, 2.8)
    arrow(ax, (5.75, 2.65), (5.75, 3.2))
    ax.text(5.95, 2.92, "verbalizer: only the label words count", fontsize=10, va="center")
    box(ax, 5.75, 3.5, "graphs: path, node      sound: wave, noise", PLAIN, 5.2)
    ax.text(2.3, 3.5, "classes", fontsize=11, ha="center", va="center")
    ax.text(gap - 0.5, 2.35, "at the gap", fontsize=10, ha="right", va="center")
    ax.text(centres[1], -0.42, "the template", fontsize=10, ha="center", va="top")
    ax.text(centres[6], -0.42, "the text", fontsize=10, ha="center", va="top")
    ax.set_ylim(-0.7, 4.0)
    show(
        fig,
        alt="A row of boxes: the template The topic is [MASK], a colon, then the text Compute the shortest "
        "path. All go into a language model. Above the gap stands a vector h, from it a score for every "
        "word, and from the scores of label words the classes graphs and sound.",
        caption="White: the template. Blue: the text. Yellow: the gap and what the model says there.",
    )


def show_soft() -> None:
    """A soft prompt: free vectors in place of the template's words, and what the gradient moves."""
    fig, ax = canvas((9.5, 4), (-0.2, 10.4), (-0.35, 4.4))
    soft = [(rf"$\theta_{i}$", TRAINED) for i in range(1, 5)]
    text = [(word, TEXT) for word in ("Compute", "the", "shortest", "path")]
    cells = [*soft[:2], (GAP, PLAIN), *soft[2:], *text]
    centres = _row(ax, 0, [("θ__" if colour == TRAINED else word, colour) for word, colour in cells])
    for label, (word, _) in zip(list(ax.texts), cells, strict=True):
        label.set_text(word)
    box(ax, 4.3, 1.2, "language model: frozen, the same for all tasks", FROZEN, 8.3)
    for x in centres:
        arrow(ax, (x, 0.3), (x, 0.9), color="dimgrey")
    gap = centres[2]
    arrow(ax, (gap, 1.5), (gap, 2.05))
    box(ax, gap, 2.35, "h", PLAIN, 0.5)
    arrow(ax, (gap + 0.35, 2.35), (3.75, 2.35))
    box(ax, 4.7, 2.35, "verbalizer", FROZEN, 1.7)
    arrow(ax, (5.65, 2.35), (6.35, 2.35))
    box(ax, 7.6, 2.35, "loss on the support", PLAIN, 2.3)
    back: dict[str, Any] = {"color": COLOURS[4], "linewidth": 2, "linestyle": "--"}
    ax.plot([7.6, 7.6, -0.1, -0.1], [2.65, 3.3, 3.3, -0.55], **back)
    ax.plot([-0.1, centres[4]], [-0.55, -0.55], **back)
    for x in (centres[0], centres[1], centres[3], centres[4]):
        arrow(ax, (x, -0.57), (x, -0.28), **back | {"linestyle": "-"})
    note = "the gradient passes through everything and moves only θ"
    ax.text(3.7, 3.4, note, fontsize=11, ha="center", va="bottom", color="#A03C00")
    ax.set_ylim(-0.75, 3.9)
    show(
        fig,
        alt="A row of boxes: soft tokens theta 1 and 2, the gap, theta 3 and 4, then the text Compute the "
        "shortest path. All go into the frozen language model. From h at the gap the verbalizer makes a loss "
        "on the support. A dashed line leads from the loss back to the four soft tokens only.",
        caption="Grey: frozen. Yellow: what is trained, four vectors of as many numbers as a word has.",
    )


def show_calibration(anyway: Tensor, added: Tensor, classes: Sequence[str]) -> None:
    """Scores as two pieces: what the model says at any gap, and what this text adds; both (N,)."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 2.5), sharey=True, layout="constrained")
    rows = range(len(classes))[::-1]
    for ax, pieces, title in (
        (axes[0], ((anyway, FROZEN), (added, TRAINED)), "plain score"),
        (axes[1], ((added, TRAINED),), "calibrated: the grey piece is taken away"),
    ):
        left = torch.zeros(len(classes))
        for piece, colour in pieces:
            ax.barh(rows, piece, left=left, color=colour, edgecolor="black", height=0.6)
            for row, start, width in zip(rows, left.tolist(), piece.tolist(), strict=True):
                ax.text(start + width / 2, row, f"{width:.1f}", ha="center", va="center", fontsize=11)
            left = left + piece
        for row, total in zip(rows, left.tolist(), strict=True):
            ax.text(total + 0.05, row, f"= {total:.1f}", va="center", fontsize=11)
        ax.set(title=title, yticks=rows, yticklabels=classes, xlim=(0, 2.9), ylim=(-0.6, len(classes) - 0.4))
    fig.legend(
        [plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="black") for colour in (FROZEN, TRAINED)],
        ["what it says at any gap", "what this text adds"],
        loc="outside lower center",
        ncols=2,
    )
    sums = ", ".join(
        f"{name} {a:.1f} + {b:.1f} = {a + b:.1f}"
        for name, a, b in zip(classes, anyway.tolist(), added.tolist(), strict=True)
    )
    alt = f"Bars of {len(classes)} classes. Plain: {sums}. Calibrated: only the second number of each sum."
    show(fig, alt=alt, caption="A logit has two parts. Only the yellow one comes from this text.")


# Figures


def show_greed(anyway: Tensor, shares: Mapping[str, Tensor]) -> None:
    """The share of texts that each class is given against its score on other texts; both (C,)."""
    fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for number, (name, share) in enumerate(shares.items()):
        ax.plot(anyway, 100 * share, MARKERS[number], color=COLOURS[number], label=name)
    ax.axhline(100 / len(anyway), color="black", linestyle="--", linewidth=1, label="equal shares")
    ax.set(xlabel="mean score of the class on texts of other classes", ylabel="share of the texts, in %")
    ax.legend()
    ax.grid(alpha=0.3)
    alt = (
        "Share of the texts given to each class against its mean score on other texts, plain and calibrated."
    )
    show(fig, alt=alt, caption="What to notice: without calibration the classes on the right take the texts.")


def show_grid(curves: Mapping[float, Mapping[int, Tensor]], episodes: Episodes) -> None:
    """Accuracy against the number of steps, a line for every rate: rate -> steps -> accuracies (E,)."""
    fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for number, (lr, curve) in enumerate(curves.items()):
        style: dict[str, Any] = {"marker": MARKERS[number], "color": COLOURS[number]}
        means = [100 * accuracies.mean().item() for accuracies in curve.values()]
        ax.plot(list(curve), means, label=f"rate {lr:g}", **style)
    ax.set(xlabel="steps", ylabel="validation accuracy in %", xticks=list(curve))
    ax.legend()
    ax.grid(alpha=0.3)
    size = f"{len(episodes)} validation episodes of {episodes.query.shape[1]} queries"
    alt = "Validation accuracy against the number of steps, a line for each rate."
    show(fig, alt=alt, caption=f"{size}. At 0 steps all lines are the untuned prompt.")


def show_seeds(accuracies: Tensor) -> None:
    """Accuracies (S, E) as a picture, episodes from hard to easy, with the means of rows and columns."""
    shown = 100 * accuracies[:, accuracies.mean(0).argsort()]
    n_seeds, n_episodes = shown.shape
    fig, axes = plt.subplots(
        2, 2, figsize=(9, 4.6), width_ratios=[5, 1.2], height_ratios=[1.2, 2], layout="constrained"
    )
    (top, corner), (middle, side) = axes
    corner.axis("off")
    image = middle.imshow(shown.numpy(), aspect="auto", cmap="cividis", vmin=0, vmax=100)
    middle.set(xlabel="episode, from hard to easy", ylabel="seed (start of the prompt)")
    middle.set(yticks=range(n_seeds), yticklabels=range(1, n_seeds + 1))
    top.plot(range(n_episodes), shown.mean(0), marker=".", color=COLOURS[0])
    side.plot(shown.mean(1), range(n_seeds), marker="o", linestyle="", color=COLOURS[4])
    top.set(ylim=(0, 100), ylabel="mean of\nthe seeds, %", xlim=middle.get_xlim(), xticks=[])
    side.set(xlim=(0, 100), xlabel="mean of the\nepisodes, %", ylim=middle.get_ylim(), yticks=[])
    for ax in (top, side):
        ax.grid(alpha=0.3)
    fig.colorbar(image, ax=side, label="accuracy in %")
    alt = (
        "A picture of the accuracies, a row for each seed and a column for each episode, with the means of "
        "the rows on the right and of the columns on top."
    )
    show(fig, alt=alt, caption="What to notice: how far columns, and how far rows, differ from each other.")
