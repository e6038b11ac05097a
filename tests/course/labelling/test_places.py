"""Where results go: what cannot be written is said before the work, in the words of the command."""

import pytest

from .helpers import run, write


@pytest.mark.parametrize("place", ["new.csv/x{}", "new.csv/deep/x{}", "x" * 300 + "{}"], ids=len)
def test_a_place_where_nothing_can_be_written_is_refused_before_the_work(model, tmp_path, monkeypatch, place):
    table = write(tmp_path / "new.csv", [["text", "label"], ["cheap", "price"]])

    def never(*_):
        raise AssertionError("it worked before it looked")

    monkeypatch.setattr("fewshot_lib.course.labelling.command._load", never)
    monkeypatch.setattr("fewshot_lib.course.labelling.command._labelled", never)
    before = sorted(tmp_path.rglob("*"))
    for command, option, ending in (
        (["fit", table], "--out", ""),
        (["predict", model, table], "--out", ".csv"),
        (["suggest", model, table], "--out", ".csv"),
        (["evaluate", model, table], "--report", ".html"),
        (["export", model], "--out", ".onnx"),
    ):
        with pytest.raises(ValueError, match=f"`{option} .*` cannot be written .*: name another place"):
            run(*command, option, tmp_path / place.format(ending))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_not_there_is_made(model, tmp_path):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    assert run("predict", model, table, "--out", tmp_path / "a" / "b" / "out.csv")
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["out.csv"]
