"""A run that was killed goes on where it stopped; of others' files none is taken or overwritten."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewshot_lib.course.labelling import command, inputs, journal
from fewshot_lib.course.labelling.journal import alone

from .helpers import CLASSES, read, run, write

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "data/examples"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("torn", [b"", b'10,"half a r'])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_killed_in_the_middle_it_goes_on_where_it_stopped(model, tmp_path, monkeypatch, torn, ending):
    monkeypatch.setattr(inputs.Texts, "chunk", 4)
    words = " ".join(CLASSES.values()).split()
    table = write(tmp_path / "new.csv", [["text"], *([f"{words[i % 8]} {i}"] for i in range(30))])
    run("predict", model, table, "--out", tmp_path / f"whole.{ending}")
    answers, calls = command._answers, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return answers(*arguments)

    monkeypatch.setattr(command, "_answers", dies)
    with pytest.raises(Killed):
        run("predict", model, table, "--out", tmp_path / f"out.{ending}")
    part = tmp_path / f"out.{ending}.part"
    assert (
        not (tmp_path / f"out.{ending}").exists()
        and json.loads(part.with_name(f"{part.name}.json").read_text())["rows"] == 12
    )
    with part.open("ab") as file:
        file.write(torn)
    run("predict", model, table, "--out", tmp_path / f"out.{ending}")
    assert len(calls) == 4 + 5  # 18 of 30 rows were left
    assert (tmp_path / f"out.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


@pytest.mark.parametrize("where", ["answering", "writing"])
def test_ctrl_c_says_how_many_rows_are_written_and_the_same_command_goes_on(
    model, tmp_path, monkeypatch, where
):
    monkeypatch.setattr(inputs.Texts, "chunk", 4)
    table = write(tmp_path / "new.csv", [["text"], *([f"cheap {i}"] for i in range(9))])
    run("predict", model, table, "--out", tmp_path / "whole.csv")
    owner, name = {"answering": (command, "_answers"), "writing": (os, "fsync")}[where]
    works, calls = getattr(owner, name), []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == {"answering": 2, "writing": 3}[where]:  # the first write is that of the header
            raise KeyboardInterrupt
        return works(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stopped)
        said = "Stopped after 4 of 9 rows, which are written; the same command goes on"
        with pytest.raises(KeyboardInterrupt, match=said):
            run("predict", model, table, "--out", tmp_path / "out.csv")
    run("predict", model, table, "--out", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_full_disk_is_named_with_what_is_kept_and_the_same_command_goes_on(model, tmp_path, monkeypatch):
    table = write(tmp_path / "new.csv", [["text"], *[[f"cheap {i}"] for i in range(5)]])
    run("predict", model, table, "--out", tmp_path / "whole.csv")
    monkeypatch.setattr(inputs.Texts, "chunk", 2)
    synced, fsync = [], os.fsync

    def full(file):
        if synced.append(file) or len(synced) == 3:  # the names, two rows, two more
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"\(2 rows are kept, and the same command goes on") as error:
        run("predict", model, table, "--out", tmp_path / "out.csv")
    assert error.value.filename == str(tmp_path / "out.csv.part")
    run("predict", model, table, "--out", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_belongs_to_another_input_is_begun_anew(model, tmp_path, capsys):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    (tmp_path / "out.csv.part").write_text("text,label\nother,rows\n")
    (tmp_path / "out.csv.part.json").write_text(json.dumps({"key": "x", "rows": 1, "bytes": 3}))
    run("predict", model, table, "--out", tmp_path / "out.csv")
    assert "begun anew" in capsys.readouterr().err
    assert [row[0] for row in read(tmp_path / "out.csv")] == ["text", "cheap"]


def test_nothing_is_overwritten(model, tmp_path):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    with pytest.raises(ValueError, match="exists: name another file"):
        run("predict", model, table, "--out", table)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    with pytest.raises(ValueError, match="exists and is no classifier"):
        run("fit", table, "--out", tmp_path / "folder")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_that_appears_meanwhile_stays_and_so_do_the_rows(model, tmp_path, monkeypatch, ending):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    run("predict", model, table, "--out", tmp_path / f"whole.{ending}")
    out, answers = tmp_path / f"out.{ending}", command._answers

    def meanwhile(*arguments):
        out.write_text("of another")
        return answers(*arguments)

    monkeypatch.setattr(command, "_answers", meanwhile)
    with pytest.raises(ValueError, match="has appeared meanwhile"):
        run("predict", model, table, "--out", out)
    assert out.read_text() == "of another"
    out.unlink()
    monkeypatch.setattr(command, "_answers", None)  # nothing is left to answer
    run("predict", model, table, "--out", out)
    assert out.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not [file.name for file in tmp_path.iterdir() if ".part" in file.name]


@pytest.mark.parametrize("command", ["predict", "suggest"])
def test_of_two_that_write_one_file_the_second_is_refused(model, tmp_path, command):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    with alone(tmp_path / "out.csv"):
        run(command, model, table, "--out", tmp_path / "other.csv")
        before = sorted(tmp_path.iterdir())
        with pytest.raises(ValueError, match=r"Another command is writing .*out\.csv"):
            run(command, model, table, "--out", tmp_path / "out.csv")
        assert sorted(tmp_path.iterdir()) == before
    run(command, model, table, "--out", tmp_path / "out.csv")
    with pytest.raises(ValueError, match="exists: name another file"):
        run(command, model, table, "--out", tmp_path / "out.csv")
    assert not [file.name for file in tmp_path.iterdir() if ".part" in file.name]


def test_of_two_that_learn_into_one_folder_the_second_is_refused(model, tmp_path):
    table = write(tmp_path / "few.csv", [["text", "label"], ["cheap", "price"], ["late", "parcel"]])
    before = (model / "classifier.json").read_bytes()
    with alone(model), pytest.raises(ValueError, match=r"Another command is writing .*model"):
        run("fit", table, "--out", model)
    assert (model / "classifier.json").read_bytes() == before
    run("fit", table, "--out", model)
    assert (model / "classifier.json").read_bytes() != before
    assert not [file.name for file in tmp_path.iterdir() if ".part" in file.name]


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_who_is_killed_holds_no_file(tmp_path):
    ready, written = os.pipe()
    if not (child := os.fork()):
        try:
            with alone(tmp_path / "out.csv"):
                os.write(written, b"x")
                signal.pause()
        finally:
            os._exit(1)  # never on into the other tests
    os.close(written)
    assert os.read(ready, 1) == b"x"
    with pytest.raises(ValueError, match="is writing"), alone(tmp_path / "out.csv"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "out.csv.part.lock").exists()
    with alone(tmp_path / "out.csv"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_by_who_held_it_locks_nothing(tmp_path, monkeypatch):
    lock = tmp_path / "out.csv.part.lock"
    monkeypatch.setattr(journal, "_lock", lambda file: lock.unlink())
    with pytest.raises(ValueError, match="is writing"), alone(tmp_path / "out.csv"):
        pass


def test_where_files_cannot_be_locked_that_is_said(model, tmp_path, monkeypatch, capsys):
    def unable(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(journal, "_lock", unable)
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    run("predict", model, table, "--out", tmp_path / "out.csv")
    assert "cannot lock files (No locks available)" in capsys.readouterr().err
    assert len(read(tmp_path / "out.csv")) == 2


@pytest.mark.slow
def test_the_files_that_ship_from_training_to_labels_with_the_real_encoder(tmp_path):
    """Also killed for good, by the system, as soon as something is written."""
    body = (
        "from fewshot_lib.course import cli; from fewshot_lib.course.labelling import inputs\n"
        "inputs.Texts.chunk = 50; raise SystemExit(cli.main())"
    )

    def command(*arguments):
        return [sys.executable, "-c", body, *map(str, arguments)]

    def done(*arguments):
        return subprocess.run(command(*arguments), check=True, capture_output=True, text=True, cwd=ROOT)

    fitted = done("fit", EXAMPLES / "library_desk.csv", "--out", tmp_path / "model").stdout
    assert float(re.search(r"Held-out accuracy ([\d.]+)%", fitted)[1]) > 70
    texts = [[f"{row[0]} {i}"] for i in range(25) for row in read(EXAMPLES / "library_desk_new.csv")[1:]]
    table = write(tmp_path / "new.csv", [["text"], *texts])
    killed = subprocess.Popen(
        command("predict", tmp_path / "model", table, "--out", tmp_path / "out.csv"), cwd=ROOT
    )
    note = tmp_path / "out.csv.part.json"
    while killed.poll() is None and not (note.exists() and json.loads(note.read_text())["rows"]):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = done("predict", tmp_path / "model", table, "--out", tmp_path / "out.csv")
    assert "going on after" in finished.stderr
    truth = [row[1] for row in read(EXAMPLES / "library_desk_new.csv")[1:]] * 25
    right = [row[1] == label for row, label in zip(read(tmp_path / "out.csv")[1:], truth, strict=True)]
    assert sum(right) / len(right) > 0.7
