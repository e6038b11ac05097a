"""The commands fit, predict, suggest, evaluate: the right rows in the right file, whatever happens."""

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fewshot_lib.course import labelling, labelling_inputs
from fewshot_lib.course.cli import DATA_OPTIONS
from fewshot_lib.course.labelling_report import Report

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "data/examples"
CLASSES = {"refund": "money back", "parcel": "late lost", "price": "cheap cost", "wifi": "network password"}
VOCABULARY = [*CLASSES, *" ".join(CLASSES.values()).split()]


class Bag(nn.Module):
    """Counts words."""

    max_tokens = 9

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, texts):
        counts = [[text.replace(".", "").split().count(word) for word in VOCABULARY] for text in texts]
        return self.one * (torch.tensor(counts) + 0.1)


def run(*arguments):
    parser = argparse.ArgumentParser()
    labelling.add_commands(parser.add_subparsers(required=True), DATA_OPTIONS)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return parsed.function(parsed)


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def bag(monkeypatch):
    encoder = Bag()
    monkeypatch.setattr("fewshot_lib.classifier.inputs.text_encoder", lambda source: encoder)


@pytest.fixture
def model(bag, tmp_path, capsys):
    """A fitted classifier: four classes, three examples each."""
    rows = [
        (f"{word} {i} it", label) for label, words in CLASSES.items() for i in range(3) for word in [words]
    ]
    table = write(tmp_path / "train.csv", [("text", "label"), *rows])
    assert run("fit", table, "--out", tmp_path / "model")
    assert "4 classes" in capsys.readouterr().out
    return tmp_path / "model"


def test_rows_columns_and_order_are_kept(model, tmp_path):
    rows = [["7", "is it late", "a,b"], ["8", "", ""], ["7", 'a "cheap"\none cheap', "é"], ["9", "money", ""]]
    table = write(tmp_path / "new.csv", [["id", "text", "note"], *rows])
    assert run("predict", model, table, "--out", tmp_path / "out.csv")
    header, *found = read(tmp_path / "out.csv")
    assert header == ["id", "text", "note", "label", "probability", "rejected"]
    assert [row[:3] for row in found] == rows
    assert [row[3] for row in found] == ["parcel", "", "price", "refund"]
    assert found[1][3:] == ["", "", ""]
    assert all(0 < float(row[4]) <= 1 and row[5] in ("yes", "no") for row in found if row[3])
    assert sorted(file.name for file in tmp_path.iterdir() if ".part" in file.name) == []


def test_a_column_that_is_called_so_already_is_kept(model, tmp_path):
    table = write(tmp_path / "new.csv", [["label", "text"], ["mine", "cheap"]])
    run("predict", model, table, "--out", tmp_path / "out.csv")
    assert read(tmp_path / "out.csv")[0] == ["label", "text", "predicted label", "probability", "rejected"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("torn", [b"", b'10,"half a r'])
def test_killed_in_the_middle_it_goes_on_where_it_stopped(model, tmp_path, monkeypatch, torn):
    monkeypatch.setattr(labelling, "CHUNK", 4)
    words = " ".join(CLASSES.values()).split()
    table = write(tmp_path / "new.csv", [["text"], *([f"{words[i % 8]} {i}"] for i in range(30))])
    run("predict", model, table, "--out", tmp_path / "whole.csv")
    answers, calls = labelling._answers, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return answers(*arguments)

    monkeypatch.setattr(labelling, "_answers", dies)
    with pytest.raises(Killed):
        run("predict", model, table, "--out", tmp_path / "out.csv")
    part = tmp_path / "out.csv.part"
    assert not (tmp_path / "out.csv").exists() and len(read(part)) == 13
    with part.open("ab") as file:
        file.write(torn)
    run("predict", model, table, "--out", tmp_path / "out.csv")
    assert len(calls) == 4 + 5  # 18 of 30 rows were left
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
    with pytest.raises(ValueError, match="exists and is no classifier"):
        run("fit", table, "--out", tmp_path / "folder")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "is empty"),
        (b"a,b\n1,2\n", [], "has the columns 'a', 'b', and which of them holds the texts is not clear"),
        (b"a,b\n1,2\n", ["--text", "c"], "'c' is asked for"),
        (b"text,text\n1,2\n", [], "several columns 'text'"),
        (b"review,title\n1,2\n", [], "the text may be 'review' or 'title'"),
        (b"Where is it?\nAnd that?\n", [], "which of them holds the texts is not clear"),
        (b"text,b\na\0b,2\n", [], "line 2: the text holds NUL"),
        (b'[{"text": "a"}]', [], "is JSON, and rows to label are read as .csv"),
        (b"PAR1", [], "is parquet, and rows"),
        (b"PK\x03\x04", [], "Excel"),
        (b'text\n"open\n', [], "must be quoted whole"),
        (b"text,b\n1,2\n1,2,3\n", [], "line 3: 3 fields, but the header names 2"),
        (b"text\nok\ncaf\xe9\n", ["--encoding", "utf-8"], "line 3: byte 0xe9"),
        (b"text\nok\n", ["--encoding", "utf-99"], "Python does not know"),
        (b"text\nok\n", ["--reject", "3"], "`--reject` is 3"),
    ],
)
def test_a_bad_file_is_refused_before_a_row_is_written(model, tmp_path, content, options, message):
    (tmp_path / "new.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "out.csv", *options)
    assert not list(tmp_path.glob("out.csv*"))


def test_tabs_and_an_encoding_by_name(model, tmp_path):
    (tmp_path / "new.tsv").write_bytes("nr\tTitle\n1\tcheap café\n".encode("cp1252"))
    command = ["--text", "Title", "--encoding", "cp1252", "--out", tmp_path / "out.csv"]
    run("predict", model, tmp_path / "new.tsv", *command)
    assert read(tmp_path / "out.csv")[1][:3] == ["1", "cheap café", "price"]


def test_where_too_few_were_held_out_to_refuse_anything_that_is_said(model, tmp_path, capsys):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    run("predict", model, table, "--out", tmp_path / "out.csv", "--reject", "0.05")
    assert "takes 19 held-out examples, and the classifier has 12" in capsys.readouterr().out
    run("predict", model, table, "--out", tmp_path / "out2.csv", "--reject", "0.1")
    assert "foreign" not in capsys.readouterr().out


def test_encodings_and_separators_are_found_as_in_data_load_and_said(model, tmp_path, capsys):
    (tmp_path / "new.csv").write_bytes("Nr;Title\n1;cheap it, café\n2;\u200b\n;\n\n".encode("utf-16"))
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "wide.csv")
    found = read(tmp_path / "wide.csv")
    assert found[1][:3] == ["1", "cheap it, café", "price"]
    assert found[2:] == [["2", "\u200b", "", "", ""], ["", "", "", "", ""]]
    heard = capsys.readouterr()
    assert "1 rows labelled, 2 without a text" in heard.out and "'Title' is read as the text" in heard.err
    (tmp_path / "old.csv").write_bytes("text\ncheap café\n".encode("cp1252"))
    run("predict", model, tmp_path / "old.csv", "--out", tmp_path / "old_out.csv")
    assert read(tmp_path / "old_out.csv")[1][0] == "cheap café"
    assert "read as cp1252, which is a guess" in capsys.readouterr().err


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "cp1252"])
def test_a_large_file_is_read_from_the_disk_with_the_same_answers(model, tmp_path, monkeypatch, codec):
    lines = ["id,text", *(f'{i},"cheap, café\n{i}"' for i in range(300))]
    (tmp_path / "new.csv").write_bytes("\n".join(lines).encode(codec))
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "small.csv")
    monkeypatch.setattr(labelling_inputs, "LARGE", 1000)
    assert isinstance(
        labelling_inputs.Texts.of(tmp_path / "new.csv", None, None).source, labelling_inputs.OnDisk
    )
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "large.csv")
    assert (tmp_path / "small.csv").read_bytes() == (tmp_path / "large.csv").read_bytes()


def test_a_large_file_with_a_damaged_place_is_refused_by_its_line(model, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling_inputs, "LARGE", 100)
    (tmp_path / "new.csv").write_bytes(b"text\n" + b"cheap it\n" * 3000 + b"caf\xe9\n")
    with pytest.raises(ValueError, match="after line .* are bytes that are not UTF-8"):
        run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "out.csv")
    assert not list(tmp_path.glob("out.csv*"))


@pytest.fixture
def pictures(tmp_path):
    """Folders of red, green and blue pictures, four of each."""
    for channel, name in enumerate(["red", "green", "blue"]):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 60, (20 + i, 30, 3)).astype(np.uint8)
            pixels[..., channel] = 220
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_pictures_from_a_folder_to_a_labelled_file(pictures, model, tmp_path, capsys):
    run("fit", pictures, "--out", tmp_path / "seen", "--size", "6x8", "--color")
    assert "compared by their pixels" in capsys.readouterr().out
    run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "out.csv")
    header, *rows = read(tmp_path / "out.csv")
    assert header == ["file", "label", "probability", "rejected"]
    assert [row[0].split("/")[0] for row in rows] == [row[1] for row in rows] and len(rows) == 12
    run("suggest", tmp_path / "seen", pictures, "-n", 2, "--out", tmp_path / "next.csv")
    assert len(read(tmp_path / "next.csv")) == 3
    capsys.readouterr()
    run("evaluate", tmp_path / "seen", pictures)
    assert "Accuracy 100.0%" in capsys.readouterr().out
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    for command in (["predict", "--out", tmp_path / "no.csv"], ["suggest"], ["evaluate"]):
        with pytest.raises(ValueError, match="was fitted on pictures, and .* holds none"):
            run(command[0], tmp_path / "seen", table, *command[1:])
        with pytest.raises(ValueError, match="was fitted on texts, and .* holds none"):
            run(command[0], model, pictures, *command[1:])
        with pytest.raises(ValueError, match="`--text` is an option of a table"):
            run(command[0], tmp_path / "seen", pictures, "--text", "a", *command[1:])
    (pictures / "broken.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="broken.png cannot be read"):
        run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "no.csv")


def test_rows_without_text_or_label_are_left_out_where_that_is_asked_for(bag, tmp_path):
    rows = [["cheap", "price"], ["late", "parcel"], ["", "price"], ["lost", ""]]
    table = write(tmp_path / "train.csv", [["text", "label"], *rows])
    with pytest.raises(ValueError, match="line 4, 5.*--drop-empty"):
        run("fit", table, "--out", tmp_path / "model")
    run("fit", table, "--out", tmp_path / "model", "--drop-empty")
    assert (tmp_path / "model" / "classifier.json").exists()


def test_suggestions_are_rows_of_the_pool(model, tmp_path, capsys):
    table = write(
        tmp_path / "pool.csv", [["id", "text"], [1, "cheap"], [2, "cheap late"], [3, ""], [4, "lost"]]
    )
    run("suggest", model, table, "-n", 2, "--out", tmp_path / "next.csv")
    assert "line 3: cheap late" in capsys.readouterr().out.splitlines()[0]
    header, first, _ = read(tmp_path / "next.csv")
    assert header == ["id", "text", "label"] and first == ["2", "cheap late", ""]


def test_evaluate_writes_one_page_that_needs_nothing_else(model, tmp_path, capsys):
    rows = [["cheap <b>", "price"], ["money", "refund"], ["late", "refund"], ["late", "refund"]]
    table = write(tmp_path / "test.csv", [["text", "label"], *rows])
    run("evaluate", model, table, "--report", tmp_path / "report.html")
    assert "Accuracy 50.0%" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search("<script|<link|src=|href=|http", page)
    assert "<b>refund</b> taken for <b>parcel</b>: 2" in page
    assert run("evaluate", model, table, "--report", tmp_path / "report.html")
    with pytest.raises(ValueError, match="exists and is no report"):
        run("evaluate", model, table, "--report", table)


def test_the_report_counts_and_escapes():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    report = Report.of(["<a>", "b"], p, ["<a>", "b", "b", "new"], ["<script>x", "two", "three", "four"])
    assert report.correct.tolist() == [True, False, True, False]
    assert report.confusions == [(("b", "<a>"), 1), (("new", "<a>"), 1)]
    assert report.calibration_error == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)
    assert "does not know, counted as wrong: new" in report.in_words
    page = report.html("m", "s")
    assert "<script" not in page and "<a>" not in page and "&lt;a&gt;" in page


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
