"""The glyphs: unseen scripts are unseen, no two classes look the same, every hand differs, seeds are kept."""

import unicodedata

import pytest
import torch

from fewshot_lib import data
from fewshot_lib.data.made import glyphs

DRAWINGS = 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load("glyphs", drawings=DRAWINGS)


@pytest.fixture(scope="module")
def abc():
    return [letter for letter in glyphs.letters() if chr(letter.code) in "ABC"]


@pytest.fixture(scope="module")
def few(abc):
    """Distance maps of A, B, C: enough to draw with."""
    return glyphs.distance_maps(abc)


def test_shape(dataset):
    n = dataset.n_classes * DRAWINGS
    assert dataset.inputs.shape == (n, 1, 28, 28)
    assert dataset.inputs.dtype == torch.uint8
    assert dataset.counts.tolist() == [DRAWINGS] * dataset.n_classes
    assert len(set(dataset.class_names)) == dataset.n_classes
    assert (dataset.name, dataset.split_family) == ("glyphs", "script")


def test_no_script_stands_in_two_splits_and_every_split_has_enough_classes(dataset):
    scripts = [{dataset.domains[c] for c in classes.tolist()} for classes in dataset.splits.values()]
    assert sum(map(len, scripts)) == len(set.union(*scripts)) and len(scripts[-1]) >= 4
    assert set.union(*scripts) == set(glyphs.SCRIPTS.values())
    least = {"train": 500, "val": 100, "test": 200}
    assert all(len(dataset.classes(split)) >= n for split, n in least.items())


def test_random_family_mixes_scripts_and_keeps_the_sizes(dataset):
    mixed = data.load("glyphs", "random", drawings=DRAWINGS)
    assert mixed.split_family == "random" and torch.equal(mixed.inputs, dataset.inputs)
    for split, classes in dataset.splits.items():
        domains = [mixed.domains[c] for c in mixed.classes(split).tolist()]
        assert len(domains) == len(classes) and "Georgian" in domains


def test_letters_are_plain_letters_of_the_script_they_are_listed_under():
    for letter in glyphs.letters():
        name = unicodedata.name(chr(letter.code))
        assert unicodedata.category(chr(letter.code)) in {"Lu", "Ll", "Lo"}
        prefix = next(prefix for prefix in glyphs.SCRIPTS if name.startswith(prefix))
        assert glyphs.SCRIPTS[prefix] == letter.script
        assert " WITH " not in name and "MATHEMATICAL" not in name
        assert letter.name.lower().replace("n'ko", "nko") == name.lower()


def test_look_alikes_are_one_class(dataset):
    names = set(dataset.class_names)
    assert "Latin capital letter a" in names
    assert not {"Greek capital letter alpha", "Cyrillic capital letter a", "Lisu letter a"} & names
    # A small capital A, and a small capital O.
    assert not {"Latin letter small capital a", "Latin small letter o"} & names


def test_distinct_drops_what_lies_close_and_keeps_what_does_not():
    """A bar of 9 x 45 samples, moved by 0, 1, 2 and 9 samples of a third of a pixel."""
    canvas = []
    for shift in (0, 1, 2, 9):
        x, y = torch.meshgrid(torch.arange(90) - 40 - shift, torch.arange(90) - 20, indexing="ij")
        outside = torch.maximum(torch.maximum(-x, x - 8), torch.maximum(-y, y - 44))
        canvas.append((0.5 - outside.double()) / glyphs.FINE)
    assert glyphs.distinct(torch.stack(canvas)) == [0, 3]


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


def test_ink_is_255_on_0_in_every_drawing_and_stays_in_the_frame(dataset):
    images = dataset.inputs.squeeze(1)
    assert images.flatten(1).amax(1).min() > 200
    assert (images == 0).float().mean((1, 2)).min() > 0.5
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
    threads, global_state = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.set_num_threads(1)
        one = glyphs.draw(few, 7, seed=3)
        torch.set_num_threads(4)
        four = glyphs.draw(few, 7, seed=3)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, four) and torch.equal(one, glyphs.draw(few, 7, seed=3, batch=2))
    assert not torch.equal(one, glyphs.draw(few, 7, seed=4))
    assert torch.equal(global_state, torch.get_rng_state())


def test_a_second_load_reads_the_cache(abc, few, monkeypatch, tmp_path):
    built = []
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr(glyphs, "letters", lambda: abc)
    monkeypatch.setattr(glyphs, "distance_maps", lambda alphabet: built.append(alphabet) or few)
    first = data.load("glyphs", drawings=2)
    assert torch.equal(data.load("glyphs", drawings=2).inputs, first.inputs) and built == [abc]


def test_key_tells_seeds_and_sizes_apart():
    assert len({glyphs._key(20, 0), glyphs._key(20, 1), glyphs._key(10, 0)}) == 3


@pytest.mark.parametrize("drawings", [1, 0, -3, 2.5, "20"])
def test_too_few_drawings_are_refused_before_any_work(drawings, monkeypatch):
    monkeypatch.setattr(glyphs, "_build", lambda *_: pytest.fail("work was done"))
    with pytest.raises(ValueError, match="`drawings` is .*at least 2"):
        data.load("glyphs", drawings=drawings)
