"""The quick searches for duplicates find exactly what comparing all pairs finds."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer

from fewshot_lib.data.checks import duplicates
from fewshot_lib.data.checks.duplicates import (
    _rarest_words,
    _sharing,
    bitmaps,
    keys_of,
    near_images,
    near_texts,
    same_groups,
)


def all_pairs_of_texts(texts, owners, threshold):
    words = [set(key.split()) for key in keys_of(texts)]

    def is_near(i, j):
        return len(words[i] & words[j]) >= threshold * len(words[i] | words[j]) - 1e-9

    # Of texts with the same words and the same owner, the first stands for all.
    first = {
        (frozenset(w), owner): i for i, (w, owner) in reversed([*enumerate(zip(words, owners, strict=True))])
    }
    pairs = itertools.combinations(sorted(first.values()), 2)
    return [[i, j] for i, j in pairs if owners[i] != owners[j] and is_near(i, j)]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.8, 1.0])
def test_near_texts_are_those_that_comparing_all_pairs_finds(threshold):
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{i}" for i in range(60)])
    originals = [rng.choice(vocabulary, rng.integers(1, 14)) for _ in range(150)]
    changed = [np.where(rng.random(len(w)) < 0.12, rng.choice(vocabulary, len(w)), w) for w in originals]
    texts = [" ".join(words) for words in [*originals, *changed]]
    owners = rng.integers(0, 3, len(texts))
    expected = all_pairs_of_texts(texts, owners, threshold)
    assert len(expected) > 10
    assert near_texts(texts, owners, threshold).tolist() == expected


def test_near_texts_across_blocks_of_the_product(monkeypatch):
    monkeypatch.setattr("fewshot_lib.data.checks.duplicates.BLOCK", 3)
    texts = [f"unique{i} other{i} third{i} fourth{i}" for i in range(10)]
    texts += ["unique1 other1 third1 fourth1", "fourth9 third9 other9 unique9"]
    owners = np.array([0] * 10 + [1, 1])
    assert near_texts(texts, owners, 0.8).tolist() == [[1, 10], [9, 11]]


def test_equal_texts_are_compared_once(monkeypatch):
    # With all pairs of 30,000 rows this would take minutes and gigabytes.
    texts = ["yes", "No way!", "perhaps not"] * 10_000
    owners = np.arange(30_000) // 10_000
    compared = []
    original = duplicates._sharing
    monkeypatch.setattr(duplicates, "_sharing", lambda rare: compared.append(rare.shape[0]) or original(rare))
    found = near_texts(texts, owners, 0.8)
    assert compared == [9]
    assert {tuple(pair) for pair in found.tolist()} == {
        (a, b) for start in range(3) for a, b in itertools.combinations(_firsts(texts, owners, start), 2)
    }


def _firsts(texts, owners, start):
    """The first row of every owner with the text of row ``start``."""
    return [next(i for i, t in enumerate(texts) if t == texts[start] and owners[i] == o) for o in range(3)]


def test_the_number_of_pairs_is_bounded(monkeypatch):
    texts = [f"all of these texts come from one template and differ in number {i}" for i in range(300)]
    owners = np.arange(300) % 2
    assert len(near_texts(texts, owners, 0.8)) == 150 * 150
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 1000)
    found = near_texts(texts, owners, 0.8)
    assert found.shape == (1000, 2) and (owners[found[:, 0]] != owners[found[:, 1]]).all()
    images = torch.zeros(300, 1, 16, 16)
    images[:, 0, :4] = 1
    images[torch.arange(300), 0, 8 + torch.arange(300) % 8, torch.arange(300) // 8 % 16] = 0.9
    everything = near_images(images, owners, 8)
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 50)
    assert len(everything) > 50 and len(near_images(images, owners, 8)) == 50


def test_few_pairs_are_held_at_a_time(monkeypatch):
    texts = [f"all of these texts come from one template and differ in number {i}" for i in range(100)]
    owners = np.arange(100) % 2
    expected = near_texts(texts, owners, 0.8).tolist()
    monkeypatch.setattr(duplicates, "CANDIDATES", 500)
    words = CountVectorizer(binary=True, dtype=np.int32).fit_transform(texts)
    rare = _rarest_words(words, np.diff(words.indptr), 0.8)
    blocks = [len(pairs) for pairs in _sharing(rare)]
    assert len(blocks) > 10 and max(blocks) <= 500
    assert near_texts(texts, owners, 0.8).tolist() == expected


def test_texts_that_share_only_common_words_are_not_even_compared():
    shared = "all of these texts share six words but not"
    texts = [f"{shared} word{i} word{i + 1000} word{i + 2000} word{i + 3000}" for i in range(100)]
    words = CountVectorizer(binary=True, dtype=np.int32).fit_transform(texts)
    rare = _rarest_words(words, np.diff(words.indptr), threshold=0.8)
    assert sum(map(len, _sharing(rare))) == 0


@pytest.mark.parametrize("text", ["…", "one word"])
def test_texts_without_words_have_no_neighbours(text):
    assert near_texts(["!", text, "?"], np.array([0, 1, 2]), 0.8).shape == (0, 2)


def test_same_texts_differ_in_capitals_punctuation_and_spaces_only():
    keys = keys_of(["Set an  alarm!", "set an alarm", "set alarm", "!!", "??", "ÉTÉ", "été"])
    assert same_groups(keys) == [[0, 1], [5, 6]]


def test_near_images_are_those_that_comparing_all_pairs_finds():
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(40, 1, 32, 32, generator=generator)
    slightly = originals + 0.01 * torch.rand(40, 1, 32, 32, generator=generator)
    images = torch.cat([originals, slightly, torch.zeros(3, 1, 32, 32)])
    owners = np.array([0] * 40 + [1] * 40 + [0, 1, 0])
    bits = bitmaps(images)
    distance = (bits[:, None] != bits[None]).sum(2)
    for max_bits in (0, 3, 8):
        expected = np.argwhere(np.triu((distance <= max_bits) & (owners[:, None] != owners), 1)).tolist()
        found = near_images(images, owners, max_bits).tolist()
        # The third blank image is a twin of the first in the same owner, for which the first one stands.
        assert found == [pair for pair in expected if 82 not in pair]
    assert len(found) > 15


def test_bitmaps_follow_the_shape_and_not_the_light():
    images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    images[0, 0, 4:8] = 255
    images[1, 0, 4:8] = 90
    images[2, 0, :, 4:8] = 255
    bits = bitmaps(images)
    assert (bits[0] == bits[1]).all() and (bits[0] != bits[2]).any()
    assert bitmaps(images.expand(3, 3, 28, 28)).shape == (3, 256)


def test_image_keys_tell_images_apart_by_every_pixel():
    images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    images[2, 0, 27, 27] = 1
    assert same_groups(keys_of(images)) == [[0, 1]]
