import nbformat
import pytest

from fewshot_lib.course import cli, records
from fewshot_lib.course.running import runner
from fewshot_lib.data.cache import CacheError
from fewshot_lib.data.checks import inspect


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
        (["data"], "required: inspect PATH"),
        (["data", "inspect"], "required: path"),
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


def test_results_are_collected_from_any_directory(notebook, code, row, written, capsys):
    cell = code("record")
    cell.outputs = [nbformat.v4.new_output("display_data", data={records.MIME: row})]
    directory = written(notebook(cell)).parent
    assert cli.main(["results", str(directory)]) == 0
    assert "| tiny | Half | glyphs/scripts | smoke |" in capsys.readouterr().out
    assert (directory / "results.csv").exists() and (directory / "results.md").exists()


def test_record_check_runs_nothing(notebooks, capsys):
    before = (notebooks / "01_tiny.ipynb").read_bytes()
    assert cli.main(["record", "--check"]) == 1
    assert "01_tiny, " in capsys.readouterr().out and (notebooks / "01_tiny.ipynb").read_bytes() == before


def test_data_inspect_says_what_is_in_a_file_and_what_is_missing(tmp_path, capsys):
    rows = [f"text {i} of {name},{name}\n" for name in "abcdefghij" for i in range(3)]
    path = tmp_path / "mine.csv"
    path.write_text("".join(["text,topic\n", *rows]), encoding="utf-8")
    assert cli.main(["data", "inspect", str(path), "--label", "topic"]) == 0
    assert "possible episodes" in capsys.readouterr().out
    assert cli.main(["data", "inspect", str(tmp_path / "missing.csv")]) == 1
    assert "missing.csv" in capsys.readouterr().err


def test_every_option_of_data_inspect_arrives(monkeypatch, capsys):
    monkeypatch.setattr(inspect, "inspect_dataset", lambda source, **options: f"{source} {options}")
    options = ["--text", "t", "--label", "l", "--split", "s.json", "--encoding", "latin-1"]
    assert cli.main(["data", "inspect", "mine.csv", *options]) == 0
    expected = {"text": "t", "label": "l", "split": "s.json", "encoding": "latin-1"}
    assert capsys.readouterr().out == f"mine.csv {expected}\n"
