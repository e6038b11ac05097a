"""The commands fit, predict, suggest, evaluate: the right rows in the right file, whatever happens."""

import argparse
import csv
import datetime
import decimal
import gzip
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


ROWS = [
    {"id": 7, "text": "is it late", "price": 0.5, "tags": ["a", "é"]},
    {"id": 8, "text": None, "price": None, "tags": None},
    {"id": 7, "text": 'a "cheap"\none, cheap', "price": 1e-9, "tags": []},
    {"id": 9, "text": "money", "price": 3.0, "tags": ["x"]},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
SHAPES = {
    "lines.jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS),
    "array.json": lambda: json.dumps(ROWS, indent=1),
    "within.json": lambda: json.dumps({"data": ROWS}),
    "columns.json": lambda: json.dumps(COLUMNS),
    "split.json": lambda: json.dumps({"columns": [*COLUMNS], "data": [[*row.values()] for row in ROWS]}),
}


def given(folder, name):
    """The table ROWS in a file of this name."""
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table(COLUMNS), path)
    else:
        content = SHAPES[name.removesuffix(".gz")]().encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", [*SHAPES, "lines.jsonl.gz", "array.json.gz", "table.parquet"])
def test_every_format_in_and_out_keeps_rows_order_and_columns(model, tmp_path, name):
    table, labels = given(tmp_path, name), ["parcel", None, "price", "refund"]
    for ending in ("jsonl", "csv", "tsv", "parquet"):
        run("predict", model, table, "--out", tmp_path / f"out.{ending}")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [[*row][-3:] for row in rows] == [["label", "probability", "rejected"]] * 4
    assert [row.pop("label") for row in rows] == labels
    probabilities, rejected = ([row.pop(column) for row in rows] for column in ("probability", "rejected"))
    assert rows == ROWS and rejected == ["no", None, "no", "no"] and probabilities[1] is None

    with (tmp_path / "out.tsv").open(newline="", encoding="utf-8") as file:
        assert [*csv.reader(file, delimiter="\t")] == (written := read(tmp_path / "out.csv"))
    assert written[0] == [*ROWS[0], "label", "probability", "rejected"]
    assert written[1][:5] == ["7", "is it late", "0.5", '["a", "é"]', "parcel"] and written[2][1:] == [""] * 6

    found = pq.read_table(tmp_path / "out.parquet")
    assert found["label"].to_pylist() == labels and found["probability"].to_pylist() == probabilities
    types = (
        pa.table(COLUMNS).schema
        if name == "table.parquet"
        else pa.schema(dict.fromkeys(COLUMNS, pa.string()))
    )
    assert found.schema.names[:4] == types.names and found.schema.types[:4] == types.types
    if name == "table.parquet":
        assert found.select([*COLUMNS]) == pa.table(COLUMNS)
    run("suggest", model, table, "-n", 2, "--out", tmp_path / "next.parquet")
    suggested = pq.read_table(tmp_path / "next.parquet")
    assert suggested.column_names == [*COLUMNS, "label"] and suggested["label"].to_pylist() == [None, None]


def test_parquet_of_every_type_comes_back_as_it_was(model, tmp_path):
    moment = datetime.datetime(2024, 2, 29, 12, 30, 1, 5)
    columns = {
        "text": pa.array(["cheap", None], pa.large_string()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "when": pa.array([moment, None], pa.timestamp("us", tz="Europe/Berlin")),
        "finely": pa.array([10**18 + 1, None], pa.timestamp("ns")),
        "day": pa.array([moment.date(), None]),
        "money": pa.array([decimal.Decimal("1.10"), None]),
        "raw": pa.array([b"\xff\0", None]),
        "small": pa.array([1, None], pa.uint8()),
        "half": pa.array([0.5, math.nan], pa.float16()),
        "nested": pa.array([{"a": [1, 2], "b": {"c": None}}, None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
        "nothing": pa.nulls(2),
    }
    pq.write_table(table := pa.table(columns), tmp_path / "new.parquet")
    stored = pq.read_table(tmp_path / "new.parquet")
    run("predict", model, tmp_path / "new.parquet", "--out", tmp_path / "out.parquet")
    again = pq.read_table(tmp_path / "out.parquet").select(table.column_names)
    assert again.schema == stored.schema and str(again.to_pylist()) == str(
        stored.to_pylist()
    )  # nan is not nan
    for ending in ("csv", "jsonl"):
        run("predict", model, tmp_path / "new.parquet", "--out", tmp_path / f"out.{ending}")
    moments = ["2024-02-29 13:30:01.000005+01:00", "2001-09-09 01:46:40.000000001", "2024-02-29"]
    written = read(tmp_path / "out.csv")
    assert written[1][:6] == ["cheap", "x", *moments, "1.10"] and written[2][8] == ""
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines())
    assert first["nested"] == {"a": [1, 2], "b": {"c": None}} and second["half"] is None


def test_json_lines_name_their_columns_as_they_come_up(model, tmp_path):
    lines = ['{"text": "cheap", "a": 1}', "", '{"b": "\\ud800", "n": %s, "text": "late"}' % (10**400)]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    run("predict", model, tmp_path / "new.jsonl", "--out", tmp_path / "out.jsonl")
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines())
    assert [*first][:4] == ["text", "a", "b", "n"] and first["b"] is None and second["a"] is None
    assert second["b"] == "\ud800" and second["n"] == str(10**400)


@pytest.mark.parametrize(
    ("out", "header", "message"),
    [
        ("out.xlsx", "text", "says no format that can be written: let the name end in .csv"),
        ("out", "text", "says no format"),
        ("out.jsonl", "text,a,a", "Several columns are called 'a'"),
        ("out.parquet", "text,a,a", "Several columns are called 'a'"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_row_is_answered(model, tmp_path, out, header, message):
    table = write(tmp_path / "new.csv", [header.split(","), ["cheap", *"12"[: header.count(",")]]])
    for command in (["predict"], ["suggest", "-n", 1]):
        with pytest.raises(ValueError, match=message):
            run(command[0], model, table, "--out", tmp_path / out, *command[1:])
    assert not list(tmp_path.glob("out*"))


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


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "is empty"),
        (b"a,b\n1,2\n", [], "has the columns 'a', 'b', and which of them holds the texts is not clear"),
        (b"a,b\n1,2\n", ["--text", "c"], "'c' is asked for"),
        (b"text,text\n1,2\n", [], "several columns 'text'"),
        (b"review,title\n1,2\n", [], "the text may be 'review' or 'title'"),
        (b"Where is it?\nAnd that?\n", [], "which of them holds the texts is not clear"),
        (b"text,b\na\0b,2\n", [], r"line 2: 'text' holds U\+0000, which is no character"),
        (b'{"text": "a"}\n{"text": ["b"]}\n', [], "line 2: 'text' is .*neither a string nor a number"),
        (b'{"text": "a"}\n{"text": "b"\n', [], "line 2: not JSON"),
        (b'{"text": "a", "text": "b"}\n', [], "line 1: 'text' stands there twice"),
        (b'[{"text": "a"}', [], "the file is cut short"),
        (b'[{"text": "a"}, 7]', [], "line 1: not a JSON object"),
        (b'{"text": ["a", "b"], "id": [1]}', [], "not a table of equally long columns"),
        (b'{"columns": ["text"], "data": [["a", "b"]]}', [], "row 1: not a JSON object but an array"),
        (b"PAR1", [], "is no whole parquet file"),
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


def test_at_half_the_digits_the_encoder_of_the_process_stays_as_it_was(model, bag, tmp_path):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"], ["it is late"], [""]])
    run("predict", model, table, "--out", tmp_path / "out.csv")
    run("predict", model, table, "--out", tmp_path / "half.csv", "--bfloat16")
    assert [row[1] for row in read(tmp_path / "half.csv")] == ["label", "price", "parcel", ""]
    run("predict", model, table, "--out", tmp_path / "again.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


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
@pytest.mark.parametrize("packed", [False, True])
def test_a_large_file_is_read_from_the_disk_with_the_same_answers(
    model, tmp_path, monkeypatch, codec, packed
):
    lines = ["id,text", *(f'{i},"cheap, café\n{i}"' for i in range(300))]
    content = "\n".join(lines).encode(codec)
    (tmp_path / "new.csv").write_bytes(gzip.compress(content) if packed else content)
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "small.csv")
    monkeypatch.setattr(labelling_inputs, "LARGE", 1000)
    monkeypatch.setattr(labelling_inputs, "unpacked", None)
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "large.csv")
    assert (tmp_path / "small.csv").read_bytes() == (tmp_path / "large.csv").read_bytes()


def test_a_large_file_of_json_is_streamed_by_its_lines_or_that_it_is_not_is_said(
    model, tmp_path, monkeypatch, capsys
):
    rows = [{"id": i, "text": "cheap, café"} for i in range(300)]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    monkeypatch.setattr(labelling_inputs, "LARGE", 1000)
    for name, said in (("lines.jsonl", False), ("array.json", True)):
        run("predict", model, tmp_path / name, "--out", tmp_path / f"{name}.csv")
        assert ("all of it is read at once" in capsys.readouterr().err) == said
    assert (tmp_path / "lines.jsonl.csv").read_bytes() == (tmp_path / "array.json.csv").read_bytes()


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


def test_pictures_from_a_folder_to_a_labelled_file(pictures, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fewshot_lib.encoders.PhotoEncoder.installed", staticmethod(lambda: False))
    run("fit", pictures, "--out", tmp_path / "seen", "--size", "6x8", "--color")
    out, notes = capsys.readouterr()
    assert "compared by their pixels" in notes and "new_pictures --out labelled.csv" in out
    run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "out.csv")
    header, *rows = read(tmp_path / "out.csv")
    assert header == ["file", "label", "probability", "rejected"]
    assert [row[0].split("/")[0] for row in rows] == [row[1] for row in rows] and len(rows) == 12
    run("suggest", tmp_path / "seen", pictures, "-n", 2, "--out", tmp_path / "next.csv")
    assert len(read(tmp_path / "next.csv")) == 3
    capsys.readouterr()
    run("evaluate", tmp_path / "seen", pictures)
    assert "Accuracy 100.0%" in capsys.readouterr().out
    (pictures / "red" / "0.png").rename(pictures / "green" / "red.png")
    run("evaluate", tmp_path / "seen", pictures, "--report", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 1 and "<b>green</b> taken for <b>red</b>: 1" in page
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


@pytest.mark.slow
def test_export_writes_a_file_once(pictures, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run("fit", pictures, "--out", tmp_path / "seen", "--size", "6x8", "--color")
    assert run("export", tmp_path / "seen", "--out", tmp_path / "seen.onnx")
    assert re.search(
        r"seen.onnx. Its probabilities are those of `predict` to \de-\d\d", capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="exists: name another file"):
        run("export", tmp_path / "seen", "--out", tmp_path / "seen.onnx")


def test_rows_without_text_or_label_are_left_out_where_that_is_asked_for(bag, tmp_path):
    rows = [["cheap", "price"], ["late", "parcel"], ["", "price"], ["lost", ""]]
    table = write(tmp_path / "train.csv", [["text", "label"], *rows])
    with pytest.raises(ValueError, match="line 4, 5.*--drop-empty"):
        run("fit", table, "--out", tmp_path / "model")
    run("fit", table, "--out", tmp_path / "model", "--drop-empty")
    assert (tmp_path / "model" / "classifier.json").exists()


def test_unlabelled_rows_are_learnt_from_and_a_file_of_another_kind_is_refused(bag, tmp_path, capsys):
    table = write(tmp_path / "train.csv", [["text", "label"], *[[w, c] for c, w in CLASSES.items()]])
    pool = write(tmp_path / "pool.csv", [["text"], ["money money"], [""], ["cheap"], ["late"]])
    run("fit", table, "--out", tmp_path / "model", "--unlabelled", pool)
    assert "names as examples, with 3 unlabelled" in capsys.readouterr().out
    with pytest.raises(ValueError, match="are of two kinds: give a table"):
        run("fit", table, "--out", tmp_path / "model", "--unlabelled", tmp_path)
    with pytest.raises(ValueError, match=r"There is no .*none\.csv"):
        run("fit", table, "--out", tmp_path / "model", "--unlabelled", tmp_path / "none.csv")


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
