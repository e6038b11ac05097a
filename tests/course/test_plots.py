"""The pictures say what the numbers say: places, intervals, classes and names, read back from figures."""

import io

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from torch import nn

from fewshot_lib.core import EpisodeResults, EpisodeSampler, compare_paired
from fewshot_lib.course import plots
from fewshot_lib.course.figures import png_bytes
from fewshot_lib.data.dataset import ClassDataset

matplotlib.use("Agg")

LABELS = torch.arange(6).repeat_interleave(8)
NAMES = [f"class {c}" for c in range(6)]


@pytest.fixture
def ax():
    return plt.subplots()[1]


def results(*accuracies, method="m"):
    return EpisodeResults(torch.tensor([accuracies], dtype=torch.float64), method, False, 5, 1, 15, "same")


def width(container):
    """Of the horizontal interval of each point."""
    return [segment[1, 0] - segment[0, 0] for segment in container.lines[2][0].get_segments()]


def names_on_y(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_interval_plot_draws_means_intervals_and_chance_the_first_result_on_top():
    rows = [results(0.2, 0.4, method="first"), results(0.8, 0.9, method="second")]
    ax = plots.interval_plot(rows, chance=0.2).axes[0]
    (container,) = ax.containers
    assert container.lines[0].get_xdata().tolist() == pytest.approx([30, 85])
    assert container.lines[0].get_ydata().tolist() == [1, 0] == ax.get_yticks().tolist()
    ends = [(100 * r.interval[0], 100 * r.interval[1]) for r in rows]
    assert width(container) == pytest.approx([high - low for low, high in ends])
    assert any(list(line.get_xdata()) == [20, 20] for line in ax.lines) and ax.get_xlim() == (0, 103)
    assert [text.get_text() for text in ax.texts] == ["30.0", "85.0", " chance"]
    assert names_on_y(ax) == ["first", "second"]
    assert names_on_y(plots.interval_plot(rows, labels=["x", "y"]).axes[0]) == ["x", "y"]


def test_difference_plot_draws_intervals_and_marks_what_they_decide():
    half = results(0.5, 0.51, 0.5)
    accuracies = (0.8, 0.82, 0.81), (0.2, 0.2, 0.2), (0.2, 0.9, 0.5)  # better, worse, and not to be told
    columns = [[compare_paired(results(*values), half) for values in accuracies]]
    columns.append(columns[0][::-1])
    fig = plots.difference_plot(columns, ["a", "b", "c"], ["1-shot", "5-shot"], "nothing")
    assert [ax.get_title() for ax in fig.axes] == ["1-shot", "5-shot"]
    for ax, column in zip(fig.axes, columns, strict=True):
        for container, difference, row in zip(ax.containers, column, (2, 1, 0), strict=True):
            place = container.lines[0].get_xydata()[0].tolist()
            assert place == pytest.approx([100 * difference.mean, row])
            assert width(container) == pytest.approx([200 * difference.ci95])
    assert [container.lines[0].get_marker() for container in fig.axes[0].containers] == ["^", "v", "o"]
    assert names_on_y(fig.axes[0]) == ["a", "b", "c"] and fig.axes[0].get_yticks().tolist() == [2, 1, 0]


def test_a_panel_of_differences_has_a_line_of_its_own_and_may_lack_a_row():
    found = compare_paired(results(0.8, 0.82, 0.81), results(0.5, 0.51, 0.5))
    fig = plots.difference_plot([[None, found], [found, found]], ["a", "b"], ["1", "2"], ["this", "that"])
    assert [len(ax.containers) for ax in fig.axes] == [1, 2]
    assert ["this" in fig.axes[0].get_xlabel(), "that" in fig.axes[1].get_xlabel()] == [True, True]


def test_band_plot_draws_means_in_the_numbers_style_and_bands(ax):
    points = [results(0.4, 0.6), results(0.7, 0.8)]
    plots.band_plot(ax, [1, 5], points, "name", number=2)
    (line,) = ax.lines
    assert line.get_ydata().tolist() == pytest.approx([50, 75]) and line.get_label() == "name"
    assert (line.get_color(), line.get_marker()) == (plots.COLOURS[2], plots.MARKERS[2])
    corners = ax.collections[0].get_paths()[0].vertices
    at_5 = corners[corners[:, 0] == 5][:, 1]
    assert [at_5.min(), at_5.max()] == pytest.approx([100 * end for end in points[1].interval])


@pytest.mark.parametrize(
    ("image", "limits"),
    [(torch.tensor([[[100, 120]]], dtype=torch.uint8), (0, 255)), (torch.rand(1, 4, 4), (0, 1))],
)
def test_ink_is_dark_and_the_scale_does_not_depend_on_the_picture(ax, image, limits):
    plots.picture(ax, image, letter="S")
    assert ax.images[0].get_cmap().name == "gray_r" and ax.images[0].get_clim() == limits
    assert ax.texts[0].get_text() == "S"


def test_episode_picture_shows_and_names_each_way_supports_framed_in_colour():
    images = torch.arange(48, dtype=torch.uint8).view(48, 1, 1, 1).expand(48, 1, 4, 4) * 5
    dataset = ClassDataset(images, LABELS, NAMES, {"test": torch.arange(6)})
    episodes = EpisodeSampler(LABELS, torch.arange(6), 3, 2, 4, seed=0).sample(2)
    fig = plots.episode_picture(dataset, episodes, number=1, most_queries=3)
    for way in range(3):
        axes = fig.axes[5 * way : 5 * way + 5]
        shown = [int(ax.images[0].get_array()[0, 0]) // 5 for ax in axes]
        assert shown[:2] == episodes.support[1, way].tolist()
        assert {int(LABELS[row]) for row in shown} == {int(episodes.classes[1, way])}
        assert axes[0].get_ylabel() == f"way {way}\nclass {episodes.classes[1, way]}"
        assert [ax.texts[0].get_text() for ax in axes] == ["S", "S", "Q", "Q", "Q"]
        frames = [to_hex(ax.spines["left"].get_edgecolor()).upper() for ax in axes]
        assert frames == [plots.COLOURS[way]] * 2 + ["#000000"] * 3
    assert len(plots.episode_picture(dataset, episodes, most_queries=9).axes) == 3 * (2 + 4)


def test_pictures_may_be_float_and_coloured_and_padding_is_not_shown():
    dataset = ClassDataset(torch.rand(48, 3, 8, 8), LABELS, NAMES, {})
    episodes = EpisodeSampler(LABELS, torch.arange(6), 3, (1, 3), 3).sample(20)
    number = int((~episodes.support_mask).flatten(1).any(1).nonzero()[0])
    shown = [ax for ax in plots.episode_picture(dataset, episodes, number).axes if ax.images]
    expected = episodes.support_mask[number].sum() + episodes.query_mask[number].sum()
    assert len(shown) == int(expected) and shown[0].images[0].get_array().shape == (8, 8, 3)


def test_decision_regions_take_the_colour_of_the_predicted_class_where_the_limits_say(ax):
    above_7 = lambda xy: torch.stack([7 - xy[:, 1], xy[:, 1] - 7], -1) * 100  # noqa: E731
    plots.decision_regions(ax, above_7, (0, 1, 5, 9), 10)
    image = ax.images[0]
    assert list(image.get_extent()) == [0, 1, 5, 9] and image.origin == "lower"
    for row, number in ((0, 0), (9, 1)):
        paler = [0.45 + 0.55 * value for value in to_rgb(plots.COLOURS[number])]
        assert image.get_array()[row, 3].tolist() == pytest.approx(paler, abs=0.01)
    (path,) = (path for path in ax.collections[0].get_paths() if len(path.vertices))
    assert path.vertices[:, 1].mean() == pytest.approx(7, abs=0.3)
    assert path.vertices[:, 0].max() == pytest.approx(1)


def test_regions_are_pale_where_the_classifier_is_unsure_and_it_may_be_a_module(ax):
    unsure = nn.Linear(2, 2, bias=False)
    unsure.weight.data = torch.tensor([[0.001, 0.0], [0.0, 0.0]])
    plots.decision_regions(ax, unsure, (0, 1, 0, 1), size=4)
    assert ax.images[0].get_array()[0, 0, 0] == pytest.approx(0.85, abs=0.01)


def test_scattered_points_have_the_colour_marker_and_place_of_their_class(ax):
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    plots.scatter_classes(ax, points, torch.tensor([1, 0, 1]))
    zero, one = ax.collections
    assert zero.get_offsets().tolist() == [[3, 4]] and one.get_offsets().tolist() == [[1, 2], [5, 6]]
    assert [to_hex(group.get_facecolor()[0]).upper() for group in (zero, one)] == plots.COLOURS[:2]
    assert zero.get_paths()[0].vertices.shape != one.get_paths()[0].vertices.shape
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) == len(set(plots.MARKERS))


def test_head_maps_count_where_the_heads_differ():
    points = torch.tensor([[[-2.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [2.0, 0.0]]])
    heads = {"a": lambda xy: torch.stack([-xy[:, 0], xy[:, 0]], -1)}
    heads["b"] = lambda xy: torch.tensor([0.0, 1.0]).expand(len(xy), 2)
    titles = [ax.get_title() for ax in plots.head_maps(points, heads).axes]
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
        assert stored.get(tuple(round(255 * v) for v in to_rgb(colour)), 0) > 20, colour


def test_an_episode_of_texts_has_a_line_per_way_with_its_first_support():
    texts = [f"text {i}" for i in range(48)]
    dataset = ClassDataset(texts, LABELS, NAMES, {"test": torch.arange(6)})
    episodes = EpisodeSampler(LABELS, torch.arange(6), 3, 2, 4, seed=0).sample(2)
    (ax,) = plots.episode_picture(dataset, episodes, number=1).axes
    for way, line in enumerate(ax.texts):
        name, row = NAMES[episodes.classes[1, way]], episodes.support[1, way, 0]
        assert line.get_text() == f"way {way} · {name}: text {row}"
