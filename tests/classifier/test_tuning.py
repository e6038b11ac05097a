"""Tuning the encoder: its loss by hand, what stays as it was, and that no example answers for itself."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_array_equal
from torch import nn
from torch.testing import assert_close

from fewshot_lib import FewShotClassifier
from fewshot_lib.classifier import tuning, without_words
from fewshot_lib.classifier.tuning import TunedEncoder, leave_one_out_loss, tune, with_adapters
from fewshot_lib.course.labelling.command import _about
from fewshot_lib.encoders import TextEncoder, encode

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] this is about . graph node edge signal wave sound the of in".split()
SAID = {"graphs": ["node", "edge", "graph"], "sounds": ["signal", "wave", "sound"]}
X = [
    f"{a} {word} of the {b}"
    for words in SAID.values()
    for word in words
    for a in ("the", "in")
    for b in words
]
Y = [label for label in SAID for _ in range(18)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random BERT of two layers."""
    import transformers

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return TextEncoder(folder, max_tokens=16)


def test_the_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    known, query, names = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (7, 3, 2))
    labels, rows = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([1, 4, 6])
    expected = []
    for q, row in zip(query, rows.tolist(), strict=True):
        means = []
        for c in (0, 1):
            others = [F.normalize(known[i], dim=0) for i in range(7) if labels[i] == c and i != row]
            means.append(F.normalize(sum(others), dim=0))
        unit = F.normalize(names, dim=-1)
        for centres in (torch.stack(means), unit, F.normalize(torch.stack(means) + unit, dim=-1)):
            cosines = centres @ F.normalize(q, dim=0)
            expected.append(F.cross_entropy(cosines / tuning.TEMPERATURE, labels[row]))
    found = leave_one_out_loss(query, rows, known, labels, 2, names)
    assert_close(found, torch.stack(expected).mean())
    known[rows] *= -3  # what is known of the queries themselves plays a part for the other queries alone
    assert not torch.isclose(leave_one_out_loss(query, rows, known, labels, 2, names), found)
    known[rows[1:]] /= -3
    assert_close(
        leave_one_out_loss(query[:1], rows[:1], known, labels, 2, None),
        leave_one_out_loss(query[:1], rows[:1], known.index_fill(0, rows[:1], 9.0), labels, 2, None),
    )


def test_untuned_it_is_the_frozen_encoder_and_tuning_leaves_that_alone(tiny, monkeypatch):
    monkeypatch.setattr(tuning, "LR", 1e-2)
    before, plain = {n: p.clone() for n, p in tiny.state_dict().items()}, encode(tiny, X)
    unit = F.normalize(plain, dim=-1)
    start = encode(TunedEncoder(tiny), X)
    assert_close(start, torch.cat([unit, unit], -1))
    tuned = tune(tiny, X, torch.arange(36) // 18, ["this is about graph", "this is about sound"], 2)
    for name, p in tiny.state_dict().items():
        assert torch.equal(p, before[name])
    found = encode(tuned, X)
    assert_close(found[:, :12], unit)
    labels, rows = torch.arange(36) // 18, torch.arange(36)
    losses = [leave_one_out_loss(f[:, 12:], rows, f[:, 12:], labels, 2, None) for f in (start, found)]
    assert losses[1] < losses[0]
    again = with_adapters(tiny, tuned.adapters())
    assert torch.equal(encode(again, X), found)
    assert all(p.shape[0] <= 12 and tuning.RANK in p.shape for p in tuned.adapters().values())


@pytest.mark.parametrize(("n", "steps"), [(8, 30), (40, 30), (36 * 5, 6 * 8)])
def test_few_examples_are_read_more_often_so_that_the_steps_suffice(tiny, monkeypatch, n, steps):
    calls, loss = [], tuning.leave_one_out_loss

    def spy(*args):
        calls.append(len(args[1]))
        return loss(*args)

    monkeypatch.setattr(tuning, "leave_one_out_loss", spy)
    tune(tiny, (X * 5)[:n], torch.arange(n) % 2, None, 2)
    assert len(calls) == steps and sum(calls) % n == 0


def test_training_reads_the_beginnings_of_long_texts_and_says_nothing_of_it(tiny, monkeypatch):
    monkeypatch.setattr(tuning, "TRAINED_ON", 5)
    labels, ends = torch.arange(36) // 18, [f"{text} " + " the graph" * 4 for text in X]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short, long = (tune(tiny, texts, labels, None, 2) for texts in (X, ends))
    for name, p in short.adapters().items():
        assert torch.equal(p, long.adapters()[name])
    assert short.tuned.max_tokens == tiny.max_tokens == 16
    assert not torch.allclose(encode(short, X), encode(long, ends), atol=1e-3)


def test_every_example_is_answered_by_an_encoder_that_has_not_seen_it(tiny, monkeypatch):
    seen = []

    def spy(frozen, texts, *args):
        seen.append(set(texts))
        return TunedEncoder(frozen)

    monkeypatch.setattr(tuning, "tune", spy)
    frozen = FewShotClassifier(encoder=tiny).fit(X, Y)
    clf = FewShotClassifier(encoder=tiny).fit(X, Y, tune_encoder=True)
    *of_folds, of_all = seen
    assert len(of_folds) == tuning.FOLDS and all(len(texts) == 24 for texts in of_folds)
    assert set.intersection(*of_folds) == set()  # each text is left out once
    # as good as the frozen one: no veto
    assert of_all == set(X) and isinstance(without_words(clf.encoder_), TunedEncoder)
    assert clf.tuning_["frozen"] == pytest.approx(clf.tuning_["tuned"]) == clf.accuracy_
    share = f"{clf.accuracy_:.1%}"
    assert f"The encoder was tuned: {share} of held-out examples are right, {share}" in "".join(_about(clf))
    monkeypatch.setattr(tuning, "clearly_better", lambda a, b: True)
    with pytest.warns(UserWarning, match="keeps the frozen encoder: with it"):
        clf.fit(X, Y, tune_encoder=True)
    assert_array_equal(clf.predict_proba(X), frozen.predict_proba(X))
    assert (clf.accuracy_, without_words(clf.encoder_)) == (frozen.accuracy_, tiny)
    assert "tuned" not in "".join(_about(clf))


def test_a_tuned_classifier_is_judged_by_the_folds_and_loads_to_the_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "LR", 1e-2)
    clf = FewShotClassifier(encoder=tiny)
    proved = FewShotClassifier(encoder=tiny).fit(X, Y).held_out_
    monkeypatch.setattr(tuning, "checked", lambda _: proved)
    clf.fit(X, Y, tune_encoder=True)
    width = clf.encoder_.words.width
    assert clf.held_out_ is proved and clf.features_.shape == (36, 24 + width)
    clf.save(tmp_path)
    again = FewShotClassifier.load(tmp_path, encoder=tiny)
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert_array_equal(again.predict(X, reject=0.1), clf.predict(X, reject=0.1))
    with pytest.raises(ValueError, match="tuned on these very classes"):
        clf.add_class("fonts", ["the letter"])
    with pytest.raises(ValueError, match="tuned on these very classes"):
        again.remove_class("graphs")
    assert clf.fit(X, Y).features_.shape == (36, 12 + width)  # a new fit starts from the frozen encoder


def test_what_cannot_be_tuned_is_refused_before_any_work(tiny):
    points, own = np.eye(8), nn.Linear(2, 2)
    with pytest.raises(ValueError, match="`tune_encoder` is True, and `X` holds features"):
        FewShotClassifier().fit(points, np.arange(8) % 2, tune_encoder=True)
    with pytest.raises(ValueError, match="encoded by your own Linear"):
        FewShotClassifier(encoder=own).fit(X, Y, tune_encoder=True)
    for n, names, fewest in [(19, "auto", 2), (21, None, 4)]:  # of the second class: one, three
        with pytest.warns(UserWarning, match=f"needs {fewest} examples of every class, and one has {n - 18}"):
            clf = FewShotClassifier(encoder=tiny, names=names).fit(X[:n], Y[:n], tune_encoder=True)
        assert without_words(clf.encoder_) is tiny
