"""Class splits by list, share and file: every class at most once, nothing unknown, one seed one split."""

import json

import pytest
import torch

from fewshot_lib.data.own.class_splits import split_classes
from fewshot_lib.data.reporting import DataError

NAMES = [f"class {c:02d}" for c in range(23)]


def test_a_list_puts_exactly_these_classes_there():
    splits, family = split_classes({"train": ["class 03", "class 01"], "test": ["class 22"]}, NAMES)
    assert {split: ids.tolist() for split, ids in splits.items()} == {"train": [1, 3], "test": [22]}
    assert splits["train"].dtype == torch.int64 and family == "by list"


def test_shares_give_every_class_to_one_split_in_the_right_number():
    splits, family = split_classes(None, NAMES, seed=4)
    # 13.8, 4.6, 4.6: the largest remainders are rounded up.
    assert [len(ids) for ids in splits.values()] == [14, 5, 4]
    assert torch.cat(list(splits.values())).sort().values.tolist() == list(range(23))
    assert family == "shares 0.6/0.2/0.2, seed 4"


@pytest.mark.parametrize("n", [3, 4, 5, 7, 10, 41, 100])
def test_shares_never_lose_a_class_and_are_off_by_less_than_one(n):
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    splits, _ = split_classes(shares, list(map(str, range(n))), seed=n)
    assert torch.cat(list(splits.values())).sort().values.tolist() == list(range(n))
    assert all(abs(len(splits[part]) - share * n) < 1 for part, share in shares.items())


def test_the_seed_decides():
    first, again, other = (split_classes(None, NAMES, seed=seed)[0]["train"].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert split_classes({"test": 1.0}, NAMES[:2])[0]["test"].tolist() == [0, 1], (
        "all in one: nothing to draw"
    )


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": ["klass 01"]}, "no such class: did you mean 'class 01'"),
        ({"train": ["class 01"], "test": ["class 01"]}, "in 'train' and in 'test'"),
        ({"train": ["class 01", "class 01"]}, "once"),
        ({"train": 0.5, "test": 0.6}, "add up to 1"),
        ({"train": 1.5, "test": -0.5}, "positive"),
        ({"train": 0.5, "test": ["class 01"]}, "to a share"),
        ({"train": "class 01"}, "list of class names"),
        ({}, "`split` is"),
        (3, "`split` is 3"),
        ({"train": 0.99, "test": 0.01}, "'test' a share of 0.01 of 23 classes, which is none"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(split, words):
    with pytest.raises(ValueError, match=words):
        split_classes(split, NAMES)


def test_a_file_keeps_a_split(tmp_path):
    chosen = {"train": ["class 00", "class 05"], "test": ["class 07"]}
    (tmp_path / "split.json").write_text(json.dumps(chosen), encoding="utf-8")
    rows = "class,split\nclass 00,train\nclass 07,test\nclass 05,train\n"
    (tmp_path / "split.csv").write_text(rows, encoding="utf-8-sig")
    for name in ("split.json", "split.csv"):
        splits, family = split_classes(tmp_path / name, NAMES)
        assert {part: ids.tolist() for part, ids in splits.items()} == {"train": [0, 5], "test": [7]}
        assert family == f"file {name}"


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("split.csv", "name,part\na,b\n", DataError, "class,split"),
        ("split.csv", "class,split\nclass 00,train,extra\n", DataError, "two columns"),
        ("split.json", '{"train": ', DataError, "neither .csv nor JSON"),
        ("split.json", '["class 00"]', DataError, "one object"),
        ("split.json", '{"train": ["nowhere"]}', ValueError, "split.json puts 'nowhere'"),
    ],
)
def test_a_split_file_that_does_not_fit_is_named(tmp_path, name, content, error, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(error, match=words):
        split_classes(str(tmp_path / name), NAMES)
    with pytest.raises(DataError, match="There is no file"):
        split_classes(tmp_path / "missing.json", NAMES)
