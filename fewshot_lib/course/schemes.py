"""Boxes and arrows: what the chapters draw schemes with."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

Point = tuple[float, float]


def canvas(figsize: Point, xlim: Point | None = None, ylim: Point | None = None) -> tuple[Figure, Axes]:
    """An empty figure without axes. Without limits, a unit is an inch."""
    fig, ax = plt.subplots(figsize=figsize, layout="constrained")
    ax.set(xlim=xlim or (0, figsize[0]), ylim=ylim or (0, figsize[1]))
    ax.axis("off")
    return fig, ax


def box(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    colour: str = "white",
    width: float | None = None,
    height: float = 0.5,
    fontsize: float = 11,
) -> None:
    """A box with its middle at (x, y); without a width it is as large as its text."""
    style: dict[str, Any] = {"facecolor": colour, "edgecolor": "black"}
    around = None if width else style | {"boxstyle": "round,pad=0.45", "linewidth": 1.2}
    if width:
        corner = (x - width / 2, y - height / 2)
        ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.03", **style))
    ax.text(x, y, text, ha="center", va="center", fontsize=fontsize, bbox=around)


def arrow(ax: Axes, start: Point, end: Point, **style: Any) -> None:
    """style: of matplotlib's ``arrowprops``."""
    line: dict[str, Any] = {"arrowstyle": "-|>", "linewidth": 1.5, "color": "black", "mutation_scale": 14}
    ax.annotate("", end, start, arrowprops=line | {"shrinkA": 0, "shrinkB": 0} | style)
