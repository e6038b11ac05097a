"""`evaluate` and its report: one page that counts right and needs nothing else."""

import re

import numpy as np
import pytest

from fewshot_lib import FewShotClassifier
from fewshot_lib.course.labelling.report import Report

from .helpers import CLASSES, read, run, write


def test_evaluate_writes_one_page_that_needs_nothing_else(model, tmp_path, capsys):
    rows = [["cheap <b>", "price"], ["money", "refund"], ["late", "refund"], ["late", "refund"]]
    table = write(tmp_path / "test.csv", [["text", "label"], *rows])
    run("evaluate", model, table, "--report", tmp_path / "report.html")
    assert "Accuracy 50.0%" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search("<script|<link|src=|href=|http", page)
    assert "<b>refund</b> taken for <b>parcel</b>: 2" in page
    assert run("evaluate", model, table, "--report", tmp_path / "report.html")
    with pytest.raises(ValueError, match="exists and is no report"):
        run("evaluate", model, table, "--report", table)


@pytest.mark.parametrize(
    ("labels", "also"),
    [
        ([True, True, False, False], {"true": "True", "false": "FALSE"}),
        ([7, 7, 8, 8], {"7": "7.0"}),
        ([7.0, 7.0, 8.0, 8.0], {"7.0": "7"}),
        ([2**53, 2**53, 2**53 + 1, 2**53 + 1], {}),
        (["True", "True", "False", "False"], {"True": "true"}),
        (["7", "7", "8", "8"], {"7": "7.0", "8": "8.0"}),
        (["01", "01", "1", "1"], {}),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_labels_that_were_written_are_read_back_equal(bag, tmp_path, capsys, labels, also, ending):
    """And as pandas, or a spreadsheet, writes them again."""
    texts = [word for words in CLASSES.values() for word in words.split()][:4]
    FewShotClassifier().fit(texts, labels).save(tmp_path / "model")
    table = write(tmp_path / "new.csv", [["text"], *[[text] for text in texts]])
    run("predict", tmp_path / "model", table, "--out", tmp_path / f"labelled.{ending}")
    capsys.readouterr()
    run("evaluate", tmp_path / "model", tmp_path / f"labelled.{ending}")
    assert "Accuracy 100.0%" in capsys.readouterr().out
    run("predict", tmp_path / "model", table, "--out", tmp_path / "rows.csv")
    header, *rows = read(tmp_path / "rows.csv")
    place = header.index("label")
    for row in rows:
        row[place] = also.get(row[place], row[place])
    run("evaluate", tmp_path / "model", write(tmp_path / "again.csv", [header, *rows]))
    assert "Accuracy 100.0%" in capsys.readouterr().out


def test_labels_of_others_are_shown_beside_the_classes(model, tmp_path):
    table = write(tmp_path / "test.csv", [["text", "label"], ["cheap", "Price"], ["money", "Refund"]])
    with pytest.raises(
        ValueError, match="it has Price, Refund, and the classes are parcel, price, refund, wifi"
    ):
        run("evaluate", model, table)


def test_how_many_are_no_test_is_said(model, pictures, tmp_path, capsys, monkeypatch):
    """What it has learnt from is answered right by heart."""
    learnt = read(tmp_path / "train.csv")
    table = write(tmp_path / "test.csv", [*learnt[:3], ["cheap and late", "price"]])
    run("evaluate", model, table, "--report", tmp_path / "report.html")
    assert "2 of them are examples that it has learnt from" in capsys.readouterr().out
    assert "2 of them are examples" in (tmp_path / "report.html").read_text(encoding="utf-8")
    run("evaluate", model, write(tmp_path / "other.csv", [learnt[0], ["cheap and late", "price"]]))
    assert "learnt from" not in capsys.readouterr().out
    monkeypatch.setattr("fewshot_lib.encoders.PhotoEncoder.installed", staticmethod(lambda: False))
    run("fit", pictures, "--out", tmp_path / "seen", "--size", "6x8", "--color")
    run("evaluate", tmp_path / "seen", pictures)
    assert "12 of them are examples that it has learnt from" in capsys.readouterr().out


def test_the_report_counts_and_escapes():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    report = Report.of(["<a>", "b"], p, ["<a>", "b", "b", "new"], ["<script>x", "two", "three", "four"])
    assert report.correct.tolist() == [True, False, True, False]
    assert report.confusions == [(("b", "<a>"), 1), (("new", "<a>"), 1)]
    assert report.calibration_error == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)
    assert "does not know, counted as wrong: new" in report.in_words
    page = report.html("m", "s")
    assert "<script" not in page and "<a>" not in page and "&lt;a&gt;" in page
