"""Which tasks and episodes a joint step learns from."""

from collections import Counter

import pytest
import torch

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.multitask import JointEpisodes, Task, TaskSampler, left_out, tasks_by_domain

N_PER_CLASS = 12


def numbered(name, n_classes=8, n_train=5, start=0.0, labels=True, n_per_class=N_PER_CLASS, width=3):
    """A task whose features say which example (first), which class (second) and which task (third) they are of."""
    of = torch.arange(n_classes).repeat_interleave(n_per_class)
    splits = {"train": torch.arange(n_train), "val": torch.arange(n_train, n_classes - 1), "test": torch.arange(n_classes - 1, n_classes)}
    dataset = ClassDataset([str(i) for i in range(len(of))], of, [f"class {c}" for c in range(n_classes)], splits, name=name)
    features = torch.stack([torch.arange(len(of)).float(), of.float(), torch.full((len(of),), start)], 1)
    names = torch.stack([-torch.ones(n_classes), torch.arange(n_classes).float(), torch.full((n_classes,), start)], 1)
    return Task(name, dataset, features[:, :width], names[:, :width] if labels else None)


def many():
    return [numbered("a", start=1.0), numbered("b", n_train=6, start=2.0), numbered("c", n_classes=20, n_train=15, start=3.0)]


def everything(joint):
    return [getattr(joint, name) for name in ("support", "query", "labels", "query_labels", "task", "groups")]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(everything(a), everything(b), strict=True))


# --- tasks


def domains():
    """Domains x (6 training classes, 1 of validation, 1 of test), y (2 training classes), z (4 test classes alone)."""
    names = ["x"] * 6 + ["y"] * 2 + ["x", "x"] + ["z"] * 4
    of = torch.arange(14).repeat_interleave(N_PER_CLASS)
    splits = {"train": torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]), "val": torch.tensor([8]), "test": torch.tensor([9, 10, 11, 12, 13])}
    return ClassDataset(torch.zeros(len(of), 1), of, [str(c) for c in range(14)], splits, names, name="d")


def test_a_domain_becomes_a_task_with_its_own_classes_of_every_split():
    dataset, features, label_features = domains(), torch.rand(14 * N_PER_CLASS, 2), torch.rand(14, 2)
    (x,) = tasks_by_domain(dataset, features, label_features)
    assert (x.name, x.dataset.name) == ("x", "d/x") and x.features is features and x.label_features is label_features
    assert {split: classes.tolist() for split, classes in x.dataset.splits.items()} == {
        "train": [5, 4, 3, 2, 1, 0],
        "val": [8],
        "test": [9],
    }
    assert left_out(dataset) == {"y": 2, "z": 0}
    assert [task.name for task in tasks_by_domain(dataset, features, least_classes=2)] == ["x", "y"]


def test_a_domain_that_is_never_trained_on_is_a_task_to_transfer_to():
    (z,) = tasks_by_domain(domains(), torch.rand(14 * N_PER_CLASS, 2), least_classes=3, split="test")
    assert z.name == "z" and len(z.classes("train")) == len(z.classes("val")) == 0 and z.classes("test").tolist() == [10, 11, 12, 13]
    assert z.classes("none such").tolist() == [] and z.classes(None).tolist() == [10, 11, 12, 13]


def test_a_data_set_without_domains_is_one_task_under_its_own_name():
    task = numbered("a")
    assert [t.name for t in tasks_by_domain(task.dataset, task.features)] == ["a"]


def test_a_fingerprint_tells_tasks_apart():
    a = numbered("a")
    others = [numbered("b"), numbered("a", n_train=4), numbered("a", start=1.0), numbered("a", labels=False)]
    assert a.fingerprint() == numbered("a").fingerprint() and len({t.fingerprint() for t in [a, *others]}) == 5


# --- joint episodes


def test_a_step_holds_the_same_kind_of_episodes_of_every_task():
    joint = TaskSampler(many(), n_way=4, n_shot=2, n_query=3, n_episodes=2, seed=1).sample()
    assert isinstance(joint, JointEpisodes) and len(joint) == 6
    assert [tuple(part.shape) for part in everything(joint)] == [(6, 4, 2, 3), (6, 12, 3), (6, 4, 3), (6, 12), (6,), (6,)]
    assert joint.task.tolist() == [0, 0, 1, 1, 2, 2] and joint.groups.tolist() == [0, 1, 0, 1, 0, 1]
    assert (joint.support[..., 2] == joint.task.view(6, 1, 1) + 1).all() and (joint.query[..., 2] == joint.task.view(6, 1) + 1).all()
    assert (joint.support[..., 1] == joint.labels[..., 1].unsqueeze(-1)).all()  # names belong to their classes
    assert torch.equal(joint.labels[..., 1].gather(1, joint.query_labels), joint.query[..., 1])
    for e in range(6):
        rows = torch.cat([joint.support[e, ..., 0].flatten(), joint.query[e, :, 0]]).tolist()
        assert len(set(rows)) == len(rows)  # no example twice


def test_only_training_classes_are_dealt():
    tasks, seen = many(), {0: set(), 1: set(), 2: set()}
    sampler = TaskSampler(tasks, 5, 1, 2, 3)
    for _ in range(30):
        joint = sampler.sample()
        for e, t in enumerate(joint.task.tolist()):
            seen[t] |= set(joint.labels[e, :, 1].int().tolist())
    assert seen == {t: set(tasks[t].classes("train").tolist()) for t in range(3)}


def test_a_range_of_shots_is_drawn_once_per_step():
    sampler = TaskSampler(many(), 5, (1, 3), 2, 2)
    assert Counter(sampler.sample().support.shape[2] for _ in range(60)).keys() == {1, 2, 3}


def test_names_are_replaced_by_class_means_where_only_some_tasks_have_them():
    joint = TaskSampler([numbered("a"), numbered("b", labels=False)], 4, 2, 2, 2).sample()
    assert (joint.labels[:2, :, 0] == -1).all() and torch.equal(joint.labels[2:], joint.support[2:].mean(2))
    assert TaskSampler([numbered("b", labels=False)], 4, 2, 2, 2).sample().labels is None


def test_the_same_seed_deals_the_same_and_a_restored_sampler_goes_on():
    def make(seed=3):
        return TaskSampler(many(), 4, (1, 3), 2, 2, how="difficulty", tasks_per_step=2, seed=seed)

    sampler, again, other = make(), make(), make(4)
    first = [sampler.sample() for _ in range(3)]
    assert all(equal(joint, again.sample()) for joint in first)
    assert not all(equal(joint, other.sample()) for joint in first if joint.support.shape == first[0].support.shape)
    sampler.update({"a": 0.2, "b": 0.9})
    restored = make(9)
    restored.load_state_dict(sampler.state_dict())
    assert torch.equal(restored.probabilities, sampler.probabilities)
    assert all(equal(sampler.sample(), restored.sample()) for _ in range(10))


def test_an_augmentation_changes_what_is_dealt_and_not_what_comes_next():
    def zero(joint, generator):
        torch.rand(5, generator=generator)
        return JointEpisodes(0 * joint.support, *everything(joint)[1:])

    plain, augmented = TaskSampler(many(), 4, (1, 3), 2), TaskSampler(many(), 4, (1, 3), 2, augment=zero)
    for _ in range(5):
        a, b = plain.sample(), augmented.sample()
        assert (b.support == 0).all() and torch.equal(a.query, b.query) and a.support.shape == b.support.shape


# --- which tasks


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("uniform", [1, 1, 1]),
        ("proportional", [5, 6, 15]),
        ("temperature", [5**0.25, 6**0.25, 15**0.25]),
        ("difficulty", [0.6, 0.01, 0.305]),  # 1 − accuracy, at least 0.01; the mean where there is none
    ],
)
def test_tasks_are_drawn_as_often_as_they_should(how, expected):
    sampler = TaskSampler(many(), 2, 1, 1, 2, how=how, tasks_per_step=1, temperature=4.0)
    sampler.update({"a": 0.4, "b": 1.0})
    p = torch.tensor(expected, dtype=torch.float64) / sum(expected)
    torch.testing.assert_close(sampler.probabilities, p)
    counts = torch.bincount(torch.tensor([int(sampler.sample().task[0]) for _ in range(1000)]), minlength=3)
    assert ((counts - 1000 * p).abs() < 4 * (1000 * p * (1 - p)).sqrt() + 1).all()


def test_before_a_validation_all_tasks_are_equally_difficult():
    sampler = TaskSampler(many(), how="difficulty", n_query=2, tasks_per_step=1)
    assert sampler.probabilities.tolist() == pytest.approx(3 * [1 / 3])
    sampler.update({})
    assert sampler.probabilities.tolist() == pytest.approx(3 * [1 / 3])


def test_a_step_of_some_tasks_holds_different_ones():
    sampler = TaskSampler(many(), 4, 1, 2, 2, how="proportional", tasks_per_step=2)
    drawn = Counter(tuple(sampler.sample().task.tolist()) for _ in range(100))
    assert drawn.keys() == {(0, 0, 1, 1), (0, 0, 2, 2), (1, 1, 2, 2)} and drawn[0, 0, 1, 1] < min(drawn[0, 0, 2, 2], drawn[1, 1, 2, 2])


# --- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TaskSampler(many(), n_way=6, n_query=2), "Task 'a', split 'train': `n_way` is 6 .* only 5 classes.*leave the task out"),
        (lambda: TaskSampler(many(), n_shot=(1, 5), n_query=10), r"Task 'a', split 'train': Class 0 has 12 examples.*5 \+ 10"),
        (lambda: TaskSampler([]), r"`tasks` are \[\]: give at least one"),
        (lambda: TaskSampler([numbered("a"), numbered("a")]), r"`tasks` are \['a', 'a'\]: .* a name of its own"),
        (lambda: TaskSampler([numbered("a"), numbered("b", width=2)]), "different shape, {'a': .*: one model needs one encoder"),
        (lambda: TaskSampler(many(), how="best"), "`how` is 'best' .*: use one of 'uniform', 'proportional', 'temperature', 'difficulty'"),
        (lambda: TaskSampler(many(), temperature=0), "`temperature` 0: .* more than 0"),
        (lambda: TaskSampler(many(), tasks_per_step=4), "`tasks_per_step` is 4: use 1 to 3"),
        (lambda: TaskSampler(many(), how="proportional"), "`how` is 'proportional', but every task is in every step: set `tasks_per_step`"),
        (lambda: TaskSampler(many(), n_shot=(3, 1)), r"`n_shot` is \(3, 1\)"),
        (lambda: TaskSampler(many(), n_episodes=0), "`n_episodes` 0: use 1 or more"),
        (lambda: Task("a", many()[0].dataset, torch.zeros(3, 2)), "`features` of task 'a' has 3 rows for 96 examples"),
        (lambda: Task("a", many()[0].dataset, torch.zeros(96, 2), torch.zeros(7, 2)), "`label_features` of task 'a' has 7 rows for 8"),
        (lambda: tasks_by_domain(domains(), torch.zeros(168, 2), least_classes=7), "`least_classes` is 7, but the largest domain has 6"),
        (lambda: left_out(domains(), split="dev"), "`split` is 'dev'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
