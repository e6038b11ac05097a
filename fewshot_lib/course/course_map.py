"""The map of the course: which chapter stands on which, and where the reader is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_lib.course.figures import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Chapter(NamedTuple):
    """A chapter: its notebook, its title in one or two short lines, its room in the library, and its place.

    place: column and row on the map.
    """

    notebook: str
    title: str
    room: str
    place: tuple[int, int]


CHAPTERS = [
    Chapter("00_start_here", "Start here", "course", (0, 1)),
    Chapter("01_supervised_vs_few_shot", "Supervised\nvs few-shot", "core", (1, 1)),
    Chapter("02_prototype_classifiers", "Prototype\nclassifiers", "prototypes", (2, 1)),
    Chapter("03_cosine_fine_tuning", "Cosine\nfine-tuning", "finetuning", (3, 2)),
    Chapter("04_maml_and_reptile", "MAML\nand Reptile", "maml", (3, 1)),
    Chapter("05_soft_prompts", "Soft prompts", "prompts", (3, 0)),
    Chapter("06_metaprompting", "MetaPrompting", "prompts, maml", (4, 0)),
    Chapter("07_episode_graphs", "Episode\ngraphs", "graphs", (4, 2)),
    Chapter("08_gat_transformer_multitask", "GAT-Transformer,\nmany tasks", "graphs, multitask", (5, 2)),
    Chapter("09_your_own_data", "Your own\ndata", "classifier", (5, 1)),
]
ARROWS = [
    (0, 1),
    (1, 2),
    (2, 3),
    (3, 4),
    (2, 4),
    (2, 5),
    (4, 6),
    (5, 6),
    (6, 7),
    (2, 7),
    (7, 8),
    (6, 9),
    (8, 9),
    (3, 7),
]


def show_map(here: str, folder: Path = Path()) -> None:
    """Shows the map, ``here`` (a notebook's name) filled, and dashed what has no notebook in ``folder``."""
    show(course_map(here, folder), alt=map_alt(here, folder))


def course_map(here: str, folder: Path = Path()) -> Figure:
    """The map as a figure."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    fig, ax = plt.subplots(figsize=(10, 2.9), layout="constrained")
    for a, b in ARROWS:
        (x0, y0), (x1, y1) = CHAPTERS[a].place, CHAPTERS[b].place
        dx, dy = (0.4, 0) if x1 > x0 else (0, 0.3 if y1 > y0 else -0.3)  # from a box's right side or edge
        line = {"arrowstyle": "->", "color": "grey"}
        ax.annotate("", (x1 - dx, y1 - dy), (x0 + dx, y0 + dy), arrowprops=line)
    for chapter in CHAPTERS:
        x, y = chapter.place
        exists, current = (folder / f"{chapter.notebook}.ipynb").exists(), chapter.notebook == here
        box: dict[str, Any] = {"boxstyle": "round,pad=0.02", "linestyle": "-" if exists else "--"}
        box["facecolor"] = "#0072B2" if current else "white"
        ax.add_patch(FancyBboxPatch((x - 0.38, y - 0.28), 0.76, 0.56, **box))
        style: dict[str, Any] = {"ha": "center", "va": "center"}
        style["color"] = "white" if current else ("black" if exists else "dimgrey")
        ax.text(x, y + 0.07, f"{chapter.notebook[:2]}  {chapter.title}", fontsize=8.5, **style)
        ax.text(x, y - 0.2, chapter.room, fontsize=7, family="monospace", **style)
    ax.set(xlim=(-0.5, 5.5), ylim=(-0.45, 2.45))
    ax.axis("off")
    return fig


def map_alt(here: str, folder: Path = Path()) -> str:
    """The map in words, for those who cannot see it."""
    order = ", ".join(f"{c.notebook[:2]} {c.title.replace(chr(10), ' ')}" for c in CHAPTERS)
    to_come = [c.notebook[:2] for c in CHAPTERS if not (folder / f"{c.notebook}.ipynb").exists()]
    missing = f" Dashed, not written yet: {', '.join(to_come)}." if to_come else ""
    return f"Map of the course as boxes joined by arrows: {order}. You are at {here[:2]}.{missing}"
