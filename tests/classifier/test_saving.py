import json
import pickle

import numpy as np
import pandas
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from fewshot_lib import FewShotClassifier
from fewshot_lib.finetuning import FineTuning
from fewshot_lib.graphs import RelationalNetwork
from fewshot_lib.prototypes import cosine_prototypes

POINTS = np.random.default_rng(0).normal(size=(24, 6)) + 2 * np.repeat(np.eye(3, 6), 8, 0)
LABELS = np.repeat(["blå", "rot", "green"], 8)


@pytest.mark.parametrize("method", [None, cosine_prototypes, FineTuning(steps=3), "auto"])
def test_what_is_loaded_answers_the_same_to_the_bit(tmp_path, method):
    clf = FewShotClassifier(method).fit(pandas.DataFrame(POINTS, columns=list("abcdef")), LABELS)
    clf.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model")
    table = pandas.DataFrame(POINTS, columns=list("abcdef"))
    assert_array_equal(again.predict_proba(table), clf.predict_proba(table))
    assert_array_equal(again.predict(table, reject=0.2), clf.predict(table, reject=0.2))
    assert (again.accuracy_, again.accuracy_interval_) == (clf.accuracy_, clf.accuracy_interval_)
    with pytest.raises(ValueError, match="feature names"):
        again.predict(table[list("bacdef")])
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "classifier.json",
        "classifier.safetensors",
    ]


@pytest.mark.parametrize("labels", [np.arange(24) % 3, np.arange(24) % 2 == 0, LABELS])
def test_labels_keep_their_type(tmp_path, labels):
    FewShotClassifier().fit(POINTS, labels).save(tmp_path)
    again = FewShotClassifier.load(tmp_path)
    assert again.predict(POINTS).dtype == labels.dtype
    again.remove_class(again.classes_[0]) if len(again.classes_) > 2 else None


def test_methods_and_encoders_of_ones_own_have_to_be_given_again(tmp_path):
    torch.manual_seed(0)
    network, encoder = RelationalNetwork().eval(), nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    pictures = np.random.default_rng(0).random((6, 4, 4), dtype=np.float32)
    clf = FewShotClassifier(network, encoder=encoder).fit(pictures, [0, 1] * 3)
    clf.save(tmp_path)
    with pytest.raises(ValueError, match="saved with the method 'relational attention' of your own"):
        FewShotClassifier.load(tmp_path, encoder=encoder)
    with pytest.raises(ValueError, match="`encoder` is missing"):
        FewShotClassifier.load(tmp_path, method=network)
    with pytest.raises(ValueError, match="its weights differ"):
        FewShotClassifier.load(
            tmp_path, method=network, encoder=nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
        )
    again = FewShotClassifier.load(tmp_path, method=network, encoder=encoder)
    assert_array_equal(again.predict_proba(pictures), clf.predict_proba(pictures))


def test_what_it_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no saved classifier"):
        FewShotClassifier.load(tmp_path / "nothing")
    FewShotClassifier().fit(POINTS, LABELS).save(tmp_path)
    file = tmp_path / "classifier.json"
    about = json.loads(file.read_text(encoding="utf-8"))
    for changed, message in [
        ({"version": 1}, "has version 1 of the format, and this library reads version 2"),
        ({"format": "x"}, "describes no classifier"),
        ({"version": None}, "has version None"),
        ({"method": {"settings_of": "Popen", "settings": {}}}, "was changed after it was saved"),
        ({"classes": ["a"]}, "was changed after it was saved"),
        ({"sha256": None}, "was changed after it was saved"),
    ]:
        file.write_text(json.dumps(about | changed), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            FewShotClassifier.load(tmp_path)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        FewShotClassifier.load(tmp_path)


def test_no_pickle_is_read(tmp_path):
    FewShotClassifier().fit(POINTS, LABELS).save(tmp_path)
    (tmp_path / "classifier.safetensors").write_bytes(pickle.dumps(POINTS))
    with pytest.raises(ValueError, match="is not the file that was saved"):
        FewShotClassifier.load(tmp_path)
