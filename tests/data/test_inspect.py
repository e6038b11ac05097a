"""The report names what is in a data set and what is wrong with it, and its numbers are the ones that episodes need."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.inspect import inspect, main
from fewshot_lib.data.reporting import DataError
from fewshot_lib.episodes import EpisodeSampler

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
    for part in ("encoding utf-8", "'tech' (4)", "line 99", "in 'art' and in 'law'", "30  all       sport", "'Arts' (all) and 'art' (all)"):
        assert part in text


def test_with_a_split_the_leaks_between_its_parts_are_named(csv_file, tmp_path):
    (tmp_path / "split.json").write_text(json.dumps({"train": ["art", "tech"], "test": ["Arts", "law"]}), encoding="utf-8")
    report = inspect(csv_file, split=tmp_path / "split.json")
    assert {(finding.kind, finding.is_leak) for finding in report.findings} == {("same class name", True), ("same example", True)}
    assert "LEAK" in report.format() and "no split  sport" in report.format()
    assert report.small_classes() == [report.data.class_names.index("tech")]


def test_the_largest_episode_of_the_report_is_the_largest_that_can_be_drawn(csv_file):
    data = inspect(csv_file, split={"train": ["art", "law", "sport"], "test": ["Arts", "tech"]}).data
    report = inspect(data)
    for split, ways in (("train", 3), ("test", 2)):
        most = report.largest(split, ways)
        for n_query, fits in ((most - 1, True), (most, False)):
            sampler = (data.labels, data.classes(split), ways, 1, n_query, 0)
            if fits:
                EpisodeSampler(*sampler).sample(2)
            else:
                with pytest.raises(ValueError):
                    EpisodeSampler(*sampler).sample(2)
        assert report.largest(split, ways + 1) == 0


def test_small_classes_that_stand_in_the_way_are_pointed_out(csv_file):
    text = inspect(csv_file).format()
    row = next(line for line in text.splitlines() if line.startswith("all "))
    assert row.split() == ["all", "5", "4", "3", "-"], "5 ways, 4 examples, 3 queries at 1 shot, none at 5 shots"
    assert any(line.split()[:2] == ["2", "25"] and "left out" in line for line in text.splitlines())


def test_a_folder_of_pictures_is_inspected(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (30, 30), dtype=np.uint8)).save(tmp_path / "pets" / name / f"{i}.png")
    (tmp_path / "pets/dogs/3.png").write_bytes((tmp_path / "pets/cats/0.png").read_bytes())
    (tmp_path / "pets/dogs/readme.txt").write_text("woof", encoding="utf-8")
    report = inspect(tmp_path / "pets")
    assert report.data.counts.tolist() == [3, 4] and report.conflicts == [[0, 6]]
    assert "readme.txt" in report.notes[0] and "note: 1 files" in report.format()


def test_a_long_list_of_classes_is_cut_in_the_middle():
    n = 55
    data = ClassDataset([f"text {c}" for c in range(n)], torch.arange(n), [f"topic{c:02d}" for c in range(n)], {"test": torch.arange(n)})
    text = inspect(data).format()
    assert "… 15 more …" in text and "topic19" in text and "topic20" not in text and "topic35" in text


def test_clean_data_gets_a_clean_report():
    texts, labels = [f"text {c} {i}" for c in range(6) for i in range(16)], torch.arange(6).repeat_interleave(16)
    report = inspect(ClassDataset(texts, labels, list("abcdef"), {"train": torch.arange(3), "test": torch.arange(3, 6)}))
    assert (report.empty_lines, report.repeats, report.conflicts, report.small_classes()) == ([], [], [], [])
    assert "no class too small" in report.format()


def test_the_command_prints_the_report(csv_file, capsys):
    assert main([str(csv_file)]) == 0
    assert "possible episodes" in capsys.readouterr().out
    assert main([str(csv_file), "--text", "body"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "'body'" in shown.err


def test_the_command_knows_the_data_sets_by_name(capsys, monkeypatch):
    asked = []

    def load(name, split_family):
        asked.append((name, split_family))
        return ClassDataset(["one", "two"], torch.arange(2), ["a", "b"], {"test": torch.arange(2)}, name=name, split_family="bao")

    monkeypatch.setattr("fewshot_lib.data.inspect.load", load)
    assert main(["huffpost", "--split", "bao"]) == 0
    assert asked == [("huffpost", "bao")] and "huffpost/bao" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["missing.csv", "missing", "notes.docx"])
def test_a_path_that_cannot_be_read_is_refused(tmp_path, name, capsys):
    (tmp_path / "notes.docx").write_bytes(b"PK")
    with pytest.raises(DataError):
        inspect(tmp_path / name)
    assert main([str(tmp_path / name)]) == 1
    assert name in capsys.readouterr().err


def test_a_wrong_encoding_is_named_and_can_be_given(tmp_path):
    path = tmp_path / "old.csv"
    path.write_text("text;label\nKöln;a\nbonn;b\n", encoding="cp1252")
    with pytest.raises(DataError, match="encoding='cp1252'"):
        inspect(path)
    report = inspect(path, encoding="cp1252")
    assert report.encoding == "cp1252" and report.data.inputs[0] == "Köln"
