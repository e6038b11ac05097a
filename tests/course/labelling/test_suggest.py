"""`suggest` names rows of the pool."""

import pytest

from fewshot_lib.classifier import FewShotClassifier

from .helpers import Bag, read, run, write


def test_suggestions_are_rows_of_the_pool(model, tmp_path, capsys):
    table = write(
        tmp_path / "pool.csv", [["id", "text"], [1, "cheap"], [2, "cheap late"], [3, ""], [4, "lost"]]
    )
    run("suggest", model, table, "-n", 2, "--out", tmp_path / "next.csv")
    assert "line 3: cheap late" in capsys.readouterr().out.splitlines()[0]
    header, first, _ = read(tmp_path / "next.csv")
    assert header == ["id", "text", "label"] and first == ["2", "cheap late", ""]


@pytest.mark.parametrize(
    ("given", "new"),
    [(["label"], "new label"), (["label", "new label"], "new new label"), (["Label"], "label")],
)
def test_labels_that_are_filled_in_are_not_taken_for_those_of_the_pool(model, tmp_path, capsys, given, new):
    old = ["old"] * len(given)
    pool = [["text", *given], ["cheap", *old], ["late", *old]]
    run("suggest", model, write(tmp_path / "pool.csv", pool), "-n", 2, "--out", tmp_path / "next.csv")
    said = capsys.readouterr().out
    assert f"empty column '{new}'" in said and (f'--label "{new}"' in said) == (new != "label")
    header, *rows = read(tmp_path / "next.csv")
    assert header == ["text", *given, new] and [row[-1] for row in rows] == ["", ""]
    filled = write(tmp_path / "filled.csv", [header, *([*row[:-1], f"{row[0]} one"] for row in rows)])
    run("fit", filled, "--out", tmp_path / "again", *(["--label", new] if new != "label" else []))
    again = FewShotClassifier.load(tmp_path / "again", encoder=Bag())
    assert again.classes_.tolist() == ["cheap one", "late one"]
