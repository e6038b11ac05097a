"""What the inner loop computes: SGD on a copy, its closed forms, and new dropout for every task."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_lib.maml import MAML, Classifier, Tasks, meta_loss, prototype_head

from .helpers import (
    WAYS,
    Point,
    Tied,
    both_engines,
    by_hand,
    gradients,
    image_net,
    mlp,
    quadratic,
    randn,
    same,
    tasks,
)


@both_engines
@pytest.mark.parametrize("build", [mlp, Tied])
def test_the_inner_loop_is_sgd_on_a_copy(build, engine):
    """Of tied weights too: both ends move."""
    some_tasks, model = tasks(4), build()
    adapted = by_hand(model, some_tasks, 3, 0.3)
    outputs = MAML(model, inner_steps=3, inner_lr=0.3, engine=engine)(*some_tasks[:3])
    same(outputs, torch.stack([mine(x) for mine, x in zip(adapted, some_tasks.query, strict=True)]))


def bowls(n_tasks=3):
    """Support and query losses of tasks: centres (T, 1, 2) and positive definite A (T, 1, 2, 2)."""
    roots = randn(2, n_tasks, 1, 2, 2, seed=1)
    a = roots @ roots.mT + 0.5 * torch.eye(2, dtype=torch.float64)
    centres = randn(2, n_tasks, 1, 2, seed=2)
    return Tasks(centres[0], a[0], centres[1], a[1])


@both_engines
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_quadratic_tasks_have_closed_forms(steps, engine):
    """φ_S − c = (I − αA)^S (θ − c); gradient (I − αA)^S A' (φ_S − c'), A' (φ_S − c') to first order."""
    t, alpha, model = bowls(), 0.1, Point()
    c, a, c2, a2 = (leaf.squeeze(1) for leaf in (t.support, t.support_labels, t.query, t.query_labels))
    power = torch.linalg.matrix_power(torch.eye(2) - alpha * a, steps)
    phi = c + (power @ (model.phi.detach() - c).unsqueeze(-1)).squeeze(-1)
    at_query = a2 @ (phi - c2).unsqueeze(-1)  # (T, 2, 1)
    learner = MAML(model, inner_steps=steps, inner_lr=alpha, loss=quadratic, engine=engine)
    same(learner.run(t.support, t.support_labels, t.query, [steps]).parameters["phi"], phi)
    same(learner(t.support, t.support_labels, t.query), (phi - c2).unsqueeze(1))
    same(gradients(learner, t), [(power @ at_query).mean(0).squeeze(-1)])
    learner.first_order = True
    same(gradients(learner, t), [at_query.mean(0).squeeze(-1)])


@both_engines
def test_learnt_rates_belong_to_their_step_and_their_tensor(engine):
    """φ_S − c = Π (I − α_s A)(θ − c), and one step's rate has the meta-gradient −∇L_s · ∇L_q."""
    t, model = bowls(), Point()
    options = {"loss": quadratic, "engine": engine}
    learner = MAML(model, inner_steps=3, rates="per_tensor_per_step", **options)
    rates = torch.tensor([0.05, 0.2, 0.1], dtype=torch.float64)
    learner.rates["phi"].data = rates
    away = (model.phi.detach() - t.support).mT  # (T, 2, 1)
    for rate in [*rates, rates[-1]]:  # a fourth step goes on at the last rate
        away = away - rate * t.support_labels.squeeze(1) @ away
    same(learner.run(*t[:3], [4]).parameters["phi"], (away.mT + t.support).squeeze(1))

    sgd = MAML(model, inner_steps=1, rates="per_parameter", **options)
    sgd.rates["phi"].data = rates[:2]
    a, a2 = t.support_labels.squeeze(1), t.query_labels.squeeze(1)
    slope = (a @ (model.phi.detach() - t.support).mT).squeeze(-1)
    phi = model.phi.detach() - rates[:2] * slope
    same(sgd.run(*t[:3], [1]).parameters["phi"], phi)
    at_query = (a2 @ (phi.unsqueeze(1) - t.query).mT).squeeze(-1)
    same(gradients(sgd, t)[1], (-slope * at_query).mean(0))


@pytest.mark.parametrize("rates", ["per_parameter", "per_tensor_per_step"])
def test_learnt_rates_start_as_maml(rates):
    some_tasks, options = tasks(1, 6, 6), {"inner_steps": 2, "inner_lr": 0.3}
    plain, learning = MAML(image_net("batch"), **options), MAML(image_net("batch"), rates=rates, **options)
    named = plain.model.named_parameters()
    shapes = {name: tuple(p.shape) if rates == "per_parameter" else (2,) for name, p in named}
    assert {name.replace("/", "."): tuple(p.shape) for name, p in learning.rates.items()} == shapes
    same(meta_loss(learning, some_tasks)["loss"], meta_loss(plain, some_tasks)["loss"])
    found = gradients(learning, some_tasks)
    same(found[: len(shapes)], gradients(plain, some_tasks))
    assert all(g.abs().max() > 0 for g in found[len(shapes) :])


@both_engines
def test_no_inner_step_is_ordinary_learning_from_the_queries(engine):
    some_tasks, model = tasks(1, 6, 6), image_net("group")
    loss = F.cross_entropy(model(some_tasks.query.flatten(0, 1)), some_tasks.query_labels.flatten())
    expected = list(torch.autograd.grad(loss, list(model.parameters())))
    same(gradients(MAML(model, inner_steps=0, engine=engine), some_tasks), expected)


def test_first_order_tends_to_second_order_with_the_inner_rate():
    some_tasks, gaps = tasks(1, 6, 6), []
    for rate in (1e-3, 1e-4):
        learners = [MAML(image_net("batch"), 3, rate, first_order=f) for f in (False, True)]
        pairs = zip(*(gradients(learner, some_tasks) for learner in learners), strict=True)
        gaps.append(max((a - b).abs().max().item() for a, b in pairs))
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05) and gaps[0] > 1e-5


def test_proto_maml_starts_as_prototypes():
    """−‖f(x) − c_k‖² up to a constant per query."""
    some_tasks, model = tasks(1, 6, 6), image_net()
    logits = MAML(model, start=prototype_head)(*some_tasks[:3], n_steps=0)
    support, query = (model.encoder(x.flatten(0, 1)).unflatten(0, (2, -1)) for x in some_tasks[::2])
    means = support.unflatten(1, (2, WAYS)).mean(1)  # the supports are of the classes in turn
    offset = logits + torch.cdist(query, means).square()
    same(offset, offset[..., :1].expand_as(offset))


def test_outputs_stand_in_the_order_that_was_asked_for():
    learner, some_tasks = MAML(image_net("batch"), inner_steps=2, inner_lr=0.3), tasks(1, 6, 6)
    outputs = learner.run(*some_tasks[:3], [2, 0, 2]).outputs
    for i, steps in enumerate([2, 0, 2]):
        same(outputs[:, i], learner(*some_tasks[:3], n_steps=steps))


@both_engines
def test_dropout_is_drawn_anew_for_every_task_and_is_off_at_test_time(engine):
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5)), 40, WAYS).double()
    learner, one = MAML(model, inner_steps=2, engine=engine), tasks(4, n_tasks=1)
    twice = Tasks(*(leaf.expand(2, *leaf.shape[1:]) for leaf in one))
    outputs = learner(*twice[:3])
    assert not torch.allclose(outputs[0], outputs[1])
    assert all(g.isfinite().all() for g in gradients(learner, twice))
    outputs = learner.eval()(*twice[:3])
    same(outputs[0], outputs[1])
