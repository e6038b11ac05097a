import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file
from torch import nn

from fewshot_lib import FewShotClassifier
from fewshot_lib.classifier import saving
from fewshot_lib.finetuning import FineTuning
from fewshot_lib.graphs import RelationalNetwork, load_relational
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


@pytest.mark.parametrize("transductive", [False, True])
def test_a_network_that_ships_is_found_again(tmp_path, transductive):
    clf = FewShotClassifier(load_relational(transductive=transductive)).fit(POINTS, LABELS)
    clf.save(tmp_path)
    again = FewShotClassifier.load(tmp_path)
    assert again.method_.transductive == transductive
    assert_array_equal(again.predict_proba(POINTS), clf.predict_proba(POINTS))


def test_what_it_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no saved classifier"):
        FewShotClassifier.load(tmp_path / "nothing")
    FewShotClassifier().fit(POINTS, LABELS).save(tmp_path)
    file = tmp_path / "classifier.json"
    about = json.loads(file.read_text(encoding="utf-8"))
    for changed, message in [
        ({"version": 1}, "has version 1 of the format, and this library reads versions 3 and 5"),
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


def test_labels_of_any_characters_and_columns_in_any_order(tmp_path):
    hostile = ["../../etc", "<script>", "a\nb\t\"'", "\u202eb", "é😀", "\ud800", "=cmd|' /C calc'!A0", "{}%s"]
    points = np.asfortranarray(POINTS)
    for method in (None, cosine_prototypes):
        clf = FewShotClassifier(method).fit(points, hostile * 3)
        clf.save(tmp_path)
        again = FewShotClassifier.load(tmp_path)
        assert again.classes_.tolist() == clf.classes_.tolist()
        assert_array_equal(again.predict_proba(points), clf.predict_proba(points))


def signed(folder, change=lambda about: None, **numbers):
    """Changes what was saved, and the checksums with it: as who means harm would, or a later library."""
    about = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "classifier.safetensors") | numbers
    save_file(
        {n: x.contiguous() for n, x in tensors.items() if x is not None}, folder / "classifier.safetensors"
    )
    content = (folder / "classifier.safetensors").read_bytes()
    change(about)
    about["numbers_sha256"] = hashlib.sha256(content).hexdigest()
    about.pop("sha256")
    about["sha256"] = saving._checksum(about)
    (folder / "classifier.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 4}, "version 4 of the format, and this library reads versions 3 and 5"),
        ({"later": 1}, "the list of what it says is not as this library writes it"),
        ({"kind": "videos"}, "`kind`"),
        ({"classes": ["a"]}, "`classes`"),
        ({"classes": ["a", "b", "b"]}, "`classes`"),
        ({"classes": ["a", "b", "c", "d"]}, "the shape of"),
        ({"label_type": "object"}, "`label_type`"),
        ({"label_type": "<i8"}, "`label_type`"),
        ({"features": {"__class__": "x"}}, "`features`"),
        ({"features": {"predict": "x"}}, "`features`"),
        ({"temperature": float("nan")}, "`temperature`"),
        ({"temperature": "1"}, "holds no classifier of this library"),
        ({"asked": {"names": "x", "method": None, "words": None}}, "`asked`"),
        ({"asked": {"names": None, "method": None, "words": -1}}, "`asked`"),
        ({"method": []}, "holds no classifier of this library"),
        ({"method": {"settings_of": "Popen", "settings": {"args": "ls"}}}, "unknown to this library"),
        ({"method": {"settings_of": "FineTuning", "settings": {"args": "ls"}}}, "unknown to this library"),
        ({"method": {"name": "eval", "own": False}}, "unknown to this library"),
        ({"encoder": {"source": "/", "own": False}}, "`encoder` is not as this library"),
        ({"encoder": {"source": ["/"], "own": False, "sha256": "0"}}, "`encoder` is not as this library"),
        (
            {"encoder": {"source": "minilm", "own": False, "sha256": "0", "max_tokens": [9]}},
            "`encoder` is not as this library",
        ),
    ],
)
def test_a_description_with_the_right_checksum_is_not_trusted_either(tmp_path, changed, message):
    FewShotClassifier().fit(POINTS, LABELS).save(tmp_path)
    signed(tmp_path, lambda about: about.update(changed))
    with pytest.raises(ValueError, match=message):
        FewShotClassifier.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("labels_", None),
        ("labels_", torch.full((24,), 9)),
        ("rows_", torch.full((3, 8), 24)),
        ("features_", torch.full((24, 6), torch.nan)),
        ("head.weights", torch.zeros(1, 3, 7)),
        ("head.biases", None),
        ("held_out.logits", torch.zeros(2, 3)),
    ],
)
def test_nor_are_numbers(tmp_path, name, numbers):
    FewShotClassifier().fit(POINTS, LABELS).save(tmp_path)
    signed(tmp_path, **{name: numbers})
    with pytest.raises(ValueError, match=f"holds no classifier of this library .*{name}"):
        FewShotClassifier.load(tmp_path)


def test_every_cut_and_every_other_bit_is_noticed(tmp_path):
    FewShotClassifier().fit(POINTS, LABELS).save(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("classifier.json", "classifier.safetensors"):
        file, content = tmp_path / name, (tmp_path / name).read_bytes()
        for place in rng.integers(0, len(content), 40).tolist():
            flipped = bytes([content[place] ^ (1 << int(rng.integers(8)))])
            for damaged in (content[:place], content[:place] + flipped + content[place + 1 :]):
                file.write_bytes(damaged)
                with pytest.raises(ValueError, match="damaged|changed|not the file|describes no|version"):
                    FewShotClassifier.load(tmp_path)
        file.write_bytes(content)
    (tmp_path / "other").mkdir()
    FewShotClassifier().fit(POINTS + 1, LABELS).save(tmp_path / "other")
    (tmp_path / "other" / "classifier.safetensors").replace(tmp_path / "classifier.safetensors")
    with pytest.raises(ValueError, match="is not the file that was saved"):
        FewShotClassifier.load(tmp_path)


class Killed(BaseException):
    pass


def saved_until(monkeypatch, clf, folder, n_renamed):
    """Saves; killed before the next file gets its name once so many have: whether it came to that."""
    renamed, replace = [], Path.replace

    def dies(path, target):
        if len(renamed) == n_renamed:
            raise Killed
        renamed.append(target)
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dies)
        try:
            clf.save(folder)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_whoever_is_killed_while_saving_leaves_the_old_classifier_or_the_new(tmp_path, monkeypatch, n_before):
    """Also where the one before was killed, after n_before of three steps, and where none was there."""
    old, older, new = (FewShotClassifier().fit(POINTS + i, LABELS) for i in range(3))
    answers = {
        name: clf.predict_proba(POINTS) for name, clf in (("old", old), ("older", older), ("new", new))
    }

    def loaded(folder):
        found = FewShotClassifier.load(folder).predict_proba(POINTS)
        return next(name for name, known in answers.items() if np.array_equal(known, found))

    assert saved_until(monkeypatch, old, tmp_path / "first", n_before)
    if n_before == 2:
        assert loaded(tmp_path / "first") == "old"
    else:
        with pytest.raises(ValueError, match="holds no saved classifier"):
            loaded(tmp_path / "first")
    for n_renamed in range(9):
        folder = tmp_path / str(n_renamed)
        older.save(folder)
        assert saved_until(monkeypatch, old, folder, n_before)
        before = loaded(folder)
        assert before == ("old" if n_before == 2 else "older")
        killed = saved_until(monkeypatch, new, folder, n_renamed)
        assert loaded(folder) in ((before, "new") if killed else ("new",))
        new.save(folder)
        assert sorted(file.name for file in folder.iterdir()) == ["classifier.json", "classifier.safetensors"]
        assert loaded(folder) == "new"
        if not killed:
            break
    assert n_renamed >= 3 and not killed


def test_another_network_or_encoder_of_the_same_name_is_refused(tmp_path):
    torch.manual_seed(0)
    clf = FewShotClassifier(RelationalNetwork().eval()).fit(POINTS, LABELS)
    clf.save(tmp_path)
    with pytest.raises(ValueError, match="is not the 'relational attention' that was saved: its weights"):
        FewShotClassifier.load(tmp_path, method=RelationalNetwork().eval())
    with pytest.raises(ValueError, match="its weights or settings differ"):
        FewShotClassifier.load(tmp_path, method=RelationalNetwork(rounds=1).eval())


def test_texts_are_cut_where_they_were_and_a_folder_that_does_not_say_it_is_read(tmp_path):
    texts, labels = ["a late parcel " * 80, "cheap " * 200, "my parcel", "the price"], ["post", "money"] * 2
    asked = ["late " * 150 + "cheap " * 150]
    for folder, max_tokens in (("own", None), ("short", 20), ("older", saving.UNWRITTEN)):
        clf = FewShotClassifier(max_tokens=max_tokens).fit(texts, labels)
        clf.save(tmp_path / folder)
        if folder == "older":
            signed(tmp_path / folder, lambda about: about["encoder"].pop("max_tokens"))
        again = FewShotClassifier.load(tmp_path / folder)
        assert again.max_tokens == again.encoder_.max_tokens == (max_tokens or 256)
        assert_array_equal(again.predict_proba(asked), clf.predict_proba(asked))
    given = FewShotClassifier.load(
        tmp_path / "short", encoder=clf.set_params(max_tokens=20).fit(texts, labels).encoder_
    )
    assert given.max_tokens is None and given.encoder_.max_tokens == 20


def test_no_pickle_is_read(tmp_path):
    FewShotClassifier().fit(POINTS, LABELS).save(tmp_path)
    (tmp_path / "classifier.safetensors").write_bytes(pickle.dumps(POINTS))
    with pytest.raises(ValueError, match="is not the file that was saved"):
        FewShotClassifier.load(tmp_path)


def test_words_of_a_larger_vocabulary_are_not_those_of_this_encoder(tmp_path):
    clf = FewShotClassifier().fit(["a fee", "the fee", "wifi", "no wifi"], [0, 0, 1, 1])
    clf.save(tmp_path)
    pieces = clf.encoder_.words.pieces
    signed(tmp_path, **{"words.pieces": pieces + 10**6})
    with pytest.raises(ValueError, match="`encoder` is not the one"):
        FewShotClassifier.load(tmp_path)
    signed(tmp_path, **{"words.pieces": pieces - 10**6})
    with pytest.raises(ValueError, match="the range of `words.pieces`"):
        FewShotClassifier.load(tmp_path)
