"""What moves in the inner loop, and what does not."""

import copy

import pytest
import torch
from torch import nn

from fewshot_lib.maml import MAML, meta_loss, prototype_head

from .helpers import WAYS, assert_right, both_engines, gradients, image_net, same, tasks


def test_only_what_is_adapted_moves_in_the_inner_loop():
    some_tasks, model = tasks(1, 6, 6), image_net("batch")
    for adapt, names in (
        ("head", {"head.weight", "head.bias"}),
        (("encoder.1", "head.bias"), {"encoder.1.weight", "encoder.1.bias", "head.bias"}),
        (None, {name for name, _ in model.named_parameters()}),
    ):
        phi = MAML(model, inner_lr=0.3, adapt=adapt).run(*some_tasks[:3], [1]).parameters
        assert set(phi) == names
        moved = {n for n, value in phi.items() if not torch.allclose(value, model.get_parameter(n))}
        assert moved >= names - {"encoder.0.bias"}  # which the norm takes out again
    started = MAML(model, inner_lr=0.3, start=prototype_head).run(*some_tasks[:3], [0]).parameters
    body = MAML(model, inner_lr=0.3, adapt="encoder", start=prototype_head)
    # a start may set what is not adapted: it stays there
    same(body.run(*some_tasks[:3], [0, 1]).parameters["head.weight"], started["head.weight"])


def test_a_prefix_is_a_name_and_not_its_beginning():
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "header": nn.Linear(2, 2)})
    assert MAML(model, adapt="head").adapted == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    "options",
    [{}, {"rates": "per_parameter"}, {"first_order": True}, {"per_step_norm": True}, {"chunk_size": 1}],
    ids=str,
)
def test_frozen_parameters_neither_move_nor_have_a_gradient(options):
    model, some_tasks = image_net("batch"), tasks(1, 6, 6)
    model.encoder.requires_grad_(False)
    learner = MAML(model, inner_steps=2, inner_lr=0.3, **options)
    assert set(learner.adapted) == {"head.weight", "head.bias"}
    assert {n for n, p in learner.named_parameters() if p.requires_grad and "head" not in n} == set()
    gradients(learner, some_tasks)
    assert all((p.grad is not None) == p.requires_grad for p in learner.parameters())
    model.encoder[0].bias.requires_grad_(True)
    assert_right(MAML(model, inner_steps=2, inner_lr=0.3), some_tasks)


@both_engines
def test_a_run_does_not_change_the_model(engine):
    some_tasks = tasks(1, 6, 6)
    options = {"per_step_norm": True, "engine": engine}
    learner = MAML(image_net("running"), inner_steps=2, inner_lr=0.3, **options)
    before = copy.deepcopy(learner.state_dict())
    learner.run(*some_tasks[:3], [0, 2])
    learner.as_method()(some_tasks.support.unflatten(1, (WAYS, 2)), some_tasks.query)
    with torch.no_grad():
        meta_loss(learner.eval(), some_tasks)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
