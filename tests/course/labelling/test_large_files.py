"""A large file is read from the disk, to the same answers and refusals as a small one."""

import gzip
import json

import pytest
import torch

from fewshot_lib.course.labelling import inputs

from .helpers import Bag, run, write


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_large_file_is_read_from_the_disk_with_the_same_answers(
    model, tmp_path, monkeypatch, codec, packed
):
    lines = ["id,text", *(f'{i},"cheap, café\n{i}"' for i in range(300))]
    content = "\n".join(lines).encode(codec)
    (tmp_path / "new.csv").write_bytes(gzip.compress(content) if packed else content)
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "small.csv")
    monkeypatch.setattr(inputs, "LARGE", 1000)
    monkeypatch.setattr(inputs, "unpacked", None)
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "large.csv")
    assert (tmp_path / "small.csv").read_bytes() == (tmp_path / "large.csv").read_bytes()


def test_a_large_file_of_json_is_streamed_by_its_lines_or_that_it_is_not_is_said(
    model, tmp_path, monkeypatch, capsys
):
    rows = [{"id": i, "text": "cheap, café"} for i in range(300)]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    monkeypatch.setattr(inputs, "LARGE", 1000)
    for name, said in (("lines.jsonl", False), ("array.json", True)):
        run("predict", model, tmp_path / name, "--out", tmp_path / f"{name}.csv")
        assert ("all of it is read at once" in capsys.readouterr().err) == said
    assert (tmp_path / "lines.jsonl.csv").read_bytes() == (tmp_path / "array.json.csv").read_bytes()


def test_texts_that_are_cut_are_counted_over_all_chunks(model, tmp_path, monkeypatch, capsys):
    def count_tokens(self, texts):
        return torch.tensor([len(text.split()) for text in texts])

    monkeypatch.setattr(Bag, "count_tokens", count_tokens, raising=False)
    rows = [["late " * (30 if i % 3 == 0 else 3)] for i in range(9)]
    table = write(tmp_path / "new.csv", [["text"], *rows])
    for chunk, said in ((100, "3 of 9 texts"), (4, "3 texts")):
        monkeypatch.setattr(inputs.Texts, "chunk", chunk)
        run("predict", model, table, "--out", tmp_path / f"{chunk}.csv")
        assert f"note: {said} are longer than 9 tokens" in capsys.readouterr().err
    run("evaluate", model, write(tmp_path / "test.csv", [["text", "label"], ["cheap " * 30, "price"]]))
    assert "note: 1 of 1 texts are longer" in capsys.readouterr().err


def test_a_large_file_with_a_damaged_place_is_refused_by_its_line(model, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LARGE", 100)
    (tmp_path / "new.csv").write_bytes(b"text\n" + b"cheap it\n" * 3000 + b"caf\xe9\n")
    with pytest.raises(ValueError, match="after line .* are bytes that are not UTF-8"):
        run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "out.csv")
    assert not list(tmp_path.glob("out.csv*"))
