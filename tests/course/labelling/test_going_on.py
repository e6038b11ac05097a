"""A run that was killed goes on where it stopped; of others' files none is taken or overwritten."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewshot_lib.course import labelling

from .helpers import CLASSES, read, run, write

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "data/examples"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("torn", [b"", b'10,"half a r'])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_killed_in_the_middle_it_goes_on_where_it_stopped(model, tmp_path, monkeypatch, torn, ending):
    monkeypatch.setattr(labelling, "CHUNK", 4)
    words = " ".join(CLASSES.values()).split()
    table = write(tmp_path / "new.csv", [["text"], *([f"{words[i % 8]} {i}"] for i in range(30))])
    run("predict", model, table, "--out", tmp_path / f"whole.{ending}")
    answers, calls = labelling._answers, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return answers(*arguments)

    monkeypatch.setattr(labelling, "_answers", dies)
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
    with pytest.raises(ValueError, match="exists and is no classifier"):
        run("fit", table, "--out", tmp_path / "folder")


@pytest.mark.slow
def test_the_files_that_ship_from_training_to_labels_with_the_real_encoder(tmp_path):
    """Also killed for good, by the system, as soon as something is written."""
    body = "from fewshot_lib.course import cli, labelling; labelling.CHUNK = 50; raise SystemExit(cli.main())"

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
