"""Your own pictures: a folder with one sub-folder per class, as a ``ClassDataset``.

Which layouts are understood says ``folders``, which files ``picture_files``, what happens to more than 8 bits
``depths``. To look at a folder before using it: ``fewshot data inspect PATH``.
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.arrays import large_classes
from fewshot_lib.data.own.class_splits import Split, split_classes
from fewshot_lib.data.own.depths import to_8_bits
from fewshot_lib.data.own.folders import Found, find_pictures, visible
from fewshot_lib.data.own.paper import on_paper
from fewshot_lib.data.own.picture_files import Picture, read_picture
from fewshot_lib.data.reporting import DataError, first_few, progress

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
    pictures: list[Picture] = []
    broken: list[str] = []
    for file in progress(files, f"reading {label}", " pictures"):
        try:
            pictures.append(read_picture(file, height, width, color))
        except (ValueError, OSError) as error:
            broken.append(f"{visible(file)} cannot be read as a picture ({visible(str(error))})")
    if broken:
        fix = "repair or remove it" if len(broken) == 1 else f"repair or remove all {len(broken)}"
        raise DataError(f"{'; '.join(broken[:5])}{'; …' if len(broken) > 5 else ''}: {fix}.")
    pixels, scaled = to_8_bits(pictures, files)
    pixels, laid = on_paper(pixels, [picture.cover for picture in pictures], files)
    return torch.from_numpy(np.stack(pixels)), scaled + laid + _remarks(pictures, files)


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
