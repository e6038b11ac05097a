"""What chapter 04 draws: inverted letters, and figures whose panels can be compared."""

import pytest
import torch

from fewshot_lib.core import EpisodeResults
from fewshot_lib.course.chapters import chapter_04


@pytest.mark.parametrize("shape", [(5, 1, 12, 12), (5, 3, 20, 36), (50, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_is_inverted_twice_is_as_it_was(shape, dtype):
    draw = torch.Generator().manual_seed(0)
    inputs = (torch.rand(shape, generator=draw) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    inverted = chapter_04.inverted(inputs)
    assert inverted.dtype == dtype and not torch.equal(inverted, inputs)
    assert torch.equal(chapter_04.inverted(inverted), inputs)


@pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.float32, 1)])
def test_an_inverted_picture_is_black_where_it_was_white(dtype, white):
    picture = torch.tensor([0, white], dtype=dtype).view(1, 1, 1, 2)
    assert chapter_04.inverted(picture).flatten().tolist() == [white, 0]


def test_the_true_wave_is_found_from_its_support():
    at, x = torch.linspace(-4, 4, 10), torch.linspace(-5, 5, 50)
    wave = 1.7 * (at + 0.6).sin()
    fig = chapter_04.sine_fits({"a": torch.zeros(2, 50), "b": torch.ones(2, 50)}, x, (at, wave), [0, 1])
    for ax in fig.axes:
        truth = torch.as_tensor(ax.lines[0].get_ydata())
        torch.testing.assert_close(truth, 1.7 * (x + 0.6).sin(), atol=1e-4, rtol=0)
    assert len({ax.get_ylim() for ax in fig.axes}) == 1


def test_the_gains_of_all_ways_of_drawing_stand_on_one_scale():
    def result(mean):
        accuracies = mean + torch.tensor([[-0.05, 0.05], [0.02, -0.02]])
        return EpisodeResults(accuracies, "m", False, 5, 1, 15, "these")

    gains = {way: {"MAML": [result(m), result(2 * m)]} for way, m in (("plain", 0.1), ("inverted", 0.4))}
    fig = chapter_04.gains_figure(gains, [1, 5], "zero")
    assert len({ax.get_ylim() for ax in fig.axes}) == 1
    assert fig.axes[0].get_legend_handles_labels()[1] == ["MAML"]


def test_joint_training_and_a_start_without_steps_can_be_drawn():
    curvature, minimum = torch.tensor([[1.0, 8.0], [6.0, 1.0]]), torch.tensor([[-2.5, 1.5], [1.0, 2.0]])
    for m, alpha in ((0, 0.1), (20, 0.3)):  # with α above 2/8 a path leaves the picture
        fig = chapter_04.landscape(curvature, minimum, minimum.mean(0), m, alpha)
        shown = torch.as_tensor(fig.axes[1].lines[0].get_ydata())
        assert shown.isfinite().all() and len(shown) == m + 1
