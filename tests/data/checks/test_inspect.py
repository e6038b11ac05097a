"""The report names what is in a data set and what is wrong with it; its numbers are those of episodes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib.core import EpisodeSampler
from fewshot_lib.data.checks.inspect import inspect, inspect_dataset
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.reporting import DataError

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
    report = inspect(csv_file)
    assert dict(zip(report.data.class_names, report.data.counts.tolist(), strict=True)) == SIZES
    assert report.empty_lines == [99] and report.encoding == "utf-8"
    assert report.repeats == [[0, 1]] and report.n_repeats == 1
    assert report.conflicts == [[2, 21]]
    assert [report.data.class_names[c] for c in report.small_classes()] == ["tech"]
    assert [finding.kind for finding in report.findings] == ["same class name"], "art and Arts"
    text = report.format()
    for part in ("encoding utf-8", "'tech' (4)", "line 99", "in 'art' and in 'law'", "30  all       sport"):
        assert part in text
    assert "'Arts' (all) and 'art' (all)" in text


def test_with_a_split_the_leaks_between_its_parts_are_named(csv_file, tmp_path):
    chosen = json.dumps({"train": ["art", "tech"], "test": ["Arts", "law"]})
    (tmp_path / "split.json").write_text(chosen, encoding="utf-8")
    report = inspect(csv_file, split=tmp_path / "split.json")
    found = {(finding.kind, finding.is_leak) for finding in report.findings}
    assert found == {("same class name", True), ("same example", True)}
    assert "LEAK" in report.format() and "no split  sport" in report.format()
    assert report.small_classes() == [report.data.class_names.index("tech")]


def test_the_largest_episode_of_the_report_is_the_largest_that_can_be_drawn(csv_file):
    data = inspect(csv_file, split={"train": ["art", "law", "sport"], "test": ["Arts", "tech"]}).data
    report = inspect(data)
    for split, ways in (("train", 3), ("test", 2)):
        most = report.largest(split)
        EpisodeSampler(data.labels, data.classes(split), ways, 1, most - 1, 0).sample(2)
        with pytest.raises(ValueError, match=f"{most + 1} are needed"):
            EpisodeSampler(data.labels, data.classes(split), ways, 1, most, 0)


def test_small_classes_that_stand_in_the_way_are_pointed_out(csv_file):
    rows = [line.split() for line in inspect(csv_file).format().splitlines()]
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
    assert "readme.txt" in report.notes[0] and "note: 1 files" in report.format()


def test_a_long_list_of_classes_is_cut_in_the_middle():
    ids, names = torch.arange(55), [f"topic{c:02d}" for c in range(55)]
    text = inspect(ClassDataset([f"text {c}" for c in range(55)], ids, names, {"test": ids})).format()
    assert "… 15 more …" in text and "topic19" in text and "topic20" not in text
    assert "topic34" not in text and "topic35" in text


def test_clean_data_gets_a_clean_report():
    texts = [f"text {c} {i}" for c in range(6) for i in range(16)]
    splits = {"train": torch.arange(3), "test": torch.arange(3, 6)}
    report = inspect(ClassDataset(texts, torch.arange(6).repeat_interleave(16), list("abcdef"), splits))
    assert not (*report.empty_lines, *report.repeats, *report.conflicts, *report.small_classes())
    assert "no class too small" in report.format()


def test_a_file_is_reported_on_under_the_options_of_the_command(csv_file):
    assert inspect_dataset(str(csv_file)) == inspect(csv_file).format()
    with pytest.raises(DataError, match="'body'"):
        inspect_dataset(str(csv_file), text="body")


def test_a_known_data_set_is_reported_on_by_its_name(monkeypatch):
    def load(name, split_family):
        texts, labels = ["one", "two"], torch.arange(2)
        splits = {"test": labels}
        return ClassDataset(texts, labels, ["a", "b"], splits, name=name, split_family=split_family)

    monkeypatch.setattr("fewshot_lib.data.checks.inspect.load", load)
    assert "huffpost/bao" in inspect_dataset("huffpost", split="bao")


@pytest.mark.parametrize("name", ["missing.csv", "missing", "notes.docx"])
def test_a_path_that_cannot_be_read_is_refused(tmp_path, name):
    (tmp_path / "notes.docx").write_bytes(b"PK")
    with pytest.raises(DataError, match=name):
        inspect_dataset(str(tmp_path / name))


def test_an_encoding_can_be_given(tmp_path):
    (tmp_path / "old.csv").write_text("text;label\nKöln;a\nbonn;b\n", encoding="cp1252")
    report = inspect(tmp_path / "old.csv", encoding="cp1252")
    assert report.encoding == "cp1252" and report.data.inputs[0] == "Köln"
