"""Measuring few-shot learners: an accuracy per episode, a mean, and how sure we are of it.

Accuracy varies a lot between episodes (5-way 1-shot: a standard deviation near 10 points), so a single figure says
nothing. Over E episodes with standard deviation s the mean is known to ± t·s/√E, the 95 % confidence interval. The
standard deviation says how episodes differ and does not shrink with E; the interval says how well the mean is known,
and does. Two methods are compared on the *same* episodes, through the interval of their difference: what makes an
episode hard is common to both, and cancels.

The interval over episodes speaks of this trained model. What another training seed would give is a second question:
with several seeds the interval is taken over the seeds' means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from scipy import stats
from torch import Tensor

from fewshot_lib.episodes import Episodes


class Method(Protocol):
    """A few-shot method: (support (E, N, K, d), query (E, M, d), [support_mask (E, N, K)]) -> logits (E, M, N).

    On padded episodes a transductive method also gets query_mask (E, M).
    One that ``uses_labels`` also takes labels (E, N, d): features of the names of the episode's classes.
    """

    name: str
    transductive: bool
    uses_labels: bool

    def __call__(self, support: Tensor, query: Tensor, **extra: Tensor) -> Tensor: ...


def method(name: str, *, transductive: bool, uses_labels: bool = False) -> Callable[[Callable], Callable]:
    """Declares a function a few-shot method, and whether the answer to a query may depend on the *other* queries.

    An inductive method answers each query alone. A transductive one looks at all queries at once: often more accurate,
    but it needs them all before it answers, and it may exploit that a benchmark's queries are balanced.
    """

    def declare(function: Callable) -> Callable:
        function.name, function.transductive, function.uses_labels = name, transductive, uses_labels
        return function

    return declare


@dataclass(frozen=True, eq=False)
class EpisodeResults:
    """Accuracies of one method on a set of episodes: (S, E), one row per training seed (S = 1 if nothing is trained)."""

    accuracies: Tensor
    method: str
    transductive: bool
    n_way: int
    n_shot: int
    n_query: int
    episodes_fingerprint: str

    kind: ClassVar[str] = "accuracy"

    @property
    def n_seeds(self) -> int:
        return self.accuracies.shape[0]

    @property
    def n_episodes(self) -> int:
        return self.accuracies.shape[1]

    @property
    def mean(self) -> float:
        return self.accuracies.mean().item()

    @property
    def std(self) -> float:
        """Standard deviation between episodes (seeds averaged): how different episodes are, not how sure the mean is."""
        return self.accuracies.mean(0).std().item()

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % t-interval of the mean: over seeds where there are several, else over episodes."""
        return half_width(self.accuracies.mean(1) if self.n_seeds > 1 else self.accuracies[0])

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - self.ci95, self.mean + self.ci95

    @property
    def in_words(self) -> str:
        """The mean and its interval, for a sentence: "85.0% (95 % interval 84.5% to 85.5%)"."""
        low, high = self.interval
        return f"{self.mean:.1%} (95 % interval {low:.1%} to {high:.1%})"

    def __str__(self) -> str:
        seeds = f", {self.n_seeds} seeds" if self.n_seeds > 1 else ""
        kind = "transductive" if self.transductive else "inductive"
        return (
            f"{self.method}: {self.mean:.1%} ± {self.ci95:.1%} "
            f"({self.n_way}-way {self.n_shot}-shot, {self.n_query} queries per class, {self.n_episodes:,} episodes{seeds}, {kind})"
        )


class PairedDifference(EpisodeResults):
    """Accuracy of a minus accuracy of b, episode by episode: ``accuracies`` holds the differences (S, E)."""

    kind = "difference"

    @property
    def in_words(self) -> str:
        """The mean and its interval, for a sentence: "+3.1 points (95 % interval +2.0 to +4.2)"."""
        mean, low, high = (round(100 * value, 1) + 0.0 for value in (self.mean, *self.interval))  # + 0.0: no "-0.0"
        return f"{mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"

    @property
    def verdict(self) -> str:
        """What the interval says of the first method: "better than", "worse than" or "not told apart from" the second."""
        low, high = self.interval
        return "better than" if low > 0 else ("worse than" if high < 0 else "not told apart from")

    def __str__(self) -> str:
        first, second = self.method.split(" − ", 1)
        return f"{first} is {self.verdict} {second}: {self.in_words}, {self.n_episodes:,} episodes"


def half_width(values: Tensor) -> float:
    """Half-width of the 95 % t-interval of the mean of independent values (n,); infinite for n < 2."""
    n = values.numel()
    if n < 2:
        return math.inf
    return float(stats.t.ppf(0.975, n - 1)) * values.double().std().item() / math.sqrt(n)


def mean_interval(values: Tensor) -> tuple[float, float]:
    """95 % t-interval of the mean of independent values (n,): (low, high)."""
    mean, half = values.double().mean().item(), half_width(values)
    return mean - half, mean + half


def accuracy_per_episode(logits: Tensor, query_labels: Tensor, query_mask: Tensor | None = None) -> Tensor:
    """logits (E, M, N), query_labels (E, M) -> accuracy of each episode (E,); masked-out queries do not count."""
    exact = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    correct = (logits.argmax(-1) == query_labels).to(exact)
    if query_mask is None:
        return correct.mean(-1)
    return (correct * query_mask).sum(-1) / query_mask.sum(-1)


@torch.no_grad()
def evaluate(
    few_shot_method: Method, episodes: Episodes, features: Tensor, batch_size: int = 1000, *, label_features: Tensor | None = None
) -> EpisodeResults:
    """Runs a method on all episodes over features (n, d) of the whole data set, ``batch_size`` episodes at a time.

    label_features: (C, d), one row per class of the data set, for methods that use the names of the classes.

    Everything stays on the features' device; accuracies come to the host once, at the end. Raises ValueError where the
    episodes point outside the features, and TypeError for a method that does not declare ``transductive``.
    """
    if not isinstance(getattr(few_shot_method, "transductive", None), bool):
        raise TypeError(
            f"`few_shot_method` is {few_shot_method!r}, which does not say whether it is transductive: declare it with @method(...)."
        )
    if batch_size < 1 or not len(episodes):
        raise ValueError(f"`batch_size` is {batch_size} and there are {len(episodes)} episodes: both must be at least 1.")
    last = int(max(episodes.support.max(), episodes.query.max()))
    if last >= len(features):
        raise ValueError(f"`episodes` use row {last} but `features` has {len(features)} rows: they belong to different data sets.")
    uses_labels = getattr(few_shot_method, "uses_labels", False)
    if uses_labels and label_features is None:
        raise ValueError(f"`label_features` is missing: {few_shot_method.name!r} uses the names of the classes. Give one row per class.")
    if uses_labels and len(label_features) <= int(episodes.classes.max()):
        raise ValueError(
            f"`label_features` has {len(label_features)} rows but an episode holds class {int(episodes.classes.max())}: one row per class."
        )
    accuracies = []
    for start in range(0, len(episodes), batch_size):
        batch = episodes[start : start + batch_size].to(features.device)
        extra = {"support_mask": batch.support_mask} if episodes.is_padded else {}
        if episodes.is_padded and few_shot_method.transductive:
            extra["query_mask"] = batch.query_mask  # queries that only fill up must not take part
        if uses_labels:
            extra["labels"] = label_features[batch.classes]
        logits = few_shot_method(features[batch.support], features[batch.query], **extra)
        accuracies.append(accuracy_per_episode(logits, batch.query_labels, batch.query_mask))
    return EpisodeResults(
        torch.cat(accuracies).cpu().unsqueeze(0),
        few_shot_method.name,
        few_shot_method.transductive,
        episodes.n_way,
        episodes.n_shot,
        episodes.n_query,
        episodes.fingerprint(),
    )


def over_seeds(results: list[EpisodeResults]) -> EpisodeResults:
    """Puts runs of one method with several training seeds, on the same episodes, into one result (S, E)."""
    if not results or len({r.method for r in results}) > 1:
        raise ValueError(f"`results` are of {sorted({r.method for r in results})}: give at least one, and all of the same method.")
    first = results[0]
    if len({r.episodes_fingerprint for r in results}) > 1:
        raise ValueError("`results` were measured on different episodes: evaluate every seed on the same saved episodes.")
    return replace(first, accuracies=torch.cat([r.accuracies for r in results]))


def compare_paired(a: EpisodeResults, b: EpisodeResults) -> PairedDifference:
    """a minus b with the interval of the difference. Raises ValueError unless both ran on the same episodes and seeds.

    A method without training (one row) is compared with every seed of the other.
    """
    if a.episodes_fingerprint != b.episodes_fingerprint:
        raise ValueError("`a` and `b` were measured on different episodes: sample once, and evaluate both methods on the same Episodes.")
    if a.n_seeds != b.n_seeds and 1 not in (a.n_seeds, b.n_seeds):
        raise ValueError(f"`a` has {a.n_seeds} training seeds and `b` has {b.n_seeds}: compare runs with the same seeds.")
    return PairedDifference(
        a.accuracies - b.accuracies,
        f"{a.method} − {b.method}",
        a.transductive or b.transductive,
        a.n_way,
        a.n_shot,
        a.n_query,
        a.episodes_fingerprint,
    )
