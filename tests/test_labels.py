"""Label names as features: closed forms, invariances, and that a method which needs names says so."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.labels import centred, label_features, label_mix, logistic_regression, zero_shot
from fewshot_lib.prototypes import cosine_prototypes

LABELS = torch.arange(8).repeat_interleave(10)


def batch(e=2, n=3, k=2, m=5, d=6):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(e, n, k, d, generator=generator),
        torch.randn(e, m, d, generator=generator),
        torch.randn(e, n, d, generator=generator),
    )


def test_zero_shot_ignores_the_support():
    support, query, labels = batch()
    assert_close(zero_shot(support, query, labels=labels), zero_shot(-support, query, labels=labels))
    expected = torch.nn.functional.cosine_similarity(query.unsqueeze(2), labels.unsqueeze(1), dim=-1)
    assert_close(zero_shot(support, query, labels=labels), expected / 0.1)


def test_the_mix_lies_between_names_and_examples():
    """With a name that says what the examples say, the mix is the prototype; the length of neither matters."""
    support, query, labels = batch(k=1)
    assert_close(label_mix(support, query, labels=3 * support[:, :, 0]), cosine_prototypes(support, query))
    assert_close(label_mix(7 * support, query, labels=labels), label_mix(support, query, labels=5 * labels))


def test_logistic_regression_separates_what_can_be_separated():
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 2, 3, seed=0).sample(10)
    assert evaluate(logistic_regression, episodes, torch.eye(8)[LABELS]).mean == 1.0


def test_logistic_regression_on_padded_ways_never_predicts_the_padding():
    episodes = EpisodeSampler(LABELS, torch.arange(8), (2, 5), (1, 3), 3, seed=0).sample(12)
    features = torch.eye(8)[LABELS]
    logits = logistic_regression(features[episodes.support], features[episodes.query], support_mask=episodes.support_mask)
    padding = ~episodes.support_mask.any(-1)
    assert padding.any() and logits.transpose(1, 2)[padding].isneginf().all()
    assert evaluate(logistic_regression, episodes, features).mean == 1.0


def test_evaluate_gives_every_way_the_name_of_its_class():
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 3, seed=0).sample(20)
    noise = torch.randn(80, 8, generator=torch.Generator().manual_seed(1))
    features = 10 * torch.eye(8)[LABELS] + noise
    assert evaluate(zero_shot, episodes, features, label_features=torch.eye(8)).mean > 0.99
    wrong_names = torch.eye(8).roll(1, dims=0)
    assert evaluate(zero_shot, episodes, features, label_features=wrong_names).mean < 0.3


def test_missing_names_are_asked_for():
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 3, seed=0).sample(2)
    with pytest.raises(ValueError, match="`label_features` is missing: 'label names, zero-shot' uses the names"):
        evaluate(zero_shot, episodes, torch.eye(8)[LABELS])


@pytest.mark.parametrize("template", ["this is news", "{} and {}"])
def test_a_template_has_one_place_for_the_name(template):
    dataset = ClassDataset(["a"], torch.tensor([0]), ["x"], {})
    with pytest.raises(ValueError, match="must contain {} once"):
        label_features(None, dataset, template)


def test_centring_takes_away_what_the_training_classes_share_and_looks_at_no_other():
    dataset = ClassDataset(["a"] * 80, LABELS, list("abcdefgh"), {"train": torch.arange(4), "test": torch.arange(4, 8)})
    features, names = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)), torch.eye(8)[:, :6] + 0.1
    found, found_names = centred(dataset, features + 3, names + 3)
    for vectors, chosen, raw in ((found, slice(40), features + 3), (found_names, slice(4), names + 3)):
        unit = raw / raw.norm(dim=-1, keepdim=True)
        by_hand = unit - unit[chosen].mean(0)
        assert_close(vectors, by_hand / by_hand.norm(dim=-1, keepdim=True))
    other = features.clone()
    other[40:] = torch.nan
    assert_close(centred(dataset, other)[0][:40], centred(dataset, features)[0][:40])
    assert centred(dataset, features)[1] is None
    with pytest.raises(ValueError, match="`dataset`"):
        centred(ClassDataset(["a"], torch.tensor([1]), ["a", "b"], {"train": torch.tensor([0])}), torch.ones(1, 2))
