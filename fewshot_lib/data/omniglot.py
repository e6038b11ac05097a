"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 1,623 characters of 50 alphabets, each drawn once by 20 people.

A class is a character in one of four rotations (Vinyals et al. 2016): a rotated character is a new shape, so rotating
makes four times as many classes. The two published ways to split the characters are the split families

- ``vinyals``: 1,028 / 172 / 423 characters, all four rotations in every split (Matching Networks, Prototypical Networks);
- ``mamlpp``: 1,150 / 50 / 423 characters, rotations in training only (MAML++, Antoniou et al. 2019). Their code sorts
  "alphabet/character", shuffles with ``numpy.random.RandomState(0)`` (``val_seed`` 0) and cuts; so does this one.

The drawings are one-bit pictures of 105x105 pixels. To make 28x28 of them, the code of both papers calls PIL's resize,
which for one-bit pictures always takes the nearest pixel, whatever filter is asked for. That is the default here, so
that published numbers can be compared; ``antialias=True`` averages instead, which looks better.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .archives import describe, members
from .cache import cache_dir, cached_tensors
from .cards import card, chosen_family, class_ids, remote_file
from .dataset import ClassDataset
from .download import fetch
from .reporting import DataError, progress

FILE_SIZE, SIZE = 105, 28
FAMILIES = ["vinyals", "mamlpp"]
MAMLPP_FRACTIONS = (0.70918052988, 0.03080714725, 0.2606284658)
MAMLPP_SEED = 0


def load_omniglot(split_family: str | None = None, rotations: bool = True, antialias: bool = False) -> ClassDataset:
    """Omniglot as (n, 1, 28, 28) uint8, ink 255 on 0.

    split_family: "vinyals" (default) or "mamlpp".
    rotations: with True, class 4·character + r is the character turned by r·90° counter-clockwise (6,492 classes of 20);
        with False, the class is the character (1,623 classes).
    antialias: how 105x105 becomes 28x28: nearest pixel (False, as published), or averaged (True).

    The first call decodes 32,460 pictures; the result is cached. Raises DataError where the files cannot be had or
    hold something else, ValueError for an unknown split family.
    """
    facts = card("omniglot")
    family = chosen_family("omniglot", FAMILIES, split_family)
    drawings, character = _drawings(facts, antialias)
    names = [(alphabet, number) for alphabet, count in facts["alphabets"].items() for number in range(1, count + 1)]
    splits = _vinyals(facts, names) if family == "vinyals" else _mamlpp(len(names))
    class_names = [f"{alphabet} {number:02d}" for alphabet, number in names]
    domains = [alphabet for alphabet, _ in names]
    if not rotations:
        return ClassDataset(drawings, character, class_names, splits, domains, "omniglot", f"{family}, no rotations")
    turned_in = ("train", "val", "test") if family == "vinyals" else ("train",)
    splits = {split: (_all_turns(ids) if split in turned_in else 4 * ids) for split, ids in splits.items()}
    return ClassDataset(
        inputs=torch.cat([torch.rot90(drawings, r, (2, 3)) for r in range(4)]),
        labels=torch.cat([4 * character + r for r in range(4)]),
        class_names=[f"{name}, {90 * r}°" for name in class_names for r in range(4)],
        splits=splits,
        domains=[domain for domain in domains for _ in range(4)],
        name="omniglot",
        split_family=family,
    )


def _all_turns(ids: Tensor) -> Tensor:
    return (4 * ids[:, None] + torch.arange(4)).flatten()


def _vinyals(facts: dict[str, Any], names: list[tuple[str, int]]) -> dict[str, Tensor]:
    """Characters of each split, as the published lists have them: whole alphabets, but for one that is cut in two."""
    number_of = {name: c for c, name in enumerate(names)}
    return {
        split: class_ids([number_of[alphabet, n] for alphabet, (first, last) in ranges.items() for n in range(first, last + 1)])
        for split, ranges in facts["splits"]["vinyals"].items()
    }


def _mamlpp(n_characters: int) -> dict[str, Tensor]:
    """Characters of each split after MAML++'s ``data.py``: shuffled once, cut at cumulated fractions, rounded down."""
    order = np.arange(n_characters, dtype=np.int32)
    np.random.RandomState(MAMLPP_SEED).shuffle(order)
    first, second = (int(np.sum(MAMLPP_FRACTIONS[:k]) * n_characters) for k in (1, 2))
    parts = {"train": order[:first], "val": order[first:second], "test": order[second:]}
    return {split: torch.from_numpy(np.sort(part).astype(np.int64)) for split, part in parts.items()}


def _drawings(facts: dict[str, Any], antialias: bool) -> tuple[Tensor, Tensor]:
    """All drawings, (n, 1, 28, 28) uint8, and their characters, (n,) int64; from the cache after the first time."""
    expected = "".join(entry["content"] for entry in facts["files"])
    key = hashlib.sha256(expected.encode()).hexdigest()[:16]
    path = cache_dir("omniglot") / f"{key}-{'average' if antialias else 'nearest'}.safetensors"

    def build() -> tuple[dict[str, Tensor], dict[str, str]]:
        found: dict[str, np.ndarray] = {}
        for entry in facts["files"]:
            found |= fetch(remote_file(entry), partial(read_drawings, content=entry["content"], n=entry["pictures"], antialias=antialias))
        folders = [f"{alphabet}/character{n:02d}" for alphabet, count in facts["alphabets"].items() for n in range(1, count + 1)]
        number_of = {folder: c for c, folder in enumerate(folders)}
        order = sorted((number_of[name.split("/", 1)[1].rsplit("/", 1)[0]], name) for name in found)
        images = torch.from_numpy(np.stack([found[name] for _, name in order])).unsqueeze(1)
        return {"images": images, "character": class_ids([c for c, _ in order])}, {}

    tensors, _ = cached_tensors(path, build)
    return tensors["images"], tensors["character"]


def read_drawings(path: Path, content: str, n: int, antialias: bool = False) -> dict[str, np.ndarray]:
    """The pictures of one Omniglot zip: member name -> (28, 28) uint8, ink 255.

    n: how many there are to be, for the progress bar.
    content: the expected sha256 over all (name, 105x105 bitmap), sorted by name: it does not depend on how the zip was
        packed or the PNG compressed. Raises DataError if it differs, and for a member that is not such a picture.
    """
    small, bitmaps = {}, {}
    pictures = ((name, png) for name, png in members(path) if name.endswith(".png") and not name.startswith("__MACOSX"))
    for name, png in progress(pictures, f"decoding {path.name}", " pictures", n):
        small[name], bitmaps[name] = _decode(path, name, png, antialias)
    digest = hashlib.sha256()
    for name in sorted(bitmaps):
        digest.update(name.encode() + b"\0" + bitmaps[name])
    if digest.hexdigest() != content:
        raise DataError(
            f"{path.name} holds {len(small):,} pictures, but not the expected ones "
            f"(content sha256 {digest.hexdigest()}, expected {content}); it is {describe(path)}."
        )
    return small


def _decode(path: Path, name: str, png: bytes, antialias: bool) -> tuple[np.ndarray, bytes]:
    """One picture at 28x28, ink 255, and its packed bitmap."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            width, height = image.size
            bits = image.convert("1", dither=Image.Dither.NONE) if (width, height) == (FILE_SIZE, FILE_SIZE) else None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name}: {name} is not a readable picture ({error}).") from None
    if bits is None:
        raise DataError(f"{path.name}: {name} has {width}x{height} pixels, not {FILE_SIZE}x{FILE_SIZE}.")
    paper = bits.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR if antialias else Image.Resampling.NEAREST)
    return 255 - np.asarray(paper), np.packbits(np.asarray(bits)).tobytes()
