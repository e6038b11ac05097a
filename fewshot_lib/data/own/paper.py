"""Pictures with transparent parts lie on white paper, unless they cannot be seen on it.

A white letter on a transparent ground is nothing on white. Through a pixel of cover a (1: opaque) shows 1 - a
of the paper, so paper of another grey is put in by a difference, for all pictures of a set alike.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewshot_lib.data.own.folders import visible

PAPERS = {"white": 255, "black": 0, "grey": 128}
FAINT = 16  # of 255: what differs less from its paper is lost on it


class Sight(NamedTuple):
    """What becomes of a picture on each paper: on which it is lost, and on which it is of a single grey."""

    lost: frozenset[str]
    blank: frozenset[str]


def on_paper(
    pictures: Sequence[np.ndarray], covers: Sequence[np.ndarray | None], files: Sequence[Path]
) -> tuple[list[np.ndarray], list[str]]:
    """Pictures (channels, height, width) uint8 on white, put on the paper that most can be seen on.

    covers: (height, width) in 0..1, or None where a picture is opaque. Also returns what to tell the user.
    """
    pairs = [*zip(pictures, covers, strict=True)]
    paper, notes = best_paper([seen(*pair) for pair in pairs], files)
    return [put(*pair, paper) for pair in pairs], notes


def seen(picture: np.ndarray, cover: np.ndarray | None) -> Sight:
    """How one picture (channels, height, width), on white, looks on each paper."""
    of_white = int(np.ptp(picture))
    contrast = {
        paper: of_white if cover is None else int(np.ptp(put(picture, cover, paper))) for paper in PAPERS
    }
    is_clear = cover is not None and np.ptp(cover) > 0.5
    lost = frozenset(paper for paper in PAPERS if is_clear and contrast[paper] < FAINT)
    return Sight(lost, frozenset(p for p in PAPERS if picture[0].size > 1 and not contrast[p]))


def best_paper(sights: Sequence[Sight], files: Sequence[Path]) -> tuple[str, list[str]]:
    """The paper on which most pictures can be seen, white if there are several; what to tell the user."""
    lost = {paper: [row for row, sight in enumerate(sights) if paper in sight.lost] for paper in PAPERS}
    best = min(PAPERS, key=lambda paper: len(lost[paper]))
    notes = []
    if best != "white":
        found = f"pictures that cannot be seen on white paper: {len(lost['white']):,}"
        done = f"what is transparent is shown {best} in all pictures"
        notes.append(f"{found}, such as {visible(files[lost['white'][0]])}: {done}")
    blank = [row for row, sight in enumerate(sights) if best in sight.blank]
    if blank:
        found = f"pictures of a single grey or color, which hold nothing: {len(blank):,}"
        notes.append(f"{found}, such as {visible(files[blank[0]])}")
    return best, notes


def put(picture: np.ndarray, cover: np.ndarray | None, paper: str) -> np.ndarray:
    """A picture on white, (channels, height, width) uint8, on this paper."""
    if cover is None or paper == "white":
        return picture
    darker = (PAPERS["white"] - PAPERS[paper]) * (1 - cover)
    return np.rint(picture - darker).clip(0, 255).astype(np.uint8)
