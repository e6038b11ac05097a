"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 1,623 characters of 50 alphabets, drawn once by 20 people.

A class is a character in one of four rotations (Vinyals et al. 2016): a rotated character is a new shape. The
two published ways to split the characters are the split families

- ``vinyals``: 1,028 / 172 / 423 characters, rotations in every split (Matching and Prototypical Networks);
- ``mamlpp``: 1,150 / 50 / 423 characters, rotations in training only (MAML++, Antoniou et al. 2019). Their
  code sorts "alphabet/character", shuffles with ``numpy.random.RandomState(0)`` (``val_seed`` 0) and cuts.

The drawings are one-bit pictures of 105x105 pixels. To make 28x28 of them, the code of both papers calls
PIL's resize, which for one-bit pictures takes the nearest pixel, whatever filter is asked for. So does the
default here, so that published numbers can be compared; ``antialias=True`` averages, which looks better.
"""

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.data.cache import cache_dir, cached_tensors
from fewshot_lib.data.dataset import ClassDataset, chosen_family, class_ids
from fewshot_lib.data.published.archives import members, unexpected
from fewshot_lib.data.published.download import card, fetch
from fewshot_lib.data.reporting import DataError, progress

FILE_SIZE, SIZE = 105, 28
FAMILIES = ["vinyals", "mamlpp"]
MAMLPP_FRACTIONS = (0.70918052988, 0.03080714725, 0.2606284658)
MAMLPP_SEED = 0


def load_omniglot(
    split_family: str | None = None, rotations: bool = True, antialias: bool = False
) -> ClassDataset:
    """Omniglot as (n, 1, 28, 28) uint8, ink 255 on 0. The first call decodes 32,460 pictures and keeps them.

    split_family: "vinyals" (default) or "mamlpp".
    rotations: with True, class 4·character + r is the character turned by r·90° counter-clockwise (6,492
    classes of 20); with False, the class is the character (1,623 classes).
    antialias: how 105x105 becomes 28x28: nearest pixel (False, as published), or averaged (True).
    """
    facts = card("omniglot")
    family = chosen_family("omniglot", FAMILIES, split_family)
    names = [(alphabet, n) for alphabet, count in facts["alphabets"].items() for n in range(1, count + 1)]
    drawings, character = _drawings(facts, names, antialias)
    turns = 4 if rotations else 1
    splits = _vinyals(facts, names) if family == "vinyals" else _mamlpp(len(names))
    for split, ids in splits.items():
        its_turns = turns if family == "vinyals" or split == "train" else 1
        splits[split] = (turns * ids[:, None] + torch.arange(its_turns)).flatten()
    class_names = [f"{alphabet} {n:02d}" for alphabet, n in names]
    if rotations:
        class_names = [f"{name}, {90 * r}°" for name in class_names for r in range(turns)]
    return ClassDataset(
        inputs=torch.cat([torch.rot90(drawings, r, (2, 3)) for r in range(turns)]),
        labels=torch.cat([turns * character + r for r in range(turns)]),
        class_names=class_names,
        splits=splits,
        domains=[alphabet for alphabet, _ in names for _ in range(turns)],
        name="omniglot",
        split_family=family if rotations else f"{family}, no rotations",
    )


def _vinyals(facts: dict[str, Any], names: list[tuple[str, int]]) -> dict[str, Tensor]:
    """Characters of each split, as the published lists have them: whole alphabets, but for one cut in two."""
    in_splits: dict[str, list[int]] = {split: [] for split in facts["splits"]["vinyals"]}
    for split, ranges in facts["splits"]["vinyals"].items():
        for c, (alphabet, n) in enumerate(names):
            first, last = ranges.get(alphabet, (1, 0))
            if first <= n <= last:
                in_splits[split].append(c)
    return {split: class_ids(ids) for split, ids in in_splits.items()}


def _mamlpp(n_characters: int) -> dict[str, Tensor]:
    """Characters of each split after MAML++'s ``data.py``: shuffled, cut at cumulated fractions."""
    order = np.arange(n_characters, dtype=np.int32)
    np.random.RandomState(MAMLPP_SEED).shuffle(order)
    first, second = (int(np.sum(MAMLPP_FRACTIONS[:k]) * n_characters) for k in (1, 2))
    parts = {"train": order[:first], "val": order[first:second], "test": order[second:]}
    return {split: torch.from_numpy(np.sort(part).astype(np.int64)) for split, part in parts.items()}


def _drawings(facts: dict[str, Any], names: list[tuple[str, int]], antialias: bool) -> tuple[Tensor, Tensor]:
    """All drawings, (n, 1, 28, 28) uint8, and their characters, (n,) int64; cached."""
    expected = "".join(entry["content"] for entry in facts["files"])
    key = hashlib.sha256(expected.encode()).hexdigest()[:16]
    path = cache_dir("omniglot") / f"{key}-{'average' if antialias else 'nearest'}.safetensors"

    def build() -> tuple[dict[str, Tensor], dict[str, str]]:
        found: dict[str, np.ndarray] = {}
        for entry in facts["files"]:
            found |= fetch(entry, partial(read_drawings, entry=entry, antialias=antialias))
        number_of = {f"{alphabet}/character{n:02d}": c for c, (alphabet, n) in enumerate(names)}
        order = sorted((number_of[name.split("/", 1)[1].rsplit("/", 1)[0]], name) for name in found)
        images = torch.from_numpy(np.stack([found[name] for _, name in order])).unsqueeze(1)
        return {"images": images, "character": class_ids([c for c, _ in order])}, {}

    tensors, _ = cached_tensors(path, build)
    return tensors["images"], tensors["character"]


def read_drawings(path: Path, entry: dict[str, Any], antialias: bool) -> dict[str, np.ndarray]:
    """The pictures of one Omniglot zip: member name -> (28, 28) uint8, ink 255.

    The entry of the card has the expected sha256 over all (name, 105x105 bitmap), sorted by name: it does not
    depend on how the zip was packed or the PNG compressed.
    """
    small, bitmaps = {}, {}
    pictures = (member for member in members(path) if member[0].endswith(".png"))
    for name, png in progress(pictures, f"decoding {path.name}", " pictures", entry["pictures"]):
        if not name.startswith("__MACOSX"):
            small[name], bitmaps[name] = _decode(path, name, png, antialias)
    digest = hashlib.sha256()
    for name in sorted(bitmaps):
        digest.update(name.encode() + b"\0" + bitmaps[name])
    if digest.hexdigest() != entry["content"]:
        holds = f"holds {len(small):,} pictures, but not the expected ones"
        raise unexpected(path, holds, digest.hexdigest(), [entry["content"]])
    return small


def _decode(path: Path, name: str, png: bytes, antialias: bool) -> tuple[np.ndarray, bytes]:
    """One picture at 28x28, ink 255, and its packed bitmap."""
    from PIL import Image, UnidentifiedImageError  # here: not needed when the images are in the cache

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            size = image.size
            bits = image.convert("1", dither=Image.Dither.NONE) if size == (FILE_SIZE, FILE_SIZE) else None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name}: {name} is not a readable picture ({error}).") from None
    if bits is None:
        raise DataError(f"{path.name}: {name} has {size[0]}x{size[1]} pixels, not {FILE_SIZE}x{FILE_SIZE}.")
    how = Image.Resampling.BILINEAR if antialias else Image.Resampling.NEAREST
    paper = bits.convert("L").resize((SIZE, SIZE), how)
    return 255 - np.asarray(paper), np.packbits(np.asarray(bits)).tobytes()
