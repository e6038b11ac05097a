"""Omniglot from small drawn zips, and from the real ones where FEWSHOT_DATA has them."""

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib.data import omniglot
from fewshot_lib.data.cards import card
from fewshot_lib.data.omniglot import load_omniglot
from fewshot_lib.data.reporting import DataError

REAL = Path(os.environ.get("FEWSHOT_DATA") or ".") / "omniglot"
needs_real = pytest.mark.skipif(
    not (REAL / "images_background.zip").is_file(), reason="FEWSHOT_DATA names no directory with omniglot/images_background.zip"
)


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
    names = [(alphabet, n, k) for alphabet, count in alphabets.items() for n in range(1, count + 1) for k in (1, 2)]
    return {f"{folder}/{a}/character{n:02d}/{first:04d}_{k:02d}.png": drawing(first + 7 * i) for i, (a, n, k) in enumerate(names)}


def content_sha256(files: dict[str, Image.Image]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + np.packbits(np.asarray(files[name])).tobytes())
    return digest.hexdigest()


def write_zip(path: Path, files: dict[str, Image.Image], level: int = 6, compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images/", b"")
        for name, picture in files.items():
            archive.writestr(name, png(picture, level))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two zips with 3 alphabets (2, 3, 1 characters) in a mirror, and the card that goes with them; returns its parts."""
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

    facts = {
        "files": [entry(name, files) for name, files in parts.items()],
        "alphabets": alphabets,
        "splits": {"vinyals": {"train": {"Ancient": [1, 2], "Modern": [1, 1]}, "val": {"Secret": [1, 1]}, "test": {"Modern": [2, 3]}}},
    }
    monkeypatch.setattr(omniglot, "card", lambda name: facts)
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "mirror"))
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    return {"mirror": mirror, "parts": parts}


def test_every_character_comes_in_four_turns_that_are_classes(small):
    data = load_omniglot()
    assert data.inputs.shape == (4 * 12, 1, 28, 28) and data.inputs.dtype == torch.uint8
    assert data.counts.tolist() == [2] * 24
    for character in range(6):
        upright = data.inputs[data.labels == 4 * character]
        for r in range(4):
            assert torch.equal(data.inputs[data.labels == 4 * character + r], torch.rot90(upright, r, (2, 3)))
    assert data.class_names[4:8] == ["Ancient 02, 0°", "Ancient 02, 90°", "Ancient 02, 180°", "Ancient 02, 270°"]
    assert data.domains[::4] == ["Ancient", "Ancient", "Modern", "Modern", "Modern", "Secret"]


def test_a_turn_by_90_degrees_is_counter_clockwise_as_in_pil(small):
    data = load_omniglot()
    picture = small["parts"]["images_background"]["images_background/Ancient/character01/0001_01.png"]
    turned = 255 - np.asarray(picture.rotate(90).resize((28, 28)).convert("L"))
    assert np.array_equal(data.inputs[data.labels == 1][0, 0].numpy(), turned)


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
    characters = [c // 4 for split in data.splits for c in data.classes(split).tolist()]
    assert set(characters) == set(range(6))


def test_mamlpp_splits_as_the_published_code_does():
    splits = omniglot._mamlpp(1623)
    assert [len(splits[split]) for split in ("train", "val", "test")] == [1150, 50, 423]
    # data.py of MAML++: keys are shuffled by index and cut at int(fraction * total), the last fraction is not used.
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
    # MAML++ sorts "alphabet/character": the order of the card must be the same, or its split would be another one.
    folders = [f"{alphabet}/character{n:02d}" for alphabet, n in names]
    assert folders == sorted(folders)


def test_the_readable_card_says_the_same():
    text = (Path(__file__).parents[2] / "data" / "omniglot.md").read_text(encoding="utf-8")
    for entry in card("omniglot")["files"]:
        assert all(entry[fact] in text for fact in ("path", "url", "checksum", "content"))
    assert all(f"`{family}`" in text for family in omniglot.FAMILIES)


def test_the_packing_does_not_matter_but_every_pixel_does(small):
    before = load_omniglot().inputs
    for file in (small["mirror"].parent.parent / "cache" / "omniglot").iterdir():
        file.unlink()
    name, files = "images_background", small["parts"]["images_background"]
    write_zip(small["mirror"] / f"{name}.zip", dict(reversed(files.items())), level=0, compression=zipfile.ZIP_STORED)
    assert torch.equal(load_omniglot().inputs, before)

    victim = list(files)[3]
    changed = files[victim].copy()
    changed.putpixel((50, 50), 0 if changed.getpixel((50, 50)) else 1)
    write_zip(small["mirror"] / f"{name}.zip", files | {victim: changed})
    with pytest.raises(DataError, match="not the expected ones"):
        load_omniglot(antialias=True)
    write_zip(small["mirror"] / f"{name}.zip", {key: value for key, value in files.items() if key != victim})
    with pytest.raises(DataError, match="holds 5 pictures"):
        load_omniglot(antialias=True)


def test_a_second_start_needs_neither_the_zips_nor_the_network(small):
    first = load_omniglot()
    for file in small["mirror"].iterdir():
        file.unlink()
    assert torch.equal(load_omniglot().inputs, first.inputs)
    assert load_omniglot("mamlpp").split_family == "mamlpp"


def test_a_damaged_cache_is_made_again_with_a_warning(small):
    first = load_omniglot()
    (kept,) = (small["mirror"].parent.parent / "cache" / "omniglot").iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(load_omniglot().inputs, first.inputs)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"<html>log in</html>", "web page"), (b"PK\x03\x04 and nothing more", "damaged or incomplete"), (b"", "empty")],
    ids=["web page", "truncated", "empty"],
)
def test_what_is_no_zip_is_refused(small, content, words):
    (small["mirror"] / "images_evaluation.zip").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        load_omniglot()
    assert "images_evaluation.zip" in str(error.value)
    assert list((small["mirror"].parent.parent / "cache" / "omniglot").iterdir()) == []


def test_a_member_that_is_no_such_picture_is_named(small):
    files = small["parts"]["images_background"]
    path = small["mirror"] / "images_background.zip"
    victim = list(files)[2]
    write_zip(path, files | {victim: files[victim].resize((64, 64))})
    with pytest.raises(DataError, match=f"{victim} has 64x64 pixels"):
        load_omniglot()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(victim, png(files[victim])[:60])
    with pytest.raises(DataError, match=f"{victim} is not a readable picture"):
        load_omniglot()


def test_an_unknown_family_is_refused_before_any_file_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="'lake'; omniglot has 'vinyals', 'mamlpp'") as error:
        load_omniglot("lake")
    assert not isinstance(error.value, DataError)


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
@pytest.mark.skipif(not (REAL / "splits/vinyals").is_dir(), reason="FEWSHOT_DATA has no omniglot/splits/vinyals")
def test_the_card_agrees_with_the_published_lists():
    facts = card("omniglot")
    for split, ranges in facts["splits"]["vinyals"].items():
        published = (REAL / f"splits/vinyals/{split}.txt").read_text().split()
        ours = {f"{alphabet}/character{n:02d}" for alphabet, (first, last) in ranges.items() for n in range(first, last + 1)}
        assert set(published) == {f"{character}/rot{r:03d}" for character in ours for r in (0, 90, 180, 270)}
