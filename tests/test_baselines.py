"""Baseline, Baseline++ and SimpleShot: the papers' settings, closed forms, and what each ignores."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.baselines import baseline, baseline_plus_plus, simple_shot
from fewshot_lib.prototypes import cosine_logits

CENTRE = torch.tensor([3.0, -1.0, 0.0, 2.0, 0.5], dtype=torch.float64)


def batch(e=3, n=4, k=2, m=6, d=5):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(e, n, k, d, generator=generator, dtype=torch.float64),
        torch.randn(e, m, d, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("method", [baseline(steps=9), baseline_plus_plus(steps=9), simple_shot(CENTRE)], ids=lambda m: m.name)
def test_they_are_inductive_and_a_batch_equals_a_loop(method):
    support, query = batch()
    logits = method(support, query)
    assert not method.transductive
    assert_close(torch.cat([method(support[e : e + 1], query[e : e + 1]) for e in range(3)]), logits, atol=1e-6, rtol=0)
    assert_close(torch.cat([method(support, query[:, m : m + 1]) for m in range(6)], 1), logits)


def test_the_baselines_have_the_settings_of_the_paper_and_can_be_changed():
    assert (baseline().head, baseline_plus_plus().head) == ("linear", "cosine")
    assert not baseline().normalise and baseline_plus_plus().temperature == 0.5
    for method in (baseline(), baseline_plus_plus()):
        assert (method.init, method.optimizer, method.lr, method.regulariser, method.weight) == (
            "random",
            "sgd",
            0.01,
            "weight_decay",
            1e-3,
        )
    assert baseline(steps=7).steps == 7 and baseline_plus_plus(label="mine").name == "mine"


def test_baseline_is_a_linear_layer_trained_with_the_papers_optimizer():
    support, query = batch()
    method = baseline(steps=30, weight=0.1)
    start = method.start(support)
    for e in range(3):
        layer = torch.nn.Linear(5, 4, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(start.weights[e])
            layer.bias.zero_()
        groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}]
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, dampening=0.9)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(layer(support[e].flatten(0, 1)), torch.arange(4).repeat_interleave(2)).backward()
            optimizer.step()
        assert_close(method(support, query)[e], layer(query[e]).detach(), atol=1e-9, rtol=0)


def test_baseline_plus_plus_ignores_the_length_of_features_and_baseline_does_not():
    support, query = batch()
    assert_close(baseline_plus_plus(steps=9)(3 * support, 3 * query), baseline_plus_plus(steps=9)(support, query))
    assert not torch.allclose(baseline(steps=9)(3 * support, 3 * query), baseline(steps=9)(support, query), atol=0.1)


@pytest.mark.parametrize("make", [baseline, baseline_plus_plus], ids=["Baseline", "Baseline++"])
def test_from_chance_at_the_start_to_separable_episodes_solved(make):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20).expand(50, 20) % 4
    support = 3 * torch.eye(4, 8).view(1, 4, 1, 8) + 0.1 * torch.randn(50, 4, 2, 8, generator=generator)
    query = 3 * torch.eye(4, 8)[labels] + 0.1 * torch.randn(50, 20, 8, generator=generator)
    start, end = ((make().trajectory(support, query, [0, 500]).argmax(-1) == labels).double().mean((1, 2))).tolist()
    assert start < 0.6 and end == 1


def test_simple_shot_is_the_nearest_mean_of_centred_directions():
    support, query = batch()
    directions = F.normalize(support - CENTRE, dim=-1).mean(2)
    expected = -torch.cdist(F.normalize(query - CENTRE, dim=-1), directions).square()
    logits = simple_shot(CENTRE)(support, query)
    assert_close(logits, expected)
    assert_close(simple_shot(CENTRE + 7)(support + 7, query + 7), logits)  # a shift of the space does not matter
    assert_close(simple_shot(2 * CENTRE)(2 * support, 2 * query), logits)  # nor does its scale


def test_simple_shot_at_one_shot_is_the_cosine_classifier_on_centred_features():
    support, query = batch(k=1)
    cosine = cosine_logits(query - CENTRE, (support - CENTRE).squeeze(2), temperature=1.0)
    assert_close(simple_shot(CENTRE)(support, query), 2 * cosine - 2)


def test_simple_shot_never_predicts_padding():
    support, query = batch()
    mask = torch.ones(3, 4, 2, dtype=torch.bool)
    mask[:, 3] = False
    logits = simple_shot(CENTRE)(support, query, support_mask=mask)
    assert (logits[..., 3] == -torch.inf).all()
    assert_close(logits[..., :3], simple_shot(CENTRE)(support[:, :3], query))
