import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.classifier import FewShotClassifier, HeldOut, wilson
from fewshot_lib.classifier.held_out import MAX_FOLDS, hold_out
from fewshot_lib.classifier.suggestion import suggest


def seen(support, mask, query):
    """Logits that say, for every class, how many examples of it there are; familiarity: of all."""
    return mask.sum(1).double().expand(len(query), -1), mask.sum().double().expand(len(query))


@pytest.mark.parametrize("shots", [[3, 3], [1, 4], [25, 7, 1]])
def test_every_example_is_answered_once_by_those_of_other_folds(shots):
    shots = torch.tensor(shots)
    k = int(shots.max())
    mask = torch.arange(k) < shots.unsqueeze(1)
    rows = torch.arange(mask.numel()).view(mask.shape)
    found = hold_out(torch.randn(*mask.shape, 4), mask, rows, torch.randn(len(shots), 4), seen)
    assert sorted(found.rows.tolist()) == rows[mask].tolist()
    per_fold = (shots / min(k, MAX_FOLDS)).ceil()
    for label, counts in zip(found.labels.tolist(), found.logits, strict=True):
        assert counts[label] == max(1, shots[label] - 1) or shots[label] - counts[label] <= per_fold[label]
        assert counts.min() >= 1


def test_a_held_out_example_does_not_answer_itself():
    support = torch.eye(6).view(2, 3, 6)

    def answer(rest, mask, query):
        cosines = query @ rest[mask].T
        return torch.zeros(len(query), 2), cosines.amax(1).double()

    found = hold_out(support, torch.ones(2, 3, dtype=torch.bool), torch.arange(6).view(2, 3), None, answer)
    assert found.familiarity.max() == 0


def test_the_last_example_of_a_class_is_replaced_by_its_name_or_stays():
    support, mask = torch.arange(4.0).view(2, 2, 1), torch.tensor([[True, True], [True, False]])
    supports = []

    def answer(rest, kept, query):
        supports.append(rest[1, 0].item())
        return torch.zeros(len(query), 2), torch.zeros(len(query)).double()

    rows = torch.arange(4).view(2, 2)
    assert len(hold_out(support, mask, rows, torch.full((2, 1), 9.0), answer)) == 3
    assert supports == [9, 2]
    assert hold_out(support, mask, rows, None, answer).labels.tolist() == [0, 0]


def test_wilsons_interval():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)  # Wilson 1927; R's binom.confint
    assert wilson(0, 0) == (0, 1) and wilson(5, 5)[1] == 1


def of_logits(logits, labels):
    return HeldOut(torch.arange(len(labels)), logits, labels, logits.amax(-1))


def test_the_temperature_makes_probabilities_honest():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    assert of_logits(5 * logits, labels).temperature() == pytest.approx(5, rel=0.05)
    assert of_logits(logits[:0], labels[:0]).temperature() == 1


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.99])
def test_conformal_sets_cover_as_promised(coverage):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    limit = of_logits(logits[:2000], labels[:2000]).threshold(coverage, 1.0)
    p = logits[2000:].softmax(-1).gather(1, labels[2000:, None])[:, 0]
    assert (1 - p <= limit).double().mean().item() == pytest.approx(coverage, abs=0.03)


def test_too_few_examples_promise_nothing_and_get_every_class():
    assert of_logits(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)).threshold(0.9, 1.0) == float("inf")


def test_p_values_of_the_same_kind_are_uniform():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3000, generator=generator, dtype=torch.float64)
    held_out = HeldOut(*[torch.zeros(1000)] * 3, scores[:1000])
    p = held_out.p_values(scores[1000:])
    for share in (0.05, 0.2, 0.5):
        assert (p <= share).double().mean().item() == pytest.approx(share, abs=0.03)
    assert held_out.p_values(torch.tensor([-1.0, 2.0], dtype=torch.float64))[1] == 1


def test_what_looks_foreign_is_refused():
    rng = np.random.default_rng(0)
    own = np.repeat(np.eye(3, 8), 30, 0) + 0.1 * rng.normal(size=(90, 8))
    labels = np.repeat(["a", "b", "c"], 30)
    clf = FewShotClassifier().fit(own[::2], labels[::2])
    assert np.equal(clf.predict(own[1::2], reject=0.05), None).mean() < 0.2
    foreign = np.eye(8)[5:] + 0.1 * rng.normal(size=(3, 8))
    assert all(label is None for label in clf.predict(foreign, reject=0.05))
    assert all(len(s) >= 1 and s[0] == p for s, p in zip(clf.predict_set(own), clf.predict(own), strict=True))


def test_suggestions_are_doubtful_typical_and_differ():
    features = torch.tensor([[1.0, 0], [1, 0.01], [0, 1], [0.7, 0.7]])
    p = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [1.0, 0.0]])
    assert suggest(p, features, 2).tolist() == [1, 2]
    assert_close(suggest(p, features, 9).sort().values, torch.arange(4))


def test_an_oddity_is_suggested_last_however_doubtful():
    """Forty inputs of two kinds, and one like no other."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.eye(2, 5).repeat_interleave(20, 0)
    features = torch.cat([kinds + 0.02 * torch.randn(40, 5, generator=generator), torch.eye(5)[4:]])
    p = torch.full((41, 2), 0.5)
    p[:40] = torch.tensor([0.6, 0.4])
    first = suggest(p, features, 2).tolist()
    assert sorted(row // 20 for row in first) == [0, 1]
