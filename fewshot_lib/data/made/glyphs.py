"""Letters of the world's scripts, drawn by many hands: Omniglot without a download.

A class is a letter, a domain is a script, and training and test scripts are disjoint, as Omniglot's alphabets
are (Lake et al., 2015). The letters come from DejaVu Sans, the font that matplotlib installs. Each is kept as
its signed distance d(x): how far the point x lies inside the ink, in pixels. A drawing is then one line,

    ink(x) = clamp(1/2 + s d(A(x + e(x))) + w, 0, 1),

with a random affine map A that shrinks lengths by s, a smooth random displacement e (the unsteady hand) and a
random pen width w.
"""

import hashlib
import json
import math
import unicodedata
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.data.cache import cache_dir, cached_tensors
from fewshot_lib.data.dataset import ClassDataset, chosen_family, splits_of

VERSION = 1  # part of the cache's key: raise it with any change that alters a pixel

# First words of the Unicode names -> script; of look-alikes the first is kept: what is Latin is not Greek.
SCRIPTS = {
    script.upper().replace("'", ""): script
    for script in (
        *("Latin", "Greek", "Cyrillic", "Old Italic", "Lisu", "Arabic", "Canadian syllabics", "Coptic"),
        *("Armenian", "Lao", "Georgian", "Tifinagh", "Hebrew", "N'Ko", "Ogham"),
    )
}
VAL_SCRIPTS = ("Coptic", "Armenian", "Lao")
TEST_SCRIPTS = ("Georgian", "Tifinagh", "Hebrew", "N'Ko", "Ogham")
FAMILIES = ["script", "random"]
SIZE = 28  # pixels a side; all lengths below are in these pixels
LETTER = 18.0  # longer side of a letter before it is drawn
CANVAS, FINE = 30, 3  # the distance map covers 30 pixels, at 3 samples a pixel
PEN = 1.1  # half the width of the pen
LOOKALIKE = 1.25  # two letters are one class if no ink of either lies further than this from the other


class Letter(NamedTuple):
    """A class: its script, its Unicode code point and a readable name ("Georgian letter an")."""

    script: str
    code: int
    name: str


def load_glyphs(split_family: str | None = None, drawings: int = 20, seed: int = 0) -> ClassDataset:
    """The glyphs as (n, 1, 28, 28) uint8, ink 255 on 0; row c * drawings + i is drawing i of class c.

    split_family: "script" (default; no script stands in two splits) or "random" (in all of them: easier).
    drawings: per class, at least 2: one to learn from, one to ask about.
    seed: of the drawings only; the classes and their splits are always the same.
    """
    family = chosen_family("glyphs", FAMILIES, split_family)
    if not isinstance(drawings, int) or drawings < 2:
        raise ValueError(f"`drawings` is {drawings!r}: give a whole number per class, at least 2.")
    path = cache_dir("glyphs") / f"{_key(drawings, seed)}.safetensors"
    tensors, metadata = cached_tensors(path, lambda: _build(drawings, seed))
    alphabet = [Letter(*fields) for fields in json.loads(metadata["letters"])]
    domains = [letter.script for letter in alphabet]
    return ClassDataset(
        inputs=tensors["images"].flatten(0, 1).unsqueeze(1),
        labels=torch.arange(len(alphabet)).repeat_interleave(drawings),
        class_names=[letter.name for letter in alphabet],
        splits=_splits(domains, family),
        domains=domains,
        name="glyphs",
        split_family=family,
    )


def _font() -> Path:
    import matplotlib  # here and below: slow to import, and not needed when the images are in the cache

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def _key(drawings: int, seed: int) -> str:
    font = hashlib.sha256(_font().read_bytes()).hexdigest()
    parts = (VERSION, drawings, seed, font, version("pillow"), unicodedata.unidata_version)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _build(drawings: int, seed: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    distances = distance_maps(alphabet := letters())
    kept = distinct(distances)
    images = draw(distances[kept], drawings, seed)
    return {"images": images}, {"letters": json.dumps([alphabet[i] for i in kept])}


def _splits(domains: list[str], family: str) -> dict[str, Tensor]:
    """Class ids of train, val and test; the random family has as many of each as the script family."""
    special = dict.fromkeys(VAL_SCRIPTS, "val") | dict.fromkeys(TEST_SCRIPTS, "test")
    split_of = [special.get(domain, "train") for domain in domains]
    if family == "random":
        order = torch.randperm(len(split_of), generator=torch.Generator().manual_seed(0)).tolist()
        split_of = [split_of[i] for i in order]
    return splits_of(split_of)


def letters() -> list[Letter]:
    """The letters that the font can draw (Unicode categories Lu, Ll, Lo), by script, then by code point.

    Left out are other letters in disguise: accented, mathematical, ligatures, Arabic positional forms.
    """
    from matplotlib.ft2font import FT2Font

    found = []
    for code in FT2Font(str(_font())).get_charmap():
        name = unicodedata.name(chr(code), "")
        prefix = next((prefix for prefix in SCRIPTS if name.startswith(prefix + " ")), None)
        borrowed = any(word in name for word in (" WITH ", "LIGATURE", "MATHEMATICAL"))
        borrowed |= name.endswith((" FORM", " FRAGMENT"))
        if prefix and not borrowed and unicodedata.category(chr(code)) in ("Lu", "Ll", "Lo"):
            found.append(Letter(SCRIPTS[prefix], code, SCRIPTS[prefix] + name.removeprefix(prefix).lower()))
    order = list(SCRIPTS.values())
    return sorted(found, key=lambda letter: (order.index(letter.script), letter.code))


def distance_maps(alphabet: list[Letter]) -> Tensor:
    """Signed distance to the edge of the letter, in pixels, positive inside: (C, 90, 90) float64.

    Letters are centred, of one size and of one stroke width: what is left to tell them apart is their shape.
    float64, so that the last digit of a pixel does not depend on the processor or the number of threads.
    """
    from PIL import Image, ImageFont
    from scipy.ndimage import distance_transform_edt

    font = ImageFont.truetype(str(_font()), 200, layout_engine=ImageFont.Layout.BASIC)
    maps = []
    for letter in alphabet:
        mask = font.getmask(chr(letter.code), mode="L")
        raster = Image.frombytes("L", mask.size, bytes(mask))
        raster = raster.crop(raster.getbbox())
        factor = LETTER * FINE / max(raster.size)
        size = [max(1, round(side * factor)) for side in raster.size]
        raster = raster.resize(size, Image.Resampling.BILINEAR)
        canvas = Image.new("L", (CANVAS * FINE, CANVAS * FINE))
        canvas.paste(raster, ((canvas.width - raster.width) // 2, (canvas.height - raster.height) // 2))
        ink = np.asarray(canvas) > 127
        distance = torch.from_numpy(distance_transform_edt(ink) - distance_transform_edt(~ink)) / FINE
        # Inside a stroke of half-width r the distance runs evenly from 0 to r: its mean over the ink is r/2.
        half_width = 2 * distance[distance > 0].mean()
        maps.append(distance + PEN - half_width)
    return torch.stack(maps)


def distinct(distances: Tensor) -> list[int]:
    """Indices of the letters that look like no earlier one: (C, H, W) -> at most C indices, ascending.

    Alike is a Hausdorff distance of at most ``LOOKALIKE`` pixels: Greek capital alpha and Latin A, small and
    capital o. No drawing could tell them apart, and one of two in the test set would be a leak.
    """
    points = F.avg_pool2d(distances[:, None], FINE).flatten(1).numpy()
    outside = np.ascontiguousarray(-points.T.clip(max=0))
    reach = np.stack([outside[ink].max(0) for ink in points > 0])  # (C, C): furthest ink of i from letter j
    hausdorff = np.maximum(reach, reach.T)
    kept: list[int] = []
    for i in range(len(distances)):
        if not kept or hausdorff[i, kept].min() > LOOKALIKE:
            kept.append(i)
    return kept


def draw(distances: Tensor, drawings: int, seed: int, batch: int = 64) -> Tensor:
    """Every letter ``drawings`` times, each by another hand: (C, H, W) -> uint8 (C, drawings, 28, 28)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(distances), drawings, 1, 1)
    # Two standard deviations at most: beyond that a letter leaves the frame or is no longer itself.
    hands = torch.randn(7, *shape, generator=generator, dtype=torch.float64)
    turn, slant, size, aspect, right, down, pen = hands.clamp(-2, 2)
    knots = torch.randn(*shape[:2], 2, 4, 4, generator=generator, dtype=torch.float64).clamp(-1.5, 1.5)
    turn = math.radians(12) * turn
    wide, high = torch.exp(0.07 * size + 0.12 * aspect), torch.exp(0.07 * size - 0.12 * aspect)
    axis = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2

    images = torch.empty(*shape[:2], SIZE, SIZE, dtype=torch.uint8)
    for rows in torch.arange(len(distances)).split(batch):
        waver = F.interpolate(knots[rows].flatten(0, 1), (SIZE, SIZE), mode="bicubic", align_corners=True)
        waver = 2.0 * waver.unflatten(0, (len(rows), drawings))
        x = axis + waver[:, :, 0] - 0.7 * right[rows]
        y = axis[:, None] + waver[:, :, 1] - 0.7 * down[rows]
        cos, sin = turn[rows].cos(), turn[rows].sin()
        x, y = cos * x + sin * y, cos * y - sin * x
        x, y = (x + 0.18 * slant[rows] * y) / wide[rows], y / high[rows]
        grid = torch.stack([x, y], dim=-1).flatten(1, 2) / (CANVAS / 2)
        distance = F.grid_sample(distances[rows, None], grid, padding_mode="border", align_corners=False)
        distance = distance.view(x.shape) * (wide[rows] * high[rows]).sqrt() + 0.2 * pen[rows]
        images[rows] = ((0.5 + distance).clamp(0, 1) * 255).round().to(torch.uint8)
    return images
