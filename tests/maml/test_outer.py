"""The outer loop: its losses are as defined, it is bounded in memory, and it resumes to the same numbers."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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
from fewshot_lib.maml.outer import step_weights

from . import helpers
from .helpers import WAYS, benchmark, by_hand, randn, same
from .helpers import vector_net as net

LABELS = torch.arange(12).repeat_interleave(10)
BestModels = benchmark("maml_omniglot").BestModels  # MAML++'s ensemble

tasks = partial(helpers.tasks, 4, n_tasks=4, n_query=5)
both_engines = pytest.mark.parametrize("engine", ["loop", "vmap"])


def dataset():
    centres, noise = randn(12, 4, seed=5), randn(120, 4, seed=6)
    splits = {"train": torch.arange(6), "val": torch.arange(6, 9), "test": torch.arange(9, 12)}
    return ClassDataset(centres[LABELS] + 0.3 * noise, LABELS, [str(c) for c in range(12)], splits)


def gradients(learner, *args, objective=meta_loss, **options):
    return helpers.gradients(learner, *args, objective=objective, **options)


# --- the losses


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


# --- Reptile


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


# --- memory


def peak(n_tasks, **options):
    """The most bytes that a meta-step holds at one time."""
    learner = MAML(net("batch"), inner_steps=3, **options)
    t = tasks(n_tasks=n_tasks, n_support=30, n_query=60)
    with benchmark("speed/operations").Operations() as memory:
        gradients(learner, t)
    return memory.peak


@both_engines
def test_the_chunk_size_bounds_the_memory(engine):
    assert peak(16, engine=engine) > 6 * peak(2, engine=engine)  # without: all graphs at once
    assert peak(16, engine=engine, chunk_size=2) < 1.05 * peak(2, engine=engine)
    assert peak(16, engine=engine, first_order=True) < 0.5 * peak(16, engine=engine)


# --- training


def scored(learner, n_episodes=40):
    """The accuracy on validation classes, as a function without arguments."""
    data = dataset()
    sampler = EpisodeSampler(data.labels, data.classes("val"), WAYS, 1, 4, seed=1)
    episodes = sampler.sample(n_episodes)
    return lambda: evaluate(learner.as_method(), episodes, data.inputs).mean


class Run:
    """Meta-training with all that has a state: dropout, averages, rates, a schedule, the k best models."""

    def __init__(self, stop_at=None, **changes):
        options = {"inner_lr": 0.3, "rates": "per_tensor_per_step", "per_step_norm": True, **changes}
        self.learner = MAML(net(dropout=0.2), **{"inner_steps": 2, **options})
        self.best = BestModels(self.learner, scored(self.learner, 5), k=3)
        self.stop_at, self.validations = stop_at, 0

    def validate(self):
        if self.validations == self.stop_at:
            raise KeyboardInterrupt
        self.validations += 1
        return self.best.validate()

    def train(self, n_steps, checkpoint=None, **options):
        options = {"objective": plus_plus_loss, "n_way": WAYS, "n_tasks": 2, "lr": 0.01, **options}
        loop = {"validate": self.validate, "validate_every": 15, "resume_with": {"best": self.best}}
        loop |= {"checkpoint": checkpoint, "checkpoint_every": 50}
        return train_on_episodes(self.learner, dataset(), n_steps, **loop, **options)


def test_interrupted_meta_training_goes_on_to_the_same_numbers(tmp_path):
    whole = Run()
    history = whole.train(70)
    with pytest.raises(KeyboardInterrupt):
        Run(stop_at=3).train(70, tmp_path / "run.pt")  # at step 60: the checkpoint is of step 50
    resumed = Run()
    torch.rand(100)  # the random state of the new process is another
    assert resumed.train(70, tmp_path / "run.pt") == history
    assert (whole.validations, resumed.validations) == (5, 2)  # it went on from step 50
    assert [step for step, _ in history.validation] == [15, 30, 45, 60, 70]
    assert len(history.metrics["loss"]) == 70
    assert [score for score, _ in whole.best.kept] == [score for score, _ in resumed.best.kept]
    states = [(run.learner.state_dict(), *(state for _, state in run.best.kept)) for run in (whole, resumed)]
    for a, b in zip(*states, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    support, query = randn(3, WAYS, 1, 4, seed=8), randn(3, 5, 4, seed=9)
    assert torch.equal(whole.best.as_method()(support, query), resumed.best.as_method()(support, query))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("maml") / "settings.pt"
    Run().train(50, path)
    return path


@pytest.mark.parametrize(
    ("of_learner", "of_training"),
    [
        ({"inner_lr": 0.2}, {}),
        ({"inner_steps": 3}, {}),
        ({"first_order": True}, {}),
        ({"rates": "fixed"}, {}),
        ({"adapt": "head"}, {}),
        ({}, {"objective": meta_loss}),
        ({}, {"objective": partial(meta_loss, multi_step_until=0.1, first_order_until=0.2)}),
        ({}, {"lr": 0.02}),
        ({}, {"schedule": None}),
        ({}, {"optimizer": lambda p: torch.optim.SGD(p, lr=0.01)}),
        ({}, {"n_shot": 2}),
        ({}, {"n_query": 3}),
        ({}, {"n_tasks": 3}),
        ({}, {"seed": 1}),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_leaves_the_learner_alone(
    checkpoint, of_learner, of_training
):
    other = Run(**of_learner)
    before = copy.deepcopy(other.learner.state_dict())
    with pytest.raises(ValueError, match="belongs to another run"):
        other.train(50, checkpoint, **of_training)
    same(other.learner.state_dict(), before)


def test_a_checkpoint_does_not_depend_on_the_engine(tmp_path):
    history = Run().train(50, tmp_path / "run.pt")
    # what is finished is taken as it is
    assert Run(engine="loop", chunk_size=1).train(50, tmp_path / "run.pt") == history


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


# --- the best models


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


# --- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda learner: meta_train(learner, tasks, 3, schedule="linear"),
            "`schedule` is 'linear': use one of 'cosine', 'one_cycle', None",
        ),
        (lambda learner: meta_train(learner, tasks, 0), "`n_steps` is 0: use a whole number, 1 or more"),
        (
            lambda learner: train_on_episodes(learner, dataset(), 3, n_way=(2, 4)),
            r"`n_way` is \(2, 4\): use a whole number, 1 or more",
        ),
        (
            lambda learner: train_on_episodes(learner, dataset(), 3, n_way=WAYS, n_shot=(1, 2)),
            r"`n_shot` is \(1, 2\)",
        ),
        (lambda learner: train_on_episodes(learner, dataset(), 3, n_way=WAYS, n_tasks=0), "`n_tasks` is 0"),
        (
            lambda learner: train_on_episodes(learner, dataset(), 3),
            "`n_way` is 5: the model's head has 3 ways",
        ),
        (lambda learner: BestModels(learner, lambda: 0.0, k=0), "`k` is 0: use a whole number, 1 or more"),
        (lambda learner: BestModels(learner, lambda: 0.0).as_method(), "`validate` has kept no model yet"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(MAML(net()))


def test_what_cannot_be_trained_is_named():
    with pytest.raises(ValueError, match=r"`learner` \(MAML\) has no trainable parameter"):
        meta_train(MAML(net()).requires_grad_(False), tasks, 3)
    texts = ClassDataset(["a"] * 120, LABELS, [str(c) for c in range(12)], {"train": torch.arange(6)})
    with pytest.raises(ValueError, match="`dataset` holds texts.*inputs=features"):
        train_on_episodes(MAML(net()), texts, 3, n_way=WAYS)
    padded = EpisodeSampler(LABELS, torch.arange(12), 3, (1, 2), 2).sample(20)
    with pytest.raises(ValueError, match="`episodes` are padded, and tasks need a fixed n_shot"):
        episode_tasks(padded, dataset().inputs)
