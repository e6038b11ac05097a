"""Omniglot from small drawn zips, and from the real ones where FEWSHOT_DATA has them."""

import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib.data.published import omniglot
from fewshot_lib.data.published.download import card
from fewshot_lib.data.published.omniglot import load_omniglot
from fewshot_lib.data.reporting import DataError

REAL = Path(os.environ.get("FEWSHOT_DATA") or ".") / "omniglot"
HAS_REAL = (REAL / "images_background.zip").is_file()
needs_real = pytest.mark.skipif(not HAS_REAL, reason="FEWSHOT_DATA has no omniglot/images_background.zip")


def drawing(seed: int) -> Image.Image:
    """A one-bit picture, 105x105, black strokes on white."""
    paper = np.ones((105, 105), bool)
    for row, column in np.random.default_rng(seed).integers(5, 80, (4, 2)):
        paper[row : row + 20, column : column + 3] = False
        paper[row : row + 3, column : column + 14] = False
    return Image.fromarray(paper)


def png(picture: Image.Image, level: int = 6) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=level)
    return file.getvalue()


def pictures(folder: str, alphabets: dict[str, int], first: int) -> dict[str, Image.Image]:
    """Two drawings of every character."""
    names = [(a, n, k) for a, count in alphabets.items() for n in range(1, count + 1) for k in (1, 2)]
    file = "{}/{}/character{:02d}/{:04d}_{:02d}.png"
    return {file.format(folder, a, n, first, k): drawing(first + 7 * i) for i, (a, n, k) in enumerate(names)}


def content_sha256(files: dict[str, Image.Image]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + np.packbits(np.asarray(files[name])).tobytes())
    return digest.hexdigest()


def write_zip(path: Path, files: dict[str, Image.Image], level: int = 6, packing: int = zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("images/", b"")
        for name, picture in files.items():
            archive.writestr(name, png(picture, level))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A mirror of two zips with 3 alphabets (2, 3, 1 characters), and its card; returns its parts."""
    alphabets = {"Ancient": 2, "Modern": 3, "Secret": 1}
    parts = {
        "images_background": pictures("images_background", {"Ancient": 2, "Secret": 1}, 1),
        "images_evaluation": pictures("images_evaluation", {"Modern": 3}, 900),
    }
    mirror = tmp_path / "mirror" / "omniglot"
    mirror.mkdir(parents=True)
    for name, files in parts.items():
        write_zip(mirror / f"{name}.zip", files)

    def entry(name: str, files: dict) -> dict:
        place = {"path": f"omniglot/{name}.zip", "url": f"http://127.0.0.1:9/{name}.zip", "checksum": ""}
        return place | {"content": content_sha256(files), "pictures": len(files)}

    vinyals = {
        "train": {"Ancient": [1, 2], "Modern": [1, 1]},
        "val": {"Secret": [1, 1]},
        "test": {"Modern": [2, 3]},
    }
    files = [entry(name, files) for name, files in parts.items()]
    facts = {"files": files, "alphabets": alphabets, "splits": {"vinyals": vinyals}}
    monkeypatch.setattr(omniglot, "card", lambda name: facts)
    for setting, value in (("DATA", tmp_path / "mirror"), ("CACHE", tmp_path / "cache"), ("STATIC", 1)):
        monkeypatch.setenv(f"FEWSHOT_{setting}", str(value))
    return {"mirror": mirror, "parts": parts, "cache": tmp_path / "cache"}


def test_every_character_comes_in_four_turns_that_are_classes(small):
    data = load_omniglot()
    assert data.inputs.shape == (4 * 12, 1, 28, 28) and data.inputs.dtype == torch.uint8
    assert data.counts.tolist() == [2] * 24
    for character in range(6):
        upright = data.inputs[data.labels == 4 * character]
        for r in range(4):
            assert torch.equal(data.inputs[data.labels == 4 * character + r], torch.rot90(upright, r, (2, 3)))
    picture = small["parts"]["images_background"]["images_background/Ancient/character01/0001_01.png"]
    turned = 255 - np.asarray(picture.rotate(90).resize((28, 28)).convert("L"))  # counter-clockwise
    assert np.array_equal(data.inputs[data.labels == 1][0, 0].numpy(), turned)
    assert data.class_names[4:8] == [f"Ancient 02, {angle}°" for angle in (0, 90, 180, 270)]
    assert data.domains[::4] == ["Ancient", "Ancient", "Modern", "Modern", "Modern", "Secret"]


def test_ink_is_255_on_0_and_the_size_is_reduced_as_published(small):
    picture = small["parts"]["images_evaluation"]["images_evaluation/Modern/character03/0900_02.png"]
    # What the papers' code does: PIL's resize of the one-bit picture, whatever filter is asked for.
    published = 255 - np.asarray(picture.resize((28, 28), Image.Resampling.LANCZOS).convert("L"))
    data = load_omniglot(rotations=False)
    assert np.array_equal(data.inputs[data.labels == 4][1, 0].numpy(), published)
    assert sorted(data.inputs.unique().tolist()) == [0, 255] and (data.inputs == 255).float().mean() < 0.5
    smooth = load_omniglot(rotations=False, antialias=True)
    assert len(smooth.inputs.unique()) > 10
    assert torch.corrcoef(torch.stack([smooth.inputs.flatten(), data.inputs.flatten()]).float())[0, 1] > 0.7


def test_splits_are_by_character_and_every_turn_follows_its_character(small):
    data = load_omniglot()
    assert data.split_family == "vinyals"
    characters = {"train": [0, 1, 2], "val": [5], "test": [3, 4]}
    assert {split: (classes // 4).unique().tolist() for split, classes in data.splits.items()} == characters
    assert [len(data.classes(split)) for split in ("train", "val", "test")] == [12, 4, 8]
    plain = load_omniglot(rotations=False)
    assert {split: classes.tolist() for split, classes in plain.splits.items()} == characters
    assert plain.split_family == "vinyals, no rotations"


def test_mamlpp_turns_the_training_characters_only(monkeypatch, small):
    monkeypatch.setattr(omniglot, "MAMLPP_FRACTIONS", (0.5, 0.2, 0.3))
    data = load_omniglot("mamlpp")
    assert len(data.classes("train")) == 4 * 3
    assert all((data.classes(split) % 4 == 0).all() for split in ("val", "test"))
    assert set((torch.cat(list(data.splits.values())) // 4).tolist()) == set(range(6))


def test_mamlpp_splits_as_the_published_code_does():
    splits = omniglot._mamlpp(1623)
    assert [len(splits[split]) for split in ("train", "val", "test")] == [1150, 50, 423]
    # data.py of MAML++: keys are shuffled by index, cut at int(fraction * total); the last one is not used.
    keys, index = list(range(1623)), np.arange(1623, dtype=np.int32)
    np.random.RandomState(seed=0).shuffle(index)
    keys = [keys[i] for i in index]
    assert splits["train"].tolist() == sorted(keys[:1150]) and splits["test"].tolist() == sorted(keys[1200:])


def test_vinyals_splits_as_published():
    facts = card("omniglot")
    names = [(alphabet, n) for alphabet, count in facts["alphabets"].items() for n in range(1, count + 1)]
    splits = omniglot._vinyals(facts, names)
    assert [len(splits[split]) for split in ("train", "val", "test")] == [1028, 172, 423]
    assert torch.cat(list(splits.values())).sort().values.tolist() == list(range(1623))
    assert len(facts["alphabets"]) == 50
    # MAML++ sorts "alphabet/character": the card must have the same order, or its split would be another.
    folders = [f"{alphabet}/character{n:02d}" for alphabet, n in names]
    assert folders == sorted(folders)


def test_the_packing_does_not_matter_but_every_pixel_does(small):
    before = load_omniglot().inputs
    shutil.rmtree(small["cache"])
    path, files = small["mirror"] / "images_background.zip", small["parts"]["images_background"]
    write_zip(path, dict(reversed(files.items())), level=0, packing=zipfile.ZIP_STORED)
    assert torch.equal(load_omniglot().inputs, before)

    victim = list(files)[3]
    changed = files[victim].copy()
    changed.putpixel((50, 50), 0 if changed.getpixel((50, 50)) else 1)
    write_zip(path, files | {victim: changed})
    with pytest.raises(DataError, match="not the expected ones"):
        load_omniglot(antialias=True)
    write_zip(path, {name: picture for name, picture in files.items() if name != victim})
    with pytest.raises(DataError, match="holds 5 pictures"):
        load_omniglot(antialias=True)


def test_a_second_start_needs_neither_the_zips_nor_the_network(small):
    first = load_omniglot()
    shutil.rmtree(small["mirror"])
    assert torch.equal(load_omniglot().inputs, first.inputs)
    assert load_omniglot("mamlpp").split_family == "mamlpp"


def test_what_is_no_zip_and_a_member_that_is_no_such_picture_are_named(small):
    files, path = small["parts"]["images_background"], small["mirror"] / "images_background.zip"
    victim = list(files)[2]
    write_zip(path, files | {victim: files[victim].resize((64, 64))})
    with pytest.raises(DataError, match=f"{victim} has 64x64 pixels"):
        load_omniglot()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(victim, png(files[victim])[:60])
    with pytest.raises(DataError, match=f"{victim} is not a readable picture"):
        load_omniglot()
    path.write_bytes(b"<html>log in</html>")
    with pytest.raises(DataError, match=r"images_background\.zip .*web page"):
        load_omniglot()
    assert list((small["cache"] / "omniglot").iterdir()) == []


@pytest.mark.slow
@needs_real
def test_the_real_omniglot_has_the_published_classes(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(REAL.parent))
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    data = load_omniglot()
    assert data.inputs.shape == (32_460 * 4, 1, 28, 28) and data.counts.unique().tolist() == [20]
    assert [len(data.classes(split)) for split in ("train", "val", "test")] == [4112, 688, 1692]
    assert len(set(data.domains)) == 50 and len(set(data.class_names)) == 6492
    assert 0.05 < (data.inputs == 255).float().mean() < 0.12, "ink is 255, and there is little of it"
    # Nearest class mean of raw pixels, 100 ways: far above 1 % only if every label belongs to its picture.
    plain = load_omniglot(rotations=False)
    assert torch.equal(plain.labels, torch.arange(1623).repeat_interleave(20))
    pixels = plain.inputs.float().view(1623, 20, -1)[plain.classes("test")[:100]]
    nearest = torch.cdist(pixels[:, 19], pixels[:, :19].mean(1)).argmin(1)
    assert (nearest == torch.arange(100)).float().mean() > 0.1
    again = load_omniglot("mamlpp")
    assert [len(again.classes(split)) for split in ("train", "val", "test")] == [4600, 50, 423]


@needs_real
def test_the_card_agrees_with_the_published_lists():
    if not (REAL / "splits/vinyals").is_dir():
        pytest.skip("FEWSHOT_DATA has no omniglot/splits/vinyals")
    for split, ranges in card("omniglot")["splits"]["vinyals"].items():
        published = (REAL / f"splits/vinyals/{split}.txt").read_text().split()
        numbers = [
            (alphabet, n) for alphabet, (first, last) in ranges.items() for n in range(first, last + 1)
        ]
        turns = (0, 90, 180, 270)
        assert set(published) == {f"{a}/character{n:02d}/rot{r:03d}" for a, n in numbers for r in turns}
