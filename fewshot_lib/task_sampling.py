r"""Tasks, and the episodes that a step of joint training learns from.

A *task* is a data set, or one domain of it (a package, a script), with its own classes in its own splits. A joint step deals
a few episodes of several tasks at once, all with the same ways and shots, as one batch: the b-th episodes of the tasks form
group b, within which a model may exchange information. Where a step cannot hold all tasks, they are drawn with

    p_t ∝ 1            uniform: small tasks are seen as often as large ones
    p_t ∝ n_t          proportional to the training examples: large tasks dominate
    p_t ∝ n_t^(1/τ)    temperature: between the two (Arivazhagan et al. 2019, arXiv:1907.05019, for languages)
    p_t ∝ 1 − a_t      difficulty, with a_t the last accuracy on validation classes: what is not yet learnt comes more often

A task that is not in the list is not trained on: the foreign domain of a transfer experiment is made by leaving it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import Episodes, EpisodeSampler

HOW = ("uniform", "proportional", "temperature", "difficulty")
_LEAST_DIFFICULTY = 0.01  # a task that is learnt perfectly still comes now and then


@dataclass(frozen=True, eq=False)
class Task:
    """A data set with features (n, d) of its examples, and, where classes have names, features (C, d) of the names.

    Raises ValueError where there is not one row per example, or per class.
    """

    name: str
    dataset: ClassDataset
    features: Tensor
    label_features: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.features) != len(self.dataset):
            raise ValueError(f"`features` of task {self.name!r} has {len(self.features)} rows for {len(self.dataset)} examples.")
        if self.label_features is not None and len(self.label_features) != self.dataset.n_classes:
            raise ValueError(
                f"`label_features` of task {self.name!r} has {len(self.label_features)} rows for {self.dataset.n_classes} classes."
            )

    def classes(self, split: str | None) -> Tensor:
        """Class ids of a split, (c,): none where the task has no such split. None: every class of all splits."""
        if split is None:
            return torch.cat(list(self.dataset.splits.values()))
        return self.dataset.splits.get(split, torch.empty(0, dtype=torch.int64))

    def sampler(self, split: str | None, n_way: int, n_shot: int, n_query: int, seed: int) -> EpisodeSampler:
        """Draws episodes of the split. Raises ValueError, naming the task, where it has too few classes or examples."""
        try:
            return EpisodeSampler(self.dataset.labels, self.classes(split), n_way, n_shot, n_query, seed)
        except ValueError as error:
            raise ValueError(f"Task {self.name!r}, split {split!r}: {error} Or leave the task out.") from error

    def fingerprint(self) -> str:
        """sha256 over what training reads: two runs are on the same task if and only if this is equal."""
        digest = hashlib.sha256(self.name.encode())
        for tensor in (self.features, self.dataset.labels, self.classes("train"), self.classes("val"), self.label_features):
            shape = None if tensor is None else tuple(tensor.shape)
            digest.update(repr(shape).encode() + (b"" if tensor is None else tensor.detach().cpu().contiguous().numpy().tobytes()))
        return digest.hexdigest()


def tasks_by_domain(
    dataset: ClassDataset, features: Tensor, label_features: Tensor | None = None, least_classes: int = 5, split: str = "train"
) -> list[Task]:
    """One task per domain that has ``least_classes`` classes in the split, in the order of their first class.

    features (n, d), label_features (C, d): of the whole data set; the tasks share them, and row and class numbers. Each
    keeps the splits of its own classes, which may be empty: where whole domains are split (docstrings by package, glyphs by
    script), the tasks of split="train" have no validation or test classes, and split="test" gives those to transfer to.
    ``left_out`` tells which domains are too small. Raises ValueError where all are.
    """
    small = left_out(dataset, least_classes, split)
    tasks = []
    for domain in _counts(dataset, split):
        if domain not in small:
            inside = {name: _of(dataset, classes, domain) for name, classes in dataset.splits.items()}
            name = domain or dataset.name
            tasks.append(Task(name, replace(dataset, splits=inside, name=f"{dataset.name}/{name}"), features, label_features))
    if not tasks:
        raise ValueError(f"`least_classes` is {least_classes}, but the largest domain has {max(small.values())} classes in {split!r}.")
    return tasks


def left_out(dataset: ClassDataset, least_classes: int = 5, split: str = "train") -> dict[str, int]:
    """The domains that ``tasks_by_domain`` leaves out, and the number of classes that each has in the split."""
    return {domain: n for domain, n in _counts(dataset, split).items() if n < least_classes}


def _counts(dataset: ClassDataset, split: str) -> dict[str, int]:
    return {domain: len(_of(dataset, dataset.classes(split), domain)) for domain in dict.fromkeys(dataset.domains)}


def _of(dataset: ClassDataset, classes: Tensor, domain: str) -> Tensor:
    return torch.tensor([c for c in classes.tolist() if dataset.domains[c] == domain], dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class JointEpisodes:
    """E episodes of several tasks, as features.

    support (E, N, K, d), query (E, M, d), query_labels (E, M). labels (E, N, d): features of the class names, the mean of
    the supports where a task has none, and None where no task has any. task (E,): the number of the task. groups (E,):
    episodes with the same number were dealt together, one per task.
    """

    support: Tensor
    query: Tensor
    labels: Tensor | None
    query_labels: Tensor
    task: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return len(self.support)


Augmentation = Callable[[JointEpisodes, torch.Generator], JointEpisodes]


class TaskSampler:
    """Deals joint episodes of the tasks' *training* classes; nothing else of a task is read.

    n_shot: a number, or a range (lowest, highest) drawn anew for every step, the same for all tasks. n_episodes: per task
    and step. tasks_per_step: how many different tasks a step holds (None: all); with one, ``how`` gives exactly the
    probabilities above, with more, tasks are drawn one after the other without putting back. augment: changes what is dealt.

    Raises ValueError for a task with too few training classes or examples (named), for features of different width, for a
    name used twice, and for settings that make no sense.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        n_way: int = 5,
        n_shot: int | tuple[int, int] = 1,
        n_query: int = 10,
        n_episodes: int = 4,
        *,
        how: str = "uniform",
        tasks_per_step: int | None = None,
        temperature: float = 2.0,
        augment: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        low, high = n_shot if isinstance(n_shot, (tuple, list)) else (n_shot, n_shot)
        _check(tasks, how, tasks_per_step, temperature)
        if not 1 <= low <= high or n_episodes < 1:
            raise ValueError(f"`n_shot` is {n_shot} and `n_episodes` {n_episodes}: use 1 or more, and a range as (lowest, highest).")
        self.tasks, self.how, self.temperature = list(tasks), how, temperature
        self.shots, self.n_episodes, self.augment = (low, high), n_episodes, augment
        self.tasks_per_step = tasks_per_step or len(tasks)
        self.generator, self.noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        seeds = torch.randint(2**62, (len(tasks),), generator=self.generator).tolist()
        self.samplers = [t.sampler("train", n_way, high, n_query, s) for t, s in zip(tasks, seeds, strict=True)]
        self.sizes = torch.tensor([int(sampler.sizes.sum()) for sampler in self.samplers], dtype=torch.float64)
        self.difficulties = torch.ones(len(tasks), dtype=torch.float64)

    @property
    def probabilities(self) -> Tensor:
        """With which the (first) task of a step is drawn, (T,) float64."""
        exponent = {"uniform": 0.0, "proportional": 1.0, "temperature": 1 / self.temperature}
        weights = self.difficulties if self.how == "difficulty" else self.sizes ** exponent[self.how]
        return weights / weights.sum()

    def update(self, accuracies: Mapping[str, float]) -> None:
        """Takes the tasks' validation accuracies by name; a task that has none gets the mean difficulty of the others."""
        known = {name: max(1 - accuracy, _LEAST_DIFFICULTY) for name, accuracy in accuracies.items()}
        mean = sum(known.values()) / len(known) if known else 1.0
        self.difficulties = torch.tensor([known.get(t.name, mean) for t in self.tasks], dtype=torch.float64)

    def sample(self) -> JointEpisodes:
        """The next step's episodes, E = tasks_per_step · n_episodes, task after task in ascending order."""
        n_shot = int(torch.randint(self.shots[0], self.shots[1] + 1, (1,), generator=self.generator))
        drawn = torch.arange(len(self.tasks))
        if self.tasks_per_step < len(self.tasks):
            drawn = torch.multinomial(self.probabilities, self.tasks_per_step, generator=self.generator).sort().values
        named = any(task.label_features is not None for task in self.tasks)
        parts = [_deal(self.tasks[t], self.samplers[t].sample(self.n_episodes), n_shot, named) for t in drawn.tolist()]
        support, query, labels, query_labels = (None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))
        task = drawn.repeat_interleave(self.n_episodes).to(support.device)
        groups = torch.arange(self.n_episodes, device=support.device).repeat(len(drawn))
        joint = JointEpisodes(support, query, labels, query_labels, task, groups)
        return self.augment(joint, self.noise) if self.augment else joint

    def state_dict(self) -> dict:
        """Where the sequence of steps stands; for checkpoints."""
        generators = [self.generator, self.noise, *(sampler.generator for sampler in self.samplers)]
        return {"generators": [g.get_state() for g in generators], "difficulties": self.difficulties}

    def load_state_dict(self, state: dict) -> None:
        generators = [self.generator, self.noise, *(sampler.generator for sampler in self.samplers)]
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.set_state(saved)
        self.difficulties = state["difficulties"]


def _deal(task: Task, episodes: Episodes, n_shot: int, named: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The features of a task's episodes; a shot range is dealt to its end, and the first n_shot are taken."""
    episodes, features = episodes.to(task.features.device), task.features
    support, labels = features[episodes.support[..., :n_shot]], None
    if named:
        labels = support.mean(2) if task.label_features is None else task.label_features[episodes.classes]
    return support, features[episodes.query], labels, episodes.query_labels


def _check(tasks: Sequence[Task], how: str, tasks_per_step: int | None, temperature: float) -> None:
    names, widths = [task.name for task in tasks], {task.name: tuple(task.features.shape[1:]) for task in tasks}
    if not tasks or len(set(names)) < len(names):
        raise ValueError(f"`tasks` are {names}: give at least one, and every one a name of its own.")
    if len(set(widths.values())) > 1:
        raise ValueError(f"`tasks` have features of different shape, {widths}: one model needs one encoder for all.")
    if how not in HOW or temperature <= 0:
        raise ValueError(f"`how` is {how!r} and `temperature` {temperature}: use one of {', '.join(map(repr, HOW))}, and more than 0.")
    if tasks_per_step is not None and not 1 <= tasks_per_step <= len(tasks):
        raise ValueError(f"`tasks_per_step` is {tasks_per_step}: use 1 to {len(tasks)}, or None for all tasks.")
    if how != "uniform" and tasks_per_step in (None, len(tasks)):
        raise ValueError(f"`how` is {how!r}, but every task is in every step: set `tasks_per_step` below {len(tasks)}.")
