"""Reading people's tables: what is right is read whole, what is wrong is named by its file and line."""

import csv
import gzip
import json

import numpy as np
import pandas as pd
import pytest

from fewshot_lib.data.own.table_files import name_of, read_table
from fewshot_lib.data.reporting import DataError

ROWS = [
    ("plain words", "a"),
    ('with, comma; semicolon\tand "quotes"', "b"),
    ("two\nlines", "a"),
    ("Käse – 日本", "b"),
    ("odd\u2028line end", "7"),
]


def write_csv(path, rows=ROWS, separator=",", encoding="utf-8", header=("text", "label")):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def written(path, content):
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt", "x.json", "x", "x.data"])
def test_a_separated_table_comes_back_row_by_row(tmp_path, separator, encoding, name):
    table = read_table(write_csv(tmp_path / name, separator=separator, encoding=encoding))
    assert table.rows == ROWS
    assert table.lines == [2, 3, 4, 6, 7], "the third row takes two lines"
    assert table.columns.names == ["text", "label"] and not table.notes
    assert table.encoding in ("utf-8", "utf-16-le")


def test_the_separator_is_decided_by_all_lines_and_not_by_the_first(tmp_path):
    content = "id;a, b and c;text;label\n" + "".join(f"{i};x;a, b, c and d {i};k{i % 3}\n" for i in range(9))
    table = read_table(written(tmp_path / "x.csv", content))
    assert table.rows[1] == ("a, b, c and d 1", "k1")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_habits_of_spreadsheets_are_known(tmp_path, end):
    lines = ["sep=;", "text;label", "one;a", "two, three;b", ";", " ; ", ""]
    table = read_table(written(tmp_path / "x.csv", "\ufeff" + end.join(lines)))
    assert (table.rows, table.lines) == ([("one", "a"), ("two, three", "b")], [3, 4])
    odd = read_table(written(tmp_path / "x.csv", end.join(["sep=~", "text~label", "one~a", "two~b"])))
    assert odd.rows == [("one", "a"), ("two", "b")]


def test_tabs_without_quoting_keep_marks_as_they_are(tmp_path):
    content = 'text\tlabel\n"Hello there\ta\nHe said "no" twice\tb\n"closed" early\ta\n'
    table = read_table(written(tmp_path / "x.tsv", content))
    assert table.rows == [('"Hello there', "a"), ('He said "no" twice', "b"), ('"closed" early', "a")]
    quoted = read_table(written(tmp_path / "x.tsv", 'text\tlabel\n"a ""tab""\there"\ta\n'))
    assert quoted.rows == [('a "tab"\there', "a")]


def test_a_field_may_be_of_any_length_and_the_limit_of_the_csv_module_stays(tmp_path):
    before = csv.field_size_limit()
    table = read_table(written(tmp_path / "x.csv", f"text,label\n{'word ' * 100_000},a\nshort,b\n"))
    assert [len(text) for text, _ in table.rows] == [499_999, 5]
    with pytest.raises(DataError):
        read_table(written(tmp_path / "x.csv", 'text,label\n"open,a\n'))
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\nfine,a\nwith, comma,a\n", "line 3: 3 fields, but the header names 2"),
        ("text,label\nfine,a\nonly text\n", "line 3: 1 field,"),
        ('text,label\n"never closed,a\nfine,a\n', "line 2: unexpected end of data"),
        ('text,label\n"closed" early,a\n', "line 2"),
        ("sep=;\n\ntext;label\nfine;a\nbroken\n", "line 5: 1 field,"),
        ("text,label\nfine,a\n\nbad\0byte,a\n", "line 4: 'text' holds U\\+0000"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("text,label\n", "no rows with text and label"),
        ("text,label\n,\n", "no rows with text and label"),
        ("just one column\nwith text\n", "names one column, 'just one column'"),
        ("a," * 20_000 + "\n1\n", "line 1: 20,001 fields"),
    ],
)
def test_a_damaged_csv_file_is_refused_with_its_line(tmp_path, content, words):
    path = written(tmp_path / "x.csv", content)
    with pytest.raises(DataError, match=words) as error:
        read_table(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_a_table_without_names_is_refused_unless_they_are_meant(tmp_path):
    rows = "".join(f"sport,text {i}\nart,no {i}\n" for i in range(4))
    path = written(tmp_path / "x.csv", "sport,headline\n" + rows)
    with pytest.raises(
        DataError, match="no line that names its columns: .*'sport' is a value of further lines"
    ):
        read_table(path)
    assert len(read_table(path, text="headline", label="sport").rows) == 8
    keys = [{"text": f"t{i}", "sport": "sport"} for i in range(4)]
    assert read_table(written(tmp_path / "x.json", json.dumps(keys))).rows[0] == ("t0", "sport"), (
        "a key is a name"
    )


def test_empty_lines_are_skipped_and_the_line_numbers_stay_right(tmp_path):
    table = read_table(written(tmp_path / "x.csv", "text,label\n\none,a\n\n\ntwo,b\n"))
    assert (table.rows, table.lines) == ([("one", "a"), ("two", "b")], [3, 6])


FRAME = pd.DataFrame(ROWS, columns=["text", "label"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", "\n".join(json.dumps({"text": t, "label": c, "n": [1]}) for t, c in ROWS)),
        ("x.json", "\n\n".join(json.dumps({"text": t, "label": c}, ensure_ascii=False) for t, c in ROWS)),
        ("x.jsonl", FRAME.to_json(orient="records")),
        ("x.json", json.dumps([{"text": t, "label": c} for t, c in ROWS], indent=2)),
        ("x.json", FRAME.to_json()),
        ("x.json", FRAME.to_json(orient="split")),
        ("x.json", FRAME.to_json(orient="table")),
        ("x.json", FRAME.to_json(orient="records", lines=True)),
        (
            "x.json",
            json.dumps({"text": [t for t, _ in ROWS], "label": [c for _, c in ROWS], "v": 1}, indent=1),
        ),
        ("x.json", json.dumps({"version": 1, "data": [{"text": t, "label": c} for t, c in ROWS]})),
        ("x.csv", json.dumps([{"text": t, "label": c} for t, c in ROWS])),
        ("x", "\n".join(json.dumps({"text": t, "label": c}) for t, c in ROWS)),
    ],
)
def test_json_in_all_its_forms_gives_the_same_rows(tmp_path, name, content):
    assert read_table(written(tmp_path / name, content)).rows == ROWS


def test_lines_of_json_are_counted_in_every_form(tmp_path):
    rows = [{"text": f"t{i}", "label": "a"} for i in range(3)]
    lines = read_table(written(tmp_path / "x.jsonl", "\n\n".join(map(json.dumps, rows)))).lines
    assert lines == [1, 3, 5]
    assert read_table(written(tmp_path / "x.json", json.dumps(rows, indent=1))).lines == [2, 6, 10]


def test_numbers_true_false_and_missing_values_are_read_as_they_are_meant(tmp_path):
    written_labels = ["7", "7.0", "0.50", "true", "null", "NaN", '"NaN"', '""', "9" * 5000, "1e3", "-0.0"]
    rows = [f'{{"text": "t", "label": {label}}}' for label in written_labels]
    table = read_table(written(tmp_path / "x.jsonl", "\n".join(rows)))
    labels = [label for _, label in table.rows]
    assert labels == ["7", "7", "0.50", "true", "", "", "NaN", "", "9" * 5000, "1000", "0"]
    assert table.empty_lines == [5, 6, 8]
    assert any("a class called 'NaN'" in note for note in table.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a", "label": "b"}\n{"text": "a", "lab', "line 2: not JSON"),
        ('{"text": "a", "lab\n{"text": "a", "label": "b"}', "line 1: not JSON"),
        ('{"text": "a"}', "the columns 'text', and which of them holds the labels"),
        ('{"text": "a", "label": "b"}\n{"text": "a"}', "line 2: no 'label' among 'text'"),
        ('{"text": ["a"], "label": "b"}', r"line 1: 'text' is \['a'\]"),
        ('{"text": "a", "label": "b"}\n["a", "b"]', "line 2: not a JSON object but an array"),
        ('{"text": "a", "label": "b"}\n\n7', "line 3: not a JSON object but a text or number"),
        ('{"text": "a", "label": "b", "label": "c"}', "line 1: 'label' stands there twice"),
        ('{"text": "half \\ud83d", "label": "b"}', "line 1: 'text' holds U\\+D83D, which is half of a char"),
        ('{"text": "a", "label": "\\udc00"}', "line 1: 'label' holds U\\+DC00"),
        (
            '{"text": "a", "label": "b"}\n{"text": "a", "label": ' + "[" * 100_000,
            "line 2: brackets are nested",
        ),
        ("[" * 100_000, "line 1: brackets are nested"),
        ('["a", "b"]', "line 1: not a JSON object but a text"),
        ('[{"text": "a", "label": "b"},\n {"text": "a" "label": "b"}]', "line 2: not JSON"),
        ('[{"text": "a", "label": "b"}\n {"text": "a", "label": "b"}]', "line 1: a comma is missing"),
        ('[{"text": "a", "label": "b"},\n', "line 2: the JSON array is not closed"),
        ('[{"text": "a", "label": "b"}]\nmore', "line 1: the JSON array ends here"),
        ("[]", "no rows"),
        ('{"text": ["a", "b"], "label": ["c"]}', "2 texts and 1 labels"),
        ('{"text": {"0": "a"}, "label": {"1": "c"}}', "not of the same rows"),
        ('{"train": [{"text": "a"}], "test": []}', "the columns 'train', 'test'"),
        ('{\n"name": "x"\n}', "one JSON value .'name'. and not a table"),
        ("null", "line 1: not a JSON object but null"),
        ("nope", "line 1: not JSON"),
        ("", "is empty"),
    ],
)
def test_damaged_json_is_refused_with_its_line(tmp_path, content, words):
    path = written(tmp_path / "x.jsonl", content)
    with pytest.raises(DataError, match=words) as error:
        read_table(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_a_parquet_table_is_read_with_its_missing_values(tmp_path):
    frame = pd.DataFrame(
        {
            "text": [*(text for text, _ in ROWS), "none", None],
            "label": pd.Categorical([*(label for _, label in ROWS), None, "a"]),
            "score": np.arange(7.0),
        }
    )
    frame.to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.bin").write_bytes((tmp_path / "x.parquet").read_bytes())
    for name in ("x.parquet", "x.bin"):
        table = read_table(tmp_path / name)
        assert table.rows == [*ROWS, ("none", ""), ("", "a")]
        assert (table.unit, table.empty_lines, table.encoding) == ("row", [6, 7], "")
    pd.DataFrame({"text": ["a", "b", "c"], "label": [1.0, 2.0, np.nan]}).to_parquet(tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet").rows == [("a", "1"), ("b", "2"), ("c", "")]
    pd.DataFrame({"text": ["a", "b"], "label": [np.inf, 0.5]}).to_parquet(tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet").rows == [("a", "inf"), ("b", "0.5")]


def test_class_names_that_the_package_datasets_wrote_are_used(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    described = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(described, tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet").rows == [("a", "yes"), ("b", "no"), ("c", "")]


def test_a_damaged_parquet_table_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    FRAME.assign(label=[["a"]] * len(FRAME)).to_parquet(path)
    with pytest.raises(DataError, match="row 1: 'label' is .*neither a string nor a number"):
        read_table(path)
    FRAME.to_parquet(path)
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:50] + bytes(100) + whole[150:],
        b"PAR1",
        b"text,label\na,b\n",
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="no .*parquet file"):
            read_table(path)


def test_without_pyarrow_a_parquet_table_is_one_sentence(tmp_path, monkeypatch):
    FRAME.to_parquet(tmp_path / "x.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'fewshot-lib\[parquet\]'"):
        read_table(tmp_path / "x.parquet")


def test_packed_tables_are_read_and_named_without_their_ends(tmp_path):
    path = tmp_path / "news.v2.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\none,a\ntwo,b\n"))
    assert read_table(path).rows == [("one", "a"), ("two", "b")]
    assert (
        name_of(path) == "news.v2" and name_of(tmp_path / "x.jsonl") == "x" and name_of(tmp_path / "x") == "x"
    )


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("x.xlsx", b"PK\x03\x04....", "Excel.*save the table as .csv"),
        ("x.csv", b"PK\x03\x04....", "zip archive"),
        ("x.xls", b"\xd0\xcf\x11\xe0....", "Excel"),
        ("x.csv", b"\x89PNG....", "a picture"),
        ("x.dat", bytes(range(256)), "no text but binary"),
    ],
)
def test_what_is_no_table_is_called_what_it_is(tmp_path, name, raw, words):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / name)


def test_labels_are_tidied_and_what_looks_alike_is_noted(tmp_path):
    rows = [("t", "café"), ("t", "cafe\u0301 "), ("t", "Café"), ("t", "x")]
    table = read_table(write_csv(tmp_path / "x.csv", rows))
    assert [label for _, label in table.rows] == ["café", "café", "Café", "x"]
    notes = " ".join(table.notes)
    assert "1 spelling of labels tidied" in notes and "'cafe\\u0301 ' is 'café'" in notes
    assert "differ only by case or look and stay classes of their own ('Café' and 'café')" in notes


def test_a_label_column_in_which_nothing_repeats_is_asked_about(tmp_path):
    table = read_table(write_csv(tmp_path / "x.csv", [(f"t{i}", f"c{i}") for i in range(5)]))
    assert "every row has a class of its own" in table.notes[0]


def test_blanks_after_separators_do_not_make_quotation_marks_a_part_of_the_field(tmp_path):
    content = 'text, label\n"one, two", "a"\nthree, b\n'
    table = read_table(written(tmp_path / "x.csv", content))
    assert table.rows == [("one, two", "a"), ("three", "b")] and table.columns.names == ["text", "label"]


def test_separators_at_the_end_of_every_line_are_columns_of_nothing(tmp_path):
    table = read_table(written(tmp_path / "x.csv", "text,label\none,a,,\ntwo,b,,\n"))
    assert table.rows == [("one", "a"), ("two", "b")]
    for mixed in ("one,a\nHello, world,\nthree,b\n", "one,a,\ntwo,b,x\n"):
        with pytest.raises(DataError, match="3 fields, but the header names 2"):
            read_table(written(tmp_path / "x.csv", "text,label\n" + mixed))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\none,a\ntext,label\ntwo,b\n", "line 3 names the columns again"),
        ("text,label,note\none,a\n", "line 2: 2 fields, .* line break must stand in quotation marks"),
        ("text~label\none~a\n", "names one column, 'text~label', and texts and labels take two"),
        ('[["one", "a"]]', "line 1: not a JSON object but an array"),
        ('["one", "a"]\n["two", "b"]\n', "line 1: not a JSON object but an array"),
        ('{"train": [{"text": "one"}], "test": [{"text": "two"}]}', "objects under each of 'train', 'test'"),
        ('{"rows": [{"text": "one", "label": "a"}]}', "holds one JSON value .'rows'. and not a table"),
        ("\n<!DOCTYPE html><html>404</html>", "is a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ('{"text": "one", "label": "a\\u001b[31m"}', r"line 1: 'label' is .* control character U\+001B"),
    ],
)
def test_what_is_wrong_is_said_and_not_something_else(tmp_path, content, words):
    path = written(tmp_path / ("x.json" if content[0] in "[{" else "x.csv"), content)
    with pytest.raises(DataError, match=words) as error:
        read_table(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 400


def test_decimal_numbers_of_parquet_are_numbers(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    labels = pa.array([7, 8, None]).cast(pa.decimal128(20, 1))
    pq.write_table(pa.table({"text": ["one", "two", "three"], "label": labels}), tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet").rows == [("one", "7"), ("two", "8"), ("three", "")]
