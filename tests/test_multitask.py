"""Joint training: what it learns from, what it writes down, and which model it keeps."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_lib import multitask
from fewshot_lib.balancing import BALANCERS, balancer, cosine_matrix, task_gradients
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.evaluation import compare_paired, evaluate
from fewshot_lib.labels import label_mix
from fewshot_lib.multitask import (
    Task,
    TaskSampler,
    evaluate_tasks,
    label_alignment_loss,
    label_dropout,
    same_class_loss,
    train_jointly,
)
from fewshot_lib.prototypes import cosine_logits, cosine_prototypes
from fewshot_lib.training import one_cycle, seed_everything

D, KEPT = 6, 3  # the first 3 features tell the classes apart, the others are noise


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")


def task(name, seed, n_train=6, n_val=3, n_test=3, labels=True):
    """Classes of 12 examples around a centre of length 1 in the first features; noise of length 2 in the others."""
    n, g = n_train + n_val + n_test, torch.Generator().manual_seed(seed)
    of = torch.arange(n).repeat_interleave(12)
    centres = F.normalize(torch.randn(n, D, generator=g, dtype=torch.float64) * (torch.arange(D) < KEPT), dim=-1)
    noise = torch.randn(len(of), D, generator=g, dtype=torch.float64) * torch.tensor(KEPT * [0.1] + (D - KEPT) * [1.2])
    splits = dict(zip(("train", "val", "test"), torch.arange(n).split([n_train, n_val, n_test]), strict=True))
    dataset = ClassDataset([str(i) for i in range(len(of))], of, [str(c) for c in range(n)], splits, name=name)
    return Task(name, dataset, centres[of] + noise, centres if labels else None)


def three():
    return [task("a", 1), task("b", 2, n_train=9), task("c", 3, n_val=0)]


class Tiny(nn.Module):
    """Cosines of scaled features. Counts its calls, and can be stopped at one of them."""

    name, transductive, uses_labels = "tiny", False, True

    def __init__(self, dropout=0.0):
        super().__init__()
        self.scale, self.mix = nn.Parameter(torch.ones(D, dtype=torch.float64)), nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.dropout, self.calls, self.stop_at = nn.Dropout(dropout), 0, math.inf

    def embed(self, support, query, labels):
        return support * self.scale, query * self.scale, None if labels is None else labels * self.scale

    def forward(self, support, query, labels=None, groups=None):
        self.calls, self.groups = self.calls + 1, groups
        if self.calls > self.stop_at:
            raise KeyboardInterrupt
        support, query, labels = self.embed(self.dropout(support), query, labels)
        means = F.normalize(support.mean(2), dim=-1)
        return cosine_logits(query, means if labels is None else means + self.mix * F.normalize(labels, dim=-1))


SMALL = {
    "n_way": 3,
    "n_shot": (1, 2),
    "n_query": 3,
    "n_episodes": 2,
    "n_validation": 10,
    "validate_every": 5,
    "record_every": 5,
    "lr": 0.03,
}


def train(model=None, tasks=None, n_steps=12, **options):
    model = model or Tiny()
    return model, train_jointly(model, tasks or three(), n_steps, **{**SMALL, **options})


def same(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def identical(a, b):
    """Two (model, history) are the same to the last bit."""
    (model, history), (other, others) = a, b
    same(list(model.parameters()), list(other.parameters()), 0)
    same([history.task_losses, history.weights, history.cosines], [others.task_losses, others.weights, others.cosines], 0)
    assert history.metrics == others.metrics and history.conflicts == others.conflicts
    assert history.validation == others.validation and history.task_validation == others.task_validation


# --- what is learnt


def test_all_tasks_get_better_also_one_that_is_not_trained_on():
    foreign = task("foreign", 9)
    tasks, before = [*three(), foreign], Tiny()
    model, history = train(n_steps=120, n_validation=40, validate_every=40)
    first, last = (evaluate_tasks(m, tasks, 3, 1, 5, 200) for m in (before, model))
    assert all(compare_paired(last[t.name], first[t.name]).interval[0] > 0.05 for t in tasks)
    assert model.scale[:KEPT].min() > 2 * model.scale[KEPT:].abs().max()
    assert (history.task_losses[-20:].mean(0) < history.task_losses[:20].mean(0)).all()


@pytest.mark.parametrize("balance", BALANCERS)
def test_a_run_is_adamw_on_the_balanced_gradients(balance):
    tasks, model = three(), Tiny()
    found, history = train(copy.deepcopy(model), tasks, 4, balance=balance, n_shot=2, seed=5)
    sampler, balancing = TaskSampler(tasks, 3, 2, 3, 2, seed=5), balancer(balance, 3, seed=5)
    groups = [{"params": list(model.parameters())}, {"params": list(balancing.parameters()), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.03, weight_decay=0.01)
    scheduler = one_cycle(optimizer, 4)
    for i in range(4):
        joint = sampler.sample()
        logits = model(joint.support, joint.query, labels=joint.labels)
        losses = torch.stack([F.cross_entropy(logits[joint.task == t].mT, joint.query_labels[joint.task == t]) for t in range(3)])
        optimizer.zero_grad()
        same(history.weights[i], balancing.backward(losses, list(model.parameters())).weights)
        optimizer.step(), scheduler.step()
        same(history.task_losses[i], losses.detach())
        assert history.metrics["loss"][i] == pytest.approx(losses.mean().item())
    same(list(found.parameters()), list(model.parameters()))


def test_a_step_is_one_call_on_the_episodes_of_all_tasks():
    model, _ = train(Tiny(), n_steps=3, validate_every=99, tasks=[task("a", 1, n_val=0), task("b", 2, n_val=0)])
    assert model.calls == 3 and model.groups.tolist() == [0, 1, 0, 1]


def test_a_model_is_given_only_what_its_call_has_a_place_for():
    class Plain(Tiny):
        uses_labels = False

        def forward(self, support, query):
            return super().forward(support, query)

    class Anything(Tiny):
        def forward(self, support, query, **extra):
            assert self.training == ("groups" in extra) and extra["labels"] is not None  # no groups in validation
            return super().forward(support, query, **extra)

    train(Plain(), n_steps=2), train(Anything(), n_steps=2)


@pytest.mark.parametrize("how", ["uniform", "difficulty"])
def test_nothing_but_training_classes_changes_a_run(how):
    """NaN in the features of the other classes reaches no step, nor does a task that is left out of the list."""
    options = {"how": how, "tasks_per_step": 2, "n_steps": 6, "validate_every": 99, "balance": "pcgrad"}
    clean, spoilt = three(), []
    for t in clean:
        outside = ~torch.isin(t.dataset.labels, t.classes("train"))
        names = torch.where(torch.isin(torch.arange(t.dataset.n_classes), t.classes("train")).unsqueeze(1), t.label_features, torch.nan)
        spoilt.append(Task(t.name, t.dataset, t.features.masked_fill(outside.unsqueeze(1), torch.nan), names))
    (model, history), (other, others) = train(tasks=clean, **options), train(tasks=spoilt, **options)
    same(list(model.parameters()), list(other.parameters()), 0)
    same(history.task_losses, others.task_losses, 0)
    assert history.metrics == others.metrics


# --- reproducible


def test_the_same_seed_gives_the_same_run_and_another_another():
    identical(train(), train())
    assert train()[1].metrics != train(seed=1)[1].metrics


@pytest.mark.parametrize("balance", BALANCERS)
def test_a_resumed_run_is_the_uninterrupted_run(balance, tmp_path):
    options = {"balance": balance, "how": "difficulty", "tasks_per_step": 2, "augment": label_dropout(0.5), "checkpoint_every": 4}

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
    "change", [{"balance": "uw"}, {"lr": 0.1}, {"tasks": three()[:2]}, {"augment": label_dropout(0.1)}, {"n_query": 4}]
)
def test_a_checkpoint_of_other_settings_is_refused(change, tmp_path):
    train(checkpoint=tmp_path / "run.pt", checkpoint_every=4)
    with pytest.raises(ValueError, match="belongs to another run"):
        train(checkpoint=tmp_path / "run.pt", checkpoint_every=4, **change)


# --- what is written down


def test_the_cosines_are_those_of_the_tasks_gradients():
    model, history = train(Tiny(), n_steps=1, n_shot=1, seed=2)
    fresh, joint = Tiny(), TaskSampler(three(), 3, 1, 3, 2, seed=2).sample()
    logits = fresh(joint.support, joint.query, labels=joint.labels)
    losses = F.cross_entropy(logits.mT, joint.query_labels, reduction="none").view(3, -1).mean(1)
    expected = cosine_matrix(task_gradients(losses, list(fresh.parameters())))
    same(history.cosines, expected.float(), 1e-6)
    assert history.conflicts == [(1, pytest.approx((expected[torch.triu_indices(3, 3, 1).unbind()] < 0).float().mean().item()))]


def test_recording_changes_nothing():
    (model, history), (other, others) = train(n_steps=11), train(n_steps=11, record_every=None)
    same(list(model.parameters()), list(other.parameters()), 0)
    assert [step for step, _ in history.conflicts] == [1, 6, 11] and others.conflicts == [] and others.cosines.isnan().all()


def test_tasks_that_are_not_in_a_step_are_nan_there():
    _, history = train(tasks_per_step=2, n_steps=20, record_every=1)
    assert history.tasks == ["a", "b", "c"] and history.task_losses.shape == history.weights.shape == (20, 3)
    assert (history.task_losses.isnan().sum(1) == 1).all() and not history.task_losses.isnan().all(0).any()
    assert torch.equal(history.task_losses.isnan(), history.weights.isnan())
    assert torch.allclose(history.cosines.diagonal(), torch.ones(3)) and not history.cosines.isnan().any()
    assert torch.allclose(torch.tensor(history.metrics["loss"]), history.task_losses.nanmean(1).float())


def test_the_model_of_the_best_mean_over_tasks_is_kept(monkeypatch):
    class Counting(Tiny):
        """Counts its training steps in a parameter."""

        def forward(self, support, query, labels=None, groups=None):
            self.mix.data += self.training
            return super().forward(support, query, labels, groups)

    seen = []

    def fake(method, episodes, features, label_features=None):
        seen.append((episodes.n_way, episodes.n_shot, episodes.n_query, len(episodes)))
        assert set(episodes.classes.unique().tolist()) == ({6, 7, 8} if features is tasks[0].features else {9, 10, 11})
        scores = [0.9, 0.5, 0.1] if features is tasks[0].features else [0.1, 0.6, 0.7]
        return SimpleNamespace(mean=scores[(len(seen) - 1) // 4])

    monkeypatch.setattr(multitask, "evaluate", fake)
    tasks = [task("a", 1), task("b", 2, n_train=9), task("c", 3, n_val=1)]
    model, history = train(Counting(), tasks, 15, lr=1e-9, n_way=5)
    assert seen == 3 * [(3, 1, 3, 10), (3, 2, 3, 10)] * 2  # of 3 validation classes, at both ends of the shots; c has too few
    assert history.task_validation == [(5, {"a": 0.9, "b": 0.1}), (10, {"a": 0.5, "b": 0.6}), (15, {"a": 0.1, "b": 0.7})]
    assert [step for step, _ in history.validation] == [5, 10, 15]
    assert [score for _, score in history.validation] == pytest.approx([0.5, 0.55, 0.4]) and model.mix.item() == pytest.approx(11)


def test_what_validation_finds_easy_comes_less_often(monkeypatch):
    tasks = [task("a", 1), task("b", 2)]
    monkeypatch.setattr(multitask, "evaluate", lambda m, e, features, **_: SimpleNamespace(mean=float(features is tasks[0].features)))
    _, history = train(tasks=tasks, n_steps=60, how="difficulty", tasks_per_step=1, validate_every=20)
    counts = (~history.task_losses.isnan()).int().view(3, 20, 2).sum(1)
    assert counts[0].min() > 3 and (counts[1:, 0] < 3).all()


def test_without_validation_classes_the_last_model_stays():
    model, history = train(tasks=[task("a", 1, n_val=1), task("b", 2, n_val=0)])
    assert history.validation == [] and history.task_validation == [] and (model.scale != 1).all()


def test_auxiliary_losses_are_trained_with_their_weights_and_not_in_the_task_losses():
    losses = {"edges": (same_class_loss, 0.5), "names": (label_alignment_loss, 2.0)}
    (_, alone), (_, history) = train(), train(auxiliary=losses)
    first = {name: values[0] for name, values in history.metrics.items()}
    assert first["loss"] == pytest.approx(alone.metrics["loss"][0] + 0.5 * first["edges"] + 2 * first["names"])
    same(history.task_losses[0], alone.task_losses[0])
    assert not torch.equal(history.task_losses[1], alone.task_losses[1])


# --- evaluation on every task


def test_every_task_is_evaluated_on_its_own_classes_in_eval_mode():
    model, tasks = Tiny(dropout=0.9), three()
    results = evaluate_tasks(model, tasks, 3, 2, 4, 30, seed=7)
    assert list(results) == ["a", "b", "c"] and model.training
    for t in tasks:
        episodes = t.sampler("test", 3, 2, 4, 7).sample(30)
        assert set(episodes.classes.unique().tolist()) == set(t.classes("test").tolist())
        expected = evaluate(copy.deepcopy(model).eval(), episodes, t.features, label_features=t.label_features)
        same(results[t.name].accuracies, expected.accuracies, 0)
    mixed = evaluate_tasks(label_mix, tasks, 3, 2, 4, 30, seed=7)
    assert abs(compare_paired(results["a"], mixed["a"]).mean) < 1e-9  # on the same episodes; untrained, it is the mix
    ways = [evaluate_tasks(model, tasks, 20, 1, 4, 5, split=split)["a"].n_way for split in ("test", None)]
    assert ways == [3, 12]  # as many as there are


def test_a_task_without_names_is_evaluated_without():
    named, unnamed = task("a", 1), task("a", 1, labels=False)
    found = evaluate_tasks(Tiny(), [unnamed], 3, 2, 4, 30)["a"]
    same(found.accuracies, evaluate_tasks(cosine_prototypes, [named], 3, 2, 4, 30)["a"].accuracies, 0)
    assert (found.method, found.transductive) == ("tiny", False)
    train(tasks=[unnamed, task("b", 2)], n_steps=3)


# --- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train(Tiny().requires_grad_(False)), "`model` has no trainable parameter"),
        (lambda: train(balance="best"), "`name` is 'best': use one of 'sum'"),
        (lambda: train(n_way=7), "Task 'a', split 'train': `n_way` is 7"),
        (lambda: evaluate_tasks(Tiny(), [task("a", 1, n_test=1)]), "Task 'a', split 'test': `n_way` is 2 but there are only 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
