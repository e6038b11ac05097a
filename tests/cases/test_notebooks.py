"""Chapters 00 to 04 on small data of one's own: what the table of needs calls possible runs, to its border.

The code of the notebooks runs in this process, with the solutions filled in, on data sets made here.
"""

from pathlib import Path

import nbformat
import pytest
import torch

from fewshot_lib import data
from fewshot_lib.course import needs
from fewshot_lib.course.authoring.lint import sizes_from_parameters
from fewshot_lib.course.running.parameters import inject
from fewshot_lib.course.running.solutions import fill_solutions
from fewshot_lib.data.dataset import ClassDataset

CASES = Path(__file__).parent
NOTEBOOKS = {path.stem[:2]: path for path in (CASES.parents[1] / "notebooks").glob("0[0-4]*.ipynb")}
SIZE = ("n_way", "n_shot", "n_query")


def made(kind, **sizes):
    """Texts or pictures of so many classes of so many examples in each split: made("texts", test=(2, 8))."""
    counts = [examples for classes, examples in sizes.values() for _ in range(classes)]
    labels, ids = torch.repeat_interleave(torch.tensor(counts)), iter(range(len(counts)))
    splits = {split: torch.tensor([next(ids) for _ in range(n)]) for split, (n, _) in sizes.items()}
    names = [f"subject {c}" for c in range(len(counts))]
    if kind == "texts":
        inputs = [f"Report {row} is about {names[c]}." for row, c in enumerate(labels.tolist())]
    else:
        draw = torch.Generator().manual_seed(0)
        shape = (1, 16, 16) if kind == "pictures" else (3, 20, 36)
        ideal = torch.rand(len(counts), *shape, generator=draw)[labels]
        noise = torch.rand(ideal.shape, generator=draw)
        inputs = (255 * (0.7 * ideal + 0.3 * noise)).to(torch.uint8)
    return ClassDataset(inputs, labels, names, splits, name="made", split_family="by hand")


@pytest.fixture
def run(monkeypatch):
    """Runs a chapter on a data set, or a file of the cases: run("02", "ok.csv", n_way=2) -> its rows."""
    real = data.load
    monkeypatch.setenv("FEWSHOT_PROFILE", "smoke")
    monkeypatch.setenv("FEWSHOT_STATIC", "1")

    def runs(chapter, dataset, **values):
        path = NOTEBOOKS[chapter]
        monkeypatch.chdir(path.parent)
        if isinstance(dataset, ClassDataset):  # the first that is loaded; others go on coming from the course
            own = [dataset]
            monkeypatch.setattr(data, "load", lambda name: own.pop() if own else real(name))
        else:
            values["dataset"] = str(CASES / "text" / dataset)
        names = {"__name__": "__main__"}
        notebook = inject(fill_solutions(nbformat.read(path, 4)), {"n_episodes": 4, **values})
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{path.stem}, cell {number}", "exec"), names)
        return list(names["lesson"].rows.values())

    return runs


@pytest.mark.parametrize("chapter", sorted(NOTEBOOKS))
def test_f6_no_number_is_written_where_a_parameter_belongs(chapter):
    assert list(sizes_from_parameters(nbformat.read(NOTEBOOKS[chapter], 4))) == []


# The smallest data set that the table allows a chapter for 2 ways, 1 shot and 1 query.
SMALLEST = {
    "00": {"test": (2, 2)},
    "01": {"train": (2, 3), "test": (2, 2)},
    "02": {"train": (2, 2), "val": (2, 2), "test": (2, 2)},
    "03": {"train": (2, 1), "val": (2, 2), "test": (2, 2)},
    "04": {"train": (2, 2), "val": (2, 2), "test": (2, 2)},
}


@pytest.mark.parametrize("chapter", sorted(SMALLEST))
def test_f5_of_the_smallest_data_no_class_and_no_example_can_be_spared(chapter):
    notebook = NOTEBOOKS[chapter].stem
    assert needs.problems(notebook, made("texts", **SMALLEST[chapter]), 2, 1, 1) == []
    for split, (classes, examples) in SMALLEST[chapter].items():
        for less in ((classes - 1, examples), (classes, examples - 1)):
            sizes = SMALLEST[chapter] | {split: less}
            assert any(split in text for text in needs.problems(notebook, made("texts", **sizes), 2, 1, 1))


@pytest.mark.parametrize(
    ("chapter", "kind"),
    [
        ("00", "pictures"),
        pytest.param("01", "pictures", marks=pytest.mark.slow),
        pytest.param("02", "colour pictures", marks=pytest.mark.slow),
        pytest.param("03", "texts", marks=pytest.mark.slow),
        pytest.param("04", "pictures", marks=pytest.mark.slow),
    ],
)
def test_f5_the_smallest_data_that_is_called_possible_runs(run, chapter, kind):
    rows = run(chapter, made(kind, **SMALLEST[chapter]), n_way=2, n_query=1)
    own = [row for row in rows if row["dataset"] == "made" and row["kind"] == "accuracy"]
    assert own
    assert {(row["n_way"], row["n_query"]) for row in own} == {(2, 1)}


@pytest.mark.slow
def test_f5_a_small_class_in_the_file_is_enough_where_the_parameters_ask_for_little(run):
    rows = run("02", "small_class.csv", n_query=1)
    assert {row["dataset"] for row in rows} == {"small_class"}


@pytest.mark.slow
def test_f6_the_parameters_take_effect_on_the_users_own_file(run):
    rows = run("01", "ok.csv", n_way=2, n_shot=2, n_query=4)
    of_unseen_classes = [row for row in rows if "unseen" in row["method"]]
    assert {tuple(row[name] for name in SIZE) for row in of_unseen_classes} == {(2, 2, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["00", "01"])
def test_a8_twelve_classes_of_eight_texts_run_with_every_setting_of_every_widget(run, monkeypatch, chapter):
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    sizes = {"train": (7, 8), "val": (2, 8), "test": (3, 8)}
    rows = run(chapter, made("texts", **sizes), n_way=2, n_query=3)
    assert {row["n_way"] for row in rows} == {2}


@pytest.mark.parametrize("chapter", sorted(SMALLEST))
def test_a8_what_is_not_possible_is_refused_before_anything_is_computed(run, chapter):
    sizes = SMALLEST[chapter] | {"test": (2, 1)}
    with pytest.raises(ValueError, match="too few examples in 2 test classes: 'subject") as refused:
        run(chapter, made("texts", **sizes), n_way=2, n_query=1)
    assert not [entry for entry in refused.traceback if "encoders" in str(entry.path)]
