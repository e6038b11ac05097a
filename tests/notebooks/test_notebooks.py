"""The committed notebooks: lint, solutions, exercises that are not empty, parameters that take effect, no network.

That they run as committed, in the smoke profile, is tested by nbval (see pyproject.toml). Here each runs twice more.
"""

import csv
import itertools
import json
import os
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from fewshot_lib.course.execution import execute, kernel_environment
from fewshot_lib.course.lint import lint
from fewshot_lib.course.parameters import inject, tags
from fewshot_lib.course.records import collect
from fewshot_lib.course.solutions import EXERCISE, fill_solutions

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
OFFLINE = Path(__file__).parent / "offline"
TEXTS_ONLY = [path for path in NOTEBOOKS if "it refuses images" in path.read_text(encoding="utf-8")]
TAKES_IMAGES = [path for path in NOTEBOOKS if path not in TEXTS_ONLY]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

STUB_MUST_FAIL = """
from fewshot_lib.course.exercises import ExerciseFailed
try:
    exec({stub!r})
except ExerciseFailed as verdict:
    assert "[todo]" in str(verdict), verdict
else:
    raise AssertionError("the exercise was accepted without an answer")
"""


def run(notebook, path, **environment):
    """Executes a notebook in the smoke profile, one thread; fails the test with the cell and the error."""
    variables = kernel_environment(1, **{"FEWSHOT_PROFILE": "smoke", **environment})
    outcome = execute(notebook, path.parent, environment=variables, timeout=300)
    assert outcome.failure is None, str(outcome.failure)
    return outcome.notebook


def rows_of(notebook):
    return list(collect([notebook]))


def as_solved(notebook):
    """With the solutions filled in; after each, a cell that proves that the untouched stub is *not* accepted."""
    solved = fill_solutions(notebook)
    cells = []
    for original, cell in zip(notebook.cells, solved.cells, strict=True):
        cells.append(cell)
        if EXERCISE in tags(cell):
            # the stub, and then the solution again, because the stub took its name
            proof = STUB_MUST_FAIL.format(stub=original.source) + "\n" + cell.source
            cells.append(nbformat.v4.new_code_cell(proof))
    solved.cells = cells
    return solved


@every_notebook
def test_lint(path):
    assert lint(path) == []


@every_notebook
def test_links_to_files_of_the_course_lead_somewhere(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", cell.source):
                assert (path.parent / target).exists(), f"{target} does not exist"


@every_notebook
def test_solved_offline_with_other_parameters(path):
    """Strict: every solution is accepted, every stub refused, every setting of every widget drawn. And no network."""
    values = {"seed": 1, "n_way": 3, "n_shot": 2, "n_query": 4, "n_episodes": 60}
    notebook = as_solved(nbformat.read(path, 4))
    rows = rows_of(run(inject(notebook, values), path, FEWSHOT_STRICT="1", PYTHONPATH=f"{OFFLINE}:{Path(__file__).parents[2]}"))
    assert rows
    assert max(row["episodes"] for row in rows) == 60  # slow methods are measured on fewer, and say so
    assert {row["n_way"] for row in rows} == {3}
    assert 2 in {row["n_shot"] for row in rows}
    assert 4 in {row["n_query"] for row in rows}


@pytest.fixture(scope="module")
def own_csv(tmp_path_factory):
    """A table as a reader might bring it: 40 classes, 25 short texts each."""
    things = ["dog", "train", "piano", "river", "bread", "planet", "poem", "bridge", "garden", "letter"]
    doings = ["arrives late", "is described in detail", "was sold at an auction", "needs repair"]
    path = tmp_path_factory.mktemp("own") / "my_texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for thing, doing in itertools.product(things, doings):
            writer.writerows([f"Report {i}: the {thing} number {i * 7 % 11} {doing}.", f"{thing}, {doing}"] for i in range(25))
    return path


@every_notebook
def test_papermill_on_the_readers_own_texts(path, own_csv, tmp_path, monkeypatch):
    """As an engineer would run it: papermill's own command, a file of texts, other sizes."""
    monkeypatch.setenv("FEWSHOT_PROFILE", "laptop")  # the parameter must win over this
    parameters = {"profile": "smoke", "dataset": str(own_csv), "n_way": 4, "n_episodes": 40}
    assert set(parameters) <= set(papermill.inspect_notebook(str(path)))
    rows = rows_of(papermilled(path, tmp_path, parameters))
    assert {row["dataset"] for row in rows} == {"my_texts"}
    assert {row["split_family"] for row in rows} == {"shares 0.6/0.2/0.2, seed 0"}
    assert {row["profile"] for row in rows} == {"smoke"}
    assert max(row["episodes"] for row in rows) == 40


def test_papermill_with_another_data_set_by_name(tmp_path):
    """Texts in a chapter on images: what every chapter does with texts of a file, it does with a set that has a name."""
    path = next(path for path in TAKES_IMAGES if path.stem.startswith("02"))
    rows = rows_of(papermilled(path, tmp_path, {"profile": "smoke", "dataset": "docstrings", "n_episodes": 40}))
    assert {row["dataset"] for row in rows} == {"docstrings"}


def papermilled(path, folder, parameters):
    papermill.execute_notebook(
        path, folder / "out.ipynb", parameters, cwd=path.parent, kernel_name="python3", progress_bar=False, execution_timeout=300
    )
    return nbformat.read(folder / "out.ipynb", 4)


@pytest.mark.skipif(not Path(os.environ.get("FEWSHOT_DATA", "") or "nowhere", "omniglot").is_dir(), reason="needs Omniglot in FEWSHOT_DATA")
@pytest.mark.parametrize("path", TAKES_IMAGES[-1:], ids=lambda path: path.stem)
def test_real_images(path):
    rows = rows_of(run(inject(nbformat.read(path, 4), {"dataset": "omniglot", "n_episodes": 30}), path))
    assert {(row["dataset"], row["split_family"]) for row in rows} == {("omniglot", "vinyals")}


@pytest.mark.parametrize("path", TEXTS_ONLY, ids=lambda path: path.stem)
def test_a_chapter_on_texts_refuses_images_at_once(path):
    notebook = inject(nbformat.read(path, 4), {"dataset": "glyphs"})
    outcome = execute(notebook, path.parent, environment=kernel_environment(1, FEWSHOT_PROFILE="smoke"), timeout=300)
    assert "holds images" in outcome.failure.error
    assert outcome.failure.cell <= 5  # the set-up, before any work


def test_the_seed_changes_the_result_and_nothing_else_does():
    path = NOTEBOOKS[0]
    means = [rows_of(run(inject(nbformat.read(path, 4), {"seed": seed}), path))[0]["mean"] for seed in (0, 0, 1)]
    assert means[0] == means[1] != means[2]


def test_the_network_is_closed_where_the_test_says_so(tmp_path):
    """The proof that the offline run above could fail."""
    code = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    outcome = execute(notebook, tmp_path, environment=kernel_environment(1, PYTHONPATH=str(OFFLINE)), timeout=60)
    assert "the network is closed in this test" in outcome.failure.error


def test_chapters_are_numbered_without_a_gap():
    numbers = [int(path.stem[:2]) for path in NOTEBOOKS]
    assert numbers == list(itertools.islice(itertools.count(), len(numbers)))


def test_all_notebooks_declare_the_same_parameters():
    declared = {path.stem: json.dumps(sorted(papermill.inspect_notebook(str(path)))) for path in NOTEBOOKS}
    common = {"profile", "seed", "dataset", "n_way", "n_shot", "n_query", "n_episodes"}
    assert all(common <= set(json.loads(names)) for names in declared.values()), declared
