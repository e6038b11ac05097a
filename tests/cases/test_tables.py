"""Tables as people have them that the course once got wrong: each gives a data set or the true reason."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from fewshot_lib.data.checks.leaks import check
from fewshot_lib.data.own.table_files import read_table
from fewshot_lib.data.own.tables import from_table
from fewshot_lib.data.reporting import DataError

CASES = Path(__file__).parent
TEXT, ATTACK = CASES / "text", CASES / "attack"
ALL = {"split": {"test": 1.0}}


def refused(path, **options):
    """The one sentence with which a file is refused."""
    with pytest.raises(DataError) as error:
        from_table(path, **options)
    assert str(path) in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


def same_as_ok(path):
    expected, data = from_table(TEXT / "ok.csv"), from_table(path)
    assert data.inputs == expected.inputs and data.class_names == expected.class_names
    assert data.labels.tolist() == expected.labels.tolist()
    assert {part: ids.tolist() for part, ids in data.splits.items()} == {
        part: ids.tolist() for part, ids in expected.splits.items()
    }
    return data


@pytest.mark.parametrize(
    "name",
    [
        *("array.json", "bom_semicolon_crlf.csv", "capital_header.csv", "columns_named_differently.csv"),
        *("it's.csv", "my #1 texts.csv", "ok.csv.gz", "sep_line.csv", "tabs.tsv", "utf16.csv"),
        *("trailing_space_labels.csv", "latin_space.csv", "ünïcode texts.csv"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(is read as|labels tidied)")
def test_f12_one_table_in_many_forms_is_one_data_set(name):
    same_as_ok(TEXT / name)


def test_f4_labels_keep_the_name_that_the_file_gives_them():
    for name in ("numeric_small_class.csv", "numeric_labels.csv", "ints.jsonl"):
        data = from_table(TEXT / name)
        assert sorted(data.class_names, key=int) == [str(c) for c in range(30)]
        assert all(
            f"topic{data.class_names[c]} " in text for text, c in zip(data.inputs, data.labels, strict=True)
        )


def test_f7_half_a_character_is_named_by_its_line():
    assert "line 8: 'text' holds U+D83D" in refused(TEXT / "lone_surrogate.jsonl")
    assert "line 200: 'text' holds U+D800" in refused(ATTACK / "surrogate.jsonl")
    assert "line 181: 'label' holds U+D800" in refused(ATTACK / "surrogate_label.jsonl")
    assert from_table(TEXT / "emoji_text.jsonl").inputs[0] == "😀" * 5, "two halves are one character"


def test_f11_columns_of_another_name_are_guessed_and_said_or_named():
    path = TEXT / "columns_named_differently.csv"
    with pytest.warns(UserWarning, match="'sentence' is read as the text; .*'category' is read as the label"):
        guessed = from_table(path)
    named = from_table(path, text="sentence", label="category")
    assert named.inputs == guessed.inputs and named.class_names == guessed.class_names
    assert "'Sentance' is asked for; did you mean 'sentence'?" in refused(path, text="Sentance")
    assert "its first line is data already" in refused(TEXT / "no_header.csv")


def test_f13_a_text_of_any_length_is_read():
    data = from_table(TEXT / "long_text.csv")
    assert len(data) == 241 and max(map(len, data.inputs)) > 140_000
    assert csv.field_size_limit() == 131_072, "what others read is not changed"


def test_f14_labels_that_only_look_different_are_one_class_and_case_is_reported(tmp_path):
    for name in ("trailing_space_labels.csv", "latin_space.csv"):
        with pytest.warns(UserWarning, match="12 spellings of labels tidied"):
            assert from_table(TEXT / name).n_classes == 12
    with pytest.warns(UserWarning, match="12 groups of class names differ only by case"):
        assert from_table(TEXT / "case_labels.csv").n_classes == 24
    with pytest.warns(UserWarning, match="'Card' and 'card'.* write them alike"):
        data = from_table(ATTACK / "label_space_case.csv")
    assert [name for name in data.class_names if name.lower() == "card"] == ["Card", "card"]


def test_a13_two_unicode_forms_of_a_name_are_one_class(tmp_path):
    path = tmp_path / "cafe.csv"
    path.write_text("text,label\none,café\ntwo,cafe\u0301\nthree,tea\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="'cafe.u0301' is 'café'"):
        data = from_table(path, **ALL)
    assert data.class_names == ["café", "tea"] and data.counts.tolist() == [2, 1]


def test_f15_json_nan_and_null_are_missing_labels():
    for name in ("nan.jsonl", "null.jsonl"):
        assert "12 rows have an empty text or label (line 1, 21, 41" in refused(TEXT / name)
        data = from_table(TEXT / name, drop_empty=True)
        assert len(data) == 228 and not {"nan", "NaN", "None", "null", ""} & set(data.class_names)
    assert "1 rows have an empty text or label (line 7)" in refused(TEXT / "missing_labels.csv")


def test_f15_a_cell_that_says_nan_is_text_and_reported():
    with pytest.warns(UserWarning, match="5 rows are of a class called 'NaN', 'None', 'nan'"):
        assert {"NaN", "None", "nan"} <= set(from_table(TEXT / "nan_labels.csv").class_names)


def test_a9_equal_texts_are_compared_once():
    from dataclasses import replace

    data = from_table(ATTACK / "same_text.csv")
    (finding,) = [finding for finding in check(data) if finding.kind == "same example"]
    assert finding.is_leak and len(finding.pairs) == 3, "the first text of every split, in pairs"
    many = 30_000
    texts = ["yes", "no way", "perhaps not"] * (many // 3)
    labels = np.arange(many) % data.n_classes
    found = check(replace(data, inputs=texts, labels=data.labels.new_tensor(labels)))
    assert sum(len(finding.pairs) for finding in found) < 100


def test_a14_what_is_no_table_is_one_sentence(tmp_path):
    assert "line 1: brackets are nested too deep" in refused(ATTACK / "deep.jsonl")
    assert "is no regular file" in refused(Path("/dev/null"))
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is no regular file" in refused(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.csv")
    (tmp_path / "header.csv").write_bytes(b"x" * 20_000_000 + b"\n")
    assert "20,000,000 characters" in refused(tmp_path / "header.csv")
    (tmp_path / "header.csv").write_bytes(b"x," * 10_000_000 + b"\n")
    assert "line 1: 10,000,001 fields" in refused(tmp_path / "header.csv")


def test_a15_the_real_cause_is_named(tmp_path):
    assert "line 5: byte 0xff (number 133 of the file) is not UTF-8" in refused(ATTACK / "bom_bad_byte.csv")
    assert "no text but binary data" in refused(ATTACK / "binary.csv")
    assert "line 32: 'text' holds U+0000" in refused(ATTACK / "nul_late.csv")
    assert "line 44: 'text' holds U+0000" in refused(TEXT / "nul_byte.csv")
    assert "There is no file" in refused(tmp_path / "missing.csv")
    (tmp_path / "my #2.csv").write_bytes((TEXT / "ok.csv").read_bytes())
    same_as_ok(tmp_path / "my #2.csv")


def test_a15_unicode_in_wide_forms_is_read():
    expected = (ATTACK / "utf32.csv").read_bytes().decode("utf-32").split("\n")
    assert from_table(ATTACK / "utf32.csv").inputs[0] == expected[1].split(",")[0]
    with pytest.warns(UserWarning, match="read as utf-16-le"):
        data = from_table(ATTACK / "utf16le_nobom.csv")
    assert len(data) == 200 and data.class_names == [f"topic{c}" for c in range(10)]


def test_a16_a_column_that_is_named_twice_is_refused_only_where_it_is_asked_for(tmp_path):
    assert "several columns 'text' (no. 1, no. 3)" in refused(ATTACK / "dup_header.csv")
    assert "several columns 'label' (no. 2, no. 3)" in refused(TEXT / "dup_header.csv")
    path = tmp_path / "x.csv"
    path.write_text("id,text,label,id\n1,a,b,2\n", encoding="utf-8")
    assert read_table(path).rows == [("a", "b")]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (ATTACK / "inner_quote.csv", "line 3: ',' expected after '\"'"),
        (ATTACK / "mixed_quotes.csv", "line 3: 3 fields, but the header names 2"),
        (ATTACK / "list_row.jsonl", "line 2: not a JSON object but an array"),
        (TEXT / "list_label.jsonl", "line 1: 'label' is ['topic0', 'x'], which is neither"),
        (TEXT / "unclosed_quote.csv", "line 3: unexpected end of data"),
        (TEXT / "empty.csv", "is empty"),
        (TEXT / "header_only.csv", "holds no rows with text and label"),
    ],
)
def test_damage_is_named_by_its_line(path, words):
    assert words in refused(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_that_were_right_stay_right():
    shapes = {
        ATTACK / "bigint.jsonl": (1, 1),
        ATTACK / "header_case.csv": (200, 10),
        ATTACK / "sep_line.csv": (200, 10),
        TEXT / "cp1252.csv": (1, 1),
        TEXT / "duplicates.csv": (480, 12),
        TEXT / "emoji.csv": (240, 12),
        TEXT / "letters.csv": (520, 26),
        TEXT / "small_class.csv": (583, 30),
        **{TEXT / f"{n}_class{'es' * (n != 'one')}.csv": None for n in ("one", "two", "five", "ten")},
    }
    for path, shape in shapes.items():
        data = from_table(path, **ALL)
        assert shape in (None, (len(data), data.n_classes)), path
    assert from_table(TEXT / "cp1252.csv", **ALL).inputs == ["café au lait"]
