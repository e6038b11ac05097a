"""The best models are kept, and their ensemble is the mean of probabilities."""

import copy

import pytest
import torch
from torch import nn

from fewshot_lib.maml import MAML

from .helpers import WAYS, randn, same
from .helpers import vector_net as net
from .training_helpers import BestModels


def test_the_k_best_models_are_kept():
    learner, scores = MAML(net()), iter([0.3, 0.9, 0.1, 0.5, 0.9])
    best = BestModels(learner, lambda: next(scores), k=3)
    for i in range(5):
        nn.init.constant_(learner.model.head.bias, i)
        best.validate()
    kept = [(score, state["model.head.bias"][0].item()) for score, state in best.kept]
    assert kept == [(0.9, 1), (0.9, 4), (0.5, 3)]
    again = BestModels(learner, lambda: 0.0, k=3)
    again.load_state_dict(best.state_dict())
    assert [s for s, _ in again.kept] == [0.9, 0.9, 0.5]


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_an_ensemble_is_the_mean_of_probabilities(norm):
    learner = MAML(net(norm), inner_steps=2, inner_lr=0.3, name="mine")
    best = BestModels(learner, lambda: 1.0, k=3)
    support, query = randn(3, WAYS, 2, 4, seed=8), randn(3, 5, 4, seed=9)
    expected = []
    for i in range(3):
        nn.init.normal_(learner.model.head.weight, generator=torch.Generator().manual_seed(i))
        for b in learner.step_norms.buffers():
            b.copy_(randn(*b.shape, seed=i).abs())
        best.validate()
        expected.append(learner.as_method(3)(support, query).softmax(-1))
    assert not torch.allclose(expected[0], expected[1])
    nn.init.zeros_(learner.model.head.weight)  # training went on
    before = copy.deepcopy(learner.state_dict())
    together = best.as_method(n_steps=3)
    assert (together.name, together.transductive) == ("mine, ensemble of 3", norm == "batch")
    same(together(support, query).exp(), sum(expected) / 3)
    same(learner.state_dict(), before)  # the learner itself stays as it is
