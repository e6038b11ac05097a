"""Episodes: the few-shot problem, dealt many at once.

An *N-way K-shot episode* is a small classification problem: N classes, K labelled **support** examples of
each, M unlabelled **query** examples of the same classes. A few-shot learner is trained on episodes of some
classes and tested on classes it never saw (Vinyals et al. 2016, arXiv:1606.04080, section 3).

Episodes are row numbers into a data set, so ten thousand of them are one gather of cached features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_lib.core.checkpoints import Settings, digest
from fewshot_lib.core.checks import (
    check_axes,
    check_supports,
    is_whole,
    random_numbers,
    whole_number,
    whole_numbers,
)
from fewshot_lib.data.cache import read_tensors, save_tensors
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.reporting import first_few

# Random numbers drawn at once; fixed, so that a seed means the same episodes on every machine.
_DRAW_BLOCK = 2_000_000
_MOST_ROWS = 1 << 29  # row numbers of all episodes together: 4 GB


@dataclass(frozen=True, eq=False)
class Episodes:
    """E episodes as row numbers into one data set.

    support: (E, N, K) rows; query: (E, M) rows; query_labels: (E, M), the way 0..N-1 of each query; classes:
    (E, N), the data set's class behind each way. Where shots vary or queries were left out, support_mask
    (E, N, K) and query_mask (E, M) are False for the rows that are only padding.
    """

    support: Tensor
    query: Tensor
    query_labels: Tensor
    classes: Tensor
    support_mask: Tensor
    query_mask: Tensor

    @property
    def n_way(self) -> int:
        return self.support.shape[1]

    @property
    def n_shot(self) -> int:
        """The most shots of any episode where they vary."""
        return self.support.shape[2]

    @property
    def n_query(self) -> int:
        """Queries per class; the rounded mean where they vary."""
        return round(self.query_mask.sum().item() / self.classes.numel())

    @property
    def is_padded(self) -> bool:
        return not bool(self.support_mask.all() and self.query_mask.all())

    def __len__(self) -> int:
        return self.support.shape[0]

    def __getitem__(self, chosen: Any) -> Episodes:
        if is_whole(chosen):
            fix = f"use a slice such as [{chosen}:{chosen + 1}], which keeps the episode axis"
            raise TypeError(f"`episodes` is {chosen}: {fix}.")
        return self._with(lambda tensor: tensor[chosen])

    def to(self, device: torch.device | str) -> Episodes:
        return self._with(lambda tensor: tensor.to(device))

    def _with(self, change: Callable[[Tensor], Tensor]) -> Episodes:
        return Episodes(**{name: change(tensor) for name, tensor in vars(self).items()})

    def fingerprint(self) -> str:
        """sha256 over all rows: two results may be compared if and only if it is equal."""
        digest = hashlib.sha256()
        for name, tensor in vars(self).items():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        save_tensors(Path(path), vars(self))

    @staticmethod
    def load(path: str | Path) -> Episodes:
        """Episodes by :meth:`save`; a file that holds none, or impossible ones, is a ValueError."""
        try:
            found = Episodes(**read_tensors(Path(path))[0])
            found._check()
        except (TypeError, ValueError) as error:  # TypeError: other tensors than these
            raise ValueError(f"{path} is damaged or holds no episodes ({error}): save them again.") from None
        return found

    def _check(self) -> None:
        """Raises ValueError for what no sampler deals."""
        axes = {"support": "ENK", "query": "EM", "query_labels": "EM", "classes": "EN"}
        axes |= {"support_mask": "ENK", "query_mask": "EM"}
        check_axes(**{name: (getattr(self, name), of) for name, of in axes.items()})
        for name, tensor in vars(self).items():
            kind = torch.bool if name.endswith("_mask") else torch.int64
            if tensor.dtype != kind:
                raise ValueError(f"`{name}` is {tensor.dtype} and must be {kind}")
            if kind == torch.int64 and tensor.numel() and tensor.min() < 0:
                raise ValueError(f"`{name}` has {int(tensor.min())}, and rows count from 0")
        if self.query_labels.numel() and (highest := int(self.query_labels.max())) >= self.n_way:
            raise ValueError(f"`query_labels` has way {highest} of {self.n_way}")
        check_supports(self.support_mask)


class EpisodeSampler:
    """Draws episodes from the examples of some classes; the same on every device.

    labels: class of every example of the data set, (n,).
    classes: the class ids to draw from, (c,), for instance ``dataset.classes("train")``.
    n_shot: a number, or a (lowest, highest) range drawn anew for every episode.
    n_query: queries per class.
    class_names: used in error messages.

    ``EpisodeSampler.of(dataset, "train", …)`` takes labels, classes and class_names from a data set.

    In every episode the classes differ, support and query share no example, the classes stand in a fresh
    random order, and the queries are shuffled: a learner that predicts from the *position* of a query, or of
    a class, is at chance.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        classes: Tensor | Sequence[int],
        n_way: int = 5,
        n_shot: int | tuple[int, int] = 1,
        n_query: int = 15,
        seed: int = 0,
        class_names: Sequence[str] = (),
    ) -> None:
        whole_number(2, n_way=n_way)
        whole_number(1, n_query=n_query)
        self.n_way, self.n_query, self.shot_range = int(n_way), int(n_query), shot_range(n_shot)
        self.classes = whole_numbers("classes", classes).cpu()
        labels = whole_numbers("labels", labels)
        if len(self.classes.unique()) < len(self.classes):
            raise ValueError("`classes` holds a class twice: an episode would ask to tell it from itself.")
        if n_way > len(self.classes):
            there = f"there are only {len(self.classes)} classes to draw from: use fewer ways"
            raise ValueError(f"`n_way` is {n_way} but {there}.")
        members = [(labels == c).nonzero().squeeze(1).cpu() for c in self.classes]
        self.sizes = torch.tensor([len(rows) for rows in members])
        self._check_sizes(class_names)
        self.members = torch.nn.utils.rnn.pad_sequence(members, batch_first=True)  # (c, largest class)
        self.generator = random_numbers(seed)

    @staticmethod
    def of(dataset: ClassDataset, split: str, *sizes: Any, **settings: Any) -> EpisodeSampler:
        """Of the classes of one split; sizes and settings: n_way, n_shot, n_query and seed, as above."""
        settings["class_names"] = dataset.class_names
        return EpisodeSampler(dataset.labels, dataset.classes(split), *sizes, **settings)

    def _check_sizes(self, class_names: Sequence[str]) -> None:
        """Raises ValueError for classes that have too few examples, all by name."""
        n_shot, need = self.shot_range[1], self.shot_range[1] + self.n_query
        sizes = zip(self.classes.tolist(), self.sizes.tolist(), strict=True)
        names = dict(enumerate(class_names))
        few = [(names.get(c, c), size) for c, size in sizes if size < need]
        if few:
            (name, size), *others = few
            found = first_few([f"Class {name!r} has {size} examples", *(f"{n!r} has {m}" for n, m in others)])
            needed = f"n_shot + n_query = {n_shot} + {self.n_query} = {need} are needed"
            fix = f"use fewer shots or queries, or leave {'them' if others else 'the class'} out"
            raise ValueError(f"{found}, but {needed}: {fix}.")

    def sample(self, n_episodes: int) -> Episodes:
        """The next n_episodes episodes; calling again continues the sequence."""
        whole_number(1, n_episodes=n_episodes)
        rows = self.n_way * (self.shot_range[1] + 2 * self.n_query + 1)  # of an episode
        if n_episodes * rows > _MOST_ROWS:
            need = f"such episodes would take {8e-9 * n_episodes * rows:,.0f} GB of memory"
            fix = f"draw at most {_MOST_ROWS // rows:,} at a time (10,000 give a narrow interval)"
            raise ValueError(f"`n_episodes` is {n_episodes:,}, and {need}: {fix}.")
        block = max(1, _DRAW_BLOCK // (self.n_way * self.members.shape[1] + len(self.classes)))
        parts = [self._draw(min(block, n_episodes - start)) for start in range(0, n_episodes, block)]
        joined = zip(*(vars(part).values() for part in parts), strict=True)
        return Episodes(*(torch.cat(column) for column in joined))

    def _draw(self, e: int) -> Episodes:
        n, k, m, generator = self.n_way, self.shot_range[1], self.n_query, self.generator
        # The ways could once vary, too; this draw stays, so that a seed means the episodes it always meant.
        torch.randint(n, n + 1, (e,), generator=generator)
        shots = torch.randint(self.shot_range[0], k + 1, (e,), generator=generator)
        # Without replacement: the n largest of some random numbers, (e, n).
        drawn = torch.rand(e, len(self.classes), generator=generator).topk(n).indices
        # A random order of each class's examples: random keys, with the padding pushed to the end.
        keys = torch.rand(e, n, self.members.shape[1], generator=generator)
        keys.masked_fill_(torch.arange(self.members.shape[1]) >= self.sizes[drawn].unsqueeze(-1), -1.0)
        rows = self.members[drawn].gather(-1, keys.topk(k + m).indices)  # (e, n, k + m)
        support_mask = (torch.arange(k) < shots.view(e, 1, 1)).expand(e, n, k).contiguous()
        labels = torch.arange(n).repeat_interleave(m).expand(e, -1)
        order = torch.rand(e, n * m, generator=generator).argsort(-1)
        return Episodes(
            support=rows[..., :k] * support_mask,
            query=rows[..., k:].reshape(e, n * m).gather(-1, order),
            query_labels=labels.gather(-1, order),
            classes=self.classes[drawn],
            support_mask=support_mask,
            query_mask=torch.ones(e, n * m, dtype=torch.bool),
        )

    @property
    def _settings(self) -> Settings:
        episodes = [self.n_way, *self.shot_range, self.n_query]
        return Settings(
            episodes=episodes, classes=digest(self.classes), labels=digest(self.members, self.sizes)
        )

    def state_dict(self) -> dict:
        """Where the sequence of episodes stands, and of which sequence; for checkpoints."""
        return {"settings": self._settings.values, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a state; one of a sampler of other classes, labels or sizes is refused."""
        if "settings" not in state:
            raise ValueError("it does not say of which classes and labels its episodes were")
        self._settings.load_state_dict(state["settings"])
        self.generator.set_state(state["generator"])


def look_up(values: Tensor, rows: Tensor) -> Tensor:
    """values (n, ...), row numbers of any shape -> values[rows], in a fraction of its time on a CPU."""
    return values.index_select(0, rows.flatten()).reshape(rows.shape + values.shape[1:])


def shot_range(n_shot: int | tuple[int, int]) -> tuple[int, int]:
    """A number of shots, or a (lowest, highest) range of them, as a range."""
    shots = tuple(n_shot) if isinstance(n_shot, (tuple, list)) else (n_shot, n_shot)
    if len(shots) != 2:
        raise ValueError(f"`n_shot` is {n_shot}: use a number, or a range (lowest, highest).")
    low, high = shots
    whole_number(1, n_shot=low)
    whole_number(low, **{"n_shot[1]": high})
    return int(low), int(high)


def with_fewer_queries(episodes: Episodes, n_query: int, balanced: bool, seed: int = 0) -> Episodes:
    """The same episodes with at most N·n_query of their queries; the others are masked out.

    balanced: n_query of every class stay. Otherwise the class shares of each episode are drawn from a
    Dirichlet(1, …, 1) distribution (a class cannot keep more than it has, so fewer may stay): a stress test
    for transductive methods, after Veilleux et al. (2021, arXiv:2204.11181).
    """
    whole_number(1, n_query=n_query)
    if n_query > episodes.n_query:
        there = f"the episodes have {episodes.n_query} queries per class: keep 1 to {episodes.n_query}"
        raise ValueError(f"`n_query` is {n_query}, but {there}.")
    labels, ways = episodes.query_labels, episodes.n_way
    shares = torch.ones(len(episodes), ways)
    if not balanced:  # exponentials; normalised, they are Dirichlet(1)
        shares = torch.rand(shares.shape, generator=random_numbers(seed))
        shares = -shares.clamp_min(1e-12).log()
    shares = shares / shares.sum(1, keepdim=True)
    n_kept = largest_remainder(shares * ways * n_query).to(labels.device)
    one_hot = torch.nn.functional.one_hot(labels, ways) * episodes.query_mask.unsqueeze(-1)
    place = (one_hot.cumsum(1) * one_hot).sum(-1)  # 1 for the first query of its class, 2 for the second
    mask = (place > 0) & (place <= n_kept.gather(1, labels))
    return replace(episodes, query_mask=mask)


def largest_remainder(shares: Tensor) -> Tensor:
    """Whole numbers (E, N) near the shares (E, N) with the same (whole) sum in every row."""
    whole = shares.floor()
    missing = (shares.sum(1) - whole.sum(1)).round().long()
    rank = (whole - shares).argsort(1).argsort(1)  # 0 for the largest remainder
    return (whole + (rank < missing.unsqueeze(1))).long()
