"""One picture file: whether it is one, and what it shows: upright, on white paper, at the size asked for.

What a file is says its content, not its ending. 8 bits a pixel stay as they are; deeper pixels (16-bit, whole
numbers, floating point) are kept in the file's own range, until ``depths`` knows the range of the whole set.
"""

import re
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# Formats that Pillow knows by their first bytes but cannot draw, or only by starting another program.
NOT_READ = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF"}
SAMPLE_FORMAT, UNSIGNED = 339, (1,)  # of TIFF: a tag, and what it is if it is missing
LUMA = np.array([19595, 38470, 7471]) / 65536  # of red, green and blue, as Pillow weighs them (ITU-R 601)
LOW_BYTE = {  # the raw mode that takes the other byte of 16 bits for the one that counts
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBX", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}


@dataclass
class Picture:
    """A picture as read.

    pixels: (1 or 3, height, width), uint8 where the depth is "8-bit", else float32: low is 0, high is 1.
    cover: (height, width) float32, 1 where opaque; deeper pixels are multiplied by it, 8 bits lie on white.
    """

    pixels: np.ndarray
    depth: str = "8-bit"
    low: float = 0
    high: float = 255
    cover: np.ndarray | None = None
    remarks: list[str] = field(default_factory=list)


@cache
def picture_formats() -> tuple[str, ...]:
    """The formats of pictures that can be read, as Pillow names them."""
    from PIL import Image  # here: texts need no pictures

    Image.init()
    return tuple(name for name in Image.OPEN if name not in NOT_READ)


@cache
def picture_endings() -> frozenset[str]:
    """The endings of file names that promise one of these formats: ".png", ".jpg", …"""
    from PIL import Image

    known, formats = Image.registered_extensions(), set(picture_formats())
    return frozenset(ending for ending, name in known.items() if name in formats)


def is_picture(file: Path) -> bool:
    """Whether a file is a picture, or should be one: by its ending or, if that says nothing, its content."""
    from PIL import Image

    if not file.is_file() or file.suffix.lower() in picture_endings():
        return file.is_file()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=picture_formats()):
                return True
    except Exception:  # whatever the bytes of another kind of file make Pillow's readers raise
        return False


def read_picture(file: Path, height: int, width: int, color: bool) -> Picture:
    """The picture in a file (of several, the first). Raises ValueError with the reason if there is none."""
    from PIL import Image, UnidentifiedImageError

    if not file.stat().st_size:
        raise ValueError("it is empty")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Image.open(file, formats=picture_formats()) as opened:
                picture = _read(file, opened, height, width, color)
                several = _frames(opened) > 1
    except UnidentifiedImageError:
        raise ValueError("it is none, or of a format that is not known") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error}: make it smaller") from None
    except Exception as error:  # whatever damaged bytes make Pillow's readers raise, MemoryError included
        raise ValueError(str(error) or type(error).__name__) from None
    picture.remarks = sorted({str(warning.message) for warning in caught})
    if several:
        picture.remarks.append("holds several pictures (frames, pages), of which the first is read")
    return picture


def _frames(opened: Any) -> int:
    try:
        return getattr(opened, "n_frames", 1)
    except Exception:  # damaged behind the first picture, which alone is used
        return 1


def _read(file: Path, opened: Any, height: int, width: int, color: bool) -> Picture:
    from PIL import Image, ImageOps

    depth, raw = _depth(opened), _raw_mode(opened)
    upright = ImageOps.exif_transpose(opened)
    if depth == "8-bit":
        return _on_paper(upright, height, width, color)
    values, cover = _colors(file, upright, raw) if depth == "16-bit color" else _greys(opened, upright)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite pixels")
    seen = values if cover is None else values[cover > 0]
    if not seen.size:
        return Picture(np.full((3 if color else 1, height, width), 255, np.uint8))
    low, high = float(seen.min()), float(seen.max())
    unit = (values - low) / ((high - low) or 1)
    if unit.ndim == 2:
        unit = unit[..., None]
    elif not color:
        unit = (unit @ LUMA)[..., None]
    if cover is not None:
        unit = unit * cover[..., None]

    def resized(plane: np.ndarray) -> np.ndarray:
        image = Image.fromarray(plane.astype(np.float32))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    pixels = np.stack([resized(unit[..., c]) for c in range(unit.shape[-1])])
    pixels = np.repeat(pixels, 3, axis=0) if color and len(pixels) == 1 else pixels
    shown = None if cover is None else resized(cover)
    return Picture(pixels, depth.removesuffix(" color"), low, high, shown)


def _on_paper(picture: Any, height: int, width: int, color: bool) -> Picture:
    """8 bits a pixel, whatever the mode: palette, transparency, CMYK, …"""
    from PIL import Image

    picture = picture.convert("RGBA")
    alpha, cover = picture.getchannel("A"), None
    if alpha.getextrema()[0] < 255:
        cover = np.asarray(alpha.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    paper = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(paper, picture).convert("RGB" if color else "L")
    pixels = np.array(flat.resize((width, height), Image.Resampling.BILINEAR))
    return Picture(pixels.transpose(2, 0, 1).copy() if color else pixels[None], cover=cover)


def _raw_mode(opened: Any) -> str:
    """How the bytes of the file lie, in Pillow's words: "RGB;16B"; "" where that is not said."""
    args = opened.tile[0][3] if opened.tile else ""
    args = args[0] if isinstance(args, tuple) and args else args
    return args if isinstance(args, str) else ""


def _depth(opened: Any) -> str:
    raw = _raw_mode(opened)
    if opened.mode == "F":
        return "floating-point"
    if opened.mode == "I":
        return "16-bit" if opened.format == "PPM" or "16" in raw else "32-bit"
    if opened.mode.startswith("I;16"):
        return "16-bit"
    return "16-bit color" if re.search(";16[BLN]$", raw) else "8-bit"


def _greys(opened: Any, upright: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """One channel: values (height, width) as float64, and where they are opaque, or None for everywhere."""
    values = np.asarray(upright)
    tags = opened.tag_v2 if opened.format == "TIFF" else {SAMPLE_FORMAT: "as the format has it"}
    if opened.mode == "I" and tags.get(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED:
        values = values.view(np.uint32)  # Pillow hands them on as signed
    clear = opened.info.get("transparency")
    cover = (values != clear).astype(np.float64) if isinstance(clear, int) else None
    return values.astype(np.float64), cover


def _colors(file: Path, picture: Any, raw: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Three channels of 16 bits, of which Pillow reads the upper byte: the lower one is read by itself.

    Where that is not possible (16-bit CMYK, grey with transparency), the upper byte stands for both.
    """
    from PIL import Image, ImageOps

    upper = np.asarray(picture.convert("RGBA")).astype(np.float64)
    lower = upper
    if raw in LOW_BYTE:
        with Image.open(file, formats=picture_formats()) as again:
            again.tile = [_low_byte(tile) for tile in again.tile]
            lower = np.asarray(ImageOps.exif_transpose(again).convert("RGBA")).astype(np.float64)
    values = 256 * upper + lower
    opaque = bool((values[..., 3] == 65535).all())
    return values[..., :3], None if opaque else values[..., 3] / 65535


def _low_byte(tile: Any) -> Any:
    """Pillow's recipe for a part of a file: where its bytes lie, and how to take them apart."""
    if isinstance(tile.args, tuple):
        return tile._replace(args=(LOW_BYTE[tile.args[0]], *tile.args[1:]))
    return tile._replace(args=LOW_BYTE[tile.args])
