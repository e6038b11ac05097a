"""Figures for every eye: contrast as WCAG 2.2 measures it, and nothing said by colour alone.

``show`` and ``explore`` look through each figure in a strict run, as the tests are.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex, to_rgba
from matplotlib.container import Container
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

TEXT, GRAPHICS = 4.5, 3.0  # the least contrast: success criteria 1.4.3 and 1.4.11
PAPER = "white"


def contrast(colour: Any, ground: Any = PAPER) -> float:
    """From 1 (the same) to 21 (black on white)."""
    lights = sorted(_luminance(each) for each in (colour, ground))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: Any) -> float:
    *rgb, alpha = to_rgba(colour)
    on_paper = (alpha * each + 1 - alpha for each in rgb)
    linear = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in on_paper)
    return sum(share * each for share, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def faults(fig: Figure) -> Iterator[str]:
    """What in a figure some readers cannot see, a sentence each."""
    fig.canvas.draw()  # puts every text in its place
    for ax in fig.axes:
        yield from _pale_lines(ax)
        yield from _told_by_colour(ax)
        for text in ax.texts:
            yield from _pale_text(ax, text)


def _pale_lines(ax: Axes) -> Iterator[str]:
    """Lines on paper; not those on an image or on filled contours."""
    if ax.images or any(isinstance(each, QuadMesh | ContourSet) for each in ax.collections):
        return
    for line in ax.lines:
        is_line = line.get_linestyle() != "None" and np.size(line.get_xdata()) > 1
        drawn = [line.get_color()] if is_line else []
        if line.get_marker() not in ("None", "", " ", None):
            drawn.append(max(line.get_markerfacecolor(), line.get_markeredgecolor(), key=contrast))
        for colour in drawn:
            if line.get_visible() and contrast(colour) < GRAPHICS:
                found = f"a line in {to_hex(colour)} has a contrast of {contrast(colour):.1f} to the paper"
                yield f"{found}: {GRAPHICS:g} is the least."


def _pale_text(ax: Axes, text: Text) -> Iterator[str]:
    """Text on paper, on its own box, or on the last patch that was drawn there; not on an image."""
    centre = text.get_window_extent().get_points().mean(0)
    under = [each for each in ax.patches if each.get_fill() and each.get_window_extent().contains(*centre)]
    box = text.get_bbox_patch()
    grounds = [each.get_facecolor() for each in [*under, *([box] if box else [])]]
    ground = grounds[-1] if grounds else PAPER
    if text.get_text().strip() and not ax.images and contrast(text.get_color(), ground) < TEXT:
        found = f"the text {text.get_text()!r} has a contrast of {contrast(text.get_color(), ground):.1f}"
        yield f"{found} to what is behind it: {TEXT:g} is the least."


def _told_by_colour(ax: Axes) -> Iterator[str]:
    """Entries of a legend that look the same to a reader who sees no colours."""
    handles, labels = ax.get_legend_handles_labels() if ax.get_legend() else ([], [])
    looks = [(_form(handle), label) for handle, label in zip(handles, labels, strict=True)]
    for (one, a), (other, b) in combinations(looks, 2):
        if one is not None and one == other:
            yield f"{a!r} and {b!r} differ by colour alone: give one another marker, line style or hatch."


def _form(handle: Any) -> tuple | None:
    """What a handle of a legend looks like without its colour; None for what is not compared."""
    if isinstance(handle, Container):  # error bars, bars
        handle = next((each for each in handle.get_children() if isinstance(each, Line2D | Patch)), None)
    if isinstance(handle, Line2D):
        return "line", str(handle.get_marker()), str(handle.get_linestyle()), handle.get_linewidth()
    if isinstance(handle, Patch):
        return "patch", handle.get_hatch(), str(handle.get_linestyle()), handle.get_fill()
    if isinstance(handle, PathCollection) and handle.get_paths():
        return "points", str(handle.get_paths()[0].vertices), tuple(handle.get_sizes()[:1])
    return None
