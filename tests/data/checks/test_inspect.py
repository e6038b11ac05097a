"""The report names what is in a data set and what is wrong with it; its numbers are those of episodes."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib.core import EpisodeSampler
from fewshot_lib.data import load
from fewshot_lib.data.checks.inspect import inspect
from fewshot_lib.data.dataset import ClassDataset

SIZES = {"art": 20, "law": 18, "sport": 30, "tech": 4, "Arts": 25}


@pytest.fixture
def csv_file(tmp_path):
    rows = [f"{name} story number {name}{i},{name}" for name, size in SIZES.items() for i in range(size)]
    rows[1] = rows[0]
    rows[21] = rows[2].replace(",art", ",law")
    rows.append(" ,art")
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8-sig")
    return path


def test_a_table_is_counted_and_its_defects_are_named(csv_file):
    report = inspect(csv_file, drop_empty=True)
    assert dict(zip(report.data.class_names, report.data.counts.tolist(), strict=True)) == SIZES
    assert report.empty_lines == [99] and report.encoding == "utf-8"
    assert report.repeats == [[0, 1]] and report.n_repeats == 1
    assert report.conflicts == [[2, 21]]
    assert [report.data.class_names[c] for c in report.small_classes()] == ["tech"]
    kinds = {finding.kind for finding in report.findings}
    assert kinds == {"same class name", "same example"}, "art and Arts; no. 2 and 21, in two splits"
    text = report.format()
    # 5 classes: 3 to train on, 2 to test on, none for validation.
    assert [len(ids) for ids in report.data.splits.values()] == [3, 0, 2]
    for part in ("encoding utf-8", "'tech' (4)", "line 99", "line 4 in 'art' and in 'law'", "sport"):
        assert part in text


def test_with_a_split_the_leaks_between_its_parts_are_named(csv_file, tmp_path):
    chosen = json.dumps({"train": ["art", "tech"], "test": ["Arts", "law"]})
    (tmp_path / "split.json").write_text(chosen, encoding="utf-8")
    report = inspect(csv_file, split=tmp_path / "split.json", drop_empty=True)
    found = {(finding.kind, finding.is_leak) for finding in report.findings}
    assert found == {("same class name", True), ("same example", True)}
    assert "LEAK" in report.format() and "no split  sport" in report.format()
    assert "stand in no split, and are not used: 1: 'sport' (30)" in report.format()
    assert report.small_classes() == [report.data.class_names.index("tech")]


def test_the_largest_episode_of_the_report_is_the_largest_that_can_be_drawn(csv_file):
    split = {"train": ["art", "law", "sport"], "test": ["Arts", "tech"]}
    data = inspect(csv_file, split=split, drop_empty=True).data
    report = inspect(data)
    for split, ways in (("train", 3), ("test", 2)):
        most = report.largest(split)
        EpisodeSampler(data.labels, data.classes(split), ways, 1, most - 1, 0).sample(2)
        with pytest.raises(ValueError, match=f"{most + 1} are needed"):
            EpisodeSampler(data.labels, data.classes(split), ways, 1, most, 0)


def test_small_classes_that_stand_in_the_way_are_pointed_out(csv_file):
    report = inspect(csv_file, split={"all": 1.0}, drop_empty=True)
    rows = [line.split() for line in report.format().splitlines()]
    # 5 ways, 4 examples, 3 queries at 1 shot, none at 5 shots; but 25 examples of the two largest classes
    assert ["all", "5", "4", "3", "-"] in rows
    assert any(row[:2] == ["2", "25"] and row[-2:] == ["left", "out"] for row in rows)


def test_a_folder_of_pictures_is_inspected(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture = rng.integers(0, 256, (30, 30), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    (tmp_path / "dogs/3.png").write_bytes((tmp_path / "cats/0.png").read_bytes())
    (tmp_path / "dogs/readme.txt").write_text("woof", encoding="utf-8")
    report = inspect(tmp_path)
    assert report.data.counts.tolist() == [3, 4] and report.conflicts == [[0, 6]]
    assert any("readme.txt" in note for note in report.notes)
    assert all(f"note: {note}" in report.format() for note in report.notes)


def test_a_long_list_of_classes_is_cut_in_the_middle_unless_all_are_asked_for():
    ids, names = torch.arange(55), [f"topic{c:02d}" for c in range(55)]
    splits = {"train": ids[:5], "test": ids[5:]}
    report = inspect(ClassDataset([f"text {c}" for c in range(55)], ids, names, splits))
    text = report.format()
    assert "… 34 more of test (--classes lists all) …" in text
    assert [name for name in names if f"  {name}" in text] == [*names[:13], *names[47:]]
    assert all(f"  {name}" in report.format(all_classes=True) for name in names)


def test_clean_data_gets_a_clean_report():
    texts = [f"text {c} {i}" for c in range(6) for i in range(16)]
    splits = {"train": torch.arange(3), "test": torch.arange(3, 6)}
    report = inspect(ClassDataset(texts, torch.arange(6).repeat_interleave(16), list("abcdef"), splits))
    assert not (*report.empty_lines, *report.repeats, *report.conflicts, *report.small_classes())
    assert "no class too small" in report.format()


def test_what_load_refuses_is_refused_in_the_same_words(csv_file, tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"PK")
    wrong = [
        (csv_file, {}),
        (csv_file, {"text": "body"}),
        (tmp_path / "no.csv", {}),
        (tmp_path / "notes.docx", {}),
    ]
    for source, options in [
        *wrong,
        (csv_file, {"drop_empty": True, "split": "0.5/0.4"}),
        ("glyphs", {"size": 3}),
    ]:
        words = []
        for function in (load, inspect):
            with pytest.raises(ValueError, match=r"\w") as error:
                function(source, **options)
            words.append((type(error.value), str(error.value)))
        assert words[0] == words[1]


def test_what_load_returns_is_what_is_inspected(csv_file):
    for options in ({}, {"seed": 3}, {"split": "0.5/0.5"}, {"min_examples": 10}):
        given = {"drop_empty": True} | options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = load(csv_file, **given)
        report = inspect({"source": str(csv_file), **given})
        assert repr(report.data) == repr(loaded) and report.data.inputs == loaded.inputs
        assert {part: ids.tolist() for part, ids in report.data.splits.items()} == {
            part: ids.tolist() for part, ids in loaded.splits.items()
        }


def test_small_classes_are_left_out_before_the_split_is_drawn_and_named(csv_file):
    report = inspect(csv_file, min_examples=10, drop_empty=True)
    assert "tech" not in report.data.class_names and "'tech' (4)" in report.notes[0]
    assert [len(ids) for ids in report.data.splits.values()] == [2, 0, 2]


def test_a_known_data_set_is_reported_on_by_its_name(monkeypatch):
    def load(source, split=None):
        labels = torch.arange(2)
        return ClassDataset(
            ["one", "two"], labels, ["a", "b"], {"test": labels}, name=source, split_family=split
        )

    monkeypatch.setattr("fewshot_lib.data.checks.inspect.load", load)
    assert "huffpost/bao" in inspect("huffpost", split="bao").format()


def test_a_data_set_that_is_loaded_takes_no_options():
    data = ClassDataset(["one"], torch.tensor([0]), ["a"], {})
    with pytest.raises(ValueError, match="loaded already: give `split` to what loads it"):
        inspect(data, split="0.8/0.2")


def test_lengths_are_counted_in_tokens_where_that_is_possible_and_in_words_else():
    texts = ["one two three"] * 18 + ["one", "a " * 200]
    data = ClassDataset(texts, torch.zeros(20, dtype=torch.int64), ["only"], {})
    words = inspect(data)
    assert words.lengths.tolist() == [3] * 18 + [1, 200] and words.n_cut == 0
    assert "lengths in words: median 3, 95 % up to 13, longest 200" in words.format()
    report = inspect(
        data, count_tokens=lambda texts: [2 + len(text.split()) for text in texts], max_tokens=128
    )
    assert report.n_cut == 1
    assert "1 of 20 texts (5.0%) are longer than 128 tokens" in report.format()
    images = ClassDataset(torch.zeros(1, 1, 2, 2), torch.tensor([0]), ["only"], {})
    assert inspect(images).lengths is None and "lengths" not in inspect(images).format()


def test_half_characters_and_names_of_missing_labels_are_pointed_out():
    names = ["N/A", "Null", "news"]
    report = inspect(ClassDataset(["a", "b \ud83d", "😀"], torch.arange(3), names, {"test": torch.arange(3)}))
    assert report.surrogates == [1]
    assert "half a character (a lone surrogate): 1: no. 1" in report.format()
    assert "may stand for a missing label: 2: 'N/A' (1), 'Null' (1)" in report.format()


def test_an_encoding_can_be_given(tmp_path):
    (tmp_path / "old.csv").write_text("text;label\nKöln;a\nbonn;b\n", encoding="cp1252")
    report = inspect(tmp_path / "old.csv", encoding="cp1252")
    assert report.encoding == "cp1252" and report.data.inputs[0] == "Köln"


def test_a_place_is_a_row_where_a_format_has_no_lines_and_known_without_small_classes(tmp_path):
    table = {"text": ["same", "x", "same", "lone"], "label": ["a", "a", "b", "c"]}
    table = {name: [*column, "y", "z"] for name, column in table.items()}
    table["label"][-2:] = ["b", "a"]
    (tmp_path / "x.json").write_text(json.dumps({n: c[3:] + c[:3] for n, c in table.items()}))
    report = inspect(tmp_path / "x.json", min_examples=2, split={"test": 1.0})
    assert report.unit == "row" and report.lines == [2, 3, 4, 5, 6]  # row 1 is of a class left out
    assert "stand in several classes: 1, such as row 4" in report.format()
