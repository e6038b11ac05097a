"""One range for a whole set: the order and the distances of all its pixels stay."""

from pathlib import Path

import numpy as np
import pytest

from fewshot_lib.data.own.depths import set_range, to_8_bits
from fewshot_lib.data.own.picture_files import Picture


def deep(array, depth="16-bit"):
    array = np.asarray(array, np.float64)
    low, high = array.min(), array.max()
    return Picture((array[None] - low) / ((high - low) or 1), depth, low, high)


def scaled(*pictures):
    pixels, notes = to_8_bits(pictures, [Path(f"{row}.png") for row in range(len(pictures))])
    assert all(picture.dtype == np.uint8 for picture in pixels)
    return [picture[0].tolist() for picture in pixels], notes


def test_the_lowest_pixel_of_the_set_is_0_and_the_highest_255():
    shown, notes = scaled(deep([[0, 1000]]), deep([[2000, 4095]]))
    assert shown == [[[0, 62]], [[125, 255]]] and len(notes) == 1
    assert scaled(deep([[-7, 93]]), deep([[43, 43]]))[0] == [[[0, 255]], [[128, 128]]]
    assert scaled(deep([[-3e38, 3e38]], "floating-point"))[0] == [[[0, 255]]]


def test_whole_numbers_that_fit_into_8_bits_stay():
    assert scaled(deep([[0, 7]]), deep([[200, 9]])) == ([[[0, 7]], [[200, 9]]], [])
    assert set_range(0, 255, whole=True) == (0, 255)
    assert set_range(0, 256, whole=True) == (0, 256) and set_range(-1, 9, whole=True) == (-1, 9)
    assert set_range(0.25, 0.5, whole=False) == (0.25, 0.5)


def test_a_set_of_one_value_is_no_division_by_zero():
    assert scaled(deep([[5000, 5000]]))[0] == [[[0, 0]]]


def test_8_bits_are_left_alone_and_a_mixture_is_pointed_out():
    shallow = Picture(np.array([[[3, 250]]], np.uint8))
    shown, notes = scaled(shallow, deep([[0, 4095]]), deep([[0.5, 0.75]], "floating-point"))
    assert shown == [[[3, 250]], [[0, 255]], [[0, 255]]]
    assert notes[-1].startswith("16-bit and floating-point and 8-bit files in one set")


def test_a_pixel_far_off_is_pointed_out():
    notes = scaled(deep([[0, 60_000]]), deep([[0, 1000]]), deep([[5, 5]]))[1]
    assert "less than a sixteenth of this range: 1, such as 1.png: if a few pixels are far off" in notes[1]


@pytest.mark.parametrize(("cover", "shown"), [(1.0, 0), (0.0, 255), (0.5, 128)])
def test_what_is_transparent_lies_on_white(cover, shown):
    whole = deep([[1000, 2000]])
    covered = Picture(0 * np.ones((1, 1, 2)), "16-bit", 1000, 1000, np.full((1, 2), cover, np.float32))
    assert scaled(whole, covered)[0][1] == [[shown, shown]]
