"""Examples that were given twice, and a classifier that stays whole where learning fails."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from fewshot_lib import FewShotClassifier
from fewshot_lib.classifier.copies import without_copies

TEXTS = ["the fee is due", "pay the fee", "wifi is down", "no wifi here"]
LABELS = ["fee", "fee", "wifi", "wifi"]


def test_a_classifier_of_copies_is_that_of_the_examples():
    once = FewShotClassifier().fit(TEXTS, LABELS)
    with pytest.warns(UserWarning, match=r"rows 4, 5, 6, 7, 8, … repeat an example of the same class"):
        twice = FewShotClassifier().fit([*TEXTS, *(f" {text}" for text in TEXTS), *TEXTS], LABELS * 3)
    assert_array_equal(twice.predict_proba(TEXTS), once.predict_proba(TEXTS))
    assert twice.accuracy_interval_ == once.accuracy_interval_ and twice.n_examples_.tolist() == [2, 2]


def test_pictures_too_and_features_stay_as_they_are():
    pictures = np.random.default_rng(0).random((4, 8, 8))
    X = np.concatenate([pictures, pictures[:2]])
    with pytest.warns(UserWarning, match="rows 4, 5"):
        clf = FewShotClassifier(encoder="pixels").fit(X, [0, 0, 1, 1, 0, 0])
    assert clf.n_examples_.tolist() == [2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FewShotClassifier().fit(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1]).n_examples_.tolist() == [2, 2]


def test_one_text_under_two_labels_is_said_and_kept():
    texts, labels = ["a", "b", "a", "c"], np.array([0, 0, 1, 1])
    with pytest.warns(UserWarning, match=r"rows 0 and 2 \('fee', 'wifi'\) are the same under two labels"):
        kept, kept_labels = without_copies(texts, labels, np.array(["fee", "wifi"]))
    assert kept == texts
    assert_array_equal(kept_labels, labels)


def test_a_classifier_changes_altogether_or_not_at_all(monkeypatch):
    clf = FewShotClassifier().fit([*TEXTS, "the net", "a net"], [*LABELS, "net", "net"])
    before, p = dict(vars(clf)), clf.predict_proba(TEXTS)

    def fails(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(FewShotClassifier, "_learn", fails)
    for change in (
        lambda: clf.fit(["x y", "z w"], ["money", "time"]),
        lambda: clf.add_class("desk", ["the desk"]),
        lambda: clf.remove_class("net"),
    ):
        with pytest.raises(KeyboardInterrupt):
            change()
        assert vars(clf).keys() == before.keys() and all(vars(clf)[name] is before[name] for name in before)
    assert_array_equal(clf.predict_proba(TEXTS), p)


def test_warnings_point_at_who_called():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        clf = FewShotClassifier().fit([*TEXTS, TEXTS[0], TEXTS[1]], [*LABELS, "fee", "wifi"])
        clf.add_class("net", ["the net", "the net"])
    assert len(said) == 3 and {warning.filename for warning in said} == {__file__}
    assert clf.classes_.tolist() == ["fee", "net", "wifi"] and clf.n_examples_.tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (7, "`label` is 7, and the other labels are texts"),
        (["net", "desk"], r"`label` is \['net', 'desk'\]: add one class at a time"),
        (None, "`y` is None in row 0"),
        (float("nan"), "nan in row 0"),
        ("  ", "every input needs a label"),
        ("fee", "which is a class already"),
    ],
)
def test_a_new_label_is_like_the_others(label, message):
    clf = FewShotClassifier().fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match=message):
        clf.add_class(label, ["something new"])
    assert clf.classes_.tolist() == ["fee", "wifi"]


def test_a_new_class_has_examples_and_a_name_only_where_others_have_one():
    clf = FewShotClassifier(names=None).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="`X` is empty: give one or more examples of 'net'"):
        clf.add_class("net", [])
    with pytest.raises(ValueError, match="`name` is 'the net', and the classes have no names"):
        clf.add_class("net", ["a"], name="the net")
    numbers = FewShotClassifier(names=None).fit(TEXTS, [0, 0, 1, 1])
    with pytest.raises(ValueError, match="`label` is 2.0, and the other labels are whole numbers"):
        numbers.add_class(2.0, ["a"])
    assert numbers.add_class(2, ["a"]).classes_.tolist() == [0, 1, 2]


def test_loaded_settings_find_out_again_what_was_found_out(tmp_path):
    for name, names, method in (("a", None, "auto"), ("b", {"fee": "money", "wifi": "network"}, None)):
        clf = FewShotClassifier(method, names=names).fit(TEXTS, LABELS)
        clf.save(tmp_path / name)
        again = FewShotClassifier.load(tmp_path / name)
        assert (again.names, again.method) == (names, method)
        assert_array_equal(again.fit(TEXTS, LABELS).predict_proba(TEXTS), clf.predict_proba(TEXTS))


def test_rows_that_only_fill_up_change_no_head():
    from fewshot_lib.prototypes import fit_softmax

    generator = torch.Generator().manual_seed(0)
    features, weights = torch.randn(2, 3, 4, 5, generator=generator), torch.ones(2, 3, 4)
    weights[:, 1, 2:] = 0
    padded = torch.cat([features, torch.zeros(2, 3, 6, 5)], 2), torch.cat([weights, torch.zeros(2, 3, 6)], 2)
    for own, other in zip(fit_softmax(features, weights, 2.0), fit_softmax(*padded, 2.0), strict=True):
        assert torch.equal(own, other)
