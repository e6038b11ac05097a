"""Chapters 05 to 08 on small data of one's own: what the table of needs allows runs, the rest is refused.

The smallest data sets that the table allows are run, code and all, in this process and in the smoke profile.
"""

from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

from fewshot_lib import data
from fewshot_lib.course import needs
from fewshot_lib.course.running.parameters import inject
from fewshot_lib.data.dataset import ClassDataset

NOTEBOOKS = {
    path.stem[:2]: path for path in sorted((Path(__file__).parents[2] / "notebooks").glob("0[5-8]_*.ipynb"))
}
TEXTS_ONLY = "05", "06"
every_chapter = pytest.mark.parametrize("chapter", NOTEBOOKS)
THINGS = "dog train piano river bread planet poem bridge garden letter window horse lamp island".split()
OF_A8 = {"train": [8] * 7, "val": [8] * 2, "test": [8] * 3}
# Examples of the classes of each split: the smallest data that a chapter takes at 2 ways, 1 shot, 1 query.
BORDER = {
    "05": {"train": [2, 2], "val": [2, 2], "test": [2, 2]},
    "06": {"train": [2, 2], "val": [2, 2], "test": [2, 2]},
    "07": {"train": [2, 2], "val": [2, 2], "test": [2, 2]},
    "08": {"train": [2] * 6, "val": [2, 2], "test": [2, 2]},
}
SMALLEST = {"n_way": 2, "n_shot": 1, "n_query": 1}
OF_THE_COURSE = {"docstrings, a missing word"}  # chapter 05 builds it, whatever the reader brings


def texts(sizes):
    """A data set of texts with so many examples in the classes of each split."""
    counts = [count for split in sizes.values() for count in split]
    names, labels = THINGS[: len(counts)], torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    inputs = [f"Report {i} on the {names[c]}: number {i % 7} needs repair." for i, c in enumerate(labels)]
    ends = torch.tensor([len(split) for split in sizes.values()]).tolist()
    splits = dict(zip(sizes, torch.arange(len(counts)).split(ends), strict=True))
    return ClassDataset(inputs, labels, names, splits, name="mine", split_family="by hand")


def pictures(sizes):
    """The same with noisy pictures of one level of grey for each class."""
    of_texts = texts(sizes)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 60, (len(of_texts), 1, 16, 16), generator=draw, dtype=torch.uint8)
    return replace(of_texts, inputs=noise + 12 * of_texts.labels.view(-1, 1, 1, 1).to(torch.uint8))


@pytest.fixture
def run_through(monkeypatch, tmp_path):
    """Runs the code of a chapter on a data set, here; returns the rows that it recorded."""
    load, path = data.load, tmp_path / "mine.csv"
    path.write_text("text,label\n", encoding="utf-8")
    monkeypatch.chdir(NOTEBOOKS["05"].parent)

    def run(chapter, dataset, **parameters):
        def own_or_known(source, *args, **options):
            return dataset if source == str(path) else load(source, *args, **options)

        monkeypatch.setattr(data, "load", own_or_known)
        given = {"profile": "smoke", "dataset": str(path), "n_episodes": 5} | parameters
        names = {"__name__": "__main__"}
        for number, cell in enumerate(inject(nbformat.read(NOTEBOOKS[chapter], 4), given).cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{chapter}, cell {number}", "exec"), names)
        return list(names["lesson"].rows.values())

    return run


def problems(chapter, dataset, **size):
    return needs.problems(NOTEBOOKS[chapter].stem, dataset, **size)


def without_one(sizes, split):
    """The data set with one class less in a split, and with one example less in its last class."""
    return (sizes | {split: sizes[split][:-1]}, sizes | {split: [*sizes[split][:-1], sizes[split][-1] - 1]})


@pytest.mark.slow
@every_chapter
def test_a8_twelve_classes_of_eight(chapter, run_through):
    """n_way=2 n_query=3: numbers that stood in cells (5 ways, 5 queries, 12 classes) asked for more."""
    size = {"n_way": 2, "n_shot": 1, "n_query": 3}
    assert problems(chapter, texts(OF_A8), **size) == []
    rows = run_through(chapter, texts(OF_A8), **size)
    assert {row["n_way"] for row in rows} == {2}
    assert max(row["n_query"] for row in rows) == 3
    assert {row["dataset"] for row in rows} - OF_THE_COURSE == {"mine"}


@pytest.mark.slow
@every_chapter
def test_f5_the_smallest_data_that_the_table_allows_runs(chapter, run_through):
    dataset = texts(BORDER[chapter])
    assert problems(chapter, dataset, **SMALLEST) == []
    rows = run_through(chapter, dataset, **SMALLEST)
    assert {(row["n_way"], row["n_shot"], row["n_query"]) for row in rows} == {(2, 1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["07", "08"])
def test_f5_the_smallest_pictures_that_the_table_allows_run(chapter, run_through):
    dataset = pictures(BORDER[chapter])
    assert problems(chapter, dataset, **SMALLEST) == []
    assert run_through(chapter, dataset, **SMALLEST)


@pytest.mark.slow
@every_chapter
def test_f6_more_ways_than_there_are_validation_classes(chapter, run_through):
    """Validation chooses with the ways it has; the test has those that were asked for, and the shots."""
    size = {"n_way": 3, "n_shot": 2, "n_query": 2}
    assert problems(chapter, texts(OF_A8), **size) == []
    rows = run_through(chapter, texts(OF_A8), **size)
    assert {row["n_way"] for row in rows} == {3}
    assert 2 in {row["n_shot"] for row in rows}


@every_chapter
def test_one_class_or_one_example_less_than_the_smallest_is_refused_by_name(chapter):
    sizes = BORDER[chapter]
    for split in sizes:
        for smaller in without_one(sizes, split):
            dataset = texts(smaller)
            (found,) = problems(chapter, dataset, **SMALLEST)
            assert split in found
            assert any(repr(name) in found for name in dataset.class_names), found
    assert problems(chapter, texts(sizes), **SMALLEST | {"n_query": 2})
    assert problems(chapter, texts(sizes), **SMALLEST | {"n_way": 3})


@pytest.mark.parametrize("chapter", TEXTS_ONLY)
def test_a_chapter_on_texts_refuses_pictures_and_says_what_to_use(chapter):
    (found,) = problems(chapter, pictures(OF_A8), n_way=2, n_shot=1, n_query=3)
    assert "holds images" in found and "'docstrings'" in found
