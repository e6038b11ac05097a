"""Meta-training makes adaptation better: its schedule, its tasks, and what it trains."""

import copy
import math
from functools import partial

import pytest
import torch

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.maml import (
    MAML,
    episode_tasks,
    meta_loss,
    meta_train,
    plus_plus_loss,
    reptile_loss,
    train_on_episodes,
)

from .helpers import WAYS, both_engines
from .helpers import vector_net as net
from .helpers import vector_tasks as tasks
from .training_helpers import LABELS, BestModels, dataset, scored


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", None])
def test_the_rate_of_the_outer_loop_follows_the_schedule(schedule):
    rates, made = [], []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.1))
        return made[0]

    def next_tasks(i):
        rates.append(made[0].param_groups[0]["lr"])
        return tasks(n_tasks=2, seed=i)

    meta_train(MAML(net()), next_tasks, 30, optimizer=optimizer, schedule=schedule)
    if schedule == "one_cycle":
        assert rates[0] == pytest.approx(0.004) and rates.index(max(rates)) == 8 and rates[-1] < 0.001
    else:
        low = 0.001 if schedule == "cosine" else 0.1
        expected = [low + (0.1 - low) * (1 + math.cos(math.pi * i / 30)) / 2 for i in range(30)]
        assert rates == pytest.approx(expected)


def test_progress_is_told_to_the_objective():
    seen, given = [], [tasks(n_tasks=2, seed=i) for i in range(4)]

    def objective(learner, some_tasks, progress):
        seen.append((progress, id(some_tasks)))
        return meta_loss(learner, some_tasks)

    meta_train(MAML(net()), lambda i: given[i], 4, objective=objective)
    assert seen == [(i / 4, id(t)) for i, t in enumerate(given)]


@pytest.mark.parametrize("objective", [meta_loss, plus_plus_loss, reptile_loss])
def test_meta_training_makes_adaptation_better(objective):
    learnt, options = {"rates": "per_tensor_per_step"}, {"lr": 0.02}
    if objective is reptile_loss:
        learnt, options = {}, {"optimizer": partial(torch.optim.SGD, lr=0.5), "schedule": None}
    learner = MAML(net("batch"), inner_steps=2, inner_lr=0.2, **learnt)
    score = scored(learner)
    before = score()
    train_on_episodes(learner, dataset(), 60, n_way=WAYS, objective=objective, **options)
    assert score() > before + 0.05


def test_frozen_parameters_are_not_trained():
    model = net()
    model.encoder[0].requires_grad_(False)
    learner, before = MAML(model), copy.deepcopy(model.state_dict())
    adam = partial(torch.optim.Adam, lr=0.1, weight_decay=0.1)
    train_on_episodes(learner, dataset(), 3, n_way=WAYS, optimizer=adam)
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert still == {"encoder.0.weight", "encoder.0.bias"}


no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_gpu)])
@both_engines
def test_everything_stays_on_the_device_of_the_learner(device, engine):
    options = {"rates": "per_tensor_per_step", "per_step_norm": True, "engine": engine, "chunk_size": 1}
    learner, data = MAML(net().float().to(device), inner_steps=2, **options), dataset()
    data = ClassDataset(data.inputs.float(), data.labels, data.class_names, data.splits)  # on the CPU
    best = BestModels(learner, lambda: 1.0)
    training = {"n_way": WAYS, "n_tasks": 2, "objective": plus_plus_loss, "validate": best.validate}
    train_on_episodes(learner, data, 2, **training)
    reptile = MAML(net().float().to(device), inner_steps=2, engine=engine)
    train_on_episodes(reptile, data, 2, n_way=WAYS, objective=reptile_loss)
    episodes = EpisodeSampler(data.labels, data.classes("val"), WAYS, 1, 4, seed=1).sample(3)
    for few_shot_method in (learner.as_method(), best.as_method(), reptile.as_method()):
        assert evaluate(few_shot_method, episodes, data.inputs.to(device)).n_episodes == 3
    for state in (learner.state_dict(), reptile.state_dict()):
        assert {(t.device.type, t.dtype) for t in state.values()} == {(device, torch.float32)}


def test_only_training_classes_are_trained_on():
    seen = []

    def objective(learner, some_tasks, progress):
        seen.append(torch.cat([some_tasks.support, some_tasks.query], 1).flatten())
        return meta_loss(learner, some_tasks)

    data = dataset()
    numbered = ClassDataset(LABELS.double().unsqueeze(1).repeat(1, 4), LABELS, data.class_names, data.splits)
    train_on_episodes(MAML(net()), numbered, 30, n_way=WAYS, objective=objective)
    assert set(torch.cat(seen).tolist()) == {0, 1, 2, 3, 4, 5}


def test_episodes_become_tasks():
    data = dataset()
    episodes = EpisodeSampler(data.labels, data.classes("train"), WAYS, 2, 3, seed=0).sample(4)
    t = episode_tasks(episodes, data.inputs)
    assert [tuple(leaf.shape) for leaf in t] == [(4, 6, 4), (4, 6), (4, 9, 4), (4, 9)]
    assert torch.equal(t.support[1, 3], data.inputs[episodes.support[1, 1, 1]])
    assert t.support_labels[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(t.query, data.inputs[episodes.query])
    assert torch.equal(t.query_labels, episodes.query_labels)
