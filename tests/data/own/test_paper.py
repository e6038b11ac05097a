"""Transparent pictures are laid on the paper on which they can be seen."""

from pathlib import Path

import numpy as np

from fewshot_lib.data.own.paper import on_paper

COVER = np.array([[0, 0, 1, 1], [0, 0.5, 1, 1]], np.float32)


def drawn(ink):
    """A picture of one ink on white, as it is read."""
    return np.rint(ink * COVER + 255 * (1 - COVER)).astype(np.uint8)[None]


def laid(*pictures, covers=None):
    covers = covers or [COVER] * len(pictures)
    return on_paper(pictures, covers, [Path(f"{row}.png") for row in range(len(pictures))])


def test_white_paper_is_the_rule():
    dark, opaque = drawn(20), np.arange(8, dtype=np.uint8).reshape(1, 2, 4)
    pictures, notes = laid(dark, opaque, covers=[COVER, None])
    assert np.array_equal(pictures[0], dark) and np.array_equal(pictures[1], opaque) and notes == []


def test_white_ink_lies_on_black_paper_in_all_pictures():
    pictures, notes = laid(drawn(255), drawn(250), drawn(100))
    assert pictures[0].tolist() == [[[0, 0, 255, 255], [0, 128, 255, 255]]]
    assert pictures[2][0, 0].tolist() == [0, 0, 100, 100]
    assert notes == ["pictures that cannot be seen on white paper: 2, such as 0.png: " + BLACK]


BLACK = "what is transparent is shown black in all pictures"


def test_white_and_black_ink_lie_on_grey_paper():
    pictures, notes = laid(drawn(255), drawn(0))
    assert [picture[0, 0].tolist() for picture in pictures] == [[128, 128, 255, 255], [128, 128, 0, 0]]
    assert "shown grey" in notes[0]


def test_a_picture_without_any_contrast_is_pointed_out():
    blank = np.full((1, 2, 4), 255, np.uint8)
    assert laid(blank, covers=[np.zeros((2, 4), np.float32)])[1] == [
        "pictures of a single grey or color, which hold nothing: 1, such as 0.png"
    ]
    assert laid(blank[:, :1, :1], covers=[None])[1] == [], "one pixel has no contrast"
