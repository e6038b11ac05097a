"""A split that is written and read is the same split; other people's files are understood, or named."""

import csv
import json

import pytest
import torch

from fewshot_lib.data import ClassDataset, DataError, write_split
from fewshot_lib.data.own.class_splits import split_classes

NAMES = [f"class {c:02d}" for c in range(23)]
LISTS = {"train": ["class 00", "class 05"], "test": ["class 07"]}


def dataset(names=NAMES, split=None):
    splits = split_classes(split, names, seed=2)[0]
    return ClassDataset(["text"] * len(names), torch.arange(len(names)), list(names), splits, name="toy")


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_what_is_written_is_read_again(tmp_path, ending):
    names = ['a "quoted", name', "caf\u00e9", "true", "1.50", "=sum", "x;y", *NAMES]
    data = dataset(names)
    path = tmp_path / f"split.{ending}"
    write_split(path, data)
    splits, family = split_classes(path, names)
    assert {part: ids.tolist() for part, ids in splits.items()} == {
        part: ids.tolist() for part, ids in data.splits.items()
    }
    assert family == f"file split.{ending}"
    assert list(tmp_path.iterdir()) == [path], "nothing else is left"


def test_nothing_that_somebody_wrote_is_written_over(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, dataset())
    kept = path.read_bytes()
    write_split(path, dataset())
    with pytest.raises(ValueError, match="exists, and it is not this split"):
        write_split(path, dataset(split={"test": NAMES}))
    assert path.read_bytes() == kept
    (tmp_path / "folder.json").mkdir()
    for name, words in {
        "folder.json": "exists",
        "split.txt": "end in .json or .csv",
        "no/split.csv": "no folder",
    }.items():
        with pytest.raises(ValueError, match=words):
            write_split(tmp_path / name, dataset())


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.replace", lambda self, target: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_split(tmp_path / "split.csv", dataset())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("split.json", json.dumps(LISTS), "utf-8"),
        ("split.csv", "class,split\nclass 00,train\nclass 07,test\nclass 05,train\n", "utf-8-sig"),
        (
            "split.csv",
            "Split ; Class\r\n train; class 00 \r\n\r\nTest ;class 07\r\nTRAIN;class 05\r\n",
            "utf-8",
        ),
        (
            "split.tsv",
            "class\tn\tsplit\nclass 00\t3\ttraining\nclass 07\t4\ttesting\nclass 05\t1\ttrain\n",
            "utf-8",
        ),
        ("split.json", json.dumps({"Training": LISTS["train"], "TEST": LISTS["test"]}), "utf-8-sig"),
    ],
)
def test_files_as_people_have_them(tmp_path, name, content, encoding):
    (tmp_path / name).write_text(content, encoding=encoding, newline="")
    splits, family = split_classes(str(tmp_path / name), NAMES)
    assert {part: ids.tolist() for part, ids in splits.items()} == {"train": [0, 5], "test": [7]}
    assert family == f"file {name}"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("split.csv", "name,part\na,b\n", "class,split"),
        ("split.csv", "", "class,split"),
        ("split.csv", "class,split\nclass 00,train,extra\n", "split.csv, line 2"),
        ("split.csv", "class,split\nclass 00,train\nclass 01,\n", "split.csv, line 3: a class or its split"),
        ("split.csv", "class,split\nclass 00,train\nclass 00,test\n", "in 'train' and in 'test'"),
        ("split.json", '{"train": ', "neither .csv nor JSON"),
        ("split.json", "[" * 100_000, "neither .csv nor JSON"),
        ("split.json", '["class 00"]', "one object"),
        ("split.json", '{"class 00": "train"}', "one object"),
        ("split.json", '{"train": []}', "names no class"),
        ("split.json", '{"train": ["class 00"], "train": ["class 01"]}', "'train' twice"),
        ("split.json", '{"train": ["class 00"], "Training": ["class 01"]}', "'train' twice"),
        ("split.json", '{"train": ["nowhere"]}', "split.json puts 'nowhere'"),
        ("split.json", '{"train": [null]}', "None, which is no class name"),
    ],
)
def test_a_split_file_that_does_not_fit_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        split_classes(str(tmp_path / name), NAMES)
    with pytest.raises(DataError, match="There is no file"):
        split_classes(tmp_path / "missing.json", NAMES)


def test_a_number_in_a_json_list_is_what_was_written(tmp_path):
    (tmp_path / "s.json").write_text('{"train": [1, 2.50], "test": [7]}', encoding="utf-8")
    splits, _ = split_classes(tmp_path / "s.json", ["1", "2.50", "7"])
    assert splits["train"].tolist() == [0, 1] and splits["test"].tolist() == [2]


def test_the_written_table_is_a_plain_one(tmp_path):
    write_split(tmp_path / "s.csv", dataset(["a", "b"]))
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["class", "split"], ["a", "test"], ["b", "test"]]
