"""Images in memory as (n, channels, height, width): uint8 in 0..255, or floating point in 0..1.

All other numbers are scaled by the range of the whole set (see ``depths``), which is said.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.data.own.depths import set_range
from fewshot_lib.data.reporting import first_few


def images_from(inputs: Tensor | np.ndarray) -> tuple[Tensor, list[str]]:
    """Images (n, channels, height, width), and what was done to them in sentences.

    inputs: (n, height, width), or with channels before or, where only that can be, behind the sides.
    """
    if isinstance(inputs, np.ndarray):
        inputs = _plain(inputs)
    elif inputs.dtype != torch.uint8 and not inputs.is_floating_point():
        inputs = inputs.cpu().numpy()
    inputs = _channels_first(inputs)
    if isinstance(inputs, np.ndarray):
        if inputs.dtype.kind not in "biu":
            raise ValueError(
                f"`inputs` has dtype {inputs.dtype}: images are whole numbers or floating point."
            )
        return _whole_numbers(inputs)
    return (inputs, []) if inputs.dtype == torch.uint8 or not len(inputs) else _fractions(inputs)


def _plain(array: np.ndarray) -> Tensor | np.ndarray:
    """A tensor where torch has the type, else an array without masks, in the byte order of this machine."""
    if isinstance(array, np.ma.MaskedArray):
        rows = np.flatnonzero(np.ma.getmaskarray(array).reshape(len(array), -1).any(1)).tolist()
        if rows:
            raise ValueError(f"`inputs` has masked pixels in row {first_few(rows)}: fill them in.")
        array = array.data
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        return array
    kind = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    array = np.ascontiguousarray(array, dtype=kind)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _channels_first(images: Any) -> Any:
    shape = tuple(images.shape)
    if len(shape) == 3:
        images = images[:, None]
    elif len(shape) == 4 and shape[-1] <= 4 < min(shape[1:3]):  # a picture is larger than it has channels
        images = images.moveaxis(-1, 1) if isinstance(images, Tensor) else np.moveaxis(images, -1, 1)
        images = images.contiguous() if isinstance(images, Tensor) else images
    if images.ndim != 4 or 0 in shape[1:]:
        shapes = "(n, height, width), (n, channels, height, width) or (n, height, width, channels)"
        raise ValueError(f"`inputs` has shape {shape}: images are {shapes}.")
    return images


def _whole_numbers(images: np.ndarray) -> tuple[Tensor, list[str]]:
    if images.dtype.kind == "b":
        return torch.from_numpy(images.astype(np.uint8) * 255), []
    lowest, highest = (int(images.min()), int(images.max())) if images.size else (0, 0)
    low, high = set_range(lowest, highest, whole=True)
    scaled = np.empty(images.shape, np.uint8)
    for row, image in enumerate(images):  # one by one: as fractions, all at once take eight times the memory
        scaled[row] = np.rint((image.astype(np.float64) - low) / ((high - low) or 1) * 255)
    done = f"pixels run from {lowest} to {highest} ({images.dtype.name}): scaled to 0..255"
    return torch.from_numpy(scaled), [done] if (low, high) != (0, 255) else []


def _fractions(images: Tensor) -> tuple[Tensor, list[str]]:
    broken = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if broken:
        more = f"{len(broken):,} images: row {first_few(broken)} (counted from 0)"
        raise ValueError(f"`inputs` holds NaN or infinite pixels in {more}: repair them or leave them out.")
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= 1:
        return images, []
    scaled = ((images.double() - low) / ((high - low) or 1)).to(images.dtype)
    return scaled, [f"pixels of floating point run from {low:g} to {high:g}: scaled to 0..1"]
