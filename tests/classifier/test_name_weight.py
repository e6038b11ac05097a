"""How much names count: closed forms, and examples that speak for the names or against them."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.classifier import FewShotClassifier, HeldOut, name_weight
from fewshot_lib.classifier.name_weight import ENOUGH, MOST, WEIGHTS, found_weight
from fewshot_lib.prototypes import NamesAsExamples

N_WAY, D = 6, 24


def episode(n_shot, seed=0, noise=2.0, n_way=N_WAY):
    """Support (N, K, d), mask (N, K), names (N, d) near their classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_way, 1, D, generator=generator, dtype=torch.float64)
    support = centres + noise * torch.randn(n_way, n_shot, D, generator=generator, dtype=torch.float64)
    names = centres[:, 0] + 0.5 * torch.randn(n_way, D, generator=generator, dtype=torch.float64)
    return support, torch.ones(n_way, n_shot, dtype=torch.bool), names


def test_the_likelihood_is_the_largest_over_temperatures_with_their_density():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    held_out = HeldOut(torch.arange(40), logits, labels, logits.amax(-1))
    log_t = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    log_p = (logits / log_t.exp().view(-1, 1, 1)).log_softmax(-1)
    values = log_p.gather(2, labels.expand(len(log_t), -1).unsqueeze(2)).sum((1, 2)) - log_t**2 / 2
    assert held_out.log_likelihood() == pytest.approx(float(values.max()), abs=1e-4)
    assert held_out.temperature() == pytest.approx(float(log_t[values.argmax()].exp()), rel=1e-2)
    nothing = HeldOut(torch.arange(0), logits[:0], labels[:0], logits[:0, 0])
    assert (nothing.temperature(), nothing.log_likelihood()) == (1, 0)


@pytest.mark.parametrize("n_shot", [1, MOST + 1])
def test_where_no_example_can_be_spared_or_there_are_many_it_is_that_of_the_method(n_shot, monkeypatch):
    monkeypatch.setattr(name_weight, "hold_out", None)
    assert found_weight(*episode(n_shot)) == NamesAsExamples.weight


@pytest.mark.parametrize("n_shot", [2, 3, 8])
def test_names_that_fit_count_more_and_names_of_other_classes_less(n_shot):
    for seed in range(3):
        support, mask, names = episode(n_shot, seed)
        right, wrong = (found_weight(support, mask, n) for n in (names, names.roll(1, 0)))
        assert WEIGHTS[0] <= wrong < 1.5 < 3 < right <= WEIGHTS[-1]


def test_one_weight_is_left_as_it_is_and_two_alike_give_their_geometric_mean(monkeypatch):
    support, mask, names = episode(3)
    monkeypatch.setattr(name_weight, "WEIGHTS", (1.7,))
    assert found_weight(support, mask, names) == pytest.approx(1.7)
    monkeypatch.setattr(name_weight, "WEIGHTS", (1.0, 9.0))  # as far from 3 on either side
    everywhere_the_same = HeldOut(torch.arange(2), torch.zeros(2, 6), torch.tensor([0, 1]), torch.zeros(2))
    monkeypatch.setattr(name_weight, "hold_out", lambda *_: everywhere_the_same)
    assert found_weight(support, mask, names) == pytest.approx(3)


def test_the_order_of_the_classes_does_not_matter_nor_what_stands_where_there_is_no_example():
    support, mask, names = episode(4)
    mask[0, 1:] = mask[1, 3:] = False
    found = found_weight(support, mask, names)
    order = torch.randperm(N_WAY, generator=torch.Generator().manual_seed(0))
    assert found_weight(support[order], mask[order], names[order]) == pytest.approx(found, rel=1e-4)
    noise = support.masked_fill(~mask.unsqueeze(-1), 7.0)
    assert found_weight(noise, mask, names) == pytest.approx(found, rel=1e-6)


def test_the_only_example_of_a_class_is_never_held_out(monkeypatch):
    support, mask, names = episode(3)
    mask[2:, 1:] = False
    asked = []

    def answer(method, rest, kept, query, names):
        assert kept.any(1).all() and not (rest[kept].unsqueeze(0) == query.unsqueeze(1)).all(-1).any()
        asked.append(len(query))
        return torch.zeros(len(query), N_WAY, dtype=torch.float64)

    monkeypatch.setattr(name_weight, "answer", answer)
    found_weight(support, mask, names)
    assert sum(asked) == 6 * len(WEIGHTS)


@pytest.mark.parametrize(("n_way", "n_folds"), [(6, 4), (100, 3), (300, 1)])
def test_no_more_folds_are_asked_than_it_takes(n_way, n_folds, monkeypatch):
    asked = []

    def answer(method, rest, kept, query, names):
        asked.append(len(query))
        return torch.zeros(len(query), n_way, dtype=torch.float64)

    monkeypatch.setattr(name_weight, "answer", answer)
    found_weight(*episode(4, n_way=n_way))
    assert asked == [n_way] * n_folds * len(WEIGHTS)
    assert n_folds == 4 or ENOUGH <= n_folds * n_way < ENOUGH + n_way


class Letters(torch.nn.Module):
    """A text of words "<class>.<seed>" is a noisy centre; a name is the centre of the class it says."""

    def forward(self, texts):
        return torch.stack([self.one(text.removeprefix("this is about ").rstrip(".")) for text in texts])

    @staticmethod
    def one(text):
        kind, _, seed = text.partition(" ")
        centre = torch.randn(D, generator=torch.Generator().manual_seed(ord(kind[0])))
        noise = torch.randn(D, generator=torch.Generator().manual_seed(1000 + int(seed))) if seed else 0
        return centre + 2.5 * noise


def test_a_classifier_with_wrong_names_is_better_than_one_that_trusts_them_and_keeps_its_weight(tmp_path):
    kinds = ["apple", "bread", "chair", "dress", "earth", "flame"]
    known = [(f"{k} {100 * i + j}", k) for i, k in enumerate(kinds) for j in range(3)]
    texts, labels = map(list, zip(*known, strict=True))
    asked = [(f"{k} {9000 + 100 * i + j}", k) for i, k in enumerate(kinds) for j in range(60)]
    wrong = dict(zip(kinds, np.roll(kinds, 1).tolist(), strict=True))
    scores = {}
    for method in (None, NamesAsExamples()):
        clf = FewShotClassifier(method, names=wrong, encoder=Letters()).fit(texts, labels)
        scores[method] = clf.score(*map(list, zip(*asked, strict=True)))
    assert scores[None] > scores[NamesAsExamples()] + 0.05
    clf = FewShotClassifier(names=wrong, encoder=Letters()).fit(texts, labels)
    weight = clf.method_.weight
    assert weight < 1
    clf.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model", encoder=Letters())
    for each in (clf, again):
        each.remove_class("chair")
        assert each.method_.weight == weight
    assert_close(again.head_.weights, clf.head_.weights, rtol=0, atol=0)
    assert math.isfinite(clf.accuracy_)
