"""A learner as a few-shot method: modes, transduction, and episodes that do not fit."""

import pytest
import torch
from torch import nn

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.encoders import Conv4
from fewshot_lib.maml import MAML, Classifier, norms

from .helpers import WAYS, Point, image_net, quadratic, randn


def images():
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(12, 1, 6, 6, generator=generator)
    labels = torch.arange(12).repeat_interleave(20)
    return prototypes[labels] + 0.05 * torch.rand(240, 1, 6, 6, generator=generator), labels


def draw(n_episodes=7, n_way=WAYS, n_shot=2):
    return EpisodeSampler(images()[1], torch.arange(12), n_way, n_shot, 4, seed=0).sample(n_episodes)


def test_as_a_method_it_adapts_to_raw_inputs():
    inputs, _ = images()
    torch.manual_seed(0)
    learner = MAML(Classifier(nn.Flatten(), 36, WAYS), inner_lr=0.5, name="mine")
    before, after = (evaluate(learner.as_method(n_steps=s), draw(50), inputs) for s in (0, 100))
    assert after.mean > 0.95 > 0.5 > before.mean
    assert (after.method, after.transductive) == ("mine, 100 steps", False)
    pictures = (255 * torch.rand(240, 1, 28, 28, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    learner = MAML(norms.with_norm(Classifier(Conv4(width=4), 4, WAYS), "batch"))
    results = evaluate(learner.as_method(name="on pictures"), draw(), pictures)
    assert (results.method, results.transductive, results.n_episodes) == ("on pictures", True, 7)


def test_as_a_method_it_restores_every_mode_even_when_it_fails():
    learner = MAML(image_net("running"))
    learner.model.encoder[1].eval()
    modes = [m.training for m in learner.modules()]
    run, support = learner.as_method(), randn(2, WAYS, 2, 1, 6, 6)
    run(support, randn(2, 4, 1, 6, 6))
    assert [m.training for m in learner.modules()] == modes
    with pytest.raises(RuntimeError, match="channels"):
        run(support, randn(2, 4, 5, 6, 6))
    assert [m.training for m in learner.modules()] == modes


def test_transduction_is_declared_for_test_time():
    fused = Classifier(nn.BatchNorm1d(4, track_running_stats=False), 4, WAYS)
    assert MAML(fused, engine="loop").transductive
    for norm in ("none", "layer", *norms.NORMS):
        learner = MAML(image_net(norm))
        found = [learner.as_method().transductive, learner.train().transductive, learner.eval().transductive]
        assert found == 3 * [norm == "batch"]


def test_episodes_that_do_not_fit_are_named():
    learner, features = MAML(image_net("batch")), images()[0].double()
    with pytest.raises(ValueError, match="`episodes` are padded, and MAML needs a fixed n_shot"):
        evaluate(learner.as_method(), draw(n_shot=(1, 3)), features)
    for n_way in (2, 5):
        message = f"`n_way` is {n_way}: the model's head has 3 ways; sample as many, or build it for {n_way}"
        with pytest.raises(ValueError, match=message):
            evaluate(learner.as_method(), draw(n_way=n_way), features)
    MAML(Point(), loss=quadratic).check_ways(7)  # another model's outputs need not be ways
    for options in ({"n_steps": -1}, {"n_steps": 1.5}, {"batch_size": 0}):
        (found,) = options.items()
        with pytest.raises(ValueError, match="`{}` is {}".format(*found)):
            learner.as_method(**options)
