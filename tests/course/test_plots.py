"""The pictures say what the numbers say: positions, intervals, classes and names, read back from the drawn figures."""

import io

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

from fewshot_lib.course import plots
from fewshot_lib.course.course_map import CHAPTERS, course_map, map_alt
from fewshot_lib.course.figures import png_bytes
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import EpisodeResults, compare_paired

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def results(*accuracies, method="m"):
    return EpisodeResults(torch.tensor([accuracies], dtype=torch.float64), method, False, 5, 1, 15, "same")


def test_interval_plot_puts_every_mean_on_its_row():
    rows = [results(0.2, 0.4, method="first"), results(0.8, 0.9, method="second")]
    ax = plots.interval_plot(rows, chance=0.2).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["first", "second"] and ax.get_yticks()[0] > ax.get_yticks()[1], "the first result stands on top"
    assert [text.get_text() for text in ax.texts] == ["30.0", "85.0", " chance"]


def test_difference_plot_marks_what_the_interval_decides():
    better = compare_paired(results(0.80, 0.82, 0.81), results(0.5, 0.5, 0.5))
    worse = compare_paired(results(0.2, 0.2, 0.2), results(0.5, 0.51, 0.5))
    open_ = compare_paired(results(0.2, 0.9, 0.5), results(0.5, 0.5, 0.5))
    ax = plots.difference_plot([[better, worse, open_]], ["a", "b", "c"], ["1-shot"], "nothing").axes[0]
    markers = [container.lines[0].get_marker() for container in ax.containers]
    assert markers == ["^", "v", "o"]


def test_bands_are_as_wide_as_the_intervals():
    points = [results(0.4, 0.6), results(0.7, 0.8)]
    _, ax = plt.subplots()
    plots.band_plot(ax, [1, 5], points, "name")
    corners = ax.collections[0].get_paths()[0].vertices
    low, high = points[1].interval
    at_5 = corners[corners[:, 0] == 5][:, 1]
    assert at_5.min() == pytest.approx(100 * low) and at_5.max() == pytest.approx(100 * high)


def test_decision_regions_take_the_colour_of_the_predicted_class():
    _, ax = plt.subplots()
    left_is_0 = lambda xy: torch.stack([-xy[:, 0], xy[:, 0]], -1) * 100  # noqa: E731
    plots.decision_regions(ax, left_is_0, (-1, 1, -1, 1), size=10)
    image = ax.images[0].get_array().tolist()
    for column, number in ((0, 0), (9, 1)):
        r, g, b = matplotlib.colors.to_rgb(plots.COLOURS[number])
        assert image[5][column] == pytest.approx([0.45 + 0.55 * v for v in (r, g, b)], abs=0.01)


def test_every_class_has_its_own_colour_and_marker():
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) == len(set(plots.MARKERS))


def test_episode_picture_shows_each_way_with_its_support_and_queries():
    labels = torch.arange(6).repeat_interleave(8)
    images = torch.arange(48, dtype=torch.uint8).view(48, 1, 1, 1).expand(48, 1, 4, 4) * 5
    dataset = ClassDataset(images, labels, [f"class {c}" for c in range(6)], {"test": torch.arange(6)})
    episodes = EpisodeSampler(labels, torch.arange(6), 3, 2, 4, seed=0).sample(2)
    fig = plots.episode_picture(dataset, episodes, number=1, most_queries=3)
    axes = torch.arange(15).view(3, 5)
    for way in range(3):
        shown = [int(fig.axes[i].images[0].get_array()[0, 0]) // 5 for i in axes[way].tolist()]
        assert shown[:2] == episodes.support[1, way].tolist()
        assert {int(labels[row]) for row in shown} == {int(episodes.classes[1, way])}
        assert [fig.axes[i].texts[0].get_text() for i in axes[way].tolist()] == ["S", "S", "Q", "Q", "Q"]


def test_the_map_names_every_chapter_and_marks_what_is_missing(tmp_path):
    here = CHAPTERS[1].notebook
    (tmp_path / f"{here}.ipynb").touch()
    boxes = course_map(here, tmp_path).axes[0].patches
    solid = [box for box in boxes if box.get_linestyle() in ("-", "solid")]
    assert len(boxes) == len(CHAPTERS) and len(solid) == 1
    alt = map_alt(here, tmp_path)
    assert "You are at 01" in alt and "Dashed, not written yet: 00, 02" in alt


def test_head_maps_count_where_the_heads_differ():
    points = torch.tensor([[[-2.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [2.0, 0.0]]])
    by_x = lambda xy: torch.stack([-xy[:, 0], xy[:, 0]], -1)  # noqa: E731
    always_1 = lambda xy: torch.tensor([0.0, 1.0]).expand(len(xy), 2)  # noqa: E731
    titles = [ax.get_title() for ax in plots.head_maps(points, {"a": by_x, "b": always_1}).axes]
    assert titles == ["a: 100% right", "b: 50% right", "not all agree: 50% of the plane"]


def test_the_colours_of_the_classes_survive_in_the_stored_picture():
    """The stored PNG has a palette; a class must keep its colour on a background of much paler ones."""
    _, ax = plt.subplots(figsize=(5, 4))
    angles = torch.arange(5) * 2 * torch.pi / 5
    centres = torch.stack([angles.cos(), angles.sin()], -1)
    plots.decision_regions(ax, lambda xy: 3 * xy @ centres.T, (-2, 2, -2, 2))
    plots.scatter_classes(ax, centres, torch.arange(5), size=60)
    image = Image.open(io.BytesIO(png_bytes(ax.figure))).convert("RGB")
    stored = {colour: count for count, colour in image.getcolors(10**6)}
    for colour in plots.COLOURS[:5]:
        assert stored.get(tuple(round(255 * v) for v in matplotlib.colors.to_rgb(colour)), 0) > 20, colour
