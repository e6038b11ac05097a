"""A data set refuses what contradicts itself, and its fingerprint is of the inputs alone."""

from dataclasses import replace

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
        ({"labels": LABELS.float()}, "`labels` has shape .6,. and dtype torch.float32"),
        ({"labels": LABELS.unsqueeze(1)}, "`labels` has shape .6, 1."),
        ({"labels": LABELS.tolist()}, "`labels` has type list"),
        (
            {"class_names": ["a", "b", "c", "a"]},
            "`class_names` has 'a' twice, as the name of classes 0 and 3",
        ),
        ({"class_names": ["a", "b", "c", "  "]}, "give every class a name"),
        ({"class_names": ["a", "b", "c", 3]}, "`class_names.3.` is 3"),
        ({"class_names": ["a", "b", "c", "d\0"]}, "cannot be printed"),
        ({"class_names": ["a", "b", "c", "\ud800"]}, "cannot be printed"),
        ({"inputs": (*"abcde", 3)}, "no text in example no. 5, of class 'b'"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_and_pictures_that_are_not_finite_are_refused_by_row_and_class(value):
    for shape in ((6, 3), (6, 1, 2, 2)):
        features = torch.zeros(shape)
        features[3].view(-1)[-1] = value
        with pytest.raises(ValueError, match=r"NaN or infinite in example no\. 3, of class 'd': repair"):
            make(features)
        features[4] = value
        with pytest.raises(ValueError, match="and 1 more"):
            replace(make(), inputs=features)
    with pytest.raises(ValueError, match="`inputs` is of type tuple"):
        ClassDataset(("a",), torch.tensor([0]), ["a"], {})


def test_small_classes_are_left_out_and_the_others_keep_what_they_are():
    dataset = make(domains=list("wxyz"))
    with pytest.warns(UserWarning, match=r"toy: 2 of 4 classes have fewer than 2 .* 'b' \(1\), 'd' \(1\)"):
        large = dataset.without_small_classes(2)
    assert (
        large.class_names == ["a", "c"]
        and large.domains == ["w", "y"]
        and large.labels.tolist() == [1, 0, 0, 1]
    )
    assert large.inputs == ["text 0", "text 1", "text 2", "text 4"]
    assert {split: ids.tolist() for split, ids in large.splits.items()} == {
        "train": [1, 0],
        "val": [],
        "test": [],
    }
    empty = make(class_names=list("abcde"))
    assert empty.without_small_classes(1) is empty, "class e has no example"
    with pytest.raises(ValueError, match="all there are: lower `min_examples`"):
        dataset.without_small_classes(3)


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
