"""The outer loop: its losses are what they are defined to be, it is bounded in memory, and it resumes to the same numbers."""

import copy
import math
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from fewshot_lib import norms
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.maml import MAML, Classifier, Tasks
from fewshot_lib.meta_training import (
    BestModels,
    episode_tasks,
    meta_loss,
    meta_train,
    plus_plus_loss,
    reptile_loss,
    step_weights,
    train_on_episodes,
    with_gradient,
)

WAYS = 3
LABELS = torch.arange(12).repeat_interleave(10)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks(n_tasks=4, n_support=6, n_query=5, seed=0):
    labels = torch.arange(WAYS).repeat(n_support // WAYS).expand(n_tasks, -1)
    answers = torch.randint(WAYS, (n_tasks, n_query), generator=torch.Generator().manual_seed(seed))
    return Tasks(randn(n_tasks, n_support, 4, seed=seed + 1), labels, randn(n_tasks, n_query, 4, seed=seed + 2), answers)


def net(norm="running", dropout=0.0):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(dropout))
    return norms.with_norm(Classifier(encoder, 6, WAYS), norm).double()


def dataset():
    centres, noise = randn(12, 4, seed=5), randn(120, 4, seed=6)
    splits = {"train": torch.arange(6), "val": torch.arange(6, 9), "test": torch.arange(9, 12)}
    return ClassDataset(centres[LABELS] + 0.3 * noise, LABELS, [str(c) for c in range(12)], splits)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def grads(learner, loss):
    learner.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in learner.parameters() if p.grad is not None]


# --- the losses


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_step_weights_move_to_the_last_step(steps):
    progresses = [0.0, 0.1, 0.25, 0.4, 0.499, 0.5, 1.0]
    weights = [step_weights(steps, p, 0.5) for p in progresses]
    assert all(len(w) == steps + 1 and sum(w) == pytest.approx(1) and w[0] == 0 for w in weights)
    assert weights[0] == pytest.approx([0.0] + steps * [1 / steps])  # the mean over the steps
    assert weights[-1] == weights[-2] == steps * [0.0] + [1.0]  # MAML
    last = [w[-1] for w in weights]
    assert last == sorted(last)
    if steps > 1:
        assert weights[1][1:-1] == pytest.approx((steps - 1) * [0.8 / steps])  # linear on the way
        assert weights[4][1:-1] == pytest.approx((steps - 1) * [0.03 / steps])  # never below
    assert step_weights(steps, 0.3, 0.0) == steps * [0.0] + [1.0]


def test_no_inner_step_has_one_weight():
    assert step_weights(0, 0.0, 1.0) == [1.0]


def test_the_multi_step_loss_is_the_weighted_sum():
    learner, t = MAML(net(), inner_steps=3, inner_lr=0.3), tasks(20)
    weights = step_weights(3, 0.2, 0.5)
    after = [F.cross_entropy(learner(*t[:3], n_steps=s).flatten(0, 1), t.query_labels.flatten()) for s in range(4)]
    found = meta_loss(learner, t, 0.2, multi_step_until=0.5)
    same(found["loss"], sum(w * loss for w, loss in zip(weights, after, strict=True)))
    same(meta_loss(learner, t, 0.5, multi_step_until=0.5)["loss"], after[-1])
    first, last = ((learner(*t[:3], n_steps=s).argmax(-1) == t.query_labels).float().mean() for s in (1, 3))
    assert found["accuracy"] == last != first  # of the last step


def test_first_order_until():
    exact, first = MAML(net(), inner_steps=2, inner_lr=0.3), MAML(net(), inner_steps=2, inner_lr=0.3, first_order=True)
    t = tasks()
    first_order, second_order = grads(first, meta_loss(first, t)["loss"]), grads(exact, meta_loss(exact, t)["loss"])
    same(grads(exact, meta_loss(exact, t, 0.29, first_order_until=0.3)["loss"]), first_order)
    same(grads(exact, meta_loss(exact, t, 0.30, first_order_until=0.3)["loss"]), second_order)
    assert not torch.allclose(first_order[0], second_order[0])
    same(grads(exact, plus_plus_loss(exact, t, 0.2)["loss"]), second_order)
    same(plus_plus_loss(exact, t, 0.05)["loss"], meta_loss(exact, t, 0.05, multi_step_until=0.1)["loss"])
    same(grads(exact, plus_plus_loss(exact, t, 0.05)["loss"]), grads(first, meta_loss(first, t, 0.05, multi_step_until=0.1)["loss"]))


@pytest.mark.parametrize("chunk", [1, 3, 4, 7])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_chunks_change_nothing(chunk, engine):
    whole, parts = (MAML(net(), inner_steps=2, inner_lr=0.3, engine=engine, chunk_size=c) for c in (None, chunk))
    t = tasks()
    a, b = meta_loss(whole, t, 0.1, multi_step_until=1.0), meta_loss(parts, t, 0.1, multi_step_until=1.0)
    same(b, a)
    same(grads(parts, 2 * b["loss"]), grads(whole, 2 * a["loss"]))  # and the gradient can be scaled
    same(list(parts.buffers()), list(whole.buffers()))
    with torch.no_grad():
        assert not meta_loss(parts, t)["loss"].requires_grad


def test_running_averages_stand_still_at_test_time():
    learner = MAML(net(), inner_steps=2).eval()
    before = copy.deepcopy(learner.state_dict())
    meta_loss(learner, tasks()), reptile_loss(learner, tasks())
    same(learner.state_dict(), before)
    meta_loss(learner.train(), tasks())
    assert not torch.equal(before["step_averages.encoder/1/running_mean"], getattr(learner.step_averages, "encoder/1/running_mean"))


def test_with_gradient_has_that_value_and_adds_that_gradient():
    p, q = nn.Parameter(randn(3)), nn.Parameter(randn(2, 2))
    p.grad = torch.ones(3, dtype=torch.float64)
    value = p.square().sum()  # whose own gradient has no part in it
    loss = with_gradient(value, [p, q], [randn(3, seed=1), randn(2, 2, seed=2)])
    assert loss.item() == value.item()
    loss.backward()
    same([p.grad, q.grad], [1 + randn(3, seed=1), randn(2, 2, seed=2)])


# --- Reptile


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_reptile_is_its_definition(norm, engine):
    """θ ← θ − ε (θ − mean_t φ_S), twice, against copies of the model that torch's own SGD adapts."""
    learner, epsilon = MAML(net(norm), inner_steps=3, inner_lr=0.2, engine=engine), 0.4
    theta = copy.deepcopy(learner.model)
    for i in range(2):
        t, adapted, losses = tasks(seed=i), [], []
        for x, y in zip(torch.cat([t.support, t.query], 1), torch.cat([t.support_labels, t.query_labels], 1), strict=True):
            phi = copy.deepcopy(theta)
            optimizer = torch.optim.SGD(phi.parameters(), lr=0.2)
            for _ in range(3):
                optimizer.zero_grad()
                F.cross_entropy(phi(x), y).backward()
                optimizer.step()
            adapted.append(phi)
            losses.append(F.cross_entropy(phi(x), y))
        with torch.no_grad():
            for p, *phis in zip(theta.parameters(), *(phi.parameters() for phi in adapted), strict=True):
                p -= epsilon * (p - torch.stack(phis).mean(0))
        sgd = partial(torch.optim.SGD, lr=epsilon)
        history = meta_train(learner.train(), lambda _, t=t: t, 1, objective=reptile_loss, optimizer=sgd, schedule=None)
        assert history.metrics["loss"] == pytest.approx([torch.stack(losses).mean().item()])  # the loss after adaptation
        same(dict(learner.model.named_parameters()), dict(theta.named_parameters()))


def test_reptile_moves_only_what_is_adapted():
    learner = MAML(net(), inner_steps=2, adapt="head")
    moved = grads(learner, reptile_loss(learner, tasks())["loss"])
    assert [p.grad is not None for p in learner.model.parameters()] == [n.startswith("head") for n, _ in learner.model.named_parameters()]
    assert all(g.abs().max() > 0 for g in moved)


def test_reptile_keeps_averages_and_refuses_what_it_cannot_learn():
    learner = MAML(net(), inner_steps=2)
    metrics = reptile_loss(learner, tasks())
    assert getattr(learner.step_averages, "encoder/1/running_mean")[1].abs().max() > 0 and 0 <= metrics["accuracy"] <= 1
    for options in ({"rates": "per_parameter"}, {"per_step_norm": True}):
        with pytest.raises(ValueError, match=r"`learner` \(MAML\) learns rates or norms per step, for which Reptile has no gradient"):
            reptile_loss(MAML(net(), **options), tasks())


# --- memory


class Memory(TorchDispatchMode):
    """The largest number of bytes in tensors made inside, and alive, at the same time."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self.known = 0, 0, WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for storage in _storages((args, kwargs)):
            self.known.setdefault(storage, True)  # made outside
        out = function(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage not in self.known:
                self.known[storage] = True
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return out

    def _freed(self, n_bytes):
        self.alive -= n_bytes


def _storages(tree):
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def peak(n_tasks, **options):
    learner, t = MAML(net("batch"), inner_steps=3, **options), tasks(n_tasks, n_support=30, n_query=60)
    with Memory() as memory:
        meta_loss(learner, t)["loss"].backward()
    return memory.peak


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_the_chunk_size_bounds_the_memory(engine):
    assert peak(16, engine=engine) > 6 * peak(2, engine=engine)  # without: all graphs at once
    assert peak(16, engine=engine, chunk_size=2) < 1.05 * peak(2, engine=engine)
    assert peak(16, engine=engine, first_order=True) < 0.5 * peak(16, engine=engine)


def test_reptile_keeps_no_graph():
    learner, modes = MAML(net("group"), inner_steps=2, engine="loop"), []
    learner.model.encoder.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    reptile_loss(learner, tasks(1))
    assert modes == [True, True, False]  # the inner gradients, and the outputs at the end


# --- training


def scored(learner, few=False):
    """The accuracy on validation classes, as a function without arguments."""
    data = dataset()
    episodes = EpisodeSampler(data.labels, data.classes("val"), WAYS, 1, 4, seed=1).sample(5 if few else 40)
    return lambda: evaluate(learner.as_method(), episodes, data.inputs).mean


class Run:
    """Meta-training with everything that has a state: dropout, running averages, rates, a schedule, the k best models."""

    def __init__(self, stop_at=None, **changes):
        options = {"inner_steps": 2, "rates": "per_tensor_per_step", "per_step_norm": True, **changes}
        self.learner = MAML(net(dropout=0.2), inner_lr=options.pop("inner_lr", 0.3), **options)
        self.best = BestModels(self.learner, scored(self.learner, few=True), k=3)
        self.stop_at, self.validations = stop_at, 0

    def validate(self):
        if self.validations == self.stop_at:
            raise KeyboardInterrupt
        self.validations += 1
        return self.best.validate()

    def train(self, n_steps, checkpoint=None, **options):
        options = {"objective": plus_plus_loss, "n_way": WAYS, "n_tasks": 2, "lr": 0.01, **options}
        kept = {"validate": self.validate, "validate_every": 15, "resume_with": {"best": self.best}}
        return train_on_episodes(self.learner, dataset(), n_steps, checkpoint=checkpoint, **kept, **options)


def test_interrupted_meta_training_goes_on_to_the_same_numbers(tmp_path):
    whole = Run()
    history = whole.train(130)
    with pytest.raises(KeyboardInterrupt):
        Run(stop_at=7).train(130, tmp_path / "run.pt")  # at step 120: the checkpoint is of step 100
    resumed = Run()
    torch.rand(100)  # the random state of the new process is another
    assert resumed.train(130, tmp_path / "run.pt") == history
    assert (whole.validations, resumed.validations) == (9, 3)  # it went on from step 100, and did not start again
    assert len(history.metrics["loss"]) == 130 and [step for step, _ in history.validation] == [*range(15, 130, 15), 130]
    assert all(torch.equal(a, b) for a, b in zip(whole.learner.state_dict().values(), resumed.learner.state_dict().values(), strict=True))
    assert [s for s, _ in whole.best.kept] == [s for s, _ in resumed.best.kept]
    for (_, a), (_, b) in zip(whole.best.kept, resumed.best.kept, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    support, query = randn(3, WAYS, 1, 4, seed=8), randn(3, 5, 4, seed=9)
    assert torch.equal(whole.best.as_method()(support, query), resumed.best.as_method()(support, query))


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
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused_and_leaves_the_learner_alone(tmp_path_factory, of_learner, of_training):
    path = tmp_path_factory.getbasetemp() / "settings.pt"
    if not path.exists():
        Run().train(100, path)
    other = Run(**of_learner)
    before = copy.deepcopy(other.learner.state_dict())
    with pytest.raises(ValueError, match="belongs to another run"):
        other.train(100, path, **of_training)
    same(other.learner.state_dict(), before)


def test_a_checkpoint_does_not_depend_on_the_engine(tmp_path):
    history = Run().train(100, tmp_path / "run.pt")
    assert Run(engine="loop", chunk_size=1).train(100, tmp_path / "run.pt") == history  # what is finished is taken as it is


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", None])
def test_the_rate_of_the_outer_loop_follows_the_schedule(schedule):
    rates, made = [], []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.1))
        return made[0]

    def next_tasks(i):
        rates.append(made[0].param_groups[0]["lr"])
        return tasks(2, seed=i)

    meta_train(MAML(net()), next_tasks, 30, optimizer=optimizer, schedule=schedule)
    if schedule == "one_cycle":
        assert rates[0] == pytest.approx(0.004) and rates.index(max(rates)) == 8 and rates[-1] < 0.001
    else:
        low = 0.001 if schedule == "cosine" else 0.1
        assert rates == pytest.approx([low + (0.1 - low) * (1 + math.cos(math.pi * i / 30)) / 2 for i in range(30)])


def test_progress_is_told_to_the_objective():
    seen = []

    def objective(learner, some_tasks, progress):
        seen.append((progress, some_tasks))
        return meta_loss(learner, some_tasks)

    given = [tasks(2, seed=i) for i in range(4)]
    meta_train(MAML(net()), lambda i: given[i], 4, objective=objective)
    assert [p for p, _ in seen] == [0, 0.25, 0.5, 0.75] and all(t is g for (_, t), g in zip(seen, given, strict=True))


@pytest.mark.parametrize("objective", [meta_loss, plus_plus_loss, reptile_loss])
def test_meta_training_makes_adaptation_better(objective):
    options = {} if objective is reptile_loss else {"rates": "per_tensor_per_step"}
    learner = MAML(net("batch"), inner_steps=2, inner_lr=0.2, **options)
    score = scored(learner)
    before = score()
    schedule = {"optimizer": partial(torch.optim.SGD, lr=0.5), "schedule": None} if objective is reptile_loss else {"lr": 0.02}
    train_on_episodes(learner, dataset(), 60, n_way=WAYS, objective=objective, **schedule)
    assert score() > before + 0.05


def test_frozen_parameters_are_not_trained():
    learner = MAML(net(), inner_steps=1)
    learner.model.encoder[0].requires_grad_(False)
    learner = MAML(learner.model, inner_steps=1)
    before = copy.deepcopy(learner.model.state_dict())
    train_on_episodes(learner, dataset(), 3, n_way=WAYS, optimizer=partial(torch.optim.Adam, lr=0.1, weight_decay=0.1))
    moved = {n for n, p in learner.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, _ in learner.model.named_parameters()} - {"encoder.0.weight", "encoder.0.bias"}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_everything_stays_on_the_device_of_the_learner(device, engine):
    options = {"rates": "per_tensor_per_step", "per_step_norm": True, "engine": engine, "chunk_size": 1}
    learner, data = MAML(net().float().to(device), inner_steps=2, **options), dataset()
    data = ClassDataset(data.inputs.float(), data.labels, data.class_names, data.splits)  # on the CPU
    best = BestModels(learner, lambda: 1.0)
    train_on_episodes(learner, data, 2, n_way=WAYS, n_tasks=2, objective=plus_plus_loss, validate=best.validate)
    episodes = EpisodeSampler(data.labels, data.classes("val"), WAYS, 1, 4, seed=1).sample(3)
    for few_shot_method in (learner.as_method(), best.as_method()):
        assert evaluate(few_shot_method, episodes, data.inputs.to(device)).n_episodes == 3
    assert {t.device.type for t in learner.state_dict().values()} == {device}
    assert {t.dtype for t in learner.state_dict().values()} == {torch.float32}


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
    assert torch.equal(t.support[1, 3], data.inputs[episodes.support[1, 1, 1]]) and t.support_labels[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(t.query, data.inputs[episodes.query]) and torch.equal(t.query_labels, episodes.query_labels)


# --- the best models


def test_the_k_best_models_are_kept():
    learner, scores = MAML(net()), iter([0.3, 0.9, 0.1, 0.5, 0.9])
    best = BestModels(learner, lambda: next(scores), k=3)
    for i in range(5):
        nn.init.constant_(learner.model.head.bias, i)
        best.validate()
    assert [(s, state["model.head.bias"][0].item()) for s, state in best.kept] == [(0.9, 1), (0.9, 4), (0.5, 3)]
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
        for b in learner.step_averages.buffers():
            b.copy_(randn(*b.shape, seed=i).abs())
        best.validate()
        expected.append(learner.as_method(3)(support, query).softmax(-1))
    nn.init.zeros_(learner.model.head.weight)  # training went on
    before = copy.deepcopy(learner.state_dict())
    together = best.as_method(n_steps=3)
    assert (together.name, together.transductive) == ("mine, ensemble of 3", norm == "batch")
    same(together(support, query).exp(), sum(expected) / 3)
    assert not torch.allclose(expected[0], expected[1])
    same(learner.state_dict(), before)  # the learner itself stays as it is


# --- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: meta_train(MAML(net()), tasks, 3, schedule="linear"), "`schedule` is 'linear': use 'cosine', 'one_cycle' or None"),
        (lambda: meta_train(MAML(net()), tasks, 0), "`n_steps` is 0: train for at least 1 step"),
        (lambda: train_on_episodes(MAML(net()), dataset(), 3, n_way=(2, 4)), r"`n_way` is \(2, 4\): use a whole number, 1 or more"),
        (lambda: train_on_episodes(MAML(net()), dataset(), 3, n_way=WAYS, n_shot=(1, 2)), r"`n_shot` is \(1, 2\)"),
        (lambda: train_on_episodes(MAML(net()), dataset(), 3, n_way=WAYS, n_tasks=0), "`n_tasks` is 0"),
        (lambda: train_on_episodes(MAML(net()), dataset(), 3, n_way=5), "`n_way` is 5: the model's head has 3 ways"),
        (lambda: BestModels(MAML(net()), lambda: 0.0, k=0), "`k` is 0: keep at least 1 model"),
        (lambda: BestModels(MAML(net()), lambda: 0.0).as_method(), "`validate` has kept no model yet"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_cannot_be_trained_is_named():
    learner = MAML(net())
    learner.requires_grad_(False)
    with pytest.raises(ValueError, match=r"`learner` \(MAML\) has no trainable parameter"):
        meta_train(learner, tasks, 3)
    texts = ClassDataset(["a"] * 120, LABELS, [str(c) for c in range(12)], {"train": torch.arange(6)})
    with pytest.raises(ValueError, match="`dataset` holds texts.*inputs=features"):
        train_on_episodes(MAML(net()), texts, 3, n_way=WAYS)
    padded = EpisodeSampler(LABELS, torch.arange(12), (2, 3), 1, 2).sample(4)
    with pytest.raises(ValueError, match="`episodes` are padded, and tasks need a fixed n_way and n_shot"):
        episode_tasks(padded, dataset().inputs)
