"""The leak check finds what was planted, and nothing in clean data."""

import os
from pathlib import Path

import pytest
import torch

from fewshot_lib.data.checks.leaks import check, format_findings, name_words
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.arrays import from_arrays

REAL = Path(os.environ.get("FEWSHOT_DATA") or ".") / "text/huffpost.json"
CLEAN = [
    "a comet passed the sun last night",
    "two teams drew in the rain",
    "how to bake bread without yeast",
    "court hears the old case again",
    "new phone has a better camera",
    "the river rose by a metre",
]


def texts(names, inputs=CLEAN, splits=None) -> ClassDataset:
    """As many classes as names, one text each, dealt to train, val and test in turn."""
    splits = splits or {split: range(k, len(names), 3) for k, split in enumerate(("train", "val", "test"))}
    ids = {split: torch.tensor(list(classes)) for split, classes in splits.items()}
    return ClassDataset(inputs, torch.arange(len(inputs)), names, ids)


def kinds(findings) -> list[tuple[str, bool]]:
    return [(finding.kind, finding.is_leak) for finding in findings]


CLEAN_NAMES = ["space", "sports", "cooking", "law", "phones", "weather"]


def test_clean_data_has_no_findings():
    assert check(texts(CLEAN_NAMES)) == []
    assert "no leaks found" in format_findings([])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ARTS & CULTURE", "CULTURE & ARTS"),
        ("THE WORLDPOST", "WORLDPOST"),
        ("World Post", "worldpost"),
        ("food and drink", "Drinks, Food"),
        ("sci.space", "SPACE (sci)"),
        ("caf\u00e9", "CAFE\u0301"),
        ("a\u200bb", "ab"),
        ("STRASSE", "straße"),
        ("\uff21rt", "art"),
        ("COP", "\u0421\u041e\u0420"),
        ("section 1.5", "Sections 1.5"),
    ],
)
def test_the_same_name_in_two_splits_is_a_leak(one, other):
    (finding,) = check(texts([one, other, *CLEAN_NAMES[2:]]))
    assert (finding.kind, finding.is_leak, finding.pairs) == ("same class name", True, [(0, 1)])
    assert repr(one) in finding.message and "(val)" in finding.message


def test_names_in_one_split_and_names_inside_others_are_worth_a_look():
    (finding,) = check(texts(["arts and culture", "b", "c", "culture & arts", "e", "f"]))
    assert (finding.kind, finding.is_leak, finding.pairs) == ("same class name", False, [(0, 3)])
    (finding,) = check(texts(["style", "style & beauty", *CLEAN_NAMES[2:]]))
    assert (finding.kind, finding.is_leak, finding.pairs) == ("class name inside another", False, [(0, 1)])
    assert check(texts(["style", "b", "c", "style & beauty", "e", "f"])) == [], "across splits only"
    assert check(texts(["style", "styleguide", *CLEAN_NAMES[2:]])) == [], "words are compared, not letters"


@pytest.mark.parametrize(
    ("one", "other"),
    [("C", "C++"), ("C++", "C#"), ("-1", "1"), ("good 👍", "good 👎"), ("A+", "A-"), ("5 €", "5 $")],
)
def test_names_that_differ_in_signs_are_no_leak_but_may_be_read_as_one(one, other):
    (finding,) = check(texts([one, other, *CLEAN_NAMES[2:]]))
    assert (finding.kind, finding.is_leak, finding.pairs) == ("same words", False, [(0, 1)])


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.5", "15"), ("1.5", "5.1"), ("section 1", "section 1.1"), ("10", "1"), ("1,000", "1000 000")],
)
def test_numbers_are_names_of_their_own(one, other):
    found = check(texts([one, other, *CLEAN_NAMES[2:]]))
    assert not [finding for finding in found if finding.kind in ("same class name", "same words")]


def test_names_that_look_the_same_are_shown_apart():
    (finding,) = check(texts(["caf\u00e9", "cafe\u0301", *CLEAN_NAMES[2:]]))
    assert r"'cafe\u0301' (val)" in finding.message and "give both one name" in finding.message


def test_classes_of_no_split_cannot_leak():
    names = ["worldpost", "the worldpost", *CLEAN_NAMES[2:]]
    assert check(texts(names, splits={"train": [0, 2], "test": [3, 4]})) == []


def test_the_same_text_in_two_splits_is_a_leak_and_a_near_one_worth_a_look():
    planted = list(CLEAN)
    planted[1] = CLEAN[0].upper() + "!"
    planted[4] = CLEAN[2] + " today"  # 6 of 7 words
    planted[3] = CLEAN[5].replace("river", "lake")  # 5 of 7 words: not near enough
    found = check(texts(CLEAN_NAMES, planted))
    assert kinds(found) == [("same example", True), ("near example", False)]
    assert found[0].pairs == [(0, 1)] and found[1].pairs == [(2, 4)]
    assert format_findings(list(reversed(found))).startswith("LEAK")


def test_pairs_are_indices_into_the_whole_data_set():
    planted = list(CLEAN)
    planted[5] = CLEAN[3]
    (finding,) = check(texts(CLEAN_NAMES, planted, splits={"train": [3], "test": [5]}))
    assert finding.pairs == [(3, 5)]


def test_images_are_compared_too():
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(6, 1, 32, 32, generator=generator) * 255).to(torch.uint8)
    data = ClassDataset(images, torch.arange(6), CLEAN_NAMES, texts(CLEAN_NAMES).splits)
    assert check(data) == []
    images[1] = images[0]
    images[5] = images[3]
    images[5, 0, 0, 0] = images[5, 0, 0, 0] ^ 1
    found = check(data)
    assert kinds(found) == [("same example", True), ("near example", False)]
    assert found[0].pairs == [(0, 1)] and found[1].pairs == [(3, 5)]


def test_name_words_never_come_out_empty():
    assert name_words("The And") and name_words("") is not None and name_words("???") == frozenset(["???"])


@pytest.mark.skipif(not REAL.is_file(), reason="FEWSHOT_DATA names no directory with text/huffpost.json")
def test_the_known_leaks_of_huffpost_are_found(monkeypatch):
    from fewshot_lib.data.published.text_sets import load_huffpost

    monkeypatch.setenv("FEWSHOT_DATA", str(REAL.parent.parent))
    pairs = {(finding.kind, finding.is_leak): finding.pairs for finding in check(load_huffpost("bao"))}
    assert pairs["same class name", True] == [(15, 24)], "THE WORLDPOST (train), WORLDPOST (val)"
    assert pairs["same class name", False] == [(35, 39)], "ARTS & CULTURE, CULTURE & ARTS (both test)"
    assert pairs["class name inside another", False] == [(26, 4)], "STYLE (test), STYLE & BEAUTY (train)"


def test_a_search_that_ended_at_its_bound_says_so(monkeypatch):
    monkeypatch.setattr("fewshot_lib.data.checks.duplicates.MOST_PAIRS", 10)
    monkeypatch.setattr("fewshot_lib.data.checks.leaks.MOST_PAIRS", 10)
    texts = [f"one two three four five six seven eight nine ten {word}" for word in "abcdefghij"]
    data = from_arrays(texts, [c % 2 for c in range(10)], split={"train": ["0"], "test": ["1"]})
    (message,) = (finding.message for finding in check(data) if finding.kind == "near example")
    assert "share 80% of their words (at least so many): 10, such as" in message
