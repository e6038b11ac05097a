"""Episodes: the few-shot problem, dealt many at once.

An *N-way K-shot episode* is a small classification problem: N classes, K labelled **support** examples of
each, M unlabelled **query** examples of the same classes. A few-shot learner is trained on episodes of some
classes and tested on classes it never saw (Vinyals et al. 2016, arXiv:1606.04080, section 3).

Episodes are row numbers into a data set, so ten thousand of them are one gather of cached features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewshot_lib.core.checks import whole_number

# Random numbers drawn at once; fixed, so that a seed means the same episodes on every machine.
_DRAW_BLOCK = 2_000_000


@dataclass(frozen=True, eq=False)
class Episodes:
    """E episodes as row numbers into one data set.

    support: (E, N, K) rows; query: (E, M) rows; query_labels: (E, M), the way 0..N-1 of each query; classes:
    (E, N), the data set's class behind each way. Where shots vary, or queries were left out, rows that only
    fill the tensor up are False in support_mask (E, N, K) and query_mask (E, M).
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

    def __getitem__(self, chosen: slice | Tensor) -> Episodes:
        if isinstance(chosen, int):
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
        """Writes a safetensors file."""
        save_file(vars(self._with(lambda tensor: tensor.cpu().contiguous())), path)

    @staticmethod
    def load(path: str | Path) -> Episodes:
        return Episodes(**load_file(path))


class EpisodeSampler:
    """Draws episodes from the examples of some classes; the same on every device.

    labels: class of every example of the data set, (n,).
    classes: the class ids to draw from, (c,), for instance ``dataset.classes("train")``.
    n_shot: a number, or a (lowest, highest) range drawn anew for every episode.
    n_query: queries per class.

    In every episode the classes differ, support and query share no example, the classes stand in a fresh
    random order, and the queries are shuffled: a learner that predicts from the *position* of a query, or of
    a class, is at chance.
    """

    def __init__(
        self,
        labels: Tensor,
        classes: Tensor,
        n_way: int = 5,
        n_shot: int | tuple[int, int] = 1,
        n_query: int = 15,
        seed: int = 0,
    ) -> None:
        whole_number(2, n_way=n_way)
        whole_number(1, n_query=n_query)
        self.n_way, self.n_query, self.shot_range = n_way, n_query, shot_range(n_shot)
        self.classes = torch.as_tensor(classes, dtype=torch.int64).cpu()
        if len(self.classes.unique()) < len(self.classes):
            raise ValueError("`classes` holds a class twice: an episode would ask to tell it from itself.")
        if n_way > len(self.classes):
            there = f"there are only {len(self.classes)} classes to draw from: use fewer ways"
            raise ValueError(f"`n_way` is {n_way} but {there}.")
        members = [(labels == c).nonzero().squeeze(1).cpu() for c in self.classes]
        need = self.shot_range[1] + n_query
        for c, rows in zip(self.classes.tolist(), members, strict=True):
            if len(rows) < need:
                needed = f"n_shot + n_query = {self.shot_range[1]} + {n_query} = {need} are needed"
                fix = "use fewer shots or queries, or leave the class out"
                raise ValueError(f"Class {c} has {len(rows)} examples, but {needed}: {fix}.")
        self.sizes = torch.tensor([len(rows) for rows in members])
        self.members = torch.nn.utils.rnn.pad_sequence(members, batch_first=True)  # (c, largest class)
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, n_episodes: int) -> Episodes:
        """The next n_episodes episodes; calling again continues the sequence."""
        whole_number(1, n_episodes=n_episodes)
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

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])


def shot_range(n_shot: int | tuple[int, int]) -> tuple[int, int]:
    """A number of shots, or a (lowest, highest) range of them, as a range."""
    low, high = n_shot if isinstance(n_shot, (tuple, list)) else (n_shot, n_shot)
    whole_number(1, n_shot=low)
    whole_number(low, **{"n_shot[1]": high})
    return int(low), int(high)


def with_fewer_queries(episodes: Episodes, n_query: int, balanced: bool, seed: int = 0) -> Episodes:
    """The same episodes with at most N·n_query of their queries; the others are masked out.

    balanced: n_query of every class stay. Otherwise the class shares of each episode are drawn from a
    Dirichlet(1, …, 1) distribution (a class cannot keep more than it has, so fewer may stay): a stress test
    for transductive methods, after Veilleux et al. (2021, arXiv:2204.11181).
    """
    if not 1 <= n_query <= episodes.n_query:
        there = f"the episodes have {episodes.n_query} queries per class: keep 1 to {episodes.n_query}"
        raise ValueError(f"`n_query` is {n_query}, but {there}.")
    labels, ways = episodes.query_labels, episodes.n_way
    shares = torch.ones(len(episodes), ways)
    if not balanced:  # exponentials; normalised, they are Dirichlet(1)
        shares = torch.rand(shares.shape, generator=torch.Generator().manual_seed(seed))
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
