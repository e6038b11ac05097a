"""Norms with averages, scales and shifts of their own for every inner step."""

import pytest
import torch

from fewshot_lib.maml import MAML, meta_loss

from .helpers import both_engines, by_hand, image_net, same, tasks


def stacks(learner):
    """The running averages of every step, by name."""
    return dict(learner.step_norms.named_buffers())


def changed_by(learner, stack, step):
    """Which numbers of inner steps give other outputs once the step's row of a stack has changed."""
    some_tasks, at = tasks(1, 6, 6), list(range(learner.inner_steps + 1))
    before = learner.run(*some_tasks[:3], at).outputs.detach()
    with torch.no_grad():
        stack[step] += 0.5
    after = learner.run(*some_tasks[:3], at).outputs.detach()
    return [s for s in at if not torch.allclose(before[:, s], after[:, s], atol=1e-6)]


@pytest.mark.parametrize("step", [0, 1, 2])
@both_engines
def test_the_averages_of_a_step_are_used_for_the_queries_after_it(step, engine):
    """And nowhere else: the inner loop keeps to the statistics of its support set."""
    learner = MAML(image_net("running"), inner_steps=2, inner_lr=0.3, engine=engine).eval()
    assert set(stacks(learner)) == {"encoder/1/running_mean", "encoder/1/running_var"}
    for stack in stacks(learner).values():
        assert changed_by(learner, stack, step) == [step]
    learner.train()  # in training they are moved, not used
    assert changed_by(learner, stack, step) == []


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("norm", ["batch", "running"])
def test_the_scales_and_shifts_of_a_step_are_used_at_that_step(step, norm):
    learner = MAML(image_net(norm), inner_steps=2, inner_lr=0.3, per_step_norm=True)
    scales = dict(learner.step_norms.named_parameters())
    assert set(scales) == {"encoder/1/weight", "encoder/1/bias"}
    assert not {"encoder.1.weight", "encoder.1.bias"} & set(learner.adapted)
    for stack in scales.values():
        assert changed_by(learner, stack, step) == list(range(step, 3))
    own = learner.model.encoder[1].weight
    assert changed_by(learner, [own] * 3, step) == []  # the model's own have given way


@both_engines
@pytest.mark.parametrize("at_all_steps", [False, True])
def test_averages_are_those_of_the_networks_on_the_way(engine, at_all_steps):
    """By copies of the model: at each step over the queries, or, where they were not asked, the supports."""
    some_tasks, model = tasks(1, 6, 6), image_net("running")
    learner = MAML(model, inner_steps=2, inner_lr=0.3, engine=engine)
    old = [b.clone() for b in stacks(learner).values()]
    adapted = [by_hand(model, some_tasks, s, 0.3) for s in range(3)]
    meta_loss(learner, some_tasks, **({"progress": 0.2, "multi_step_until": 1.0} if at_all_steps else {}))
    for s in range(3):
        asked = some_tasks.query if s == 2 or (at_all_steps and s == 1) else some_tasks.support
        outputs = [mine.encoder[0](x) for mine, x in zip(adapted[s], asked, strict=True)]
        means, variances = (
            torch.stack(list(of_each)).mean(0)
            for of_each in zip(*((x.mean((0, 2, 3)), x.var((0, 2, 3))) for x in outputs), strict=True)
        )
        for new, buffer, before in zip((means, variances), stacks(learner).values(), old, strict=True):
            same(buffer[s], 0.9 * before[s] + 0.1 * new)
    # the model itself is φ_0
    same(model.encoder[1].running_mean, stacks(learner)["encoder/1/running_mean"][0])


def test_steps_beyond_the_trained_ones_use_the_last_averages():
    learner, some_tasks = MAML(image_net("running"), inner_lr=0.3).eval(), tasks(1, 6, 6)
    before = learner(*some_tasks[:3], n_steps=4)
    stacks(learner)["encoder/1/running_mean"][1] += 0.5
    assert not torch.allclose(before, learner(*some_tasks[:3], n_steps=4))
