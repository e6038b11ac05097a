"""Joint training: what it learns from, what it writes down, and which model it keeps."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_lib.core import compare_paired, evaluate, one_cycle, seed_everything
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.graphs import Blocks, GATTransformer
from fewshot_lib.multitask import (
    BALANCERS,
    NameDropout,
    Task,
    TaskSampler,
    balancer,
    evaluate_tasks,
    task_episodes,
    train_jointly,
)
from fewshot_lib.multitask import training as multitask
from fewshot_lib.prototypes import cosine_logits, cosine_prototypes, name_mix

D, KEPT = 6, 3  # the first 3 features tell the classes apart, the others are noise


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")


def task(name, seed, n_train=6, n_val=3, n_test=3, named=True):
    """Classes of 12 examples around a centre of length 1 in the first features; noise in the others."""
    n, g = n_train + n_val + n_test, torch.Generator().manual_seed(seed)
    of = torch.arange(n).repeat_interleave(12)
    centres = torch.randn(n, D, generator=g, dtype=torch.float64) * (torch.arange(D) < KEPT)
    centres, sizes = F.normalize(centres, dim=-1), torch.tensor(KEPT * [0.1] + (D - KEPT) * [1.2])
    noise = torch.randn(len(of), D, generator=g, dtype=torch.float64) * sizes
    splits = dict(zip(("train", "val", "test"), torch.arange(n).split([n_train, n_val, n_test]), strict=True))
    dataset = ClassDataset(list(map(str, range(len(of)))), of, list(map(str, range(n))), splits, name=name)
    return Task(name, dataset, centres[of] + noise, centres if named else None)


def three():
    return [task("a", 1), task("b", 2, n_train=9), task("c", 3, n_val=0)]


class Tiny(nn.Module):
    """Cosines of scaled features. Counts its calls, and can be stopped at one of them."""

    name, transductive, uses_names = "tiny", False, True

    def __init__(self, dropout=0.0):
        super().__init__()
        self.scale, self.mix = (nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (D, 1))
        self.dropout, self.calls, self.stop_at = nn.Dropout(dropout), 0, math.inf

    def forward(self, support, query, names=None):
        self.calls += 1
        if self.calls > self.stop_at:
            raise KeyboardInterrupt
        means = F.normalize(self.dropout(support).mul(self.scale).mean(2), dim=-1)
        if names is not None:
            means = means + self.mix * F.normalize(names * self.scale, dim=-1)
        return cosine_logits(query * self.scale, means)


SIZES = {"n_way": 3, "n_shot": (1, 2), "n_query": 3, "n_episodes": 2, "augment": None, "seed": 0}
SMALL = {"n_validation": 10, "validate_every": 5, "lr": 0.03}


def train(model=None, tasks=None, n_steps=12, **options):
    model, options = model or Tiny(), SIZES | SMALL | options
    sampler = TaskSampler(tasks or three(), **{name: options.pop(name) for name in SIZES})
    return model, train_jointly(model, sampler, n_steps, **options)


def per_task(history, what, names="abc"):
    """A metric of every task: (steps, T)."""
    return torch.tensor([history.metrics[f"{what} {name}"] for name in names]).T


def same(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def identical(a, b):
    """Two (model, history) are the same to the last bit."""
    (model, history), (other, others) = a, b
    same(list(model.parameters()), list(other.parameters()), 0)
    assert history.metrics.keys() == others.metrics.keys() and history.validation == others.validation
    for name, values in history.metrics.items():
        same(torch.tensor(values), torch.tensor(others.metrics[name]), 0)


def test_all_tasks_get_better_also_one_that_is_not_trained_on():
    foreign = task("foreign", 9)
    tasks, before = [*three(), foreign], Tiny()
    model, history = train(n_steps=120, n_validation=40, validate_every=40)
    episodes = task_episodes(tasks, "test", 3, 1, 5, 200)
    first, last = (evaluate_tasks(m, tasks, episodes) for m in (before, model))
    assert all(compare_paired(last[t.name], first[t.name]).interval[0] > 0.05 for t in tasks)
    assert model.scale[:KEPT].min() > 2 * model.scale[KEPT:].abs().max()
    losses = per_task(history, "loss")
    assert (losses[-20:].mean(0) < losses[:20].mean(0)).all()


@pytest.mark.parametrize("balance", BALANCERS)
def test_a_run_is_adamw_on_the_balanced_gradients(balance):
    tasks, model = three(), Tiny()
    found, history = train(copy.deepcopy(model), tasks, 4, balance=balance, n_shot=2, seed=5)
    sampler, balancing = TaskSampler(tasks, 3, 2, 3, 2, seed=5), balancer(balance, 3, seed=5)
    groups = [{"params": m.parameters(), "weight_decay": w} for m, w in ((model, 0.01), (balancing, 0.0))]
    optimizer = torch.optim.AdamW(groups, lr=0.03)
    scheduler = one_cycle(optimizer, 4)
    for i in range(4):
        joint = sampler.sample()
        logits = model(joint.support, joint.query, names=joint.names).view(3, 2, 9, 3)
        answers = joint.query_labels.view(3, 2, 9)
        losses = torch.stack([F.cross_entropy(logits[t].mT, answers[t]) for t in range(3)])
        optimizer.zero_grad()
        weights = balancing.backward(losses, list(model.parameters()))
        same(per_task(history, "weight")[i], weights.float(), 1e-6)
        optimizer.step(), scheduler.step()
        same(per_task(history, "loss")[i], losses.detach().float(), 1e-6)
        assert history.metrics["loss"][i] == pytest.approx(losses.mean().item())
    same(list(found.parameters()), list(model.parameters()))


def test_a_model_is_given_what_it_says_it_uses_in_training_and_in_testing():
    class Linked(Tiny):
        uses_groups = True

        def forward(self, support, query, names=None, groups=None):
            assert names is not None and groups.tolist() == list(range(len(groups) // 2)) * 2
            assert self.training or len(groups) == 2 * 5  # two episodes of a batch of five
            return super().forward(support, query, names)

    class Plain(Tiny):
        uses_names = False

        def forward(self, support, query):
            return super().forward(support, query)

    tasks = [task("a", 1), task("b", 2)]
    model, history = train(Linked(), tasks, n_steps=2, n_validation=5)
    alone, without = train(Tiny(), tasks, n_steps=2, n_validation=5)
    identical((model, history), (alone, without))
    train(Plain(), n_steps=2)
    episodes = task_episodes(tasks, "test", 3, 1, 4, 15)
    linked, single = (evaluate_tasks(m, tasks, episodes, batch_size=5) for m in (model, alone))
    for name in "ab":
        same(linked[name].accuracies, single[name].accuracies, 0)
        assert linked[name].episodes_fingerprint == single[name].episodes_fingerprint


@pytest.mark.parametrize("linked", [False, True])
def test_linked_tasks_hear_of_each_other_in_testing_too(linked):
    torch.manual_seed(0)
    model = GATTransformer(D, Blocks(8, 2), linked=linked).double()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter)
    found = []
    for tasks in ([task("a", 1), task("b", 2)], [task("a", 1), task("b", 3)]):
        results = evaluate_tasks(model, tasks, task_episodes(tasks, "test", 3, 1, 4, 300))
        found.append(results["a"].accuracies)
    assert torch.equal(*found) != linked


def test_nothing_but_training_classes_changes_a_run():
    """Other features of the other classes, however large, reach no step."""
    options = {"n_steps": 6, "validate_every": 99, "balance": "pcgrad"}
    clean, spoilt = three(), []
    for t in clean:
        outside = ~torch.isin(t.dataset.labels, t.classes("train"))
        names = t.names.clone()
        names[torch.cat([t.classes("val"), t.classes("test")])] = 1e6
        spoilt.append(Task(t.name, t.dataset, t.features.masked_fill(outside.unsqueeze(1), 1e6), names))
    (model, history), (other, others) = train(tasks=clean, **options), train(tasks=spoilt, **options)
    same(list(model.parameters()), list(other.parameters()), 0)
    assert history.metrics["loss"] == others.metrics["loss"]


def test_the_same_seed_gives_the_same_run_and_another_another():
    identical(train(), train())
    assert train()[1].metrics["loss"] != train(seed=1)[1].metrics["loss"]


@pytest.mark.parametrize("balance", BALANCERS)
def test_a_resumed_run_is_the_uninterrupted_run(balance, tmp_path):
    options = {"balance": balance, "augment": NameDropout(0.5), "checkpoint_every": 4}

    def run(stop_at=math.inf, **more):
        seed_everything(0)
        model = Tiny(dropout=0.3)
        model.stop_at = stop_at
        return train(model, **options, **more)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(stop_at=14, checkpoint=tmp_path / "run.pt")
    before = torch.load(tmp_path / "run.pt", weights_only=True)["progress"]["step"]
    assert 4 <= before < 12
    identical(run(checkpoint=tmp_path / "run.pt"), whole)


@pytest.mark.parametrize(
    "change",
    [{"balance": "uw"}, {"lr": 0.1}, {"tasks": three()[:2]}, {"n_query": 4}, {"validate_every": 6}],
)
def test_a_checkpoint_of_other_settings_is_refused(change, tmp_path):
    train(checkpoint=tmp_path / "run.pt", checkpoint_every=4)
    with pytest.raises(ValueError, match="belongs to another run"):
        train(checkpoint=tmp_path / "run.pt", checkpoint_every=4, **change)


def test_the_model_of_the_best_mean_over_tasks_is_kept(monkeypatch):
    class Counting(Tiny):
        """Counts its training steps in a parameter."""

        def forward(self, support, query, names=None):
            self.mix.data += self.training
            return super().forward(support, query, names)

    seen = []

    def fake(method, episodes, features, batch_size, names=None):
        seen.append((episodes.n_way, episodes.n_shot, episodes.n_query, len(episodes)))
        first = features is tasks[0].features
        assert set(episodes.classes.unique().tolist()) == ({6, 7, 8} if first else {9, 10, 11})
        scores = [0.9, 0.5, 0.1] if first else [0.1, 0.6, 0.7]
        return SimpleNamespace(mean=scores[(len(seen) - 1) // 4])

    monkeypatch.setattr(multitask, "evaluate", fake)
    tasks = [task("a", 1), task("b", 2, n_train=9), task("c", 3, n_val=1)]
    model, history = train(Counting(), tasks, 15, lr=1e-9, n_way=5)
    # of 3 validation classes, at both ends of the shots; c has too few
    assert seen == 3 * [(3, 1, 3, 10), (3, 1, 3, 10), (3, 2, 3, 10), (3, 2, 3, 10)]
    assert history.metrics["validation a"] == [0.9, 0.5, 0.1]
    assert history.metrics["validation b"] == [0.1, 0.6, 0.7] and "validation c" not in history.metrics
    assert [step for step, _ in history.validation] == [5, 10, 15]
    assert [score for _, score in history.validation] == pytest.approx([0.5, 0.55, 0.4])
    assert model.mix.item() == pytest.approx(11)


def test_without_validation_classes_the_last_model_stays_and_a_step_is_one_call():
    model, history = train(tasks=[task("a", 1, n_val=1), task("b", 2, n_val=0)])
    assert history.validation == [] and (model.scale != 1).all() and model.calls == 12


def test_every_task_is_evaluated_on_its_own_classes_in_eval_mode():
    model, tasks = Tiny(dropout=0.9), three()
    dealt = task_episodes(tasks, "test", 3, 2, 4, 30, seed=7)
    results = evaluate_tasks(model, tasks, dealt)
    assert list(results) == ["a", "b", "c"] and model.training
    for t in tasks:
        episodes = t.sampler("test", 3, 2, 4, 7).sample(30)
        assert set(episodes.classes.unique().tolist()) == set(t.classes("test").tolist())
        expected = evaluate(copy.deepcopy(model).eval(), episodes, t.features, names=t.names)
        same(results[t.name].accuracies, expected.accuracies, 0)
    mixed = evaluate_tasks(name_mix, tasks, dealt)
    assert abs(compare_paired(results["a"], mixed["a"]).mean) < 1e-9  # untrained, it is the mix
    ways = [task_episodes(tasks, split, 20, 1, 4, 5)["a"].n_way for split in ("test", None)]
    assert ways == [3, 12]  # as many as there are


def test_a_task_without_names_is_evaluated_without():
    named, unnamed = task("a", 1), task("a", 1, named=False)
    episodes = task_episodes([named], "test", 3, 2, 4, 30)
    found = evaluate_tasks(Tiny(), [unnamed], episodes)["a"]
    same(found.accuracies, evaluate_tasks(cosine_prototypes, [named], episodes)["a"].accuracies, 0)
    assert (found.method, found.transductive) == ("tiny", False)
    train(tasks=[unnamed, task("b", 2)], n_steps=3)


def deal_linked(*tasks):
    model = GATTransformer(D, Blocks(8, 2), linked=True).double()
    return evaluate_tasks(model, tasks, task_episodes(tasks, "test", 3, 1, 4, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train(Tiny().requires_grad_(False)), "`model` has no trainable parameter"),
        (lambda: train(balance="best"), "`balance` is 'best': use one of 'sum'"),
        (lambda: train(n_way=7), "Task 'a', split 'train': `n_way` is 7"),
        (lambda: task_episodes([task("a", 1, n_test=1)]), "Task 'a', split 'test': `n_way` is 2 .* only 1"),
        (lambda: deal_linked(task("a", 1), task("b", 2, n_test=2)), r"{'a': \(5, 3, 1\), .*Use fewer ways"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
