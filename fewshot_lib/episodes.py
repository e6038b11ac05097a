"""Episodes: the few-shot problem, dealt many at once.

An *N-way K-shot episode* is a small classification problem of its own: N classes, K labelled **support** examples of
each, and unlabelled **query** examples of the same classes. A few-shot learner is trained on episodes of some classes
and tested on episodes of classes it never saw (Vinyals et al. 2016, arXiv:1606.04080, section 3).

Nothing here touches an image or a text. Episodes are tensors of row numbers into a data set, so ten thousand of them
are one gather of cached features. Shapes: E episodes, N ways, K shots, M queries in an episode.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_DRAW_BLOCK = 2_000_000  # random numbers drawn at once; fixed, so that a seed means the same episodes on every machine


@dataclass(frozen=True, eq=False)
class Episodes:
    """E episodes as row numbers into one data set.

    support: (E, N, K) rows; query: (E, M) rows, in shuffled order; query_labels: (E, M), the way 0..N-1 of each query;
    classes: (E, N), the data set's class behind each way. Where ways or shots vary, rows that only fill the tensor up
    are False in support_mask (E, N, K) and query_mask (E, M); their row number is 0 and their query label 0.
    """

    support: Tensor
    query: Tensor
    query_labels: Tensor
    classes: Tensor
    support_mask: Tensor
    query_mask: Tensor

    @property
    def n_episodes(self) -> int:
        return self.support.shape[0]

    @property
    def n_way(self) -> int:
        """Ways, or the most ways of any episode where they vary."""
        return self.support.shape[1]

    @property
    def n_shot(self) -> int:
        """Shots, or the most shots of any episode where they vary."""
        return self.support.shape[2]

    @property
    def n_query(self) -> int:
        """Queries per class; the rounded mean where they vary."""
        return round(self.query_mask.sum().item() / self.support_mask.any(-1).sum().item())

    @property
    def is_padded(self) -> bool:
        return not bool(self.support_mask.all() and self.query_mask.all())

    def __len__(self) -> int:
        return self.n_episodes

    def __getitem__(self, episodes: slice | Tensor) -> Episodes:
        """The chosen episodes (a slice, or an index or mask tensor)."""
        if isinstance(episodes, int):
            raise TypeError(f"`episodes` is {episodes}: use a slice such as [{episodes}:{episodes + 1}], which keeps the episode axis.")
        return Episodes(*(getattr(self, f.name)[episodes] for f in fields(self)))

    def to(self, device: torch.device | str) -> Episodes:
        return Episodes(*(getattr(self, f.name).to(device) for f in fields(self)))

    def fingerprint(self) -> str:
        """sha256 over all rows: two methods are compared on the same episodes if and only if this is equal."""
        digest = hashlib.sha256()
        for f in fields(self):
            tensor = getattr(self, f.name)
            digest.update(f"{f.name}{tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes the episodes to a safetensors file."""
        save_file({f.name: getattr(self, f.name).cpu().contiguous() for f in fields(self)}, path)

    @staticmethod
    def load(path: str | Path) -> Episodes:
        return Episodes(**load_file(path))


class EpisodeSampler:
    """Draws episodes from the examples of some classes.

    labels: class of every example of the data set, (n,). classes: the class ids to draw from, (c,), for instance
    ``dataset.classes("train")``. n_way and n_shot are numbers, or (lowest, highest) ranges drawn anew for every
    episode. n_query: queries per class. The draws run on the CPU, so a seed gives the same episodes on every device.

    In every episode the classes differ from each other, support and query share no example, the classes stand in a
    fresh random order, and the queries are shuffled: a learner that predicts from the *position* of a query, or of a
    class, is at chance.

    Raises ValueError for more ways than classes, for a class with fewer than n_shot + n_query examples (named), and
    for numbers that are not positive.
    """

    def __init__(
        self,
        labels: Tensor,
        classes: Tensor,
        n_way: int | tuple[int, int] = 5,
        n_shot: int | tuple[int, int] = 1,
        n_query: int = 15,
        seed: int = 0,
    ) -> None:
        self.classes = torch.as_tensor(classes, dtype=torch.int64).cpu()
        self.way_range = _as_range("n_way", n_way, lowest=2)
        self.shot_range = _as_range("n_shot", n_shot, lowest=1)
        (self.n_query, most) = _as_range("n_query", n_query, lowest=1)
        if most != self.n_query:
            raise ValueError(f"`n_query` is {n_query}: it is one number, which does not vary.")
        if len(self.classes.unique()) < len(self.classes):
            raise ValueError("`classes` holds a class twice: an episode would ask to tell it from itself.")
        if self.way_range[1] > len(self.classes):
            raise ValueError(f"`n_way` is {self.way_range[1]} but there are only {len(self.classes)} classes to draw from: use fewer ways.")
        members = [(labels == c).nonzero().squeeze(1).cpu() for c in self.classes]
        need = self.shot_range[1] + self.n_query
        for c, rows in zip(self.classes.tolist(), members, strict=True):
            if len(rows) < need:
                raise ValueError(
                    f"Class {c} has {len(rows)} examples, but n_shot + n_query = "
                    f"{self.shot_range[1]} + {self.n_query} = {need} are needed: use fewer shots or queries, or leave the class out."
                )
        self.sizes = torch.tensor([len(rows) for rows in members])
        self.members = torch.nn.utils.rnn.pad_sequence(members, batch_first=True)  # (c, largest class)
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, n_episodes: int) -> Episodes:
        """The next n_episodes episodes; calling again continues the sequence."""
        if n_episodes < 1:
            raise ValueError(f"`n_episodes` is {n_episodes}: ask for at least 1.")
        width = self.way_range[1] * self.members.shape[1] + len(self.classes)
        block = max(1, _DRAW_BLOCK // width)
        parts = [self._draw(min(block, n_episodes - start)) for start in range(0, n_episodes, block)]
        return parts[0] if len(parts) == 1 else Episodes(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Episodes)))

    def _draw(self, e: int) -> Episodes:
        n, k, m = self.way_range[1], self.shot_range[1], self.n_query
        ways = self._uniform(self.way_range, e)  # (e,)
        shots = self._uniform(self.shot_range, e)
        drawn = torch.rand(e, len(self.classes), generator=self.generator).topk(n).indices  # (e, n), without replacement

        # A random order of each class's examples: random keys, with the padding pushed to the end.
        keys = torch.rand(e, n, self.members.shape[1], generator=self.generator)
        keys.masked_fill_(torch.arange(self.members.shape[1]) >= self.sizes[drawn].unsqueeze(-1), -1.0)
        rows = self.members[drawn].gather(-1, keys.topk(k + m).indices)  # (e, n, k + m)

        way_mask = torch.arange(n) < ways.unsqueeze(-1)  # (e, n)
        support_mask = way_mask.unsqueeze(-1) & (torch.arange(k) < shots.view(e, 1, 1))
        labels = torch.arange(n).view(1, n, 1).expand(e, n, m).reshape(e, n * m)
        query_mask = way_mask.unsqueeze(-1).expand(e, n, m).reshape(e, n * m)
        # Shuffle real queries among themselves; padding stays last.
        order = torch.rand(e, n * m, generator=self.generator).masked_fill_(~query_mask, 2.0).argsort(-1)
        query_mask = query_mask.gather(-1, order)
        return Episodes(
            support=rows[..., :k] * support_mask,
            query=rows[..., k:].reshape(e, n * m).gather(-1, order) * query_mask,
            query_labels=labels.gather(-1, order) * query_mask,
            classes=self.classes[drawn],
            support_mask=support_mask,
            query_mask=query_mask,
        )

    def _uniform(self, bounds: tuple[int, int], e: int) -> Tensor:
        return torch.randint(bounds[0], bounds[1] + 1, (e,), generator=self.generator)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the sequence of episodes stands; for checkpoints."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])


def _as_range(name: str, value: int | tuple[int, int], lowest: int) -> tuple[int, int]:
    low, high = value if isinstance(value, (tuple, list)) else (value, value)
    if int(low) != low or int(high) != high:
        raise ValueError(f"`{name}` is {value}: it must be a whole number.")
    if not lowest <= low <= high:
        raise ValueError(
            f"`{name}` is {value}: it must be at least {lowest}" + (" and given as (lowest, highest)." if low != high else ".")
        )
    return int(low), int(high)


def with_fewer_queries(episodes: Episodes, n_query: int, balanced: bool, seed: int = 0) -> Episodes:
    """The same episodes with at most N·n_query of their queries; the others are masked out.

    balanced: n_query of every class stay. Otherwise the class shares of each episode are drawn from a Dirichlet(1, …, 1)
    distribution, as far as the queries go (a class cannot keep more than it has, so fewer may stay): a stress test for transductive
    methods, after Veilleux et al. (2021, arXiv:2204.11181).

    Raises ValueError for more queries per class than there are.
    """
    if not 1 <= n_query <= episodes.n_query:
        raise ValueError(
            f"`n_query` is {n_query}, but the episodes have {episodes.n_query} queries per class: keep 1 to {episodes.n_query}."
        )
    generator = torch.Generator().manual_seed(seed)
    labels, ways = episodes.query_labels, episodes.n_way
    real = episodes.support_mask.any(-1).cpu()  # (E, N): ways that are only padding get no share
    shares = torch.ones(len(episodes), ways)
    if not balanced:  # exponentials; normalised, they are Dirichlet(1)
        shares = -torch.rand(len(episodes), ways, generator=generator).clamp_min(1e-12).log()
    shares = shares * real / (shares * real).sum(1, keepdim=True)
    wanted = largest_remainder(shares * real.sum(1, keepdim=True) * n_query).to(labels.device)
    one_hot = torch.nn.functional.one_hot(labels, ways) * episodes.query_mask.unsqueeze(-1)
    place = (one_hot.cumsum(1) * one_hot).sum(-1)  # 1 for the first query of its class, 2 for the second; 0 for padding
    mask = (place > 0) & (place <= wanted.gather(1, labels))
    return replace(episodes, query_mask=mask)


def largest_remainder(shares: Tensor) -> Tensor:
    """Whole numbers (E, N) near the shares (E, N) with the same (whole) sum in every row."""
    whole = shares.floor()
    missing = (shares.sum(1) - whole.sum(1)).round().long()
    rank = (whole - shares).argsort(1).argsort(1)  # 0 for the largest remainder
    return (whole + (rank < missing.unsqueeze(1))).long()
