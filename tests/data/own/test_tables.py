"""A table of any format is the same data set; rows that are empty, classes that are small are named."""

import json
import os

import pytest
import torch

from fewshot_lib.data.own.tables import from_csv, from_jsonl, from_table
from fewshot_lib.data.reporting import DataError

NAMES = ["Zoo", "art", "sport", "tech", "œuvre"]
ROWS = [(f"text {name} {i}", name) for name in NAMES for i in range(3)]
SPLIT = {"train": ["art", "sport", "tech"], "val": ["Zoo"], "test": ["œuvre"]}


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS), encoding="utf-8")
    return path


def test_a_csv_file_becomes_a_data_set(csv_file):
    data = from_table(csv_file, split=SPLIT)
    labels = [data.class_names[c] for c in data.labels.tolist()]
    assert list(zip(data.inputs, labels, strict=True)) == ROWS
    assert {part: [data.class_names[c] for c in data.classes(part)] for part in SPLIT} == SPLIT
    assert (data.name, data.split_family) == ("mine", "by list")
    assert data.counts.tolist() == [3] * 5


def test_a_json_lines_file_gives_the_same_data_set(csv_file, tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps({"body": text, "topic": label}) for text, label in ROWS]
    path.write_text("\n".join(lines), encoding="utf-8")
    a, b = from_csv(csv_file, seed=3), from_jsonl(path, text="body", label="topic", seed=3)
    assert a.inputs == b.inputs and a.class_names == b.class_names and torch.equal(a.labels, b.labels)
    assert repr(a) == repr(b) and "shares 0.6/0.2/0.2, seed 3" in repr(a)


def test_empty_rows_are_refused_by_line_or_dropped_on_request_and_some_must_be_left(csv_file):
    with csv_file.open("a", encoding="utf-8") as file:
        file.write("  ,art\nno label,\n\u200b,art\n")
    with pytest.raises(DataError, match=r"3 rows .* empty .*\(line 17, 18, 19\).*drop_empty=True"):
        from_table(csv_file, split=SPLIT)
    assert len(from_table(csv_file, split=SPLIT, drop_empty=True)) == len(ROWS)
    csv_file.write_text("text,label\n", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        from_table(csv_file)


def test_small_classes_are_left_out_before_the_split_and_named(csv_file):
    with csv_file.open("a", encoding="utf-8") as file:
        file.write("only one,rare\n")
    with pytest.warns(UserWarning, match=r"1 of 6 classes have fewer than 3 examples .*'rare' \(1\)"):
        data = from_table(csv_file, min_examples=3)
    assert data.class_names == NAMES and sum(map(len, data.splits.values())) == 5
    with pytest.raises(DataError, match="all there are: lower `min_examples`"):
        from_table(csv_file, min_examples=4)
    for wrong in (0, "3", True, 1.5):
        with pytest.raises(ValueError, match="`min_examples` is"):
            from_table(csv_file, min_examples=wrong)
    with pytest.raises(ValueError, match="`text` is 3: give the name of a column"):
        from_table(csv_file, text=3)


def test_a_file_name_of_any_bytes_is_a_name_that_can_be_shown(csv_file):
    odd = csv_file.rename(csv_file.with_name(os.fsdecode(b"caf\xe9.csv")))
    assert from_table(odd).name == "caf\\xe9"


def test_what_was_guessed_is_said_once(tmp_path, recwarn):
    path = tmp_path / "x.csv"
    path.write_bytes(b"Review,Topic\n" + "".join(f"café {i},b{i % 5}\n" for i in range(9)).encode("cp1252"))
    data = from_table(path, split={"test": 1.0})
    assert data.inputs[0] == "café 0"
    (warning,) = recwarn
    for words in ("read as cp1252", "'Review' is read as the text", "'Topic' is read as the label"):
        assert words in str(warning.message)
    assert warning.filename == __file__
    from_table(path, text="Review", label="Topic", encoding="cp1252", split={"test": 1.0})
    assert len(recwarn) == 1, "what was named is not a guess"
