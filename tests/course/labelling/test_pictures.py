"""The commands on folders of pictures."""

import pytest

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
    run("suggest", tmp_path / "seen", pictures, "-n", 2, "--out", tmp_path / "next.csv")
    assert len(read(tmp_path / "next.csv")) == 3
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
