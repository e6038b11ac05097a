"""Pixels of more than 8 bits become 0..255 by the range of the whole set, so that pictures stay comparable.

A range per picture would make a dark class as bright as a light one. The range of the type (0..65535) would
turn the 12 bits of a camera into black. So the lowest pixel of all becomes 0, the highest 255:

    (x - low) / (high - low) * 255

Whole numbers that fit into 8 bits stay as they are: nothing of them would be lost.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fewshot_lib.data.own.folders import visible
from fewshot_lib.data.own.picture_files import Picture

FAINT = 1 / 16  # of the range of all: a picture that spans less has 16 levels at most


def set_range(low: float, high: float, whole: bool) -> tuple[float, float]:
    """The pixels that become 0 and 255, from the lowest and highest of a set; whole: without fractions."""
    return (0, 255) if whole and low >= 0 and high <= 255 else (low, high)


def to_8_bits(pictures: Sequence[Picture], files: Sequence[Path]) -> tuple[list[np.ndarray], list[str]]:
    """Pictures (1 or 3, height, width) uint8, and what was done to them in sentences. One range per depth."""
    ranges, notes = ranges_of(pictures, files)
    return [in_8_bits(picture, ranges) for picture in pictures], notes


def ranges_of(
    pictures: Sequence[Picture], files: Sequence[Path]
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Depth -> the pixels that become 0 and 255 in all of a set; and what to tell the user.

    Of a picture its depth, lowest and highest pixel count.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, picture in enumerate(pictures):
        rows_of[picture.depth].append(row)
    shallow = rows_of.pop("8-bit", [])
    ranges, notes = {}, []
    for depth, rows in rows_of.items():
        lowest = min(pictures[row].low for row in rows)
        highest = max(pictures[row].high for row in rows)
        low, high = ranges[depth] = set_range(lowest, highest, depth != "floating-point")
        if (low, high) == (0, 255):
            continue  # nothing is lost
        found = f"pixels run from {lowest:.10g} to {highest:.10g} in {len(rows):,} {depth} files"
        notes.append(f"{found}: scaled to 0..255, by this one range for all of them")
        faint = [row for row in rows if 0 < pictures[row].high - pictures[row].low < FAINT * (high - low)]
        if faint:
            fix = "if a few pixels are far off, clip them and save as 8 bits"
            found = f"pictures that span less than a sixteenth of this range: {len(faint):,}"
            notes.append(f"{found}, such as {visible(files[faint[0]])}: {fix}")
    if len(depths := [*rows_of, *(["8-bit"] if shallow else [])]) > 1:
        fix = "save all in one depth if brightness matters"
        notes.append(f"{' and '.join(depths)} files in one set, each depth with a range of its own: {fix}")
    return ranges, notes


def in_8_bits(picture: Picture, ranges: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """One picture (1 or 3, height, width) as uint8, by the ranges of its set."""
    return picture.pixels if picture.depth == "8-bit" else _scaled(picture, *ranges[picture.depth])


def _scaled(picture: Picture, low: float, high: float) -> np.ndarray:
    """One picture (channels, height, width) as uint8 by the range of the set; what is clear shows white."""
    cover = 1.0 if picture.cover is None else picture.cover
    above = picture.pixels.astype(np.float64) * (picture.high - picture.low) + cover * (picture.low - low)
    shown = 255 * (above / ((high - low) or 1) + (1 - cover))
    return np.rint(shown).clip(0, 255).astype(np.uint8)
