"""What went wrong with running notebooks, case by case of the list of cases."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from fewshot_lib.course import cli, needs, records
from fewshot_lib.course.lesson import PARAMETER_DEFAULTS, setup
from fewshot_lib.course.running import execution, output, runner

CASES = Path(__file__).parent
PARAMETERS = "\n".join(f"{name} = {value}" for name, value in PARAMETER_DEFAULTS.items())
ROW = dict.fromkeys(records.COLUMNS, 1) | {"kind": "accuracy", "mean": 0.5, "ci_low": 0.4, "ci_high": 0.6}
ROW |= {"method": "stored", "dataset": "glyphs", "split_family": "script", "note": ""}
NEW = {"text/plain": "", records.MIME: ROW | {"method": "new"}}
SHOWS_ROW = f"from IPython.display import display\ndisplay({NEW!r}, raw=True)"


def code(source, *tags, stored=False):
    """A code cell, perhaps with what its authors stored."""
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})
    if stored:
        data = {"text/plain": "STORED", records.MIME: ROW}
        cell.outputs, cell.execution_count = [nbformat.v4.new_output("display_data", data=data)], 7
    return cell


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Writes notebooks into a directory from which the command is called, after its parameters cell."""
    monkeypatch.chdir(tmp_path)
    Path("notebooks").mkdir()

    def write(name, *cells, metadata=None, where="notebooks"):
        cells = [code(PARAMETERS, "parameters"), *cells]
        path = Path(where, f"{name}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata or {}), path)
        return path

    return write


def fewshot(*arguments):
    return cli.main(["run", "--profile", "smoke", "--out", "out", "--threads", "1", *arguments])


def methods(directory="out"):
    with open(Path(directory, "results.csv"), encoding="utf-8") as file:
        return [row["method"] for row in csv.DictReader(file)]


def shown(directory="out"):
    return "".join(path.read_text(encoding="utf-8") for path in Path(directory).iterdir())


def shows(notebook, data):
    """As if the notebook had run, and its last cell had displayed these data."""
    notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", data=data)]
    return execution.Outcome(notebook, 0.1, "")


STOPS = {
    "an error": "1 / 0",
    "a time limit": "import time; time.sleep(60)",
    "a killed kernel": "import os, signal; os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize(
    "stop", ["an error", "a killed kernel", pytest.param("a time limit", marks=pytest.mark.slow)]
)
def test_a01_a_notebook_that_stops_shows_nothing_that_its_authors_stored(course, stop):
    course("01_x", code(SHOWS_ROW, stored=True), code(STOPS[stop], stored=True), code("2", stored=True))
    assert fewshot("--timeout", "4.5") == 1
    assert methods() == ["new"] and "STORED" not in shown()
    assert "stopped with an error" in Path("out/results.md").read_text(encoding="utf-8")
    counts = [cell.execution_count for cell in nbformat.read("out/01_x.ipynb", 4).cells]
    assert counts[:3] == [1, 2, 3] and counts[4] is None  # the profile is a cell more


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills a process")
def test_a01_a_run_that_is_killed_leaves_only_what_had_finished(course):  # for Ctrl-C see test_runner
    course("01_x", code(SHOWS_ROW, stored=True))
    assert fewshot() == 0
    course("02_y", code("open('started', 'w')\nimport time; time.sleep(30)"), code("3", stored=True))
    Path("out/02_y.ipynb").write_bytes(Path("out/01_x.ipynb").read_bytes())  # of an earlier run
    command = [sys.executable, "-m", "fewshot_lib", "run", "--profile", "smoke", "--out", "out"]
    process = subprocess.Popen(command, env=execution.kernel_environment(1))
    try:
        deadline = time.monotonic() + 120
        while not Path("notebooks/started").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["01_x.html", "01_x.ipynb", "results.csv", "results.md"] and methods() == ["new"]


def test_a01_a_run_that_stops_in_its_first_notebook_leaves_no_table_of_an_earlier_run(course, monkeypatch):
    course("01_x", code("1"))
    monkeypatch.setattr(runner, "execute", lambda notebook, *args, **options: shows(notebook, NEW))
    assert fewshot() == 0 and methods() == ["new"]

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "execute", interrupted)
    assert fewshot() == 130 and methods() == []


def test_a01_two_runs_into_one_directory_do_not_mix_their_tables(course, monkeypatch):
    course("01_x", code(SHOWS_ROW))
    course("02_y", code("1"))

    def meanwhile(notebook, *args, **options):
        if (path := Path("out/01_x.ipynb")).exists():  # another run writes its own
            path.write_text(path.read_text().replace('"method": "new"', '"method": "of another"'))
        return shows(notebook, NEW)

    monkeypatch.setattr(runner, "execute", meanwhile)
    assert fewshot() == 0 and methods() == ["new", "new"] and "of another" in shown()


def test_a01_results_are_of_notebooks_that_a_run_executed(course, capsys):
    ran = {"fewshot_run": {"started": "noon", "failure": ""}}
    prepared = {"papermill": {"input_path": "x", "output_path": "y"}}
    course("ran", code("1", stored=True), metadata=ran, where="out")
    course("source", code("1", stored=True), where="out")
    course("prepared", code("1", stored=True), metadata=prepared, where="out")
    assert cli.main(["results", "out"]) == 0
    assert methods() == ["stored"]
    left_out = capsys.readouterr().err
    assert "source.ipynb" in left_out and "prepared.ipynb" in left_out and "ran.ipynb" not in left_out
    assert cli.main(["results", "notebooks"]) == 2


def test_a01_what_papermill_executed_is_collected_and_says_where_it_failed(course):
    import papermill

    path = course("x", code(SHOWS_ROW, stored=True), code("1 / 0", stored=True), code("2", stored=True))
    Path("out").mkdir()
    with pytest.raises(papermill.PapermillExecutionError):
        papermill.execute_notebook(path, "out/x.ipynb", {}, kernel_name="python3", progress_bar=False)
    (row,) = output.collect([Path("out/x.ipynb")]).rows
    assert row["method"] == "new" and "stopped" in row["note"] and row["run"]


@pytest.mark.parametrize("out", ["notebooks", "./notebooks/../notebooks", "link"])
def test_f03_a06_the_directory_of_the_notebooks_is_refused(course, out, capsys):
    before = course("01_x", code("1")).read_bytes()
    Path("link").symlink_to("notebooks")
    assert fewshot("--out", out, "--solutions") == 2
    assert "is the directory of 01_x.ipynb" in capsys.readouterr().err
    assert Path("notebooks/01_x.ipynb").read_bytes() == before and len(list(Path("notebooks").iterdir())) == 1


def test_f03_a_directory_with_anybodys_notebooks_is_refused_with_their_names(course, capsys):
    course("01_x", code("1"))
    theirs = course("01_x", code("mine = 1"), where="out")
    course("homework", code("mine = 2"), where="out")
    before = theirs.read_bytes()
    assert fewshot() == 2
    message = capsys.readouterr().err
    assert "01_x.ipynb, homework.ipynb" in message and theirs.read_bytes() == before


def test_f03_a_link_to_somebodys_notebook_is_refused(course):
    path = course("01_x", code("1"))
    other = course("01_x", code("2"), where="elsewhere")
    Path("out").mkdir()
    Path("out/01_x.ipynb").symlink_to(other.absolute())
    assert fewshot(str(path)) == 2 and Path("out/01_x.ipynb").is_symlink()
    Path("out/01_x.ipynb").unlink()
    Path("out/01_x.ipynb").symlink_to("nowhere")
    assert fewshot(str(path)) == 2


def test_f03_what_a_learner_wrote_into_an_executed_notebook_is_not_replaced(course, capsys):
    course("01_x", code("1"))
    assert fewshot() == 0
    output.check_place(Path("out"), [Path("notebooks/01_x.ipynb")])  # what the run itself left is replaced
    edited = nbformat.read("out/01_x.ipynb", 4)
    edited.cells[-1].source = "my_answer = 1"
    nbformat.write(edited, "out/01_x.ipynb")
    assert fewshot() == 2 and "someone wrote since" in capsys.readouterr().err
    assert "my_answer" in Path("out/01_x.ipynb").read_text()


@pytest.mark.parametrize("name", ["results.md", "results.csv", "01_x.html"])
def test_f03_files_of_the_same_name_as_results_are_refused(course, name):
    course("01_x", code("1"))
    Path("out").mkdir()
    Path("out", name).write_text("My own results\n")
    assert fewshot() == 2 and Path("out", name).read_text() == "My own results\n"


@pytest.mark.parametrize("target", ["out", "nowhere"])
def test_f03_a_link_that_leads_nowhere_is_no_directory(course, capsys, target):
    course("01_x", code("1"))
    Path("out").symlink_to(target)
    assert fewshot() == 2 and "`--out out` is no directory" in capsys.readouterr().err


def test_a06_two_notebooks_of_one_name_are_refused(course, capsys):
    paths = [str(course("01_x", code("1"), where=where)) for where in ("notebooks", "other")]
    assert fewshot(*paths) == 2
    assert "would both be written as 01_x.ipynb" in capsys.readouterr().err and not Path("out").exists()
    again = ["notebooks/01_x.ipynb", os.path.abspath("notebooks/01_x.ipynb"), "notebooks"]
    assert len(execution.find_notebooks(again)) == 1  # one file, named three times


def test_f19_a_broken_notebook_is_named_and_the_others_are_collected(course, capsys):
    course("01_x", code(SHOWS_ROW))
    Path("out").mkdir()
    Path("out/broken.ipynb").write_text('{"cells": [\n<<<<<<< HEAD')
    Path("out/.01_x.html.0123.part").write_text("half a page, by a run that was killed")
    assert fewshot() == 0 and methods() == ["new"]
    bad = code("1", stored=True)
    bad.outputs[0].data[records.MIME] = {"method": "by hand"}
    course("incomplete", bad, metadata={"fewshot_run": {"started": "noon"}}, where="out")
    assert cli.main(["results", "out"]) == 0 and methods() == ["new"]
    assert not list(Path("out").glob(".*"))
    message = capsys.readouterr().err
    assert "broken.ipynb is not a notebook" in message and "incomplete.ipynb, a row in it" in message


def test_f19_a_row_made_wrong_by_hand_is_named_and_costs_the_others_nothing(course, capsys, monkeypatch):
    for name in ("01_x", "02_y"):
        course(name, code("1"))
    outcomes = iter([NEW | {records.MIME: {"method": "by hand"}}, NEW])
    monkeypatch.setattr(runner, "execute", lambda notebook, *args, **options: shows(notebook, next(outcomes)))
    assert fewshot() == 0 and methods() == ["new"]
    assert "not in the results: a row in it is incomplete" in capsys.readouterr().out


def test_f19_cells_without_ids_get_some_without_a_warning(course, recwarn):
    path = course("01_x", code("1"))
    plain = json.loads(path.read_text())
    for cell in plain["cells"]:
        del cell["id"]
    path.write_text(json.dumps(plain))
    notebook = execution.read_notebook(path)
    assert all(cell.id for cell in notebook.cells) and not [
        warning for warning in recwarn if "id field" in str(warning.message)
    ]


@pytest.fixture
def called(course, monkeypatch):
    """The parameters with which ``run`` was called, instead of running."""
    course("01_x", code("1"))
    calls = []
    monkeypatch.setattr(runner, "run", lambda paths, values, out, **options: calls.append(values) or True)
    return calls


def test_f17_none_is_none_and_texts_stay_as_they_were_typed(called):
    assert fewshot("-p", "dataset=None", "-p", "n_episodes=None") == 0
    assert called[0] == {"dataset": None, "n_episodes": None, "profile": "smoke"}
    for name in ("my #1 texts.csv", "a: b.csv", "010", "it's.csv", "größe.csv", "back\\slash.csv"):
        Path(name).write_text("text,label\n")
        called.clear()
        assert fewshot("-p", f"dataset={name}") == 0
        assert called[0]["dataset"] == str(Path(name).absolute())


@pytest.mark.parametrize("value", ["010", "0x10", "5.0", "1e1", "nan", "inf", "five", "[5]", "True", "None"])
@pytest.mark.parametrize("name", ["n_way", "seed"])
def test_f17_a16_a_number_is_a_number_in_everybodys_eyes(course, capsys, name, value):
    course("01_x", code("1"))
    assert fewshot("-p", f"{name}={value}") == 2
    message = capsys.readouterr().err
    assert f"`{name}` is " in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("value", ["2.5", "1000000000", "9" * 4000])
def test_a14_too_many_episodes_are_one_sentence(course, capsys, value):
    course("01_x", code("1"))
    assert fewshot("-p", f"n_episodes={value}") == 2
    message = capsys.readouterr().err
    assert "n_episodes" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("dataset", [os.devnull, "nowhere.csv", "glyhps", ""])
def test_a14_a_data_set_that_is_none_is_one_sentence_before_anything_runs(course, capsys, dataset):
    course("01_x", code("1"))
    assert fewshot("-p", f"dataset={dataset}") == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and not captured.out and not Path("out").exists()


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "-inf"])
def test_a14_a_time_limit_may_be_a_fraction_and_must_be_a_time(course, capsys, timeout):
    course("01_x", code("1"))
    assert fewshot(f"--timeout={timeout}") == 2
    assert "timeout" in capsys.readouterr().err


def test_a14_without_a_loopback_device_nothing_is_started(course, capsys, monkeypatch):
    def refuse(*args, **options):
        raise OSError(99, "Cannot assign requested address")

    course("01_x", code("1"))
    monkeypatch.setattr(execution.socket, "create_server", refuse)
    assert fewshot() == 1
    message = capsys.readouterr().err
    assert "127.0.0.1 (Cannot assign requested address)" in message and len(message.splitlines()) == 1


def test_a14_a_kernel_that_cannot_start_is_one_sentence(course, monkeypatch, capsys):
    course("01_x", code("1", stored=True))
    monkeypatch.setattr(execution.sys, "executable", "/no/such/python")
    assert fewshot() == 1
    said = capsys.readouterr().out
    assert "its Python process did not start" in said and "STORED" not in shown()


def test_a10_relative_directories_are_those_of_the_caller(course, monkeypatch):
    names = ("FEWSHOT_CACHE", "FEWSHOT_DATA", "PYTHONPATH")
    for name in names:
        monkeypatch.setenv(name, "here")
    source = f"import os\nfor name in {names}: print(os.environ[name])"
    course("01_x", code(source))
    assert fewshot() == 0
    printed = nbformat.read("out/01_x.ipynb", 4).cells[-1].outputs[0].text.splitlines()
    here = os.path.abspath("here")
    assert printed[:2] == [here, here] and printed[2].split(os.pathsep)[-1] == here


TABLE = CASES / "text" / "columns_named_differently.csv"


@pytest.fixture
def columns():
    """The names of the two columns of that table."""
    return TABLE.read_text(encoding="utf-8").splitlines()[0].split(",")


LOADS = """from fewshot_lib import course
lesson = course.setup("01_x", profile=profile, seed=seed, dataset=dataset,
                      n_way=n_way, n_shot=n_shot, n_query=n_query, n_episodes=n_episodes)
ds = lesson.load()
print(ds.split_family, len(ds), ds.class_names[0])"""


@pytest.mark.slow
def test_f11_a07_the_options_of_a_data_set_reach_the_notebook(course, columns, capsys):
    from fewshot_lib import data

    course("01_x", code(LOADS))
    flags = ["--text", columns[0], "--label", columns[1], "--split", "0.5/0.25/0.25", "--seed", "3"]
    assert cli.main(["data", "inspect", str(TABLE), *flags]) == 0
    assert fewshot("-p", f"dataset={os.path.relpath(TABLE)}", *flags, "-p", "n_way=2") == 0
    ds = data.load(TABLE, text=columns[0], label=columns[1], split="0.5/0.25/0.25", seed=3)
    said = "".join(shown.text for shown in nbformat.read("out/01_x.ipynb", 4).cells[-1].outputs)
    assert f"{ds.split_family} {len(ds)} {ds.class_names[0]}" in said


def test_a07_a_wrong_column_is_found_before_a_kernel_starts(course, capsys):
    course("01_x", code("1"))
    assert fewshot("-p", f"dataset={TABLE}", "--text", "no such column") == 2
    captured = capsys.readouterr()
    assert "no such column" in captured.err and str(TABLE) in captured.err and not Path("out").exists()


def small_table(path, n_classes=6, n_examples=4):
    rows = [
        {"text": f"text {i} on {c}", "label": f"class {c}"}
        for c in range(n_classes)
        for i in range(n_examples)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a08_f06_needs_of_all_notebooks_are_checked_before_one_starts(course, capsys, monkeypatch):
    asked = []

    def problems(notebook, dataset, n_way, n_shot, n_query):
        asked.append((notebook, n_way, n_shot, n_query))
        return [f"'class 1' has 4 examples: use n_query={n_query - 12}."] if notebook != "02_y" else []

    monkeypatch.setattr(needs, "problems", problems)
    for name in ("01_x", "02_y", "03_z"):
        course(name, code("1"))
    small_table(Path("small.jsonl"))
    assert fewshot("-p", "dataset=small.jsonl", "-p", "n_way=2") == 2
    message = capsys.readouterr().err
    assert "01_x: 'class 1' has 4" in message and "03_z: 'class 1'" in message and not Path("out").exists()
    assert "`fewshot run 02_y` with the same options runs." in message
    assert asked == [(name, 2, 1, 15) for name in ("01_x", "02_y", "03_z")]


def test_a08_a_lesson_loads_what_it_can_run_and_refuses_the_rest(tmp_path):
    path = small_table(tmp_path / "small.jsonl")
    lesson = setup("00_start_here", dataset=str(path), n_way=2, n_query=3)
    assert lesson.load().n_classes == 6
    with pytest.raises(ValueError, match="n_query"):
        setup("00_start_here", dataset={"source": str(path), "seed": 1}, n_way=2, n_query=4).load()


def test_a12_f22_run_and_load_mean_the_same_by_a_name(called, capsys):
    Path("glyphs").mkdir()
    assert fewshot("-p", "dataset=glyphs") == fewshot("-p", "dataset=./glyphs") == 0
    assert [values["dataset"] for values in called] == ["glyphs", os.path.abspath("glyphs")]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="locales of POSIX")
def test_f21_a_path_that_is_no_ascii_runs_under_the_posix_locale(course):
    course("01_x", code(LOADS))
    small_table(Path("größe.jsonl"))
    setting = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
    command = [sys.executable, "-m", "fewshot_lib", "run", "--profile", "smoke", "-p", "n_way=2"]
    command += ["-p", "n_query=3", "-p", "dataset=größe.jsonl", "--out", "out_ü"]
    environment = execution.kernel_environment(1, **setting)
    done = subprocess.run([os.fsencode(word) for word in command], env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    assert "shares 0.6" in Path("out_ü/01_x.ipynb").read_text(encoding="utf-8")
