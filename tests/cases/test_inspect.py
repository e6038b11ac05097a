"""Inputs as people have them: `inspect` shows the very data set that a run uses, in one vocabulary."""

import csv
import json
import random
from pathlib import Path

import pytest
import torch

from fewshot_lib import data
from fewshot_lib.core import EpisodeSampler
from fewshot_lib.data.checks.inspect import inspect
from fewshot_lib.data.checks.leaks import check

WORDS = (
    "planet copper candle violin market stone garden mirror engine letter river forest silver cloud".split()
)


@pytest.fixture
def table(tmp_path):
    """Writes rows to a CSV file: label -> number of texts, or texts."""

    def write(classes, name="mine.csv"):
        draw = random.Random(0)
        path = tmp_path / name
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for label, texts in classes.items():
                made = (
                    [f"{' '.join(draw.choices(WORDS, k=9))} {label} {i}" for i in range(texts)]
                    if isinstance(texts, int)
                    else texts
                )
                rows.writerows([text, label] for text in made)
        return path

    return write


def parts(dataset):
    return {part: [dataset.class_names[c] for c in ids.tolist()] for part, ids in dataset.splits.items()}


def test_a5_inspect_checks_the_split_that_a_run_uses_and_can_write_it(table, tmp_path):
    classes = {f"topic {c}": 8 for c in range(12)}
    loaded = data.load(table(classes, "clean.csv"))
    train, test = parts(loaded)["train"][0], parts(loaded)["test"][0]
    text = "the quick brown fox jumps over the lazy dog by the river"
    path = table(classes | {train: [text] + ["a b"] * 7, test: [f"{text} today", *["c d"] * 7]})
    report = inspect(path)
    assert [finding.kind for finding in report.findings] == ["near example"], "in train and in test"
    assert f"{train!r}" in report.findings[0].message and f"{test!r}" in report.findings[0].message
    loaded = data.load(path)
    assert parts(report.data) == parts(loaded) and check(loaded) == report.findings
    for ending in ("json", "csv"):
        data.write_split(tmp_path / f"split.{ending}", report.data)
        assert parts(data.load(path, split=str(tmp_path / f"split.{ending}"))) == parts(loaded)


def test_a17_one_class_more_moves_none_or_few_and_the_classes_of_a_split_can_be_seen(table):
    names = [f"intent {c}" for c in range(78)]
    before, after = (parts(data.load(table(dict.fromkeys(listed, 2)))) for listed in (names[1:], names))
    where = {name: part for part, listed in after.items() for name in listed}
    moved = [name for part, listed in before.items() for name in listed if where[name] != part]
    assert len(moved) <= 2
    seen = inspect(table(dict.fromkeys(names, 2))).format(all_classes=True)
    for part, listed in after.items():
        assert all(f"2  {part:<8}  {name}\n" in seen for name in listed)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8])
def test_few_classes_leave_no_part_with_a_single_one(table, n):
    dataset = data.load(table({f"c{c}": 3 for c in range(n)}))
    sizes = {part: len(ids) for part, ids in dataset.splits.items()}
    assert sum(sizes.values()) == n and 1 not in sizes.values() and sizes["test"] >= 2
    assert [part for part in ("test", "train", "val") if sizes[part]] == ["test", "train", "val"][: n // 2]


def test_f22_a12_the_name_of_a_set_wins_and_it_is_said(monkeypatch, tmp_path):
    from PIL import Image

    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fewshot_lib.data.made.docstrings.harvest", lambda packages: {"scipy.io": ["text"]})
    for name in "abcd":
        (tmp_path / "docstrings" / name).mkdir(parents=True)
        Image.new("L", (9, 9), 128).save(tmp_path / "docstrings" / name / "1.png")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        UserWarning, match="'docstrings' is the data set of the course; .* write './docstrings'"
    ):
        assert data.load("docstrings").is_text
    assert any("./docstrings" in note for note in inspect("docstrings").notes)
    for folder in ("./docstrings", "docstrings/", tmp_path / "docstrings"):
        assert not data.load(folder).is_text and not inspect(folder).data.is_text
    assert data.describe("docstrings").absolute() == "docstrings"
    assert data.describe("./docstrings").absolute() == str(tmp_path / "docstrings")


@pytest.mark.parametrize("names", [["C", "C++", "C#"], ["A", "A+", "A-"], ["1", "-1", "+1"]])
def test_f10_names_that_a_method_may_take_for_one_are_reported(table, names):
    text = inspect(table(dict.fromkeys(names, 20))).format()
    assert "class names that differ in signs only" in text and "LEAK" not in text


def test_f8_long_texts_are_counted(table):
    path = table({"a": ["word " * 300, "short one"], "b": ["word " * 254, "word " * 255]})
    report = inspect(path, count_tokens=lambda texts: [len(text.split()) + 2 for text in texts])
    assert report.n_cut == 2 and "2 of 4 texts (50.0%) are longer than 256 tokens" in report.format()


def test_f7_half_characters_are_found_by_inspect(tmp_path):
    path = tmp_path / "half.jsonl"
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)]
    rows[3]["text"] = "cut in the middle of \ud83d"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    try:
        report = inspect(path).format()
    except data.DataError as error:  # refused at once: with file and line
        report = str(error)
        assert str(path) in report
    assert "line 4" in report and "half" in report


def test_f5_what_inspect_calls_possible_can_be_drawn(table):
    report = inspect(table({f"topic {c}": 3 + c % 4 for c in range(12)}))
    for split, classes in report.data.splits.items():
        most = report.largest(split)
        for n_shot in range(1, most):
            size = (len(classes), n_shot, most - n_shot, 0)
            assert len(EpisodeSampler(report.data.labels, classes, *size).sample(3)) == 3
        with pytest.raises(ValueError, match="are needed"):
            EpisodeSampler(report.data.labels, classes, 2, 1, most)


def test_a7_every_option_has_one_name_for_tables_folders_and_sets(tmp_path):
    (tmp_path / "my.csv").write_text("Title;Topic\nA b;x\nC d;y\n ;y\nE f;z\nG h;x\n", encoding="utf-16")
    options = {"text": "Title", "label": "Topic", "encoding": "utf-16", "drop_empty": True, "min_examples": 2}
    with pytest.warns(UserWarning, match="'y' .1., 'z' .1."):
        by_words = data.load(tmp_path / "my.csv", **options)
    assert by_words.inputs == ["A b", "G h"] and by_words.class_names == ["x"]
    given = {"source": str(tmp_path / "my.csv"), **options}
    report = inspect(json.loads(json.dumps(given)))
    assert report.data.inputs == by_words.inputs and torch.equal(report.data.labels, by_words.labels)
    assert report.encoding.lower().startswith("utf-16") and report.empty_lines == [4]


HERE = Path(__file__).parent
FILES = sorted(path for kind in ("text", "attack", "images") for path in (HERE / kind).iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_f12_load_and_inspect_are_one_reader(path):
    found = []
    for function in (data.load, lambda path: inspect(path).data):
        try:
            dataset = function(path)
            found.append((True, repr(dataset), dataset.class_names, parts(dataset)))
        except data.DataError as error:
            found.append((path.name in str(error), str(error)))
    assert found[0] == found[1] and found[0][0], "the same data set, or the same words that name the file"
