"""Baselines: closed forms, invariances, and what each of them ignores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.prototypes import (
    centred,
    cosine_logits,
    cosine_prototypes,
    logistic_regression,
    name_features,
    name_mix,
    simple_shot,
    zero_shot,
)

LABELS = torch.arange(8).repeat_interleave(10)
CENTRE = torch.tensor([3.0, -1.0, 0.0, 2.0, 0.5, -2.0], dtype=torch.float64)


def batch(k=2):
    """support (E, N, K, d), query (E, M, d), names (E, N, d)."""
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 3, k, 6), (2, 5, 6), (2, 3, 6)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def test_zero_shot_ignores_the_support():
    support, query, names = batch()
    assert_close(zero_shot(support, query, names=names), zero_shot(-support, query, names=names))
    expected = F.cosine_similarity(query.unsqueeze(2), names.unsqueeze(1), dim=-1)
    assert_close(zero_shot(support, query, names=names), expected / 0.1)


def test_the_mix_lies_between_names_and_examples():
    """With a name that says what the examples say, it is the prototype; the length of neither matters."""
    support, query, names = batch(k=1)
    assert_close(name_mix(support, query, names=3 * support[:, :, 0]), cosine_prototypes(support, query))
    assert_close(name_mix(7 * support, query, names=names), name_mix(support, query, names=5 * names))
    units = F.normalize(support[:, :, 0], dim=-1) + F.normalize(names, dim=-1)
    assert_close(name_mix(support, query, names=names), cosine_logits(query, units))


def test_logistic_regression_separates_what_can_be_separated_on_unequal_shots_too():
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, (1, 3), 3, seed=0).sample(10)
    assert evaluate(logistic_regression, episodes, torch.eye(8)[LABELS]).mean == 1.0


def test_logistic_regression_is_scikit_learns_on_directions():
    from sklearn.linear_model import LogisticRegression

    support, query, _ = batch(k=4)
    x, asked = (F.normalize(part[0], dim=-1).numpy() for part in (support, query))
    probe = LogisticRegression(C=10, max_iter=1000).fit(x.reshape(-1, 6), np.repeat(range(3), 4))
    expected = torch.tensor(probe.predict_log_proba(asked))
    found = logistic_regression(support, 7 * query)[0].double()
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_simple_shot_is_the_nearest_mean_of_centred_directions():
    support, query, _ = batch()
    directions = F.normalize(support - CENTRE, dim=-1).mean(2)
    expected = -torch.cdist(F.normalize(query - CENTRE, dim=-1), directions).square()
    assert_close(simple_shot(CENTRE)(support, query), expected)


@pytest.fixture
def sentences(monkeypatch):
    """The sentences that would be encoded."""
    monkeypatch.setattr("fewshot_lib.prototypes.baselines.encode", lambda encoder, texts: texts)
    dataset = ClassDataset(["a", "b"], torch.tensor([0, 1]), ["cat", "dog"], {})
    return lambda *template: name_features(None, dataset, *template)


def test_names_go_into_the_template(sentences):
    assert sentences() == ["this is news about cat.", "this is news about dog."]
    assert sentences("a {}!") == ["a cat!", "a dog!"]
    assert sentences("{{}}") == ["{cat}", "{dog}"] and sentences("{x} {}") == ["{x} cat", "{x} dog"]
    for template in ("this is news", "{} and {}"):
        with pytest.raises(ValueError, match="must contain {} once"):
            sentences(template)


def test_centring_takes_away_what_the_training_classes_share_and_looks_at_no_other():
    splits = {"train": torch.arange(4), "test": torch.arange(4, 8)}
    dataset = ClassDataset(["a"] * 80, LABELS, list("abcdefgh"), splits)
    features = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    names = torch.eye(8)[:, :6] + 0.1
    found, found_names = centred(dataset, features + 3, names + 3)
    for vectors, chosen, raw in ((found, slice(40), features + 3), (found_names, slice(4), names + 3)):
        unit = raw / raw.norm(dim=-1, keepdim=True)
        by_hand = unit - unit[chosen].mean(0)
        assert_close(vectors, by_hand / by_hand.norm(dim=-1, keepdim=True))
    other = features.clone()
    other[40:] = torch.nan
    assert_close(centred(dataset, other)[0][:40], centred(dataset, features)[0][:40])
    assert centred(dataset, features)[1] is None
    without = ClassDataset(["a"], torch.tensor([1]), ["a", "b"], {"train": torch.tensor([0])})
    with pytest.raises(ValueError, match="`dataset` is unnamed, without any example of a training class"):
        centred(without, torch.ones(1, 2))
