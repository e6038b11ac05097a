"""The commands on folders of pictures."""

import shutil

import pytest
from PIL import Image

from fewshot_lib.course.labelling import inputs
from fewshot_lib.data.own.pictures import PictureFiles

from .helpers import read, run, write


def test_pictures_from_a_folder_to_a_labelled_file(pictures, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fewshot_lib.encoders.PhotoEncoder.installed", staticmethod(lambda: False))
    run("fit", pictures, "--out", tmp_path / "seen", "--size", "6x8", "--color")
    out, notes = capsys.readouterr()
    assert "compared by their pixels" in notes and "new_pictures --out labelled.csv" in out
    run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "out.csv")
    header, *rows = read(tmp_path / "out.csv")
    assert header == ["file", "label", "probability", "rejected"]
    assert [row[0].split("/")[0] for row in rows] == [row[1] for row in rows] and len(rows) == 12
    with pytest.raises(ValueError, match="holds nothing but what .*seen has learnt from"):
        run("suggest", tmp_path / "seen", pictures)
    pool = shutil.copytree(pictures, tmp_path / "pool")
    for name in ("new a.png", "new b.png"):
        Image.effect_noise((30, 20), 90).save(pool / name)
    (pool / "telephone.heic").write_bytes(b"of another kind")
    run("suggest", tmp_path / "seen", pool, "-n", 2, "--out", tmp_path / "next.csv")
    assert sorted(row[0] for row in read(tmp_path / "next.csv")) == ["file", "new a.png", "new b.png"]
    notes = capsys.readouterr().err
    assert "note: " in notes and "1 that cannot be read as such, like" in notes and "telephone.heic" in notes
    capsys.readouterr()
    run("evaluate", tmp_path / "seen", pictures)
    assert "Accuracy 100.0%" in capsys.readouterr().out
    (pictures / "red" / "0.png").rename(pictures / "green" / "red.png")
    run("evaluate", tmp_path / "seen", pictures, "--report", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 1 and "<b>green</b> taken for <b>red</b>: 1" in page
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    for command in (["predict", "--out", tmp_path / "no.csv"], ["suggest"], ["evaluate"]):
        with pytest.raises(ValueError, match="was fitted on pictures, and .* holds none"):
            run(command[0], tmp_path / "seen", table, *command[1:])
        with pytest.raises(ValueError, match="was fitted on texts, and .* holds none"):
            run(command[0], model, pictures, *command[1:])
        with pytest.raises(ValueError, match="`--text` is an option of a table"):
            run(command[0], tmp_path / "seen", pictures, "--text", "a", *command[1:])
    (pictures / "broken.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="broken.png cannot be read"):
        run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "no.csv")


def test_a_folder_is_labelled_a_few_pictures_at_a_time_and_gone_on_with(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot_lib.encoders.PhotoEncoder.installed", staticmethod(lambda: False))
    run("fit", pictures, "--out", tmp_path / "seen", "--size", "6x8", "--color")
    run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "whole.csv")
    monkeypatch.setattr("fewshot_lib.data.own.pictures.AT_ONCE", 2)
    monkeypatch.setattr(inputs.Pictures, "chunk", 2)
    read_a_part, parts = PictureFiles.__getitem__, []

    def stopped(self, rows):
        if parts.append(rows) or len(parts) == 4:
            raise KeyboardInterrupt
        return read_a_part(self, rows)

    monkeypatch.setattr(PictureFiles, "__getitem__", stopped)
    with pytest.raises(KeyboardInterrupt, match="Stopped after 6 of 12 rows"):
        run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "out.csv")
    run("predict", tmp_path / "seen", pictures, "--out", tmp_path / "out.csv")
    assert [(part.start, part.stop) for part in parts[4:]] == [(6, 8), (8, 10), (10, 12)]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
