"""The glyphs: unseen scripts really are unseen, no two classes look the same, every hand differs, and seeds are kept."""

import unicodedata

import pytest
import torch

from fewshot_lib import data
from fewshot_lib.data import glyphs

DRAWINGS = 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load("glyphs", drawings=DRAWINGS)


@pytest.fixture(scope="module")
def few():
    """Distance maps of A, B, C: enough to draw with."""
    return glyphs.distance_maps([letter for letter in glyphs.letters() if letter.code in (ord("A"), ord("B"), ord("C"))])


def test_shape(dataset):
    n = dataset.n_classes * DRAWINGS
    assert dataset.inputs.shape == (n, 1, 28, 28)
    assert dataset.inputs.dtype == torch.uint8
    assert dataset.counts.tolist() == [DRAWINGS] * dataset.n_classes
    assert len(set(dataset.class_names)) == dataset.n_classes
    assert (dataset.name, dataset.split_family) == ("glyphs", "script")


def test_no_script_stands_in_two_splits(dataset):
    scripts = {split: {dataset.domains[c] for c in classes.tolist()} for split, classes in dataset.splits.items()}
    assert not scripts["train"] & scripts["val"]
    assert not scripts["train"] & scripts["test"]
    assert not scripts["val"] & scripts["test"]
    assert set.union(*scripts.values()) == set(glyphs.SCRIPTS.values())


def test_every_split_has_enough_classes_and_the_test_split_enough_scripts(dataset):
    assert len(dataset.classes("val")) >= 100
    assert len(dataset.classes("test")) >= 200
    assert len(dataset.classes("train")) >= 500
    assert len({dataset.domains[c] for c in dataset.classes("test").tolist()}) >= 4


def test_random_family_mixes_scripts_and_keeps_the_sizes(dataset, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    mixed = data.load("glyphs", "random", drawings=2)
    assert mixed.split_family == "random"
    assert {split: len(c) for split, c in mixed.splits.items()} == {split: len(c) for split, c in dataset.splits.items()}
    georgian = {split: sum(mixed.domains[c] == "Georgian" for c in classes.tolist()) for split, classes in mixed.splits.items()}
    assert min(georgian.values()) > 0


def test_letters_are_plain_letters_of_the_script_they_are_listed_under():
    for letter in glyphs.letters():
        name = unicodedata.name(chr(letter.code))
        assert unicodedata.category(chr(letter.code)) in {"Lu", "Ll", "Lo"}
        assert glyphs.SCRIPTS[next(prefix for prefix in glyphs.SCRIPTS if name.startswith(prefix))] == letter.script
        assert " WITH " not in name
        assert "MATHEMATICAL" not in name
        assert letter.name.lower().replace("n'ko", "nko") == name.lower()


def test_look_alikes_are_one_class(dataset):
    names = set(dataset.class_names)
    assert "Latin capital letter a" in names
    assert not {"Greek capital letter alpha", "Cyrillic capital letter a", "Lisu letter a", "Latin letter small capital a"} & names
    assert "Latin small letter o" not in names  # a small capital O


def test_distinct_drops_what_lies_close_and_keeps_what_does_not():
    canvas = torch.full((4, glyphs.CANVAS * glyphs.FINE, glyphs.CANVAS * glyphs.FINE), -5.0, dtype=torch.float64)
    for i, shift in enumerate([0, 1, 2, 9]):  # a bar of 9 x 45 samples, moved by `shift` samples of a third of a pixel
        x, y = torch.meshgrid(torch.arange(90) - 40 - shift, torch.arange(90) - 20, indexing="ij")
        outside = torch.maximum(torch.maximum(-x, x - 8), torch.maximum(-y, y - 44))
        canvas[i] = (0.5 - outside) / glyphs.FINE
    assert glyphs.distinct(canvas) == [0, 3]


def test_letters_have_one_size(few):
    for glyph in few > 0:
        rows, columns = glyph.any(1).nonzero(), glyph.any(0).nonzero()
        longer = max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) / glyphs.FINE
        assert abs(longer - glyphs.LETTER) < 2


def test_letters_are_written_with_one_pen():
    """A small capital is a capital with thicker strokes, once both are scaled to one size."""
    pair = [letter for letter in glyphs.letters() if letter.code in (ord("A"), 0x1D00)]
    area = (glyphs.distance_maps(pair) > 0).sum((1, 2))
    assert abs(area[0] - area[1]) < 0.1 * area[0]


def test_ink_is_255_on_0_in_every_drawing(dataset):
    images = dataset.inputs.flatten(1)
    assert images.amax(1).min() > 200
    assert (images == 0).float().mean(1).min() > 0.5


def test_drawings_stay_in_the_frame(dataset):
    images = dataset.inputs.squeeze(1)
    frame = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], dim=1)
    assert (frame > 127).any(1).float().mean() < 0.08


def test_every_hand_differs(dataset):
    drawings = dataset.inputs.view(dataset.n_classes, DRAWINGS, -1).float()
    distances = torch.cdist(drawings, drawings) + 1e9 * torch.eye(DRAWINGS)
    assert distances.min() > 0


def test_pixels_say_something_but_not_all(dataset):
    """Nearest neighbour among 5 random test classes: better than chance, far from solved."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.rand(400, len(dataset.classes("test")), generator=generator).argsort(1)[:, :5]
    images = dataset.inputs[dataset.rows("test")].view(-1, DRAWINGS, 784).float()[classes]  # (400, 5, D, 784)
    nearest = torch.cdist(images[:, :, 1], images[:, :, 0]).argmin(-1)
    accuracy = (nearest == torch.arange(5)).float().mean()
    assert 0.24 < accuracy < 0.5


def test_same_seed_same_bytes_whatever_the_threads_and_batches(few):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = glyphs.draw(few, 7, seed=3)
        torch.set_num_threads(4)
        four = glyphs.draw(few, 7, seed=3)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, four)
    assert torch.equal(one, glyphs.draw(few, 7, seed=3, batch=2))
    assert not torch.equal(one, glyphs.draw(few, 7, seed=4))


def test_drawing_leaves_the_global_random_state_alone(few):
    before = torch.get_rng_state()
    glyphs.draw(few, 2, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_second_load_reads_the_cache_and_a_damaged_file_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    built = []
    build = glyphs._build
    monkeypatch.setattr(glyphs, "_build", lambda *size: built.append(size) or build(*size))
    first = data.load("glyphs", drawings=2)
    assert torch.equal(data.load("glyphs", drawings=2).inputs, first.inputs)
    assert built == [(2, 0)]
    [file] = (tmp_path / "glyphs").iterdir()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.warns(UserWarning, match="damaged"):
        again = data.load("glyphs", drawings=2)
    assert torch.equal(again.inputs, first.inputs)
    assert built == [(2, 0)] * 2


def test_key_tells_seeds_and_sizes_apart():
    assert len({glyphs._key(20, 0), glyphs._key(20, 1), glyphs._key(10, 0)}) == 3


@pytest.mark.parametrize("drawings", [1, 0, -3, 2.5, "20"])
def test_too_few_drawings(drawings, monkeypatch):
    monkeypatch.setattr(glyphs, "_build", lambda *_: pytest.fail("work was done before the argument was checked"))
    with pytest.raises(ValueError, match="`drawings` is .*at least 2"):
        data.load("glyphs", drawings=drawings)


def test_unknown_family():
    with pytest.raises(ValueError, match="'alphabet'; glyphs has 'script', 'random'"):
        data.load("glyphs", "alphabet")
