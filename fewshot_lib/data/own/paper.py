"""Pictures with transparent parts lie on white paper, unless they cannot be seen on it.

A white letter on a transparent ground is nothing on white. Through a pixel of cover a (1: opaque) shows 1 - a
of the paper, so paper of another grey is put in by a difference, for all pictures of a set alike.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewshot_lib.data.own.folders import visible

PAPERS = {"white": 255, "black": 0, "grey": 128}
FAINT = 16  # of 255: what differs less from its paper is lost on it


def on_paper(
    pictures: Sequence[np.ndarray], covers: Sequence[np.ndarray | None], files: Sequence[Path]
) -> tuple[list[np.ndarray], list[str]]:
    """Pictures (channels, height, width) uint8 on white, put on the paper that most can be seen on.

    covers: (height, width) in 0..1, or None where a picture is opaque. Also returns what to tell the user.
    """
    clear = [row for row, cover in enumerate(covers) if cover is not None and np.ptp(cover) > 0.5]
    lost = {
        paper: [row for row in clear if np.ptp(_put(pictures[row], covers[row], paper).astype(int)) < FAINT]
        for paper in PAPERS
    }
    best = min(PAPERS, key=lambda paper: len(lost[paper]))
    notes = []
    if best != "white":
        found = f"pictures that cannot be seen on white paper: {len(lost['white']):,}"
        done = f"what is transparent is shown {best} in all pictures"
        notes.append(f"{found}, such as {visible(files[lost['white'][0]])}: {done}")
    pictures = [_put(picture, cover, best) for picture, cover in zip(pictures, covers, strict=True)]
    blank = [row for row, picture in enumerate(pictures) if picture[0].size > 1 and np.ptp(picture) == 0]
    if blank:
        found = f"pictures of a single grey or color, which hold nothing: {len(blank):,}"
        notes.append(f"{found}, such as {visible(files[blank[0]])}")
    return pictures, notes


def _put(picture: np.ndarray, cover: np.ndarray | None, paper: str) -> np.ndarray:
    if cover is None or paper == "white":
        return picture
    darker = (PAPERS["white"] - PAPERS[paper]) * (1 - cover)
    return np.rint(picture - darker).clip(0, 255).astype(np.uint8)
