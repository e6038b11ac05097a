"""Reading people's CSV and JSON Lines files: what is right is read whole, what is wrong named by its line."""

import csv
import json

import pytest

from fewshot_lib.data.own.tables import read_csv, read_jsonl, reader_for
from fewshot_lib.data.reporting import DataError

ROWS = [
    ("plain words", "a"),
    ('with, comma; semicolon\tand "quotes"', "b"),
    ("two\nlines", "a"),
    ("Käse – 日本", "b"),
]


def write_csv(path, rows=ROWS, separator=",", encoding="utf-8", header=("text", "label")):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_file_comes_back_row_by_row(tmp_path, separator, encoding):
    table = read_csv(write_csv(tmp_path / "x.csv", separator=separator, encoding=encoding))
    assert table.rows == ROWS
    assert table.lines == [2, 3, 4, 6], "the third row takes two lines"
    assert table.encoding == "utf-8"


def test_columns_are_found_by_name_in_any_order(tmp_path):
    rows = [("1", "sport", "goal"), ("2", "news", "vote")]
    path = write_csv(tmp_path / "x.csv", rows, header=("id", "topic", "headline"))
    table = read_csv(path, text="headline", label="topic")
    assert table.rows == [("goal", "sport"), ("vote", "news")]
    with pytest.raises(DataError, match=r"columns 'id', 'topic', 'headline'.*text=…"):
        read_csv(path)


def test_a_wrong_encoding_names_the_byte_its_line_and_the_remedy(tmp_path):
    path = write_csv(tmp_path / "x.csv", [("fine", "a"), ("Köln", "b")], encoding="cp1252")
    with pytest.raises(DataError, match=r"line 3: byte 0xf6 .* is not UTF-8. Pass encoding='cp1252'"):
        read_csv(path)
    assert read_csv(path, encoding="cp1252").rows == [("fine", "a"), ("Köln", "b")]
    with pytest.raises(ValueError, match="`encoding` is 'utf-9'"):
        read_csv(path, encoding="utf-9")


def test_utf_16_is_recognised_and_can_be_read(tmp_path):
    path = write_csv(tmp_path / "x.csv", encoding="utf-16")
    with pytest.raises(DataError, match="encoding='utf-16'"):
        read_csv(path)
    assert read_csv(path, encoding="utf-16").rows == ROWS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\nfine,a\nwith, comma,a\n", "line 3: 3 fields, but the header names 2"),
        ("text,label\nfine,a\nonly text\n", "line 3: 1 fields"),
        ('text,label\n"never closed,a\nfine,a\n', "line 2: unexpected end of data"),
        ('text,label\n"closed" early,a\n', "line 2"),
        ("", "is empty"),
        ("\n\n", "is empty"),
    ],
)
def test_a_damaged_csv_file_is_refused_with_its_line(tmp_path, content, words):
    path = tmp_path / "x.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words) as error:
        read_csv(path)
    assert str(path) in str(error.value)


def test_empty_lines_are_skipped_and_the_line_numbers_stay_right(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,label\n\none,a\n\n\ntwo,b\n", encoding="utf-8")
    table = read_csv(path)
    assert (table.rows, table.lines) == ([("one", "a"), ("two", "b")], [3, 6])


def test_a_json_lines_file_comes_back_row_by_row(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"text": text, "label": label, "extra": [1]} for text, label in [*ROWS, ("odd\u2028line end", 7)]]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8-sig")
    table = read_jsonl(path)
    assert table.rows == [*ROWS, ("odd\u2028line end", "7")]
    assert table.lines == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a", "label": "b"}\n{"text": "a", "lab', "line 2: not JSON"),
        ('{"text": "a"}', "line 1: no 'label' among 'text'"),
        ('{"text": "a", "label": null}', "line 1: 'label' is None"),
        ('{"text": ["a"], "label": "b"}', r"line 1: 'text' is \['a'\]"),
        ('["a", "b"]', "one JSON array"),
        ('"a"', "line 1: not a JSON object but str"),
        ("", "no rows"),
    ],
)
def test_a_damaged_json_lines_file_is_refused_with_its_line(tmp_path, content, words):
    path = tmp_path / "x.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_jsonl(path)


def test_the_reader_is_chosen_by_the_end_of_the_name(tmp_path):
    assert reader_for(tmp_path / "x.CSV") is read_csv and reader_for(tmp_path / "x.jsonl") is read_jsonl
    with pytest.raises(DataError, match=r"'\.xlsx'"):
        reader_for(tmp_path / "x.xlsx")
    with pytest.raises(DataError, match="There is no file"):
        read_csv(tmp_path / "missing.csv")
