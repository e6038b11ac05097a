"""Which tasks and episodes a joint step learns from."""

from dataclasses import replace

import pytest
import torch

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.multitask import NameDropout, Task, TaskSampler, sampling_probabilities
from fewshot_lib.multitask.tasks import JointEpisodes

N_PER_CLASS = 12


def numbered(name, n_classes=8, n_train=5, start=0.0, names=True, width=3):
    """A task whose features say which example (first), class (second) and task (third) they are of."""
    of = torch.arange(n_classes).repeat_interleave(N_PER_CLASS)
    splits = torch.arange(n_classes).split([n_train, n_classes - 1 - n_train, 1])
    splits, texts = dict(zip(("train", "val", "test"), splits, strict=True)), [str(i) for i in range(len(of))]
    dataset = ClassDataset(texts, of, [f"class {c}" for c in range(n_classes)], splits, name=name)
    features = torch.stack([torch.arange(len(of)).float(), of.float(), torch.full((len(of),), start)], 1)
    called = features[::N_PER_CLASS].clone()
    called[:, 0] = -1
    return Task(name, dataset, features[:, :width], called[:, :width] if names else None)


def many():
    sizes = {"a": (8, 5), "b": (8, 6), "c": (20, 15)}
    return [numbered(name, *size, start=i + 1.0) for i, (name, size) in enumerate(sizes.items())]


def everything(joint):
    return [getattr(joint, name) for name in ("support", "query", "names", "query_labels", "groups")]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(everything(a), everything(b), strict=True))


def test_a_split_that_a_task_does_not_have_is_empty_and_none_is_every_class():
    task = numbered("a", n_classes=8, n_train=5)
    assert task.classes("none such").tolist() == [] and task.classes(None).tolist() == list(range(8))


def test_a_fingerprint_tells_tasks_apart():
    a = numbered("a")
    others = [numbered("b"), numbered("a", n_train=4), numbered("a", start=1.0), numbered("a", names=False)]
    assert a.facts() == numbered("a").facts()
    assert len({str(t.facts()) for t in [a, *others]}) == 5


def test_a_step_holds_the_same_kind_of_episodes_of_every_task():
    joint = TaskSampler(many(), n_way=4, n_shot=2, n_query=3, n_episodes=2, seed=1).sample()
    shapes = [tuple(part.shape) for part in everything(joint)]
    assert shapes == [(6, 4, 2, 3), (6, 12, 3), (6, 4, 3), (6, 12), (6,)]
    task = torch.tensor([1, 1, 2, 2, 3, 3])
    assert joint.groups.tolist() == [0, 1, 0, 1, 0, 1]
    assert (joint.support[..., 2].flatten(1) == task.view(6, 1)).all()
    assert (joint.query[..., 2] == task.view(6, 1)).all()
    assert (joint.support[..., 1] == joint.names[..., 1].unsqueeze(-1)).all()  # names belong to their classes
    assert torch.equal(joint.names[..., 1].gather(1, joint.query_labels), joint.query[..., 1])
    for e in range(6):
        rows = torch.cat([joint.support[e, ..., 0].flatten(), joint.query[e, :, 0]]).tolist()
        assert len(set(rows)) == len(rows)  # no example twice


def test_only_training_classes_are_dealt():
    tasks, seen = many(), {0: set(), 1: set(), 2: set()}
    sampler = TaskSampler(tasks, 5, 1, 2, 3)
    for _ in range(30):
        joint = sampler.sample()
        for t, names in enumerate(joint.names[..., 1].int().view(3, -1).tolist()):
            seen[t] |= set(names)
    assert seen == {t: set(tasks[t].classes("train").tolist()) for t in range(3)}


def test_a_range_of_shots_is_drawn_once_per_step():
    sampler = TaskSampler(many(), 5, (1, 3), 2, 2)
    assert {sampler.sample().support.shape[2] for _ in range(60)} == {1, 2, 3}


def test_names_are_replaced_by_class_means_where_only_some_tasks_have_them():
    joint = TaskSampler([numbered("a"), numbered("b", names=False)], 4, 2, 2, 2).sample()
    assert (joint.names[:2, :, 0] == -1).all() and torch.equal(joint.names[2:], joint.support[2:].mean(2))
    assert TaskSampler([numbered("b", names=False)], 4, 2, 2, 2).sample().names is None


def test_the_same_seed_deals_the_same_and_a_restored_sampler_goes_on():
    def make(seed=3):
        return TaskSampler(many(), 4, (1, 3), 2, 2, seed=seed)

    sampler, again, other = make(), make(), make(4)
    first = [sampler.sample() for _ in range(3)]
    assert all(equal(joint, again.sample()) for joint in first)
    assert not any(torch.equal(joint.query, other.sample().query) for joint in first)
    restored = make()
    restored.load_state_dict(sampler.state_dict())
    assert all(equal(sampler.sample(), restored.sample()) for _ in range(10))


@pytest.mark.parametrize(
    "other",
    [
        lambda: TaskSampler(many(), 4, 1, 2, seed=1),
        lambda: TaskSampler(many(), 4, 1, 3),
        lambda: TaskSampler(many()[:2], 4, 1, 2),
        lambda: TaskSampler(many(), 4, 1, 2, augment=NameDropout(0.5)),
    ],
)
def test_a_state_of_other_settings_is_refused(other):
    with pytest.raises(ValueError, match="its settings are"):
        TaskSampler(many(), 4, 1, 2).load_state_dict(other().state_dict())


def test_an_augmentation_changes_what_is_dealt_and_not_what_comes_next():
    def zero(joint, generator):
        torch.rand(5, generator=generator)
        return JointEpisodes(0 * joint.support, *everything(joint)[1:])

    plain, augmented = TaskSampler(many(), 4, (1, 3), 2), TaskSampler(many(), 4, (1, 3), 2, augment=zero)
    for _ in range(5):
        a, b = plain.sample(), augmented.sample()
        assert (b.support == 0).all() and torch.equal(a.query, b.query) and a.support.shape == b.support.shape


@pytest.mark.parametrize(("temperature", "expected"), [(1, [5, 6, 15]), (4, [5**0.25, 6**0.25, 15**0.25])])
def test_tasks_should_be_drawn_in_proportion_to_a_power_of_their_sizes(temperature, expected):
    p = torch.tensor(expected) / sum(expected)
    torch.testing.assert_close(sampling_probabilities(torch.tensor([5, 6, 15]), temperature), p)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TaskSampler(many(), 6, 1, 2), "'a', split 'train': `n_way` is 6 .* 5 .*leave the task out"),
        (
            lambda: TaskSampler(many(), 5, (1, 5)),
            r"'a', split 'train': Class 'class 0' has 12 examples, 'class 1' has 12, .*5 \+ 10",
        ),
        (lambda: TaskSampler([]), r"`tasks` are \[\]: give at least one"),
        (lambda: TaskSampler([numbered("a")] * 2), r"`tasks` are \['a', 'a'\]: .* a name of its own"),
        (lambda: TaskSampler([numbered("a"), numbered("b", width=2)]), "different shape, {.*: one model"),
        (lambda: TaskSampler(many(), n_shot=(3, 1)), r"`n_shot(\[1\])?` is 1: use a whole number, 3 or more"),
        (lambda: TaskSampler(many(), n_episodes=0), "`n_episodes` is 0: use a whole number, 1 or more"),
        (lambda: sampling_probabilities(torch.ones(2), 0.0), "`temperature` is 0.0: it must be positive"),
        (
            lambda: replace(numbered("a"), features=torch.zeros(3, 2)),
            r"`features` of task 'a' has shape \(3, 2\)",
        ),
        (
            lambda: replace(numbered("a"), names=torch.zeros(7, 2)),
            r"`names` of task 'a' has shape \(7, 2\) for n = 8",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
