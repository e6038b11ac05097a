"""Class splits by list and share: every class at most once, nothing unknown, one seed one split."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_lib.data.own.class_splits import DEFAULT_SHARES, split_classes

NAMES = [f"class {c:02d}" for c in range(23)]


def test_a_list_puts_exactly_these_classes_there():
    splits, family = split_classes({"train": ["class 03", "class 01"], "test": ["class 22"]}, NAMES)
    assert {split: ids.tolist() for split, ids in splits.items()} == {"train": [1, 3], "test": [22]}
    assert splits["train"].dtype == torch.int64 and family == "by list"


def test_shares_give_every_class_to_one_split_in_the_right_number():
    splits, family = split_classes(None, NAMES, seed=4)
    # 13.8, 4.6, 4.6: the largest remainders are rounded up, of two equal ones that of the test split.
    assert [len(ids) for ids in splits.values()] == [14, 4, 5]
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


SHARES = st.sampled_from(
    [None, {"train": 0.7, "test": 0.3}, "0.5/0.25/0.25", {"a": 0.34, "b": 0.33, "c": 0.33}, "0.64/0.16/0.2"]
)
NAME_SETS = st.sets(st.text("abcxyzé 09", min_size=1).filter(str.strip), min_size=9, max_size=60)


def names_of(splits, names):
    return {part: {names[c] for c in ids.tolist()} for part, ids in splits.items()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(NAME_SETS, SHARES, st.integers(0, 5))
def test_one_class_more_moves_at_most_one_class_across_each_cut(names, shares, seed):
    more, few = sorted(names), sorted(names)[1:]
    before = names_of(split_classes(shares, few, seed)[0], few)
    after = names_of(split_classes(shares, more, seed)[0], more)
    moved = {name for part in before for name in before[part] - after[part]}
    assert len(moved) <= len(before) - 1, moved
    grown = [part for part in before if len(after[part]) > len(before[part])]
    assert len(grown) == 1 and all(len(after[part]) >= len(before[part]) for part in before)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(NAME_SETS, SHARES, st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(names, shares, random):
    ordered = sorted(names)
    shuffled = random.sample(ordered, len(ordered))
    first, second = (names_of(split_classes(shares, listed)[0], listed) for listed in (ordered, shuffled))
    assert first == second


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (1, (0, 0, 1)),
        (2, (0, 0, 2)),
        (3, (0, 0, 3)),
        (4, (2, 0, 2)),
        (5, (3, 0, 2)),
        (6, (2, 2, 2)),
        (7, (3, 2, 2)),
        (8, (4, 2, 2)),
        (10, (6, 2, 2)),
        (12, (7, 2, 3)),
        (100, (60, 20, 20)),
    ],
)
def test_of_few_classes_no_split_gets_a_single_one_and_the_test_split_comes_first(n, sizes):
    splits, _ = split_classes(None, [f"c{c}" for c in range(n)], seed=1)
    assert tuple(len(splits[part]) for part in ("train", "val", "test")) == sizes
    assert all(
        torch.equal(split_classes("0.6/0.2/0.2", [f"c{c}" for c in range(n)], 1)[0][part], ids)
        for part, ids in splits.items()
    ), "one family, one split"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(30, 400))
def test_no_split_is_off_its_share_by_a_whole_class(weights, n):
    shares = {f"part {i}": weight / sum(weights) for i, weight in enumerate(weights)}
    splits, _ = split_classes(shares, [str(c) for c in range(n)])
    assert all(abs(len(splits[part]) - share * n) < 1 for part, share in shares.items())


def test_shares_in_one_text():
    assert split_classes("0.6/0.2/0.2", NAMES)[1] == split_classes(DEFAULT_SHARES, NAMES)[1]
    splits, family = split_classes(" 0.8 / 0.2", NAMES, 3)
    assert {part: len(ids) for part, ids in splits.items()} == {"train": 18, "test": 5}
    assert family == "shares 0.8/0.2, seed 3"
    assert split_classes("1", NAMES)[0]["test"].tolist() == list(range(23))


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("80/20", "add up to 1 .here: 100.. Write 0.8/0.2"),
        ("0.1/0.2/0.3/0.4", "train/val/test or of train/test"),
        ("0.8/0.3", "add up to 1"),
        ("nan/1", "add up to 1"),
        ("bao", "There is no file bao"),
        ({"train": True}, "list of class names"),
        ({"train": [["class 01"]]}, "is no class name"),
        ({"train": ["class 01"], "Training": ["class 02"]}, "'train' twice"),
        ({3: ["class 01"]}, "a part 3"),
    ],
)
def test_what_a_person_may_type_is_refused_with_the_fix(split, words):
    with pytest.raises(ValueError, match=words):
        split_classes(split, NAMES)


def test_lists_are_matched_by_what_a_name_looks_like():
    names = ["caf\u00e9", "7", "true", "tea  room"]
    split = {"Training": np.array(["cafe\u0301"]), "dev": (7,), "test": {True}, "rest": ["tea room\u200b"]}
    splits, _ = split_classes(split, names)
    assert {part: ids.tolist() for part, ids in splits.items()} == {
        "train": [0],
        "val": [1],
        "test": [2],
        "rest": [3],
    }


def test_a_list_may_name_a_class_that_was_left_out_as_too_small():
    lists = {"train": ["class 01", "tiny"], "test": ["class 02"]}
    splits, _ = split_classes(lists, NAMES, left_out=["tiny", "small"])
    assert {part: ids.tolist() for part, ids in splits.items()} == {"train": [1], "test": [2]}
    with pytest.raises(ValueError, match="'tiny' in 'train', but there is no such class"):
        split_classes(lists, NAMES)
