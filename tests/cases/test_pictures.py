"""Folders of pictures and arrays as people have them, which the course once got wrong (F1 to A14)."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib import data
from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.encoders import raw_features
from fewshot_lib.prototypes import euclidean_prototypes

IMAGES = Path(__file__).parent / "images"
ALL = {"test": 1.0}
DEEP = ["grey16_png", "grey12_in16_png", "grey16_tif", "int32_tif", "float01_tif", "hdr_pgm16"]
AS_8_BITS = ["cmyk_jpg", "grey_alpha_png", "palette_png"]


def load(path, **options):
    """The data set, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = data.from_folder(path, **{"split": ALL} | options)
    return dataset, [str(warning.message) for warning in caught]


@pytest.fixture
def noise(tmp_path):
    """Makes pictures of noise, each another one, at paths below a folder; returns it."""
    random = np.random.default_rng(0)

    def make(*paths: str):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32), dtype=np.uint8)).save(tmp_path / path)
        return tmp_path

    return make


CLASSES = [f"class{c:02d}" for c in range(12)]


@pytest.mark.parametrize("name", DEEP)
def test_f1_deep_pictures_show_what_their_8_bit_twins_show(name):
    (deep, said), (twin, _) = load(IMAGES / name, size=32), load(IMAGES / "grey8_png", size=32)
    assert (deep.inputs.int() - twin.inputs.int()).abs().max() <= 1
    assert len(said) == 1 and "pixels run from 0 to " in said[0] and "scaled to 0..255" in said[0]


@pytest.mark.parametrize("name", AS_8_BITS)
def test_f1_other_modes_show_it_too_without_a_word(name):
    (other, said), (twin, _) = load(IMAGES / name, size=32), load(IMAGES / "grey8_png", size=32)
    assert (other.inputs.int() - twin.inputs.int()).abs().max() <= 1 and said == []


@pytest.mark.parametrize("name", sorted(path.name for path in IMAGES.iterdir()))
def test_f1_no_mode_loses_the_difference_between_the_classes(name):
    images = load(IMAGES / name)[0].inputs
    assert all(len(image.unique()) > 1 for image in images), "a constant was what 16 bits became"
    same, other = (images[0].float() - images[[1, 2]].float()).flatten(1).norm(dim=1)
    assert same <= other


def test_f1_a_white_letter_on_a_transparent_ground_is_seen():
    images, said = load(IMAGES / "rgba_white_glyph_png", size=32)
    assert images.inputs.min() == 0 and images.inputs.max() == 255
    assert len(said) == 1 and "cannot be seen on white paper: 4" in said[0]


def test_f1_16_bits_are_classified_as_well_as_8(tmp_path):
    random = np.random.default_rng(0)
    for c in range(6):
        base = np.kron(np.random.default_rng(c).random((8, 8)), np.ones((4, 4)))
        for i in range(8):
            shown = 0.1 + 0.6 * base + 0.3 * random.random((32, 32))
            for bits, kind in ((8, np.uint8), (16, np.uint16)):
                file = tmp_path / f"bits{bits}/class{c}/{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((shown * (2**bits - 1)).astype(kind)).save(file)
    for name in ("bits8", "bits16"):
        dataset, _ = load(tmp_path / name)
        episodes = EpisodeSampler(dataset.labels, dataset.classes("test"), 5, 1, 5, 0).sample(30)
        assert evaluate(euclidean_prototypes, episodes, raw_features(dataset)).mean == 1


def test_f2_pictures_in_folders_inside_class_folders_are_read(noise):
    folder = noise(*(f"{name}/{'batch1/' if i % 2 else ''}{i}.png" for name in CLASSES for i in range(4)))
    dataset, said = load(folder)
    assert dataset.counts.tolist() == [4] * 12 and len(said) == 1 and "levels: 1), read: 24" in said[0]


def test_f9_texts_in_numpy_arrays_one_hot_labels_and_channels_behind():
    texts, ids = [f"text {i}" for i in range(12)], [i % 3 for i in range(12)]
    one_hot = np.eye(3, dtype=int)[ids]
    dataset = data.from_arrays(np.array(texts, dtype=object), one_hot, split=ALL)
    assert dataset.inputs == texts and dataset.labels.tolist() == ids
    behind = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 3), dtype=np.uint8)
    images = data.from_arrays(behind, ids, split=ALL).inputs
    assert np.array_equal(images, behind.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match="NaN or infinite pixels in 12 images: row 0"):
        data.from_arrays(np.full((12, 5, 5), np.nan), ids, split=ALL)


def test_f11_size_and_colour_have_the_words_of_the_command_line(noise):
    folder = noise("a/1.png", "b/1.png")
    assert load(folder, size="32x48", color=True)[0].inputs.shape == (2, 3, 32, 48)


def test_f16_a_folder_name_that_is_not_utf_8_can_be_printed(noise):
    folder = noise("a/1.png")
    os.rename(folder / "a", os.path.join(os.fsencode(folder), b"caf\xe9"))
    dataset, _ = load(folder)
    assert dataset.class_names == ["caf\\xe9"] and dataset.class_names[0].encode("utf-8")
    (folder / "shown").mkdir()
    strange = os.path.join(os.fsencode(folder), b"set\xff")
    os.makedirs(os.path.join(strange, b"a"))
    with pytest.raises(data.DataError, match=r"set\\xff/a holds no pictures"):
        data.from_folder(os.fsdecode(strange))


def test_f18_folders_of_parts_with_classes_of_their_own_are_the_split(noise):
    parts = ("train", "val", "test")
    folder = noise(*(f"{parts[c % 3]}/{name}/{i}.png" for c, name in enumerate(CLASSES) for i in range(2)))
    dataset, said = load(folder, split=None)
    assert {part: dataset.classes(part).tolist() for part in parts} == {
        part: list(range(c, 12, 3)) for c, part in enumerate(parts)
    }
    assert dataset.split_family == "folders" and dataset.class_names == CLASSES and said == []


def test_f18_folders_of_parts_with_the_same_classes_are_joined_and_that_is_said(noise):
    folder = noise(*(f"{part}/{name}/{part}.png" for part in ("train", "test") for name in CLASSES))
    dataset, said = load(folder, split=None)
    assert dataset.counts.tolist() == [2] * 12 and list(dataset.splits) == ["train", "val", "test"]
    assert len(said) == 1 and "12 classes stand in several of the folders train, test" in said[0]


def test_f18_classes_whose_pictures_are_all_deeper_are_read(noise):
    folder = noise(*(f"{name}/batch{i % 3}/{i}.png" for name in CLASSES for i in range(3)))
    assert load(folder)[0].counts.tolist() == [3] * 12


def test_f18_two_formats_beside_each_other_need_no_word(noise):
    dataset, said = load(noise("a/1.png", "a/1.jpg", "b/1.jpg", "b/1.png"))
    assert dataset.counts.tolist() == [2, 2] and said == []


def test_f18_a_flat_folder_of_pictures_is_told_the_layout(noise):
    with pytest.raises(
        data.DataError, match="no sub-folders but 2 pictures, such as cat_1.png: put the pict"
    ):
        data.from_folder(noise("cat_1.png", "dog_1.png"))


def test_f22_a_folder_named_like_a_data_set_is_read_by_from_folder(noise, monkeypatch):
    monkeypatch.chdir(noise("glyphs/a/1.png", "glyphs/b/1.png"))
    dataset, _ = load("glyphs")
    assert dataset.name == "glyphs" and dataset.class_names == ["a", "b"]


@pytest.mark.parametrize("path", ["/dev/null", "/dev/null/x", "no such folder", __file__])
def test_a14_what_is_no_folder_is_refused_in_one_sentence(path):
    with pytest.raises(data.DataError, match="[Nn]o folder"):
        data.from_folder(path)


def test_a14_a_pipe_and_a_ring_of_links_end(noise):
    folder = noise("a/1.png", "b/1.png")
    os.mkfifo(folder / "a/2.png")
    (folder / "b/again").symlink_to(folder, target_is_directory=True)
    dataset, said = load(folder)
    assert torch.equal(dataset.counts, torch.tensor([1, 1])) and "left out: 1, such as" in said[0]
