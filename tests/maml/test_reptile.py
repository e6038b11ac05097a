"""Reptile: by its definition, of what is adapted alone, and without a graph."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from fewshot_lib.maml import MAML, meta_train, reptile_loss

from .helpers import both_engines, by_hand, same
from .helpers import vector_net as net
from .helpers import vector_tasks as tasks


@both_engines
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_reptile_is_its_definition(norm, engine):
    """θ ← θ − ε (θ − mean_t φ_S), twice, against copies of the model that torch's own SGD adapts."""
    learner, epsilon = MAML(net(norm), inner_steps=3, inner_lr=0.2, engine=engine), 0.4
    theta = copy.deepcopy(learner.model)
    for i in range(2):
        t = tasks(seed=i)
        support, labels = torch.cat([t.support, t.query], 1), torch.cat([t.support_labels, t.query_labels], 1)
        examples = t._replace(support=support, support_labels=labels)
        adapted = by_hand(theta, examples, 3, 0.2)
        losses = [F.cross_entropy(phi(x), y) for phi, x, y in zip(adapted, support, labels, strict=True)]
        with torch.no_grad():
            for p, *phis in zip(theta.parameters(), *(phi.parameters() for phi in adapted), strict=True):
                p -= epsilon * (p - torch.stack(phis).mean(0))
        options = {"optimizer": partial(torch.optim.SGD, lr=epsilon), "schedule": None}
        history = meta_train(learner.train(), lambda _, t=t: t, 1, objective=reptile_loss, **options)
        assert history.metrics["loss"] == pytest.approx([sum(losses).item() / 4])  # the loss after adaptation
        same(dict(learner.model.named_parameters()), dict(theta.named_parameters()))


def test_reptile_moves_only_what_is_adapted():
    learner = MAML(net(), inner_steps=2, adapt="head")
    reptile_loss(learner, tasks())
    moved = {name for name, p in learner.model.named_parameters() if p.grad is not None}
    assert moved == {"head.weight", "head.bias"}
    assert all(learner.model.get_parameter(name).grad.abs().max() > 0 for name in moved)


def test_reptile_keeps_averages_and_refuses_what_it_cannot_learn():
    learner = MAML(net(), inner_steps=2)
    metrics = reptile_loss(learner, tasks())
    averages = learner.step_norms.get_buffer("encoder/1/running_mean")
    assert averages[1].abs().max() > 0 and 0 <= metrics["accuracy"] <= 1
    message = r"`learner` \(MAML\) learns rates or norms per step, for which Reptile has no gradient"
    for options in ({"rates": "per_parameter"}, {"per_step_norm": True}):
        with pytest.raises(ValueError, match=message):
            reptile_loss(MAML(net(), **options), tasks())


def test_reptile_keeps_no_graph():
    learner, modes = MAML(net("group"), inner_steps=2, engine="loop"), []
    learner.model.encoder.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    reptile_loss(learner, tasks(n_tasks=1))
    assert modes == [True, True, False]  # the inner gradients, and the outputs at the end
