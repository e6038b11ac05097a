r"""Tasks, and the episodes that a step of joint training learns from.

A *task* is a data set, or one domain of it (a package, a script), with its own classes in its own splits. A
joint step deals a few episodes of every task at once, all with the same ways and shots, as one batch: the
b-th episodes of the tasks form group b, within which a model may exchange information. So every task is seen
equally often, whatever its size. Where a step cannot hold all tasks, they must be drawn: see
``sampling_probabilities``. The foreign domain of a transfer experiment is a task left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_lib.core import (
    Episodes,
    EpisodeSampler,
    Settings,
    digest,
    feature_rows,
    look_up,
    numbers,
    positive,
    random_numbers,
    shot_range,
    whole_number,
)
from fewshot_lib.data.dataset import ClassDataset


@dataclass(frozen=True, eq=False)
class Task:
    """A data set with features (n, d) of its examples, and, if classes have names, (C, d) of the names."""

    name: str
    dataset: ClassDataset
    features: Tensor
    names: Tensor | None = None

    def __post_init__(self) -> None:
        needed = {"features": (len(self.dataset), "example"), "names": (self.dataset.n_classes, "class")}
        for name, (n, each) in needed.items():
            if (values := getattr(self, name)) is None and name == "names":
                continue
            rows = numbers(name, values)
            if rows.dim() < 2 or len(rows) != n:
                found = f"`{name}` of task {self.name!r} has shape {tuple(rows.shape)} for n = {n}"
                raise ValueError(f"{found}: give one row per {each}, (n, d).")
            object.__setattr__(self, name, rows)

    def classes(self, split: str | None) -> Tensor:
        """Class ids of a split, (c,): none where the task has no such split. None: all of all splits."""
        if split is None:
            return torch.cat(list(self.dataset.splits.values()))
        return self.dataset.splits.get(split, torch.empty(0, dtype=torch.int64))

    def sampler(
        self, split: str | None, n_way: int, n_shot: int | tuple[int, int], n_query: int, seed: int
    ) -> EpisodeSampler:
        """Draws episodes of the split; an error names the task."""
        classes, where = self.classes(split), f"` of task `{self.name}"
        feature_rows(
            f"features{where}", self.features, torch.isin(self.dataset.labels, classes).nonzero()[:, 0]
        )
        if self.names is not None:
            feature_rows(f"names{where}", self.names, classes)
        try:
            labels, names = self.dataset.labels, self.dataset.class_names
            return EpisodeSampler(labels, classes, n_way, n_shot, n_query, seed, names)
        except ValueError as error:
            where = f"Task {self.name!r}, split {split!r}"
            raise ValueError(f"{where}: {error} Or leave the task out.") from error

    def facts(self) -> dict[str, str]:
        """Checksums of what training reads: a checkpoint goes on with the same tasks only."""
        facts = {"features": self.features, "labels": self.dataset.labels, "names": self.names}
        facts |= {f"{split} split": self.classes(split) for split in ("train", "val")}
        return {f"{fact} of task {self.name!r}": digest(value) for fact, value in facts.items()}


@dataclass(frozen=True, eq=False)
class JointEpisodes:
    """E episodes of several tasks as features, task after task, equally many of each."""

    support: Tensor  # (E, N, K, d)
    query: Tensor  # (E, M, d)
    names: Tensor | None  # (E, N, d); class means where a task has no names, None where no task has any
    query_labels: Tensor  # (E, M)
    groups: Tensor  # (E,): episodes with the same number were dealt together, one per task


def joined(tasks: Sequence[Task], episodes: Sequence[Episodes], n_shot: int | None = None) -> JointEpisodes:
    """The features of equally many episodes of every task; of a range of shots only the first ``n_shot``."""
    named, device = any(task.names is not None for task in tasks), tasks[0].features.device
    dealt = [(task, e.to(device)) for task, e in zip(tasks, episodes, strict=True)]
    support = [look_up(task.features, e.support[..., :n_shot]) for task, e in dealt]
    names = [
        rows.mean(2) if task.names is None else task.names[e.classes]
        for rows, (task, e) in zip(support, dealt, strict=True)
        if named
    ]
    return JointEpisodes(
        support=torch.cat(support),
        query=torch.cat([look_up(task.features, e.query) for task, e in dealt]),
        names=torch.cat(names) if named else None,
        query_labels=torch.cat([e.query_labels for _, e in dealt]),
        groups=torch.arange(len(episodes[0]), device=device).repeat(len(tasks)),
    )


Augmentation = Callable[[JointEpisodes, torch.Generator], JointEpisodes]


class TaskSampler:
    """Deals joint episodes of the tasks' *training* classes; nothing else of a task is read.

    n_shot: a number, or a range (lowest, highest) drawn anew for every step, the same for all tasks.
    n_episodes: of every task in a step. A training uses a sampler up: make a new one for the next.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        n_way: int = 5,
        n_shot: int | tuple[int, int] = 1,
        n_query: int = 10,
        n_episodes: int = 4,
        *,
        augment: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        names = [task.name for task in tasks]
        if not tasks or len(set(names)) < len(names):
            raise ValueError(f"`tasks` are {names}: give at least one, and every one a name of its own.")
        widths = {task.name: tuple(task.features.shape[1:]) for task in tasks}
        if len(set(widths.values())) > 1:
            fix = "one model needs one encoder for all"
            raise ValueError(f"`tasks` have features of different shape, {widths}: {fix}.")
        whole_number(1, n_episodes=n_episodes)
        self.tasks, self.n_way, self.shots = list(tasks), n_way, shot_range(n_shot)
        self.n_query, self.n_episodes, self.augment, self.seed = n_query, n_episodes, augment, seed
        self.generator, self.noise = random_numbers(seed), random_numbers(seed)
        seeds = torch.randint(2**62, (len(tasks),), generator=self.generator).tolist()
        self.samplers = [
            task.sampler("train", n_way, self.shots[1], n_query, number)
            for task, number in zip(tasks, seeds, strict=True)
        ]
        self._generators = [self.generator, self.noise, *(s.generator for s in self.samplers)]

    def sample(self) -> JointEpisodes:
        """The next step's episodes, E = T · n_episodes."""
        n_shot = int(torch.randint(self.shots[0], self.shots[1] + 1, (1,), generator=self.generator))
        joint = joined(self.tasks, [s.sample(self.n_episodes) for s in self.samplers], n_shot)
        return self.augment(joint, self.noise) if self.augment else joint

    @property
    def _settings(self) -> Settings:
        facts = {name: value for task in self.tasks for name, value in task.facts().items()}
        return Settings(
            **facts,
            tasks=[task.name for task in self.tasks],
            episodes=[self.n_way, *self.shots, self.n_query, self.n_episodes],
            augment=getattr(self.augment, "__qualname__", repr(self.augment)),
            seed=self.seed,
        )

    def state_dict(self) -> dict:
        """Where the sequence of steps stands, and of which sequence; for checkpoints."""
        return {"settings": self._settings.values, "generators": [g.get_state() for g in self._generators]}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a state; one of a sampler with other settings is refused."""
        self._settings.load_state_dict(state["settings"])
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.set_state(saved)


def sampling_probabilities(sizes: Tensor, temperature: float) -> Tensor:
    """How often to draw tasks of ``sizes`` (T,), numbers of training examples: p_t ∝ n_t^(1/τ), (T,).

    τ = 1 is proportional to size: large tasks dominate. A large τ is nearly uniform. Between the two:
    Arivazhagan et al. 2019 (arXiv:1907.05019), for languages.
    """
    positive(temperature=temperature)
    sizes = numbers("sizes", sizes)
    if (sizes < 0).any() or not sizes.any():
        raise ValueError(f"`sizes` are {sizes.tolist()}: give numbers of examples, 0 or more, not all 0.")
    weights = sizes.double() ** (1 / temperature)
    return (weights / weights.sum()).float()
