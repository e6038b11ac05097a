"""The rows that `fit` learns from, without a text or label or unlabelled; the folder that it writes to."""

import json
import re

import pytest

from fewshot_lib.classifier import FewShotClassifier, inputs
from fewshot_lib.classifier.words import WEIGHT, WithWords

from .helpers import CLASSES, Bag, run, write


def test_rows_without_text_or_label_are_left_out_where_that_is_asked_for(bag, tmp_path):
    rows = [["cheap", "price"], ["late", "parcel"], ["", "price"], ["lost", ""]]
    table = write(tmp_path / "train.csv", [["text", "label"], *rows])
    with pytest.raises(ValueError, match="line 4, 5.*--drop-empty"):
        run("fit", table, "--out", tmp_path / "model")
    run("fit", table, "--out", tmp_path / "model", "--drop-empty")
    assert (tmp_path / "model" / "classifier.json").exists()


def test_one_class_is_none_to_choose_from(bag, tmp_path):
    table = write(tmp_path / "train.csv", [["text", "label"], ["cheap", "price"], ["dear", "price"]])
    with pytest.raises(ValueError, match=r"train.csv holds one class, 'price': give examples of two or more"):
        run("fit", table, "--out", tmp_path / "model")


def test_texts_are_cut_where_that_is_asked_for(bag, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(inputs, "text_encoder", lambda source, max_tokens: asked.append(max_tokens) or Bag())
    table = write(tmp_path / "train.csv", [["text", "label"], *[[w, c] for c, w in CLASSES.items()]])
    run("fit", table, "--out", tmp_path / "model", "--max-tokens", 40)
    run("fit", table, "--out", tmp_path / "model")
    assert asked == [40, None]


def test_words_count_as_much_as_is_asked_for(tmp_path):
    """With the real encoder, whose tokens are the words."""
    table = write(tmp_path / "train.csv", [["text", "label"], *[[w, c] for c, w in CLASSES.items()]])
    for options, weight in (([], WEIGHT), (["--words", 0], None), (["--words", 0.25], 0.25)):
        run("fit", table, "--out", tmp_path / "model", *options)
        clf = FewShotClassifier.load(tmp_path / "model")
        words = clf.encoder_.words.weight if isinstance(clf.encoder_, WithWords) else None
        assert words == (None if weight is None else pytest.approx(weight))
        assert clf.words == (options[1] if options else None)


@pytest.mark.parametrize(("weight", "found"), [("-1", "`words` is -1"), ("nan", "`words` is nan")])
def test_a_weight_of_words_that_cannot_be_is_refused(bag, tmp_path, weight, found):
    table = write(tmp_path / "train.csv", [["text", "label"], *[[w, c] for c, w in CLASSES.items()]])
    with pytest.raises(ValueError, match=found):
        run("fit", table, "--out", tmp_path / "model", "--words", weight)


def test_pictures_have_no_words(pictures, tmp_path):
    with pytest.raises(ValueError, match="`words` is 0.5, and only a `TextEncoder` tells words"):
        run("fit", pictures, "--out", tmp_path / "model", "--words", 0.5)


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


@pytest.mark.parametrize(("n_way", "usual"), [(2, "7.5"), (5, "3")])
def test_what_a_name_counted_before_is_said_where_examples_were_asked(bag, tmp_path, capsys, n_way, usual):
    words = ["cheap", "late", "warm", "loud", "green"][:n_way]
    for n_shot in (1, 3):
        rows = [[f"{word} {i}", f"about {word}"] for word in words for i in range(n_shot)]
        table = write(tmp_path / "train.csv", [["text", "label"], *rows])
        run("fit", table, "--out", tmp_path / f"model {n_shot}")
        said = f"counts as {float(usual)} examples at most." if n_shot == 1 else f"say; {usual} before)."
        assert said in capsys.readouterr().out


def test_a_classifier_is_replaced_and_that_is_said(model, tmp_path, capsys):
    table = write(tmp_path / "few.csv", [["text", "label"], ["cheap", "price"], ["late", "parcel"]])
    about = json.loads((model / "classifier.json").read_text())
    (model / "classifier.json").write_text(json.dumps(about | {"version": 3}))
    for folder, said in ((model, True), (tmp_path / "new", False)):
        run("fit", table, "--out", folder)
        assert ("in place of the classifier that was there" in capsys.readouterr().out) == said
        classes = FewShotClassifier.load(folder, encoder=Bag()).classes_
        assert classes.tolist() == ["parcel", "price"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"format": "fewshot_lib classifier", "version": 99}', "has version 99 of the format"),
        ('{"format": "fewshot_lib classifier", "version": "4"}', "has version '4' of the format"),
        ('{"format": "fewshot_lib classifier"}', "has version None"),
        ('{"version": 4}', "is no classifier"),
        ("[4]", "is no classifier"),
        ("{", "is no classifier"),
        (None, "is no classifier"),
    ],
)
def test_a_folder_of_anything_else_stays_as_it_is(bag, tmp_path, content, found):
    table = write(tmp_path / "train.csv", [["text", "label"], ["cheap", "price"], ["late", "parcel"]])
    file = tmp_path / "model" / "classifier.json"
    file.parent.mkdir()
    file.with_name("notes.txt").write_text("mine")
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=f"{found}.*: name another folder"):
        run("fit", table, "--out", file.parent)
    assert content is None or file.read_text() == content
    assert len(list(file.parent.iterdir())) == 1 + (content is not None)


def test_an_empty_folder_and_one_at_home_are_places_for_a_classifier(bag, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "train.csv", [["text", "label"], ["cheap", "price"], ["late", "parcel"]])
    (tmp_path / "made").mkdir()
    run("fit", "~/train.csv", "--out", "~/made")
    run("predict", "~/made", "~/train.csv", "--out=~/out.csv")
    assert (tmp_path / "out.csv").exists() and "in place of" not in capsys.readouterr().out
