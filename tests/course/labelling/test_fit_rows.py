"""The rows that `fit` learns from: without a text or label, and unlabelled ones."""

import re

import pytest

from fewshot_lib.classifier import FewShotClassifier, inputs

from .helpers import CLASSES, Bag, run, write


def test_rows_without_text_or_label_are_left_out_where_that_is_asked_for(bag, tmp_path):
    rows = [["cheap", "price"], ["late", "parcel"], ["", "price"], ["lost", ""]]
    table = write(tmp_path / "train.csv", [["text", "label"], *rows])
    with pytest.raises(ValueError, match="line 4, 5.*--drop-empty"):
        run("fit", table, "--out", tmp_path / "model")
    run("fit", table, "--out", tmp_path / "model", "--drop-empty")
    assert (tmp_path / "model" / "classifier.json").exists()


def test_texts_are_cut_where_that_is_asked_for(bag, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(inputs, "text_encoder", lambda source, max_tokens: asked.append(max_tokens) or Bag())
    table = write(tmp_path / "train.csv", [["text", "label"], *[[w, c] for c, w in CLASSES.items()]])
    run("fit", table, "--out", tmp_path / "model", "--max-tokens", 40)
    run("fit", table, "--out", tmp_path / "model")
    assert asked == [40, None]


def test_unlabelled_rows_are_learnt_from_and_a_file_of_another_kind_is_refused(bag, tmp_path, capsys):
    table = write(tmp_path / "train.csv", [["text", "label"], *[[w, c] for c, w in CLASSES.items()]])
    pool = write(tmp_path / "pool.csv", [["text"], ["money money"], [""], ["cheap"], ["late"]])
    run("fit", table, "--out", tmp_path / "model", "--unlabelled", pool)
    assert "names as examples, with 3 unlabelled" in capsys.readouterr().out
    with pytest.raises(ValueError, match="are of two kinds: give a table"):
        run("fit", table, "--out", tmp_path / "model", "--unlabelled", tmp_path)
    with pytest.raises(ValueError, match=r"There is no .*none\.csv"):
        run("fit", table, "--out", tmp_path / "model", "--unlabelled", tmp_path / "none.csv")


def test_it_says_how_much_a_name_counts_where_names_are_read(bag, pictures, tmp_path, capsys):
    rows = [[f"{word} {i}", label] for label, words in CLASSES.items() for i in range(3) for word in [words]]
    table = write(tmp_path / "train.csv", [["text", "label"], *rows])
    said = r"The name of a class counts as (\d\.\d) examples at most"
    run("fit", table, "--out", tmp_path / "model")
    weight = FewShotClassifier.load(tmp_path / "model", encoder=Bag()).method_.weight
    assert re.search(said, capsys.readouterr().out)[1] == f"{weight:.1f}"
    for silent in ([table, "--no-names"], [pictures]):
        run("fit", *silent, "--out", tmp_path / "model")
        assert not re.search(said, capsys.readouterr().out)
