"""What some readers cannot see in a figure is found: pale text, pale lines, what only colour tells."""

from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fewshot_lib.course import explore, show
from fewshot_lib.course.accessibility import GRAPHICS, contrast, faults
from fewshot_lib.course.plots import COLOURS, MARKERS

matplotlib.use("Agg")
# How colour-blind people see linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
EYES = {
    "all cones": np.eye(3),
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.fixture
def ax():
    return plt.subplots()[1]


def lab(colour, eye):
    """The colour in CIE L*a*b*, where distances are about those that people see."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.asarray(EYES[eye]) @ linear, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_contrast_is_that_of_wcag():
    assert contrast("black") == pytest.approx(21) and contrast("white") == pytest.approx(1)
    assert contrast("#767676") == pytest.approx(4.54, abs=0.01)  # the palest grey for text, as often quoted
    assert contrast((0, 0, 0, 0.0)) == pytest.approx(1), "what is transparent is paper"
    assert contrast("white", "black") == contrast("black", "white")


@pytest.mark.parametrize("eye", EYES)
def test_the_colours_of_the_course_are_told_apart_and_seen_on_paper(eye):
    assert all(contrast(colour) >= GRAPHICS for colour in COLOURS)
    distances = {
        pair: np.linalg.norm(lab(pair[0], eye) - lab(pair[1], eye)) for pair in combinations(COLOURS, 2)
    }
    assert min(distances.values()) > 15, min(distances, key=distances.get)
    assert len(set(MARKERS)) == len(MARKERS) == len(COLOURS)


def test_lines_that_only_colour_tells_apart(ax):
    ax.plot([0, 1], color=COLOURS[0], label="a")
    ax.plot([1, 0], color=COLOURS[1], label="b")
    ax.plot([1, 1], color=COLOURS[2], linestyle="--", label="c")
    assert not list(faults(ax.figure)), "no legend: they are named elsewhere"
    ax.legend()
    (fault,) = faults(ax.figure)
    assert fault.startswith("'a' and 'b' differ by colour alone")


@pytest.mark.parametrize("second", [False, True])
def test_bars_points_and_error_bars(ax, second):
    for i, hatch in enumerate(["", "//" if second else ""]):
        ax.bar([i], [1], hatch=hatch, color=COLOURS[i], label=f"bar {i}")
    for i, marker in enumerate(["o", "s" if second else "o"]):
        ax.scatter([i], [1], marker=marker, color=COLOURS[i], label=f"point {i}")
        ax.errorbar([i], [2], yerr=[1], fmt=marker, color=COLOURS[i], label=f"mean {i}")
    ax.legend()
    assert len(list(faults(ax.figure))) == (0 if second else 3)


def test_pale_lines_and_pale_text(ax):
    ax.axhline(0, color="lightgrey")
    ax.plot([0], [0], marker="o", color="white", markeredgecolor="black")
    ax.text(0, 0.5, "pale", color="#999999")
    ax.text(0, 0.6, "dark", color="#666666")
    assert [fault.split(" has")[0] for fault in faults(ax.figure)] == ["a line in #d3d3d3", "the text 'pale'"]


def test_text_is_compared_with_what_is_behind_it(ax):
    ax.add_patch(plt.Rectangle((0, 0), 0.5, 1, color=COLOURS[0]))
    ax.text(0.2, 0.5, "in", color="white")
    ax.text(0.8, 0.5, "out", color="white")
    ax.text(0.8, 0.8, "box", color="white", bbox={"facecolor": "black"})
    (fault,) = faults(ax.figure)
    assert fault.startswith("the text 'out'")


def test_a_strict_run_refuses_such_a_figure(monkeypatch):
    def draw(k):
        fig, ax = plt.subplots()
        ax.plot([0, k], color="yellow" if k == 2 else "black")
        return fig

    show(draw(2), alt="a line")
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    show(draw(1), alt="a line")
    with pytest.raises(ValueError, match="a line in #ffff00 has a contrast of 1.1"):
        show(draw(2), alt="a line")
    with pytest.raises(ValueError, match="contrast"):
        explore(draw, alt="a line", k=(1, [1, 2]))


def test_a_white_line_is_seen_on_filled_contours_and_not_on_paper(ax):
    ax.plot([0, 1], [0, 1], color="white")
    assert list(faults(ax.figure))
    ax.contourf([[0, 1], [1, 2]])
    assert not list(faults(ax.figure))
