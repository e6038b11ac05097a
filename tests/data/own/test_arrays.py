"""Lists, numpy, torch and pandas say the same; what is missing or contradictory is refused by its row."""

import numpy as np
import pandas as pd
import pytest
import torch

from fewshot_lib.data.dataset import large_classes
from fewshot_lib.data.own.arrays import from_arrays
from fewshot_lib.data.reporting import DataError

ALL = {"test": 1.0}
TEXTS = [f"text {i}" for i in range(12)]
IDS = [i % 3 for i in range(12)]
NAMES = [("ant", "bee", "cat")[c] for c in IDS]


def test_arrays_and_names_become_a_data_set():
    images = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
    data = from_arrays(images, np.array([7, 3, 7, 3]), split=ALL)
    assert data.inputs.shape == (4, 1, 6, 6) and torch.equal(data.inputs[:, 0], torch.from_numpy(images))
    assert data.class_names == ["3", "7"] and data.labels.tolist() == [1, 0, 1, 0]
    named = from_arrays(["x", "y", "z"], torch.tensor([1, 0, 1]), ["no", "yes"], split=ALL)
    assert named.class_names == ["no", "yes"] and named.labels.tolist() == [1, 0, 1]
    by_name = from_arrays(["x", "y"], ["yes", "no"], ["no", "yes"], split=ALL)
    assert by_name.labels.tolist() == [1, 0]


TEXTS_AS = {
    "tuple": tuple,
    "generator": iter,
    "numpy objects": lambda texts: np.array(texts, dtype=object),
    "numpy texts": np.array,
    "a column of numpy": lambda texts: np.array(texts, dtype=object)[:, None],
    "list of numpy texts": lambda texts: list(map(np.str_, texts)),
    "pandas": pd.Series,
    "pandas with another index": lambda texts: pd.Series(texts, index=range(99, 99 - len(texts), -1)),
    "pandas texts": lambda texts: pd.Series(texts, dtype="string"),
    "pandas table": lambda texts: pd.DataFrame({"text": texts}),
}


@pytest.mark.parametrize("form", TEXTS_AS)
def test_texts_come_in_any_form(form):
    data = from_arrays(TEXTS_AS[form](TEXTS), IDS, split=ALL)
    assert data.inputs == TEXTS and all(type(text) is str for text in data.inputs)


IDS_AS = {
    "tuple": tuple,
    "numpy": np.array,
    "small numpy": lambda ids: np.array(ids, np.uint8),
    "list of numpy": lambda ids: list(np.array(ids)),
    "a column of numpy": lambda ids: np.array(ids)[:, None],
    "torch": torch.tensor,
    "list of torch": lambda ids: list(torch.tensor(ids)),
    "whole floats": lambda ids: [float(c) for c in ids],
    "numpy floats": lambda ids: np.array(ids, np.float32),
    "pandas": pd.Series,
    "pandas that can miss": lambda ids: pd.Series(ids, dtype="Int64"),
    "pandas table": lambda ids: pd.DataFrame({"label": ids}),
    "one-hot": lambda ids: np.eye(3, dtype=int)[ids],
    "one-hot floats": lambda ids: torch.eye(3)[torch.tensor(ids)],
    "one-hot truth": lambda ids: np.eye(3, dtype=bool)[ids],
    "one-hot lists": lambda ids: np.eye(3)[ids].tolist(),
}


@pytest.mark.parametrize("form", IDS_AS)
def test_class_ids_come_in_any_form(form):
    data = from_arrays(TEXTS, IDS_AS[form](IDS), split=ALL)
    assert data.labels.tolist() == IDS and data.class_names == ["0", "1", "2"]
    assert from_arrays(TEXTS, IDS_AS[form](IDS), ["x", "y", "z"], split=ALL).class_names == ["x", "y", "z"]


NAMES_AS = {
    "tuple": tuple,
    "numpy": np.array,
    "numpy objects": lambda names: np.array(names, dtype=object),
    "pandas": pd.Series,
    "categories": pd.Categorical,
    "categorical column": lambda names: pd.Series(names, dtype="category"),
    "dummies": lambda names: pd.get_dummies(pd.Series(names)),
}


@pytest.mark.parametrize("form", NAMES_AS)
def test_class_names_come_in_any_form(form):
    data = from_arrays(TEXTS, NAMES_AS[form](NAMES), split=ALL)
    assert data.labels.tolist() == IDS and data.class_names == ["ant", "bee", "cat"]


def test_names_that_differ_only_by_what_cannot_be_seen_are_one_class_which_is_said():
    names = [f" {name}\u200b" if i % 2 else name for i, name in enumerate(NAMES)]
    with pytest.warns(
        UserWarning, match="arrays: labels that differ .* read as one class: 'ant', 'bee', 'cat'"
    ):
        assert from_arrays(TEXTS, names, split=ALL).labels.tolist() == IDS


def test_truth_values_are_two_classes():
    data = from_arrays(["a", "b", "c"], np.array([True, False, True]), split=ALL)
    assert data.class_names == ["False", "True"] and data.labels.tolist() == [1, 0, 1]
    assert from_arrays(["a", "b"], [True, False], ["no", "yes"], split=ALL).labels.tolist() == [1, 0]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT, "", "  ", np.ma.masked])
def test_what_is_missing_is_refused_by_its_row(missing):
    names, texts = list(NAMES), list(TEXTS)
    names[4] = names[7] = texts[5] = missing
    with pytest.raises(ValueError, match=r"`labels` has no class in rows 4, 7 \(counted from 0\), but "):
        from_arrays(TEXTS, names, split=ALL)
    with pytest.raises(ValueError, match=r"`inputs` has no text in row 5 \(counted from 0\), but "):
        from_arrays(texts, IDS, split=ALL)


def test_missing_numbers_and_masked_ones_are_refused_by_their_row():
    for labels in (
        pd.Series([None, *IDS[1:]]),
        pd.Series([pd.NA, *IDS[1:]], dtype="Int64"),
        np.ma.masked_array(IDS, [i == 0 for i in range(12)]),
    ):
        with pytest.raises(ValueError, match="`labels` has no class in row 0 "):
            from_arrays(TEXTS, labels, split=ALL)


@pytest.mark.parametrize(
    ("inputs", "labels", "names", "words"),
    [
        (["a", "b"], [0], None, "2 examples but `labels` has 1"),
        ([], [], None, "empty"),
        (np.array([], dtype=object), np.array([]), None, "empty"),
        (["a", 3], ["x", "y"], None, r"among the texts is 3 \(row 1\)"),
        ([b"a", "b"], ["x", "y"], None, r"among the texts is b'a' \(row 0\)"),
        (["a", "b\ud83d"], ["x", "y"], None, "half a character .* in row 1"),
        (["a\0", "b"], ["x", "y"], None, "half a character .* in row 0"),
        ("ab", [0, 1], None, "`inputs` is one text"),
        ({"a": 0, "b": 1}, [0, 1], None, "`inputs` is of type dict"),
        (7, [0, 1], None, "`inputs` is of type int"),
        (np.array([["a", "b"]] * 2), [0, 1], None, r"shape \(2, 2\): give n texts"),
        (["a", "b"], "xy", None, "`labels` is of type str"),
        (["a", "b"], {0, 1}, None, "`labels` is of type set"),
        (["a", "b"], [0, 2], ["x", "y"], "holds 2, which is none of the 2 .*; row 1"),
        (["a", "b"], [0, -1], ["x", "y"], "holds -1"),
        (["a", "b"], ["x", "z"], ["x", "y"], "holds 'z'"),
        (["a", "b"], ["x", 1], None, "all class names .*; row 1 is 1"),
        (["a", "b"], [1, True], None, "all class names .*; row 1 is True"),
        (["a", "b"], np.array(1), None, r"`labels` has shape \(\): give one class per example"),
        (torch.tensor(3), [0, 1], None, r"`inputs` has shape \(\)"),
        (["a", "b"], ["x", "\u200b"], None, "`labels` has no class in row 1"),
        (["a", "b"], [[1, 0], [pd.NA, 1]], None, "row 1 is no one-hot row"),
        (["a", "b"], [0.5, 1.0], None, "all class names .*; row 0 is 0.5"),
        (["a", "b"], [b"x", b"y"], None, "all class names .*; row 0 is b'x'"),
        (["a", "b"], np.array(["2020", "2021"], "M8[ns]"), None, r"dtype datetime64\[ns\]"),
        (["a", "b"], [[1, 0], [1, 1]], None, "row 1 is no one-hot row .* each of 2 classes"),
        (["a", "b"], [[0.9, 0.1], [0, 1]], None, "row 0 is no one-hot row"),
        (["a", "b"], [[1, 0], [0, float("nan")]], None, "row 1 is no one-hot row"),
        (["a", "b"], [[1, 0], [1]], None, "row 1 is no one-hot row"),
        (["a", "b"], [0, 1], {0: "x", 1: "y"}, "`class_names` is a dict"),
        (["a", "b"], [0, 1], ["x", "x "], "`class_names` holds 'x' twice"),
        ([np.zeros((3, 3)), np.zeros((3, 4))], [0, 1], None, r"shapes \(3, 3\) and \(3, 4\)"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(inputs, labels, names, words):
    with pytest.raises(ValueError, match=words):
        from_arrays(inputs, labels, names, split=ALL)


def test_small_classes_are_left_out_before_the_split_is_drawn():
    with pytest.warns(
        UserWarning, match=r"pets: 1 of 3 classes have fewer than 4 examples and are left out: 'ant' \(3\)"
    ):
        data = from_arrays(TEXTS[1:], NAMES[1:], split={"test": ["bee", "cat"]}, name="pets", min_examples=4)
    assert data.class_names == ["bee", "cat"] and data.inputs == [
        text for text, c in zip(TEXTS, IDS, strict=True) if c
    ]
    with pytest.warns(UserWarning, match="are left out"):
        images = from_arrays(np.arange(11 * 4).reshape(11, 2, 2), NAMES[1:], split=ALL, min_examples=4)
    assert images.inputs.shape == (8, 1, 2, 2) and images.inputs[0, 0, 0, 0] == 0


def test_large_classes_keep_their_order():
    assert large_classes({"b": 3, "a": 1, "c": 2}, 2, "here")[0] == ["b", "c"]
    assert large_classes({"b": 3, "a": 0}, 1, "here") == (["b", "a"], [])
    with pytest.raises(
        DataError, match="here: 2 of 2 classes have fewer than 4 examples, all there are: lower"
    ):
        large_classes({"b": 3, "a": 1}, 4, "here")
    for wrong in (0, 1.5, True, "2"):
        with pytest.raises(ValueError, match="`min_examples` is"):
            large_classes({"b": 3}, wrong, "here")
