"""Inputs to look at: some side by side, each with a few words, or those of an episode; texts or pictures."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from torch import Tensor

from fewshot_lib.core import Episodes
from fewshot_lib.course.figures import say, show
from fewshot_lib.course.plots import episode_picture, picture
from fewshot_lib.course.records import markdown
from fewshot_lib.data import ClassDataset

LETTERS, COLUMNS = 90, 6  # of a text; of a sheet


def gallery(inputs: Sequence[str] | Tensor, words: Sequence[str], *, said: str, alt: str) -> None:
    """Shows n texts, or n pictures (n, 1 or 3, height, width), with the words of each.

    said: the head of the column of words. alt: of the sheet of pictures.
    """
    if not isinstance(inputs, Tensor):
        say(markdown(["text", said], zip(map(_short, inputs), words, strict=True)))
        return
    n_rows = -(-len(words) // COLUMNS)
    size = (1.7 * min(COLUMNS, len(words)), 2.0 * n_rows)
    fig, axes = plt.subplots(
        n_rows, min(COLUMNS, len(words)), figsize=size, layout="constrained", squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, word in zip(axes.flat, inputs, words, strict=False):
        picture(ax, image)
        ax.set_title(word, fontsize=7, wrap=True)
    show(fig, alt=alt, caption=f"Above each picture: {said}.")


def show_episode(dataset: ClassDataset, episodes: Episodes) -> None:
    """Shows the first of the episodes: its support and some queries; of texts one example of each class."""
    if dataset.is_text:
        rows = episodes.support[0, :, 0].tolist()
        say("\n".join(f"- **{dataset.class_names[dataset.labels[i]]}**: {dataset.inputs[i]}" for i in rows))
        return
    show(
        episode_picture(dataset, episodes),
        alt="One episode: a row per class, its support drawings framed in colour and marked S, some of its "
        "queries in black and marked Q.",
        caption="The first episode. S: support, the labelled examples. Q: queries, to be classified.",
    )


def _short(text: str) -> str:
    """One line of a table, cut: a bar would end its cell."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= LETTERS else f"{line[:LETTERS]} …"
