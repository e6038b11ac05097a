import json
import subprocess
import sys
import types

import nbformat
import pytest

from fewshot_lib import __main__
from fewshot_lib.course import cli, inspection, records
from fewshot_lib.course.running import runner
from fewshot_lib.data.cache import CacheError


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """A directory with one notebook, as the place where the command runs."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "notebooks"
    directory.mkdir()
    cell = nbformat.v4.new_code_cell("profile = None\nn_way = 5", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), directory / "01_tiny.ipynb")
    return directory


@pytest.fixture
def called(monkeypatch):
    """What ``run`` was asked to do, instead of doing it."""
    calls = []

    def run(paths, values, out, **options):
        calls.append(([path.stem for path in paths], values, out, options))
        return True

    monkeypatch.setattr(runner, "run", run)
    return calls


def test_arguments_reach_the_runner(notebooks, called):
    flags = ["--profile", "smoke", "--out", "x", "--threads", "3", "--timeout", "9", "--solutions"]
    assert cli.main(["run", "01", "-p", "n_way=7", *flags]) == 0
    ((names, values, out, options),) = called
    assert names == ["01_tiny"] and values == {"n_way": 7, "profile": "smoke"} and str(out) == "x"
    del options["say"]
    assert options == {"threads": 3, "timeout": 9.0, "solutions": True}


def test_by_default_everything_runs_with_its_own_parameters_and_a_failure_is_status_1(
    notebooks, called, monkeypatch
):
    assert cli.main(["run"]) == 0
    monkeypatch.setattr(runner, "run", lambda *args, **options: False)
    assert cli.main(["run"]) == 1
    ((names, values, out, options),) = called
    assert (names, values, out) == (["01_tiny"], {}, cli.OUT) and options["threads"] >= 1


def test_a_file_of_your_own_is_found_from_where_the_command_was_called(notebooks, called):
    (notebooks.parent / "mine.csv").write_text("text,label\n")
    assert cli.main(["run", "-p", "dataset=mine.csv"]) == cli.main(["run", "-p", "dataset=glyphs"]) == 0
    assert [values["dataset"] for _, values, *_ in called] == [str(notebooks.parent / "mine.csv"), "glyphs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-p", "n_ways=7"], "01_tiny has no parameter 'n_ways': did you mean 'n_way'?"),
        (["run", "-p", "n_way=1"], "`n_way` is 1"),
        (["run", "-p", "n_way"], "not NAME=VALUE"),
        (["run", "-p", "profile=gpu", "--profile", "smoke"], "smoke` contradicts `-p profile=gpu`"),
        (["run", "--threads", "0"], "`threads` is 0: it must be positive."),
        (["run", "--timeout", "-1"], "`timeout` is -1.0: it must be positive."),
        (["run", "07"], "There is no notebook '07'"),
        (["record", "07"], "There is no notebook '07'"),
        (["results", "nowhere"], "no executed notebooks in nowhere"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_status_2(notebooks, capsys, arguments, message):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    assert not (notebooks.parent / "build").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["rum"], "invalid choice: 'rum'"),
        (["run", "--profile", "fast"], "invalid choice: 'fast'"),
        (["run", "--timeout", "x"], "invalid float value: 'x'"),
        (["data"], "required: inspect SOURCE"),
        (["data", "inspect"], "required: source"),
    ],
)
def test_the_parser_refuses_the_rest(notebooks, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "build/x.md"), "No space left on device: build/x.md"),
        (CacheError("Could not write x.md. Free some space."), "Could not write x.md. Free some space."),
    ],
)
def test_a_disk_that_is_full_is_one_sentence(notebooks, monkeypatch, capsys, error, sentence):
    def full(*args, **options):
        raise error

    monkeypatch.setattr(runner, "run", full)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == f"fewshot: {sentence}\n"


@pytest.mark.parametrize(
    ("interrupt", "said"),
    [
        (KeyboardInterrupt(), "Stopped."),
        (KeyboardInterrupt("Stopped after 2 of 9."), "Stopped after 2 of 9."),
    ],
)
def test_ctrl_c_is_one_sentence_and_status_130(notebooks, monkeypatch, capsys, interrupt, said):
    def interrupted(*args, **options):
        raise interrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert cli.main(["run"]) == 130
    assert capsys.readouterr().err == f"\n{said}\n"


def test_ctrl_c_while_modules_are_imported_is_so_too(monkeypatch, capsys):
    class Interrupted(types.ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "fewshot_lib.course", Interrupted("fewshot_lib.course"))
    assert __main__.main() == 130
    assert capsys.readouterr().err == "\nStopped.\n"


def test_results_are_collected_from_any_directory(notebook, code, row, written, capsys):
    cell = code("record")
    cell.outputs = [nbformat.v4.new_output("display_data", data={records.MIME: row})]
    directory = written(notebook(cell, fewshot_run={"started": "now"})).parent
    assert cli.main(["results", str(directory)]) == 0
    assert "| tiny | Half | glyphs/scripts | smoke |" in capsys.readouterr().out
    assert (directory / "results.csv").exists() and (directory / "results.md").exists()


def test_record_check_runs_nothing(notebooks, capsys):
    before = (notebooks / "01_tiny.ipynb").read_bytes()
    assert cli.main(["record", "--check"]) == 1
    assert "01_tiny, " in capsys.readouterr().out and (notebooks / "01_tiny.ipynb").read_bytes() == before


@pytest.mark.slow
def test_data_inspect_says_what_is_in_a_file_and_what_is_missing(tmp_path, capsys):
    rows = [f"text {i} of {name},{name}\n" for name in "abcdefghij" for i in range(3)]
    path = tmp_path / "mine.csv"
    path.write_text("".join(["text,topic\n", *rows]), encoding="utf-8")
    assert cli.main(["data", "inspect", str(path), "--label", "topic"]) == 0
    report = capsys.readouterr().out
    assert "possible episodes" in report and "what each chapter can run" in report
    assert cli.main(["data", "inspect", str(tmp_path / "missing.csv")]) == 1
    assert "missing.csv" in capsys.readouterr().err


OPTIONS = {
    "text": "t",
    "label": "l",
    "encoding": "latin-1",
    "split": "0.5/0.25/0.25",
    "seed": 3,
    "drop_empty": True,
    "min_examples": 4,
}
FLAGS = "--text t --label l --encoding latin-1 --split 0.5/0.25/0.25 --seed 3 --drop-empty --min-examples 4"


def test_run_and_inspect_read_a_data_set_by_the_same_words(notebooks, called, monkeypatch):
    seen = []
    monkeypatch.setattr(inspection, "inspected", lambda source: seen.append(source))
    monkeypatch.setattr(inspection, "report", lambda found, all_classes: f"all: {all_classes}")
    path = notebooks.parent / "mine.csv"
    path.write_text("t,l\n")
    assert cli.main(["data", "inspect", "mine.csv", *FLAGS.split()]) == 0
    assert cli.main(["run", "-p", "dataset=mine.csv", *FLAGS.split()]) == 0
    expected = {"source": str(path)} | OPTIONS
    assert seen == [expected] and called[0][1] == {"dataset": expected}
    assert cli.main(["run", "-p", f"dataset={json.dumps({'source': 'mine.csv'} | OPTIONS)}"]) == 0
    assert called[1][1] == {"dataset": expected}


def test_pictures_have_options_of_their_own(notebooks, called):
    (notebooks.parent / "pictures").mkdir()
    assert cli.main(["run", "-p", "dataset=pictures", "--size", "32x48", "--color"]) == 0
    expected = {"source": str(notebooks.parent / "pictures"), "size": "32x48", "color": True}
    assert called[0][1] == {"dataset": expected}


def test_options_without_a_data_set_are_refused(notebooks, capsys):
    assert cli.main(["run", "--drop-empty"]) == 2
    assert "`--drop-empty` says how to read a data set: say which" in capsys.readouterr().err


def test_a_split_is_written_and_can_be_used_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspection, "count_tokens", lambda texts: [3] * len(texts))
    path, split = tmp_path / "mine.csv", tmp_path / "split.json"
    rows = [f"text {i} of {name},{name}\n" for name in "abcdefghij" for i in range(3)]
    path.write_text("".join(["text,label\n", *rows]), encoding="utf-8")
    assert cli.main(["data", "inspect", str(path), "--write-split", str(split)]) == 0
    assert f"use it with --split {split}" in capsys.readouterr().out
    assert sorted(name for names in json.loads(split.read_text()).values() for name in names) == list(
        "abcdefghij"
    )
    assert cli.main(["data", "inspect", str(path), "--split", str(split)]) == 0


def test_who_reads_may_stop_reading(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("text,label\n" + "".join(f"text {i},{i % 4}\n" for i in range(40)))
    command = [sys.executable, "-m", "fewshot_lib", "data", "inspect", str(table)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()  # as `| head -0` does
        complaints = run.stderr.read()
    assert run.returncode == 1 and complaints == ""
