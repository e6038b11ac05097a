"""The committed notebooks: rules, links, parameters, and a run in which everything is different.

That they run as committed, in the smoke profile on their own data, and that their toy numbers are the stored
ones, is tested by nbval (see pyproject.toml). Here each runs once more, as an engineer would run it.
"""

import csv
import itertools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from fewshot_lib.course.authoring.lint import lint
from fewshot_lib.course.records import rows_of
from fewshot_lib.course.running.execution import EXTRA, execute, kernel_environment, notebooks_in
from fewshot_lib.course.running.parameters import inject, tags
from fewshot_lib.course.running.solutions import CHECKED, EXERCISE, fill_solutions

ROOT = Path(__file__).parents[2]
NOTEBOOKS = notebooks_in(ROOT / "notebooks")
CHAPTERS = [path for path in NOTEBOOKS if path.parent.name != EXTRA]
OFFLINE = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "offline"), str(ROOT)])}
TEXTS_ONLY = [path for path in NOTEBOOKS if "it refuses images" in path.read_text(encoding="utf-8")]
TAKES_IMAGES = [path for path in NOTEBOOKS if path not in TEXTS_ONLY]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
BUILT_IN_05 = "docstrings, a missing word"  # whatever texts the reader brings

STUB_MUST_FAIL = """
from fewshot_lib.course.exercises import ExerciseFailed
try:
    exec({stub!r})
except ExerciseFailed as verdict:
    assert "[todo]" in str(verdict), verdict
else:
    raise AssertionError("the exercise was accepted without an answer")
"""


def as_solved(path):
    """With the solutions filled in; after each, a cell that proves that the stub is *not* accepted."""
    notebook = nbformat.read(path, 4)
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


def rows_of_solved_run(path, **values):
    """The rows of a run with these parameters: strict, offline, one thread; a failing cell fails the test."""
    variables = kernel_environment(1, FEWSHOT_PROFILE="smoke", FEWSHOT_STRICT="1", **OFFLINE)
    outcome = execute(inject(as_solved(path), values), path.parent, environment=variables, timeout=300)
    assert not outcome.failure, outcome.failure
    return rows_of(outcome.notebook)


def executed_here(path, **values):
    """The names after the solved code has run in this process, which needs no kernel."""
    names = {"__name__": "__main__"}
    for number, cell in enumerate(inject(fill_solutions(nbformat.read(path, 4)), values).cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.stem}, cell {number}", "exec"), names)
    return names


@every_notebook
def test_lint(path):
    assert lint(path) == []


@every_notebook
def test_links_to_files_of_the_course_lead_somewhere(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", cell.source):
                assert (path.parent / target).exists(), f"{target} does not exist"


@pytest.fixture(scope="module")
def own_csv(tmp_path_factory):
    """A table as a reader might bring it: 60 classes, of 25 short texts; a fifth of them are test classes."""
    things = (
        "dog train piano river bread planet poem bridge garden letter window horse lamp island violin".split()
    )
    doings = ["arrives late", "is described in detail", "was sold at an auction", "needs repair"]
    path = tmp_path_factory.mktemp("own") / "my_texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for thing, doing in itertools.product(things, doings):
            text = f"Report {{}}: the {thing} number {{}} {doing}."
            writer.writerows([text.format(i, i * 7 % 11), f"{thing}, {doing}"] for i in range(25))
    return path


@pytest.mark.slow
@every_notebook
def test_papermill_solved_offline_on_the_readers_own_texts_with_other_parameters(
    path, own_csv, tmp_path, monkeypatch
):
    """Every solution is accepted, every stub refused, every setting of every widget drawn; no network."""
    for name, value in {"FEWSHOT_STRICT": "1", **OFFLINE}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEWSHOT_PROFILE", "laptop")  # the parameter must win over this
    sizes = {"n_way": 3, "n_shot": 2, "n_query": 4, "n_episodes": 40, "seed": 1}
    parameters = {"profile": "smoke", "dataset": str(own_csv), **sizes}
    solved, done = tmp_path / path.name, tmp_path / "out.ipynb"
    nbformat.write(as_solved(path), solved)
    options = {"kernel_name": "python3", "progress_bar": False, "execution_timeout": 300}
    papermill.execute_notebook(solved, done, parameters, cwd=path.parent, **options)
    rows = [row for row in rows_of(nbformat.read(done, 4)) if row["dataset"] != BUILT_IN_05]
    if path not in CHAPTERS and not rows:  # an optional notebook may live on toy numbers
        return
    assert {row["dataset"] for row in rows} == {"my_texts"}
    assert {row["split_family"] for row in rows} == {"shares 0.6/0.2/0.2, seed 0"}
    assert {row["profile"] for row in rows} == {"smoke"}
    assert max(row["episodes"] for row in rows) == 40  # slow methods are measured on fewer, and say so
    assert {row["n_way"] for row in rows} == {3}
    assert 2 in {row["n_shot"] for row in rows}
    assert 4 in {row["n_query"] for row in rows}


@pytest.mark.slow
def test_a_chapter_on_texts_takes_another_data_set_by_name_even_of_images():
    path = next(path for path in TAKES_IMAGES if path.stem.startswith("07"))
    assert {row["dataset"] for row in rows_of_solved_run(path, dataset="glyphs", n_episodes=40)} == {"glyphs"}


@pytest.fixture
def here_strict_and_offline(monkeypatch):
    """For a notebook's code in this process: its folder, solutions demanded, no connection to anywhere."""

    def closed(*args, **options):
        raise OSError("the network is closed in this test")

    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    monkeypatch.setattr(socket.socket, "connect", closed)
    monkeypatch.setattr(socket, "getaddrinfo", closed)


def test_the_seed_changes_the_result_and_nothing_else_does(here_strict_and_offline):
    first, again, other = (
        next(iter(executed_here(NOTEBOOKS[0], seed=seed)["lesson"].rows.values()))["mean"]
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.slow
def test_a_chapter_that_shows_pictures_is_solved_on_images_too(here_strict_and_offline):
    rows = executed_here(NOTEBOOKS[1], n_shot=2, n_episodes=40)["lesson"].rows.values()
    assert {row["dataset"] for row in rows} == {"glyphs"}


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(os.environ.get("FEWSHOT_DATA", "") or "nowhere", "omniglot").is_dir(),
    reason="needs Omniglot in FEWSHOT_DATA",
)
def test_real_images(here_strict_and_offline, monkeypatch):
    monkeypatch.setenv("FEWSHOT_PROFILE", "smoke")
    rows = executed_here(NOTEBOOKS[1], dataset="omniglot", n_episodes=30)["lesson"].rows.values()
    assert {(row["dataset"], row["split_family"]) for row in rows} == {("omniglot", "vinyals")}


@pytest.mark.parametrize("path", TEXTS_ONLY, ids=lambda path: path.stem)
def test_a_chapter_on_texts_refuses_images_at_once(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(ValueError, match="holds images") as refused:
        executed_here(path, dataset="glyphs")
    cells = [entry.path for entry in refused.traceback if str(entry.path).startswith(path.stem)]
    assert int(str(cells[0]).split()[-1]) <= 5  # the set-up, before any work


def test_the_network_is_closed_where_the_test_says_so(tmp_path):
    """The proof that the offline runs above could fail."""
    code = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    outcome = execute(notebook, tmp_path, environment=kernel_environment(1, **OFFLINE), timeout=60)
    assert "the network is closed in this test" in outcome.failure


def test_nbval_finds_a_toy_number_that_changed_and_runs_the_cells_of_a_notebook_in_order(tmp_path):
    """With this repository's own settings, on two workers."""

    def cell(source, stored="", *names):
        outputs = [nbformat.v4.new_output("stream", text=f"{stored}\n")] if stored else []
        return nbformat.v4.new_code_cell(
            source, execution_count=1, outputs=outputs, metadata={"tags": list(names)}
        )

    for name, right in (("good", 5), ("wrong", 6)):
        cells = [cell("x = 2"), cell("print(x)", "7"), cell("x += 3"), cell("print(x)", right, CHECKED)]
        cells.append(cell("print('took 3.2 s')", "took 1.7 s", CHECKED))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    own = ["-c", str(ROOT / "pyproject.toml"), "-p", "conftest", "-p", "no:cacheprovider", "-n", "2"]
    command = [sys.executable, "-m", "pytest", *own, "-v", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "1 failed, 9 passed" in run.stdout, run.stdout
    assert re.search(r"FAILED wrong\.ipynb::Cell 3", run.stdout), run.stdout


def test_chapters_are_numbered_without_a_gap():
    assert [int(path.stem[:2]) for path in CHAPTERS] == list(range(len(CHAPTERS)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_optional_says_so_and_a_chapter_leads_to_it(path):
    kind = nbformat.read(path, 4).metadata.get("fewshot", {}).get("kind")
    assert (kind == "extra") == (path not in CHAPTERS)
    linked = [f"({EXTRA}/{path.name})" in chapter.read_text(encoding="utf-8") for chapter in CHAPTERS]
    assert any(linked) or path in CHAPTERS


def test_all_notebooks_declare_the_same_parameters():
    common = {"profile", "seed", "dataset", "n_way", "n_shot", "n_query", "n_episodes"}
    for path in NOTEBOOKS:
        assert common <= set(papermill.inspect_notebook(str(path))), path.stem
