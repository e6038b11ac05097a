import subprocess
import sys

import nbformat
import pytest

from fewshot_lib import cli
from fewshot_lib.course import runner
from fewshot_lib.course.execution import kernel_environment

PARAMETERS = "profile = None\nn_way = 5"
ROW = {"kind": "accuracy", "notebook": "01", "method": "ProtoNet", "dataset": "glyphs", "split_family": "scripts", "profile": "smoke"}
ROW |= {"n_way": 5, "n_shot": 1, "n_query": 15, "episodes": 100, "seeds": 1, "transductive": False}
ROW |= {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6, "note": ""}


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """A directory with one notebook, as the place where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEWSHOT_PROFILE", raising=False)
    directory = tmp_path / "notebooks"
    directory.mkdir()
    cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), directory / "01_tiny.ipynb")
    return directory


@pytest.fixture
def called(monkeypatch):
    """What ``run`` was asked to do, instead of doing it."""
    calls = []

    def run(paths, values, out, **options):
        calls.append((paths, values, out, options))
        return True

    monkeypatch.setattr(runner, "run", run)
    return calls


def test_arguments_reach_the_runner(notebooks, called):
    options = ["--profile", "smoke", "--out", "x", "--threads", "3", "--timeout", "9", "--solutions"]
    assert cli.main(["run", "01", "-p", "n_way=7", *options]) == 0
    ((paths, values, out, options),) = called
    assert [path.stem for path in paths] == ["01_tiny"] and values == {"n_way": 7, "profile": "smoke"} and str(out) == "x"
    assert (options["threads"], options["timeout"], options["solutions"], options["keep_times"]) == (3, 9.0, True, False)


def test_by_default_everything_runs_with_its_own_parameters(notebooks, called):
    assert cli.main(["run"]) == 0
    ((paths, values, out, options),) = called
    assert [path.stem for path in paths] == ["01_tiny"] and values == {} and out == cli.OUT and options["threads"] >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-p", "n_ways=7"], "01_tiny has no parameter 'n_ways': did you mean 'n_way'?"),
        (["run", "-p", "n_way=1"], "`n_way` is 1"),
        (["run", "-p", "n_way"], "not NAME=VALUE"),
        (["run", "-p", "profile=gpu", "--profile", "smoke"], "contradicts"),
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


@pytest.mark.parametrize("arguments", [[], ["rum"], ["run", "--profile", "fast"], ["run", "--threads", "0"], ["run", "--timeout", "x"]])
def test_the_parser_refuses_the_rest(notebooks, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2


def test_a_failed_notebook_is_status_1(notebooks, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *args, **options: False)
    assert cli.main(["run"]) == 1


def test_a_disk_that_is_full_is_one_sentence(notebooks, monkeypatch, capsys):
    def full(*args, **options):
        raise OSError(28, "No space left on device", "build/course/results.md")

    monkeypatch.setattr(runner, "run", full)
    assert cli.main(["run"]) == 1
    assert "No space left on device: build/course/results.md" in capsys.readouterr().err


def test_results_are_collected_from_any_directory(tmp_path, capsys):
    cell = nbformat.v4.new_code_cell("record")
    cell.outputs = [nbformat.v4.new_output("display_data", data={"application/vnd.fewshot.result+json": ROW})]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01.ipynb")
    assert cli.main(["results", str(tmp_path)]) == 0
    assert "| 01 | ProtoNet | glyphs/scripts | smoke |" in capsys.readouterr().out
    assert (tmp_path / "results.csv").exists() and (tmp_path / "results.md").exists()


def test_record_check_runs_nothing(notebooks, capsys):
    before = (notebooks / "01_tiny.ipynb").read_bytes()
    assert cli.main(["record", "--check"]) == 1
    assert "01_tiny, " in capsys.readouterr().out and (notebooks / "01_tiny.ipynb").read_bytes() == before


def test_the_package_is_the_command(tmp_path):
    command = [sys.executable, "-m", "fewshot_lib", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, env=kernel_environment(1), cwd=tmp_path)
    assert run.returncode == 0 and all(command in run.stdout for command in ("run", "results", "check", "record"))


def test_data_inspect_says_what_is_in_a_file(tmp_path, capsys):
    rows = ["text,label"] + [f"text {i} of {name},{name}" for name in "abcdefghij" for i in range(3)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert cli.main(["data", "inspect", str(path)]) == 0
    assert "possible episodes" in capsys.readouterr().out
    assert cli.main(["data", "inspect", str(tmp_path / "missing.csv")]) == 1


def test_data_without_an_action_is_named(capsys):
    assert cli.main(["data"]) == 2
    assert "fewshot data inspect PATH" in capsys.readouterr().err
