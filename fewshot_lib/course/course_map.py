"""The map of the course: which chapter stands on which, and where the reader is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch


@dataclass(frozen=True)
class Chapter:
    """A chapter: its notebook, its title in two short lines, its module, and its place (column, row) on the map."""

    notebook: str
    title: str
    module: str
    place: tuple[int, int]


CHAPTERS = [
    Chapter("00_start_here", "Start here", "course", (0, 1)),
    Chapter("01_supervised_vs_few_shot", "Supervised\nvs few-shot", "episodes, evaluation", (1, 1)),
    Chapter("02_prototype_classifiers", "Prototype\nclassifiers", "prototypes", (2, 1)),
    Chapter("03_cosine_fine_tuning", "Cosine\nfine-tuning", "finetune", (3, 2)),
    Chapter("04_maml_and_reptile", "MAML\nand Reptile", "maml", (3, 1)),
    Chapter("05_soft_prompts", "Soft prompts", "prompts", (3, 0)),
    Chapter("06_metaprompting", "MetaPrompting", "prompts + maml", (4, 0)),
    Chapter("07_episode_graphs", "Episode\ngraphs", "graphs, relational", (4, 2)),
    Chapter("08_gat_transformer_multitask", "GAT-Transformer,\nmany tasks", "multitask", (5, 2)),
    Chapter("09_capstone", "Your own\ndata", "all of it", (5, 1)),
]
ARROWS = [(0, 1), (1, 2), (2, 3), (2, 4), (2, 5), (4, 6), (5, 6), (2, 7), (7, 8), (6, 9), (8, 9), (3, 7)]


def course_map(here: str, folder: Path = Path()) -> Figure:
    """Draws all chapters; ``here`` (a notebook's name) is filled, and those without a notebook in ``folder`` are dashed."""
    fig, ax = plt.subplots(figsize=(10, 2.9), layout="constrained")
    for a, b in ARROWS:
        (x0, y0), (x1, y1) = CHAPTERS[a].place, CHAPTERS[b].place
        start, end = ((x0 + 0.40, y0), (x1 - 0.40, y1)) if x1 > x0 else ((x0, y0 + 0.3 * (y1 - y0)), (x1, y1 - 0.3 * (y1 - y0)))
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "grey"})
    for chapter in CHAPTERS:
        x, y = chapter.place
        there, current = (folder / f"{chapter.notebook}.ipynb").exists(), chapter.notebook == here
        face, line = ("#0072B2" if current else "white"), ("-" if there else "--")
        ax.add_patch(FancyBboxPatch((x - 0.38, y - 0.28), 0.76, 0.56, boxstyle="round,pad=0.02", facecolor=face, linestyle=line))
        colour = "white" if current else ("black" if there else "dimgrey")
        ax.text(x, y + 0.07, f"{chapter.notebook[:2]}  {chapter.title}", ha="center", va="center", fontsize=8.5, color=colour)
        ax.text(x, y - 0.2, chapter.module, ha="center", va="center", fontsize=7, color=colour, family="monospace")
    ax.set(xlim=(-0.5, 5.5), ylim=(-0.45, 2.45))
    ax.axis("off")
    return fig


def map_alt(here: str, folder: Path = Path()) -> str:
    """The map in words, for those who cannot see it."""
    order = ", ".join(f"{c.notebook[:2]} {c.title.replace(chr(10), ' ')}" for c in CHAPTERS)
    to_come = [c.notebook[:2] for c in CHAPTERS if not (folder / f"{c.notebook}.ipynb").exists()]
    missing = f" Dashed, not written yet: {', '.join(to_come)}." if to_come else ""
    return f"Map of the course as boxes joined by arrows: {order}. You are at {here[:2]}.{missing}"
