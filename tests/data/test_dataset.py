"""A data set refuses what contradicts itself, and its fingerprint is of the inputs alone."""

import pytest
import torch

from fewshot_lib.data import ClassDataset

LABELS = torch.tensor([2, 0, 0, 3, 2, 1])
SPLITS = {"train": torch.tensor([2, 0]), "val": torch.tensor([3]), "test": torch.tensor([1])}
OVERLAP = {"train": torch.tensor([0, 1]), "test": torch.tensor([1])}


def make(inputs=tuple(f"text {i}" for i in range(6)), **changes):
    inputs = list(inputs) if isinstance(inputs, tuple) else inputs
    facts = {"labels": LABELS, "class_names": list("abcd"), "splits": SPLITS, "name": "toy"}
    return ClassDataset(inputs, **facts | changes)


def test_counts_and_rows():
    dataset = make()
    assert (len(dataset), dataset.n_classes, dataset.is_text) == (6, 4, True)
    assert dataset.counts.tolist() == [2, 1, 2, 1] and dataset.domains == [""] * 4
    rows = [dataset.rows(split).tolist() for split in ("train", "val", "test")]
    assert rows == [[0, 1, 2, 4], [3], [5]] and dataset.take(dataset.rows("val")) == ["text 3"]
    assert repr(dataset) == "ClassDataset(toy/default: 6 texts, 4 classes: train 2, val 1, test 1)"


def test_training_set_counts_the_classes_of_the_split_from_0():
    rows, targets = make().training_set()
    assert rows.tolist() == [0, 1, 2, 4] and targets.tolist() == [1, 0, 0, 1]


def test_one_split_alone_holds_nothing_else():
    only = make(domains=list("wxyz")).only("train")
    assert only.inputs == ["text 0", "text 1", "text 2", "text 4"] and only.labels.tolist() == [2, 0, 0, 2]
    assert list(only.splits) == ["train"] and (only.n_classes, only.name) == (4, "toy")
    assert only.domains == list("wxyz")


def test_images_are_taken_by_index():
    images = torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2)
    dataset = make(images)
    assert torch.equal(dataset.take([5, 0]), images[[5, 0]])
    assert not dataset.is_text and "images 1x2x2" in repr(dataset)


def test_classes_without_examples_count_0_and_no_examples_are_allowed():
    assert make(class_names=list("abcde")).counts.tolist() == [2, 1, 2, 1, 0]
    assert len(make([], labels=torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ["one"]}, "`inputs` has 1 examples but `labels` has 6"),
        ({"domains": ["x"]}, "`domains` has 1 names but there are 4 classes"),
        ({"labels": LABELS + 1}, "`labels` runs from 1 to 4 but `class_names` has 4 names"),
        ({"labels": LABELS - 1}, "`labels` runs from -1 to 2"),
        ({"splits": {"train": torch.tensor([7])}}, "names class 7"),
        ({"splits": {"train": torch.tensor([4])}}, "names class 4, but there are only 4"),
        ({"splits": OVERLAP}, "class 1 .'b'. in 'train' and in 'test'"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_unknown_split_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="`split` is 'dev'; toy has 'train', 'val', 'test'"):
        make().classes("dev")


def test_fingerprint_is_of_the_inputs_and_nothing_else():
    assert make().fingerprint() == make(splits={}, class_names=list("wxyz")).fingerprint()
    images = torch.zeros(6, 1, 2, 2)
    assert make(images).fingerprint() == make(images.mT.contiguous().mT).fingerprint()


def test_fingerprint_tells_any_two_inputs_apart():
    pairs = [("ab", "c"), ("a", "bc"), ("ab", "d"), ("a\x02", "b"), ("a", "\x02b"), ("\ud800", "c")]
    images = torch.zeros(6, 1, 2, 2)
    others = [images.to(torch.uint8), images.to(torch.int32), images.view(6, 1, 1, 4), images + 1]
    inputs = [[*pair, "x", "x", "x", "x"] for pair in pairs] + [images, *others]
    assert len({make(i).fingerprint() for i in inputs}) == len(inputs)
