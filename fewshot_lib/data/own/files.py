"""Your own data: a folder of images, a table of texts, or arrays, as a ``ClassDataset``.

An unreadable picture, an empty text or a missing label is named with its file and line before anything is
computed. To look at a data set before using it: ``fewshot data inspect PATH``.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.class_splits import Split, split_classes
from fewshot_lib.data.own.tables import Table, read_csv, read_jsonl
from fewshot_lib.data.reporting import DataError, first_few, progress

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
    """
    return from_table(read_csv(path, text, label, encoding), Path(path), split, seed, drop_empty)


def from_jsonl(
    path: Path | str,
    text: str = "text",
    label: str = "label",
    split: Split = None,
    seed: int = 0,
    encoding: str | None = None,
    drop_empty: bool = False,
) -> ClassDataset:
    """Texts from a JSON Lines file, one object a line. Arguments as in :func:`from_csv`."""
    return from_table(read_jsonl(path, text, label, encoding), Path(path), split, seed, drop_empty)


def from_folder(
    path: Path | str,
    split: Split = None,
    seed: int = 0,
    size: int | tuple[int, int] = 28,
    grayscale: bool = True,
) -> ClassDataset:
    """Images from a folder with one sub-folder per class, as (n, 1 or 3, height, width) uint8.

    split, seed: as in :func:`from_csv`. size: pixels, one number for a square or (height, width).
    grayscale: one channel (True) or red, green, blue (False). Transparent parts become white.
    """
    path = Path(path)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"`size` is {size}: give the pixels of a side, at least 1.")
    files = find_pictures(path)
    splits, family = split_classes(split, list(files), seed)
    pairs = [(file, c) for c, pictures in enumerate(files.values()) for file in pictures]
    shown = progress(pairs, f"reading {path.name}", " pictures")
    images = torch.stack([read_picture(file, height, width, grayscale) for file, _ in shown])
    labels = torch.tensor([c for _, c in pairs], dtype=torch.int64)
    return ClassDataset(images, labels, list(files), splits, name=path.resolve().name, split_family=family)


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
    """
    texts = [] if isinstance(inputs, Tensor | np.ndarray) else list(inputs)
    if bad := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"`inputs` must be texts, a tensor or an array; among the texts is {bad[0]!r}.")
    values = [label.item() if hasattr(label, "item") else label for label in labels]
    if not values:
        raise ValueError("`inputs` and `labels` are empty: give at least one example.")
    by_name = isinstance(values[0], str)
    distinct: list[Any]
    if any(isinstance(value, str) != by_name or not isinstance(value, str | int) for value in values):
        raise ValueError("`labels` must be all class names (strings) or all class ids (integers).")
    if class_names is None:
        distinct = sorted(set(values))
        class_names = [str(value) for value in distinct]
    else:
        distinct = list(class_names) if by_name else list(range(len(class_names)))
    position = {value: c for c, value in enumerate(distinct)}
    if missing := [value for value in values if value not in position]:
        known = f"none of the {len(class_names)} `class_names` (ids run from 0)"
        raise ValueError(f"`labels` holds {missing[0]!r}, which is {known}.")
    splits, family = split_classes(split, class_names, seed)
    ids = torch.tensor([position[value] for value in values], dtype=torch.int64)
    data = _images(inputs) if isinstance(inputs, Tensor | np.ndarray) else texts
    return ClassDataset(data, ids, list(class_names), splits, name=name, split_family=family)


def find_pictures(path: Path) -> dict[str, list[Path]]:
    """Class name -> its picture files, both sorted. Warns of files that are none by their ending."""
    if not path.is_dir():
        raise DataError(f"There is no folder {path}.")
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and folder.name[0] != "."]
    if not folders:
        fix = "put the pictures of each class into a folder named after the class"
        raise DataError(f"{path} has no sub-folders: {fix}.")
    found, left_out = {}, []
    for folder in folders:
        files = sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")
        found[folder.name] = [file for file in files if file.suffix.lower() in PICTURES]
        left_out += [file for file in files if file.suffix.lower() not in PICTURES]
        if not found[folder.name]:
            endings = ", ".join(sorted(PICTURES))
            raise DataError(f"{folder} holds no pictures ({endings}): fill it or remove it.")
    if left_out:
        message = f"{len(left_out)} files are not pictures by their ending and are left out"
        warnings.warn(f"{message}, such as {left_out[0]}.", stacklevel=3)
    return found


def read_picture(file: Path, height: int, width: int, grayscale: bool = True) -> Tensor:
    """One picture, upright and resized, (1 or 3, height, width) uint8. Raises DataError naming the file."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # here: texts need no pictures

    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as a picture ({error}): repair or remove it.") from None
    paper = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(paper, picture).convert("L" if grayscale else "RGB")
    pixels = np.array(flat.resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels[None] if grayscale else pixels.transpose(2, 0, 1).copy())


def from_table(
    table: Table, path: Path, split: Split, seed: int = 0, drop_empty: bool = False
) -> ClassDataset:
    """A data set of the rows that a file holds."""
    if (empty := table.empty_lines) and not drop_empty:
        found = f"{len(empty)} rows have an empty text or label (line {first_few(empty)})"
        raise DataError(f"{path}: {found}: fill them in, or pass drop_empty=True.")
    rows = [row for row in table.rows if all(row)]
    if not rows:
        raise DataError(f"{path} holds no rows with text and label.")
    texts, labels = zip(*rows, strict=True)
    return from_arrays(texts, labels, split=split, seed=seed, name=path.stem)


def _images(inputs: Tensor | np.ndarray) -> Tensor:
    images = torch.as_tensor(inputs)
    images = images.unsqueeze(1) if images.ndim == 3 else images
    if images.ndim != 4:
        shapes = "(n, height, width) or (n, channels, height, width)"
        raise ValueError(f"`inputs` has shape {tuple(inputs.shape)}: images are {shapes}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"`inputs` has dtype {images.dtype}: images are uint8 (0..255) or floating point.")
    return images
