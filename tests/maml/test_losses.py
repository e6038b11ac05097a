"""The losses of the outer loop are as defined, whole and in chunks."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fewshot_lib.maml import MAML, meta_loss, plus_plus_loss, reptile_loss
from fewshot_lib.maml.outer import step_weights

from .helpers import both_engines, gradients, same
from .helpers import vector_net as net
from .helpers import vector_tasks as tasks


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_step_weights_move_to_the_last_step(steps):
    progresses = [0.0, 0.1, 0.25, 0.4, 0.499, 0.5, 1.0]
    weights = [step_weights(steps, p, 0.5) for p in progresses]
    assert all(len(w) == steps + 1 and sum(w) == pytest.approx(1) and w[0] == 0 for w in weights)
    assert weights[0] == pytest.approx([0.0] + steps * [1 / steps])  # the mean over the steps
    assert weights[-1] == weights[-2] == step_weights(steps, 0.3, 0.0) == steps * [0.0] + [1.0]  # MAML
    last = [w[-1] for w in weights]
    assert last == sorted(last)
    if steps > 1:
        assert weights[1][1:-1] == pytest.approx((steps - 1) * [0.8 / steps])  # linear on the way
        assert weights[4][1:-1] == pytest.approx((steps - 1) * [0.03 / steps])  # never below


def test_no_inner_step_has_one_weight():
    assert step_weights(0, 0.0, 1.0) == [1.0]


def test_the_multi_step_loss_is_the_weighted_sum():
    learner, t = MAML(net(), inner_steps=3, inner_lr=0.3), tasks(n_tasks=20)
    weights, labels = step_weights(3, 0.2, 0.5), t.query_labels
    outputs = [learner(*t[:3], n_steps=s) for s in range(4)]
    after = [F.cross_entropy(x.flatten(0, 1), labels.flatten()) for x in outputs]
    found = meta_loss(learner, t, 0.2, multi_step_until=0.5)
    same(found["loss"], sum(w * loss for w, loss in zip(weights, after, strict=True)))
    same(meta_loss(learner, t, 0.5, multi_step_until=0.5)["loss"], after[-1])
    first, last = ((outputs[s].argmax(-1) == labels).float().mean() for s in (1, 3))
    assert found["accuracy"] == last != first  # of the last step


def test_first_order_until():
    exact, first = (MAML(net(), inner_steps=2, inner_lr=0.3, first_order=f) for f in (False, True))
    t = tasks()
    first_order, second_order = gradients(first, t), gradients(exact, t)
    assert not torch.allclose(first_order[0], second_order[0])
    same(gradients(exact, t, 0.29, first_order_until=0.3), first_order)
    same(gradients(exact, t, 0.30, first_order_until=0.3), second_order)
    same(gradients(exact, t, 0.2, objective=plus_plus_loss), second_order)
    same(plus_plus_loss(exact, t, 0.05)["loss"], meta_loss(exact, t, 0.05, multi_step_until=0.1)["loss"])
    early = gradients(first, t, 0.05, multi_step_until=0.1)
    same(gradients(exact, t, 0.05, objective=plus_plus_loss), early)


@pytest.mark.parametrize("chunk", [1, 3, 4, 7])
@both_engines
def test_chunks_change_nothing(chunk, engine):
    options = {"inner_steps": 2, "inner_lr": 0.3, "engine": engine}
    whole, parts = (MAML(net(), **options, chunk_size=c) for c in (None, chunk))
    t, schedule = tasks(), {"progress": 0.1, "multi_step_until": 1.0}
    same(gradients(parts, t, **schedule), gradients(whole, t, **schedule))
    same(list(parts.buffers()), list(whole.buffers()))
    same(meta_loss(parts, t, **schedule), meta_loss(whole, t, **schedule))
    parts.zero_grad()
    with torch.no_grad():
        assert not meta_loss(parts, t)["loss"].requires_grad
    assert all(p.grad is None for p in parts.parameters())


def test_the_gradient_of_chunks_and_of_reptile_is_added_to_what_is_there():
    for options, objective in (({"chunk_size": 1}, meta_loss), ({}, reptile_loss)):
        learner, t = MAML(net("batch"), inner_steps=2, **options), tasks()
        once = gradients(learner, t, objective=objective)
        metrics = objective(learner, t)
        assert not metrics["loss"].requires_grad
        same([p.grad for p in learner.parameters()], [2 * g for g in once])


def test_running_averages_stand_still_at_test_time():
    learner = MAML(net(), inner_steps=2).eval()
    before = copy.deepcopy(learner.state_dict())
    meta_loss(learner, tasks()), reptile_loss(learner, tasks())
    same(learner.state_dict(), before)
    meta_loss(learner.train(), tasks())
    name = "step_norms.encoder/1/running_mean"
    assert not torch.equal(before[name], learner.state_dict()[name])
