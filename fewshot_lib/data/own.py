"""Your own data: a folder of images, a table of texts, or arrays, as a ``ClassDataset``.

Everything is checked before anything is computed: an unreadable picture, an empty text or a missing label is named with
its file and line. To look at a data set before using it: ``fewshot data inspect PATH``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .class_splits import Split, split_classes
from .dataset import ClassDataset
from .reporting import DataError, progress
from .tables import Table, read_csv, read_jsonl

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


def from_csv(
    path: Path | str,
    text: str = "text",
    label: str = "label",
    split: Split = None,
    seed: int = 0,
    encoding: str | None = None,
    drop_empty: bool = False,
) -> ClassDataset:
    """Texts from a CSV file whose first line names the columns (comma, semicolon, tab or "|" between them).

    text, label: names of the two columns.
    split, seed: which classes are for training, validation and testing; see ``class_splits.split_classes``.
    encoding: of the file; None is UTF-8, with or without byte order mark.
    drop_empty: leave out rows whose text or label is empty, instead of refusing the file.

    Raises DataError naming file and line for what cannot be read, ValueError for a split that does not fit.
    """
    return _from_table(read_csv(path, text, label, encoding), Path(path), split, seed, drop_empty)


def from_jsonl(
    path: Path | str,
    text: str = "text",
    label: str = "label",
    split: Split = None,
    seed: int = 0,
    encoding: str | None = None,
    drop_empty: bool = False,
) -> ClassDataset:
    """Texts from a JSON Lines file, one object a line. Arguments and errors as in :func:`from_csv`."""
    return _from_table(read_jsonl(path, text, label, encoding), Path(path), split, seed, drop_empty)


def from_folder(
    path: Path | str, split: Split = None, seed: int = 0, size: int | tuple[int, int] = 28, grayscale: bool = True
) -> ClassDataset:
    """Images from a folder with one sub-folder per class, as (n, 1 or 3, height, width) uint8.

    split, seed: as in :func:`from_csv`; the class names are the names of the sub-folders.
    size: pixels to which every picture is resized, one number for a square or (height, width).
    grayscale: one channel (True) or red, green, blue (False). Transparent parts become white.

    Files that are not pictures by their ending are left out, with a warning. Raises DataError naming the file for a
    picture that cannot be read, and for a folder without sub-folders or a sub-folder without pictures.
    """
    path = Path(path)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"`size` is {size}: give the pixels of a side, at least 1.")
    files = find_pictures(path)
    class_names = list(files)
    splits, family = split_classes(split, class_names, seed)
    pairs = [(file, c) for c, name in enumerate(class_names) for file in files[name]]
    images = [read_picture(file, height, width, grayscale) for file, _ in progress(pairs, f"reading {path.name}", " pictures")]
    labels = torch.tensor([c for _, c in pairs], dtype=torch.int64)
    return ClassDataset(torch.stack(images), labels, class_names, splits, name=path.resolve().name, split_family=family)


def from_arrays(
    inputs: Tensor | np.ndarray | Sequence[str],
    labels: Tensor | np.ndarray | Sequence[int] | Sequence[str],
    class_names: Sequence[str] | None = None,
    split: Split = None,
    seed: int = 0,
    name: str = "arrays",
) -> ClassDataset:
    """Inputs and labels that are in memory already.

    inputs: n texts, or images as (n, height, width) or (n, channels, height, width), uint8 or floating point.
    labels: n class ids (in 0..C-1 if ``class_names`` is given), or n class names.
    class_names: C names; None takes the distinct labels, sorted.
    split, seed: as in :func:`from_csv`.

    Raises ValueError where shapes, lengths, labels or names contradict each other.
    """
    data = _images(inputs) if isinstance(inputs, Tensor | np.ndarray) else _texts(inputs)
    values = [label.item() if hasattr(label, "item") else label for label in labels]
    if len(values) != len(data):
        raise ValueError(f"`inputs` has {len(data)} examples but `labels` has {len(values)}: give one label per example.")
    if not values:
        raise ValueError("`inputs` and `labels` are empty: give at least one example.")
    by_name = isinstance(values[0], str)
    if any(isinstance(value, str) != by_name or not isinstance(value, str | int) for value in values):
        raise ValueError("`labels` must be all class names (strings) or all class ids (integers).")
    if class_names is None:
        distinct = sorted(set(values))
        class_names = [str(value) for value in distinct]
    else:
        class_names = list(class_names)
        distinct = class_names if by_name else range(len(class_names))
    position = {value: c for c, value in enumerate(distinct)}
    if missing := [value for value in values if value not in position]:
        raise ValueError(f"`labels` holds {missing[0]!r}, which is none of the {len(class_names)} `class_names` (ids run from 0).")
    splits, family = split_classes(split, class_names, seed)
    ids = torch.tensor([position[value] for value in values], dtype=torch.int64)
    return ClassDataset(data, ids, class_names, splits, name=name, split_family=family)


def find_pictures(path: Path) -> dict[str, list[Path]]:
    """Class name -> its picture files, both sorted. Raises DataError for a folder that does not have this shape."""
    if not path.is_dir():
        raise DataError(f"There is no folder {path}.")
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise DataError(f"{path} has no sub-folders: put the pictures of each class into a folder named after the class.")
    visible = {folder.name: sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")) for folder in folders}
    found = {name: [file for file in files if file.suffix.lower() in PICTURES] for name, files in visible.items()}
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(f"{path / empty[0]} holds no pictures ({', '.join(sorted(PICTURES))}): fill it or remove it.")
    left_out = [file for files in visible.values() for file in files if file.suffix.lower() not in PICTURES]
    if left_out:
        warnings.warn(f"{len(left_out)} files are not pictures by their ending and are left out, such as {left_out[0]}.", stacklevel=3)
    return found


def read_picture(file: Path, height: int, width: int, grayscale: bool = True) -> Tensor:
    """One picture, upright and resized, (1 or 3, height, width) uint8. Raises DataError naming the file."""
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as a picture ({error}): repair or remove it.") from None
    paper = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(paper, picture).convert("L" if grayscale else "RGB")
    pixels = np.array(flat.resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels[None] if grayscale else pixels.transpose(2, 0, 1).copy())


def _from_table(table: Table, path: Path, split: Split, seed: int, drop_empty: bool) -> ClassDataset:
    rows = list(zip(table.texts, table.labels, table.lines, strict=True))
    empty = [line for text, label, line in rows if not text or not label]
    if empty and not drop_empty:
        lines = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise DataError(f"{path}: {len(empty)} rows have an empty text or label (line {lines}): fill them in, or pass drop_empty=True.")
    kept = [(text, label) for text, label, _ in rows if text and label]
    if not kept:
        raise DataError(f"{path} holds no rows with text and label.")
    texts, labels = zip(*kept, strict=True)
    return from_arrays(texts, labels, split=split, seed=seed, name=path.stem)


def _texts(inputs: Sequence[str]) -> list[str]:
    texts = list(inputs)
    if bad := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"`inputs` must be texts, a tensor or an array; among the texts is {bad[0]!r}.")
    return texts


def _images(inputs: Tensor | np.ndarray) -> Tensor:
    images = torch.as_tensor(inputs)
    images = images.unsqueeze(1) if images.ndim == 3 else images
    if images.ndim != 4:
        raise ValueError(f"`inputs` has shape {tuple(inputs.shape)}: images are (n, height, width) or (n, channels, height, width).")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"`inputs` has dtype {images.dtype}: images are uint8 (0..255) or floating point.")
    return images
