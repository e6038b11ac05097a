"""Your own pictures: a folder with one sub-folder per class, as a ``ClassDataset``.

Which layouts are understood says ``folders``, which files ``picture_files``, what happens to more than 8 bits
``depths``. To look at a folder before using it: ``fewshot data inspect PATH``.
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset, large_classes
from fewshot_lib.data.own.class_splits import Split, split_classes
from fewshot_lib.data.own.depths import in_8_bits, ranges_of, to_8_bits
from fewshot_lib.data.own.folders import Found, find_pictures, visible
from fewshot_lib.data.own.paper import Sight, best_paper, on_paper, put, seen
from fewshot_lib.data.own.picture_files import Picture, read_picture
from fewshot_lib.data.reporting import DataError, first_few, progress

Kept = TypeVar("Kept")
AT_ONCE = 64  # pictures that are in memory where files are many: as many as are encoded together
MOST = 4096  # pixels of a side: a picture of a data set for few-shot learning has a hundred


def from_folder(
    path: Path | str,
    *,
    split: Split = None,
    seed: int = 0,
    size: int | str | Sequence[int] = 28,
    color: bool = False,
    min_examples: int = 1,
) -> ClassDataset:
    """Images from a folder with one sub-folder per class, as (n, 1 or 3, height, width) uint8.

    split, seed: which classes are for training, validation and testing; see ``class_splits.split_classes``.
    None takes the folders train, val, test if they hold different classes (the split family is "folders").
    size: pixels, one number for a square, or height and width: (32, 48) or "32x48".
    color: red, green, blue (True) or one channel (False). Transparent parts become white.
    min_examples: classes with fewer pictures are left out.

    Warns of what was left out, scaled or read from where one would not have looked. Raises DataError with the
    names of all pictures that cannot be read.
    """
    path = Path(path).expanduser()
    height, width = sides(size)
    if not isinstance(color, bool):
        raise ValueError(f"`color` is {color!r}: use True (red, green, blue) or False (grey).")
    try:
        found = find_pictures(path)
    except OSError as error:
        raise DataError(f"{visible(error.filename or path)} cannot be read ({error.strerror}).") from None
    counts = {name: len(files) for name, files in found.classes.items()}
    names, small = large_classes(counts, min_examples, visible(path))
    splits, family, chosen = _splits(path, found, names, split, seed)
    pairs = [(file, c) for c, name in enumerate(names) for file in found.classes[name]]
    images, remarks = read_pictures([file for file, _ in pairs], height, width, color, visible(path.name))
    for note in found.notes + small + chosen + remarks:
        warnings.warn(f"{visible(path)}: {note}.", stacklevel=2)
    labels = torch.tensor([c for _, c in pairs], dtype=torch.int64)
    name = visible(path.resolve().name) or "pictures"
    return ClassDataset(images, labels, names, splits, name=name, split_family=family)


def read_pictures(
    files: Sequence[Path], height: int, width: int, color: bool = False, label: str = "pictures"
) -> tuple[Tensor, list[str]]:
    """The pictures in some files, (n, 1 or 3, height, width) uint8, and what to tell the user.

    Upright, resized, transparent parts white. More than 8 bits a pixel are scaled by the range of all files.
    """
    pictures = _read_all(files, (height, width, color), label, lambda picture: picture)
    pixels, scaled = to_8_bits(pictures, files)
    pixels, laid = on_paper(pixels, [picture.cover for picture in pictures], files)
    return torch.from_numpy(np.stack(pixels)), scaled + laid + _remarks(pictures, files)


class PictureFiles:
    """The pictures that :func:`read_pictures` gives of these files, in the memory of a few: a slice is read
    when it is asked for.

    All are read once before: whether they can be, and by which range and on which paper they are shown,
    which is the same for all. Only that is kept of them. notes: what to tell the user.
    """

    def __init__(self, files: Sequence[Path], height: int, width: int, color: bool = False) -> None:
        self.files, self._form = list(files), (height, width, color)
        self.shape = (len(self.files), 3 if color else 1, height, width)
        found = _read_all(self.files, self._form, "pictures", _glance)
        pictures = [picture for picture, _ in found]
        self._ranges, self.notes = ranges_of(pictures, self.files)
        sights = [sight or self._sight(file) for file, (_, sight) in zip(self.files, found, strict=True)]
        self._paper, laid = best_paper(sights, self.files)
        self.notes += laid + _remarks(pictures, self.files)

    def _sight(self, file: Path) -> Sight:
        """How a picture of more than 8 bits looks, which the ranges decide."""
        (picture,) = _read_all([file], self._form, "", lambda picture: picture)
        return seen(in_8_bits(picture, self._ranges), picture.cover)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice) -> Tensor:
        """Pictures (m, 1 or 3, height, width) uint8. DataError where a file has changed and is none now."""
        pictures = _read_all(self.files[rows], self._form, "", lambda picture: picture)
        shown = [put(in_8_bits(picture, self._ranges), picture.cover, self._paper) for picture in pictures]
        return torch.from_numpy(np.stack(shown)) if shown else torch.zeros(0, *self.shape[1:]).byte()

    def parts(self, start: int = 0) -> Iterator[Tensor]:
        """All from a row on, a few at a time."""
        return (self[at : at + AT_ONCE] for at in range(start, len(self), AT_ONCE))


def _glance(picture: Picture) -> tuple[Picture, Sight | None]:
    """What to know of a picture before it is shown; how it looks only of 8 bits."""
    sight = seen(picture.pixels, picture.cover) if picture.depth == "8-bit" else None
    return replace(picture, pixels=np.empty(0), cover=None), sight


def _read_all(
    files: Sequence[Path], form: tuple[int, int, bool], label: str, kept: Callable[[Picture], Kept]
) -> list[Kept]:
    """Of the picture in each file, what is kept of it. DataError with the names of all that cannot be read.

    form: height, width, color. label: of the progress bar; without one there is none.
    """
    found: list[Kept] = []
    broken: list[str] = []
    for file in progress(files, f"reading {label}", " pictures") if label else files:
        try:
            found.append(kept(read_picture(file, *form)))
        except (ValueError, OSError) as error:
            broken.append(f"{visible(file)} cannot be read as a picture ({visible(str(error))})")
    if broken:
        fix = "repair or remove it" if len(broken) == 1 else f"repair or remove all {len(broken)}"
        raise DataError(f"{'; '.join(broken[:5])}{'; …' if len(broken) > 5 else ''}: {fix}.")
    return found


def sides(size: int | str | Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels: 28, "28", "32x48" or (32, 48)."""
    given: Any = re.split("[x×X*,]", size.strip("()[] ")) if isinstance(size, str) else size
    given = [given] if isinstance(given, Integral) and not isinstance(given, bool) else given
    try:
        pixels = [int(side) for side in given if isinstance(side, str | Integral)]
        usable = len(pixels) == len(given) in (1, 2) and all(1 <= side <= MOST for side in pixels)
    except (TypeError, ValueError):
        usable = False
    if not usable:
        fix = f"give the pixels of a side, 1 to {MOST}, or height and width, such as 32x48"
        raise ValueError(f"`size` is {size!r}: {fix}.")
    return pixels[0], pixels[-1]


def _splits(
    path: Path, found: Found, names: list[str], split: Split, seed: int
) -> tuple[dict[str, Tensor], str, list[str]]:
    """The split given, or the one that the folders make, or the default; its family; a word on it."""
    small = set(found.classes) - set(names)
    if not found.parts:
        return *split_classes(split, names, seed, left_out=small), []
    kept = set(names)
    parts = {part: [name for name in listed if name in kept] for part, listed in found.parts.items()}
    times = Counter(chain(*parts.values()))
    shared = [name for name in names if times[name] > 1]
    where = ", ".join(parts)
    if split is None and not shared:
        splits, _ = split_classes({part: listed for part, listed in parts.items() if listed}, names)
        return splits, "folders", []
    if split is None and 2 * len(shared) < min(map(len, parts.values())):
        found_twice = f"classes that stand in several of the folders {where}: {first_few(map(repr, shared))}"
        fix = "a class belongs to one split; move its pictures into one, or give a split"
        raise DataError(f"{visible(path)} has {found_twice}: {fix}.")
    if not shared:
        note = f"the folders {where} are a class split of their own, which is not used: another one is given"
    else:
        note = (
            f"{len(shared)} classes stand in several of the folders {where}, which so split examples. "
            "Few-shot learning splits classes: the pictures of a class are read together"
        )
        note += ", and the classes are split by share; to choose, give a split" if split is None else ""
    return *split_classes(split, names, seed, left_out=small), [note]


def _remarks(pictures: Sequence[Picture], files: Sequence[Path]) -> list[str]:
    """What the pictures' files made Pillow say, each sentence once, with the first file and their number."""
    where: dict[str, list[Path]] = defaultdict(list)
    for picture, file in zip(pictures, files, strict=True):
        for remark in picture.remarks:
            where[remark].append(file)
    return [
        f"{visible(held[0])} (files like it: {len(held):,}): {visible(remark)}"
        for remark, held in where.items()
    ]
