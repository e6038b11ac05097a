"""Images in memory, in any type and order of axes, keep what they show."""

import numpy as np
import pytest
import torch

from fewshot_lib.data.own.array_images import images_from

GREY = np.random.default_rng(0).integers(0, 256, (4, 9, 8), dtype=np.uint8)
COLOR = np.random.default_rng(0).integers(0, 256, (4, 3, 9, 8), dtype=np.uint8)


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy, lambda a: a[::-1][::-1], np.asfortranarray])
def test_8_bits_stay_as_they_are(form):
    images, notes = images_from(form(GREY))
    assert images.dtype == torch.uint8 and np.array_equal(images[:, 0], GREY) and notes == []


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_behind_the_sides_are_recognised_where_only_that_can_be(channels):
    behind = np.random.default_rng(0).integers(0, 256, (4, 9, 8, channels), dtype=np.uint8)
    for form in (behind, torch.from_numpy(behind), behind.astype(np.int64), behind / 255):
        images, _ = images_from(form)
        assert images.shape == (4, channels, 9, 8) and images.is_contiguous()
    assert np.array_equal(images_from(behind)[0], behind.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 3, 9, 3), (2, 1, 28, 1), (2, 16, 9, 8), (2, 64, 4, 4), (2, 64, 1, 1)])
def test_channels_before_the_sides_stay_there(shape):
    assert images_from(np.zeros(shape, np.uint8))[0].shape == shape


@pytest.mark.parametrize("kind", ["u2", ">u2", "i2", "i4", "u4", "i8", "u8", ">i4"])
def test_whole_numbers_are_scaled_by_the_range_of_all_and_stay_if_they_fit(kind):
    wide = GREY.astype(kind) * 100 + 50
    images, notes = images_from(wide)
    low, high = 100 * int(GREY.min()) + 50, 100 * int(GREY.max()) + 50
    assert notes == [f"pixels run from {low} to {high} ({np.dtype(kind).name}): scaled to 0..255"]
    assert images.dtype == torch.uint8 and np.abs(images[:, 0].numpy().astype(int) - GREY).max() <= 1
    images, notes = images_from(GREY.astype(kind))
    assert np.array_equal(images[:, 0], GREY) and notes == []


def test_signed_tensors_and_truth_values_are_images_too():
    images, _ = images_from(torch.tensor([[[-3, 7]]]))
    assert images.tolist() == [[[[0, 255]]]]
    assert images_from(np.array([[[True, False]]]))[0].tolist() == [[[[255, 0]]]]
    assert images_from(torch.tensor([[[True, False]]]))[0].tolist() == [[[[255, 0]]]]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", "longdouble"])
def test_floating_point_in_0_to_1_stays_and_other_ranges_are_scaled_to_it(kind):
    unit = (COLOR / 255).astype(kind)
    images, notes = images_from(unit)
    assert images.is_floating_point() and np.array_equal(images, unit.astype("f8")) and notes == []
    for stretched in (unit * 255, unit * 2 - 1):
        images, notes = images_from(stretched)
        np.testing.assert_allclose(images.double(), COLOR / 255, atol=0.01)
        assert len(notes) == 1 and notes[0].endswith("scaled to 0..1")


def test_pixels_that_are_none_are_refused_by_their_row():
    broken = COLOR / 255
    broken[1, 0, 0, 0], broken[3, 2, 1, 1] = np.nan, np.inf
    for form in (broken, torch.from_numpy(broken)):
        with pytest.raises(ValueError, match="NaN or infinite pixels in 2 images: row 1, 3 "):
            images_from(form)
    with pytest.raises(ValueError, match="masked pixels in row 2"):
        images_from(np.ma.masked_array(GREY, np.arange(GREY.size).reshape(GREY.shape) // 72 == 2))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 5)), r"shape \(2, 5\): images are"),
        (np.zeros((2, 0, 5)), r"shape \(2, 0, 5\)"),
        (np.zeros((2, 5, 5), np.complex64), "dtype complex64"),
        (torch.zeros(2, 5, 5, dtype=torch.complex64), "dtype complex64"),
    ],
)
def test_what_are_no_images_is_refused(images, words):
    with pytest.raises(ValueError, match=words):
        images_from(images)


def test_an_array_that_must_not_be_written_is_copied(recwarn):
    frozen = GREY.copy()
    frozen.flags.writeable = False
    images_from(frozen)[0][0] = 0
    assert frozen.any() and len(recwarn) == 0
