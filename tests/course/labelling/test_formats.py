"""Rows, columns and their order come back from every format, in every format."""

import csv
import datetime
import decimal
import gzip
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .helpers import read, run, write


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_a_csv_is_cut_and_marked_as_a_spreadsheet_wrote_it(model, tmp_path, separator, encoding):
    """So that the spreadsheet opens it; what only other programs write, such as a bar, becomes a comma."""
    table = tmp_path / "new.csv"
    table.write_text(f'text{separator}price\ncheap café{separator}"1,50"\n', encoding=encoding)
    run("predict", model, table, "--out", tmp_path / "out.csv")
    run("suggest", model, table, "-n", "1", "--out", tmp_path / "next.csv")
    mark = "utf-8" if encoding == "utf-8" else "utf-8-sig"
    kept = separator if separator == ";" else ","
    for name, added in (("out.csv", 3), ("next.csv", 1)):
        written = (tmp_path / name).read_bytes()
        assert written.startswith("text".encode(mark) + kept.encode()), written
        rows = list(csv.reader(written.decode(mark).splitlines(), delimiter=kept))
        assert rows[1][:2] == ["cheap café", "1,50"] and len(rows[0]) == len(rows[1]) == 2 + added
        run("predict", model, tmp_path / name, "--out", tmp_path / f"again-{name}")  # it is read again


@pytest.mark.parametrize(
    ("taken", "new"),
    [
        (["label"], ["predicted label", "probability", "rejected"]),
        ([" label "], ["predicted label", "probability", "rejected"]),
        (
            ["label", "probability", "rejected"],
            ["predicted label", "predicted probability", "predicted rejected"],
        ),
        (["predicted label", "label"], ["predicted predicted label", "probability", "rejected"]),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_that_is_called_so_already_is_kept(model, tmp_path, taken, new, ending):
    """Also by the output of an earlier ``predict``, which is labelled again."""
    table = write(tmp_path / "new.csv", [[*taken, "text"], [*("mine" for _ in taken), "cheap"]])
    run("predict", model, table, "--out", tmp_path / f"out.{ending}")
    run("predict", model, tmp_path / f"out.{ending}", "--out", tmp_path / "out_again.csv")
    header, row = read(tmp_path / "out_again.csv")
    assert header[: len(taken) + 4] == [*taken, "text", *new] and len(set(header)) == len(header)
    assert row[: len(taken) + 2] == [*("mine" for _ in taken), "cheap", "price"]


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
    # nan is not nan
    assert again.schema == stored.schema and str(again.to_pylist()) == str(stored.to_pylist())
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
    with pytest.raises(ValueError, match=r"the column 'b' holds half a character \('\\ud800'\), and parquet"):
        run("predict", model, tmp_path / "new.jsonl", "--out", tmp_path / "out.parquet")


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
