"""The table of needs, without running a chapter; that it tells the truth is tested in tests/cases."""

from pathlib import Path

import pytest
import torch

from fewshot_lib.course import needs
from fewshot_lib.data.dataset import ClassDataset

FOLDER = Path(__file__).parents[2] / "notebooks"
CHAPTERS = {path.stem for path in FOLDER.glob("0*.ipynb")}
NOTEBOOKS = CHAPTERS | {path.stem for path in FOLDER.glob("extra/*.ipynb")}
EPISODE = {"n_way": 2, "n_shot": 1, "n_query": 3}


def dataset(pixels=None, **sizes):
    """A data set with so many examples in each class of each split: dataset(train=[8, 8], test=[8, 3])."""
    counts = [n for part in sizes.values() for n in part]
    labels = torch.repeat_interleave(torch.tensor(counts))
    inputs = torch.zeros(len(labels), 1, pixels, pixels) if pixels else ["a text"] * len(labels)
    ids = iter(range(len(counts)))
    splits = {split: torch.tensor([next(ids) for _ in part]) for split, part in sizes.items()}
    return ClassDataset(inputs, labels, [f"class {c}" for c in range(len(counts))], splits, name="made")


def test_every_notebook_stands_in_the_table():
    assert set(needs.NEEDS) >= NOTEBOOKS


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS))
def test_twelve_classes_of_eight_are_enough_for_every_chapter(notebook):
    assert needs.problems(notebook, dataset(train=[8] * 7, val=[8] * 2, test=[8] * 3), **EPISODE) == []
    if needs.NEEDS[notebook] is not needs.MANY_TASKS:  # these need many classes
        assert needs.problems(notebook, dataset(train=[5] * 2, val=[5] * 2, test=[5] * 2), 2, 1, 2) == []


def test_too_few_examples_are_told_with_the_names_of_the_classes_the_sum_and_the_fix():
    small = dataset(train=[9, 9], val=[9, 9], test=[9, 3, 9, 2])
    (problem,) = needs.problems("02_prototype_classifiers", small, **EPISODE)
    assert "2 test classes: 'class 7' (2), 'class 5' (3)" in problem
    assert "n_shot + n_query = 1 + 3 = 4" in problem
    assert "use n_query=1, or leave out the classes with fewer than 4 (min_examples=4)" in problem
    assert needs.problems("02_prototype_classifiers", small, 2, 1, 1) == []
    (problem,) = needs.problems("02_prototype_classifiers", small, 2, 1, 4)
    assert "use n_" in problem  # n_query=1
    (problem,) = needs.problems("02_prototype_classifiers", small, 2, 4, 1)
    assert "use n_shot=1, or leave out" in problem and "n_query" not in problem.split(": use")[1]


def test_too_few_classes_are_told_with_their_names():
    few = dataset(train=[9] * 9, val=[9, 9], test=[9] * 5)
    (problem,) = needs.problems("03_cosine_fine_tuning", few, 5, 1, 3)
    assert problem.startswith(
        "made has 2 val classes ('class 9', 'class 10'), and this chapter needs n_way = 5"
    )
    assert "use n_way=2" in problem
    assert needs.problems("00_start_here", few, 5, 1, 3) == []  # reads the test classes only


def test_a_split_that_is_not_there_is_a_problem_only_of_the_chapters_that_read_it():
    few = dataset(test=[8] * 4)
    assert needs.problems("00_start_here", few, **EPISODE) == []
    (problem,) = needs.problems("01_supervised_vs_few_shot", few, **EPISODE)
    assert "made has no train classes" in problem and "put more classes into train (split=…)" in problem


def test_only_what_can_help_is_advised():
    """Of two classes none can be put elsewhere, and where all are small none can be left out."""
    (problem,) = needs.problems("01_supervised_vs_few_shot", dataset(test=[9, 9]), **EPISODE)
    assert "bring 4 classes in all, where there are 2" in problem and "split=" not in problem
    equal = dataset(train=[2] * 4, val=[2] * 2, test=[2] * 2)
    (problem,) = needs.problems("01_supervised_vs_few_shot", equal, 2, 1, 1)
    assert "bring 3 examples of more classes" in problem and "min_examples" not in problem


def test_where_not_all_classes_are_drawn_from_some_may_be_small():
    uneven = dataset(train=[1, 3, 3], test=[9, 9])
    assert needs.problems("01_supervised_vs_few_shot", uneven, 2, 1, 3) == []
    (problem,) = needs.problems("01_supervised_vs_few_shot", uneven, 2, 2, 3)
    assert "n_shot + 2 = 2 + 2 = 4" in problem and "use n_shot=1" in problem


def test_pictures_too_small_for_the_network_are_refused_by_the_chapters_that_train_it():
    tiny = dataset(pixels=8, train=[8] * 7, val=[8] * 2, test=[8] * 3)
    refused = {name[:2]: found[0] for name in CHAPTERS if (found := needs.problems(name, tiny, **EPISODE))}
    too_small = {number for number, why in refused.items() if "8x8 pixels" in why}
    assert too_small == {"01", "02", "03", "07", "08"}
    assert {number for number, why in refused.items() if "holds images" in why} == {"05", "06"}


def test_a_notebook_of_ones_own_needs_nothing_and_an_impossible_size_is_refused():
    assert needs.problems("my_own", dataset(test=[1, 1]), **EPISODE) == []
    with pytest.raises(ValueError, match="`n_way` is 1"):
        needs.problems("00_start_here", dataset(test=[9, 9]), 1, 1, 1)


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS))
@pytest.mark.parametrize("n_shot", [1, 5])
def test_the_largest_episodes_are_possible_and_one_more_is_not(notebook, n_shot):
    made = dataset(train=[9, 8, 7, 9, 9], val=[7] * 3, test=[9, 8, 8, 8, 8])
    n_way, n_query = needs.largest(notebook, made, n_shot)
    assert needs.problems(notebook, made, n_way, n_shot, n_query) == []
    assert needs.problems(notebook, made, n_way + 1, n_shot, n_query)
    if not notebook.startswith("09"):  # its queries are all that is not learnt from
        assert needs.problems(notebook, made, n_way, n_shot, n_query + 1)


def test_where_nothing_is_possible_the_largest_is_nothing():
    assert needs.largest("00_start_here", dataset(test=[1, 1]), 1) == (0, 0)
    assert needs.largest("04_maml_and_reptile", dataset(test=[9, 9]), 1) == (0, 0)


def test_a_chapter_on_texts_refuses_images(monkeypatch):
    monkeypatch.setattr(needs, "NEEDS", {"05": needs.Chapter(texts_only=True)})
    assert "which holds images" in needs.problems("05", dataset(pixels=16, test=[9, 9]), 2, 1, 1)[0]
    assert needs.problems("05", dataset(test=[9, 9]), 2, 1, 1) == []


def test_shots_and_training_queries_follow_the_parameters_and_the_data():
    many, few = dataset(train=[20], val=[20], test=[20]), dataset(train=[3], val=[8], test=[4])
    assert needs.shots_to_compare(many, 1, 15) == [1, 5]
    assert needs.shots_to_compare(many, 5, 15) == [5]
    assert needs.shots_to_compare(few, 1, 2) == [1, 2]
    assert needs.shots_to_compare(few, 1, 3) == [1]
    assert needs.training_queries(many, 1, 15) == 5
    assert needs.training_queries(many, 1, 2) == 2
    assert needs.training_queries(few, 1, 15) == 2
    assert needs.smallest(few, "train", "val") == 3


def test_two_splits_can_be_needed_together(monkeypatch):
    need = {"train + val": needs.Need("4", "n_shot + 1")}
    monkeypatch.setattr(needs, "NEEDS", {"08": needs.Chapter(need)})
    assert needs.problems("08", dataset(train=[2, 2, 2], val=[2]), 2, 1, 1) == []
    assert "3 train + val classes" in needs.problems("08", dataset(train=[2, 2], val=[2]), 2, 1, 1)[0]
    assert "'class 3' (1)" in needs.problems("08", dataset(train=[2, 2, 2], val=[1]), 2, 1, 1)[0]
