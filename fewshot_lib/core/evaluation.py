"""Measuring few-shot learners: an accuracy per episode, a mean, and how sure we are of it.

Accuracy varies a lot between episodes (5-way 1-shot: a standard deviation near 10 points). Over E episodes
with standard deviation s the mean is known to ± t·s/√E, the 95 % confidence interval: s says how episodes
differ and does not shrink with E; the interval says how well the mean is known, and does. Two methods are
compared on the *same* episodes, through the interval of their difference: what makes an episode hard is
common to both, and cancels. The interval over episodes speaks of this trained model; with several training
seeds it is taken over the seeds' means. A difference may be told apart from zero and still be too small to
matter to anybody: here, where the whole interval lies within half a point.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from fewshot_lib.core.checks import check_supports, feature_rows, numbers, whole_number
from fewshot_lib.core.episodes import Episodes, look_up

MATTERS = 0.005  # the smallest difference of two accuracies that anybody would act on


class Method(Protocol):
    """A few-shot method: (support (E, N, K, d), query (E, M, d)) -> logits (E, M, N).

    On padded episodes it also gets support_mask (E, N, K), and a transductive one query_mask (E, M). One that
    ``uses_names`` also takes names (E, N, d): features of the names of the episode's classes.
    """

    @property
    def name(self) -> str: ...

    @property
    def transductive(self) -> bool: ...

    def __call__(self, support: Tensor, query: Tensor, **extra: Tensor | None) -> Tensor: ...


def few_shot_method(
    name: str, *, transductive: bool, uses_names: bool = False
) -> Callable[[Callable[..., Tensor]], Method]:
    """Declares a function a few-shot method, and whether its answers may depend on the *other* queries.

    A transductive method is often more accurate, but it needs all queries before it answers, and it may
    exploit that a benchmark's queries are balanced.
    """

    def declare(function: Any) -> Method:
        function.name, function.transductive, function.uses_names = name, transductive, uses_names
        return function

    return declare


@dataclass(frozen=True, eq=False)
class EpisodeResults:
    """Accuracies (S, E) of a method on E episodes: a row per training seed (S = 1 if nothing is trained)."""

    accuracies: Tensor
    method: str
    transductive: bool
    n_way: int
    n_shot: int
    n_query: int
    episodes_fingerprint: str

    kind: ClassVar[str] = "accuracy"
    floor: ClassVar[float] = 0.0  # the lowest value there is

    @classmethod
    def of(cls, accuracies: Tensor, method: Method, episodes: Episodes, /, **changed: Any) -> Self:
        """Of accuracies (E,), or (S, E), of a method on these episodes; ``changed``: fields that differ."""
        facts = {name: getattr(episodes, name) for name in ("n_way", "n_shot", "n_query")}
        facts |= {"method": method.name, "transductive": method.transductive}
        facts |= {"episodes_fingerprint": episodes.fingerprint()} | changed
        return cls(torch.atleast_2d(accuracies).cpu(), **facts)

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
        """Standard deviation between episodes (seeds averaged): how they differ, not how sure the mean is."""
        return self.accuracies.mean(0).std().item()

    @property
    def ci95(self) -> float:
        """Half-width of the mean's 95 % t-interval: over seeds if there are several, else over episodes."""
        return half_width(self.accuracies.mean(1) if self.n_seeds > 1 else self.accuracies[0])

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high), cut where no value can be; infinite where nothing is known (``half_width``)."""
        low, high = self.mean - self.ci95, self.mean + self.ci95
        return (max(low, self.floor), min(high, 1.0)) if math.isfinite(low) else (low, high)

    @property
    def in_words(self) -> str:
        """For a sentence: "85.0% (95 % interval 84.5% to 85.5%)"."""
        low, high = self.interval
        return f"{self.mean:.1%} (95 % interval {low:.1%} to {high:.1%})"

    def __str__(self) -> str:
        seeds = f", {self.n_seeds} seeds" if self.n_seeds > 1 else ""
        kind = "transductive" if self.transductive else "inductive"
        episodes = f"{self.n_way}-way {self.n_shot}-shot, {self.n_query} queries per class"
        size = f"{self.n_episodes:,} episodes{seeds}"
        return f"{self.method}: {self.mean:.1%} ± {self.ci95:.1%} ({episodes}, {size}, {kind})"


@dataclass(frozen=True, eq=False)
class PairedDifference(EpisodeResults):
    """Accuracy of ``method`` minus that of ``against``, episode by episode: ``accuracies`` (S, E)."""

    against: str = ""

    kind: ClassVar[str] = "difference"
    floor: ClassVar[float] = -1.0

    @property
    def in_words(self) -> str:
        """For a sentence: "+3.1 points (95 % interval +2.0 to +4.2)"; below 1 point with two decimals."""
        digits = 1 if abs(self.mean) >= 0.01 else 2
        # + 0.0: no "-0.0"
        mean, low, high = (round(100 * value, digits) + 0.0 for value in (self.mean, *self.interval))
        return f"{mean:+.{digits}f} points (95 % interval {low:+.{digits}f} to {high:+.{digits}f})"

    @property
    def verdict(self) -> str:
        """One of four: better, worse, either of them "barely" (too small to matter), or not told apart."""
        low, high = self.interval
        if low <= 0 <= high:
            return "not told apart from"
        barely = "barely " if max(abs(low), abs(high)) <= MATTERS else ""
        return barely + ("better than" if low > 0 else "worse than")

    def __str__(self) -> str:
        sentence = f"{self.method} is {self.verdict} {self.against}: {self.in_words}"
        return f"{sentence}, {self.n_episodes:,} episodes"


def half_width(values: Tensor) -> float:
    """Half-width of the 95 % t-interval of the mean of independent values (n,); infinite for n < 2."""
    from scipy.special import stdtrit  # scipy.stats would say the same, and takes seconds to import

    values = numbers("values", values)
    if (n := values.numel()) < 2:
        return math.inf
    return float(stdtrit(n - 1, 0.975)) * values.double().std().item() / math.sqrt(n)


def mean_interval(values: Tensor) -> tuple[float, float]:
    """95 % t-interval of the mean of independent values (n,): (low, high)."""
    values = numbers("values", values)
    mean, half = values.double().mean().item(), half_width(values)
    return mean - half, mean + half


def accuracy_per_episode(logits: Tensor, query_labels: Tensor, query_mask: Tensor | None = None) -> Tensor:
    """logits (E, M, N), query_labels (E, M) -> accuracies (E,); masked-out queries do not count."""
    exact = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    correct = (logits.argmax(-1) == query_labels).to(exact)
    if query_mask is None:
        return correct.mean(-1)
    return (correct * query_mask).sum(-1) / query_mask.sum(-1)


@torch.no_grad()
def evaluate(
    method: Method,
    episodes: Episodes,
    features: Tensor,
    batch_size: int | None = None,
    *,
    names: Tensor | None = None,
) -> EpisodeResults:
    """Runs a method on all episodes, ``batch_size`` at a time, on the device of the features.

    features: (n, d), or whatever the method takes, of the whole data set. names: (C, d), one row per class of
    the data set, for methods that use the names of the classes. Rows of the episodes with NaN or
    infinite numbers are refused. batch_size: None takes 1,000, and on a CPU fewer where features are wide.
    """
    if not isinstance(getattr(method, "transductive", None), bool):
        fix = "which does not say whether it is transductive: declare it with @few_shot_method(...)"
        raise TypeError(f"`method` is {method!r}, {fix}.")
    if batch_size is not None:
        whole_number(1, batch_size=batch_size)
    features = usable(episodes, features)
    batch_size = batch_size or _at_once(episodes, features)
    used_names = _names_for(method, episodes, names, features)
    accuracies = []
    for start in range(0, len(episodes), batch_size):
        batch = episodes[start : start + batch_size].to(features.device)
        extra = {"support_mask": batch.support_mask} if episodes.is_padded else {}
        if episodes.is_padded and method.transductive:
            extra["query_mask"] = batch.query_mask  # queries that were left out must not take part
        if used_names is not None:
            extra["names"] = used_names[batch.classes]
        logits = _answers(method, look_up(features, batch.support), look_up(features, batch.query), extra)
        _refuse_nan(method, logits, start)
        accuracies.append(accuracy_per_episode(logits, batch.query_labels, batch.query_mask))
    return EpisodeResults.of(torch.cat(accuracies), method, episodes)


def _at_once(episodes: Episodes, features: Tensor) -> int:
    """How many episodes are quickest: on a CPU as many as have 16 MB of features, for blocks that are much
    larger are mapped anew each time, which takes longer than the arithmetic of a prototype."""
    if features.device.type != "cpu":
        return 1000
    rows = episodes.support[0].numel() + episodes.query[0].numel()
    return min(1000, max(32, 2**24 // max(1, rows * features[0].nbytes)))


def usable(episodes: Episodes, features: Any) -> Tensor:
    """The features (n, ...) as a tensor; ValueError unless the episodes' rows are there, and are numbers."""
    if not isinstance(episodes, Episodes):
        fix = "give what an EpisodeSampler's `sample(n_episodes)` returns"
        raise TypeError(f"`episodes` is of type {type(episodes).__name__}: {fix}.")
    if not len(episodes):
        raise ValueError("`episodes` is empty: sample at least 1.")
    check_supports(episodes.support_mask)
    used = torch.cat([episodes.support.flatten(), episodes.query.flatten()])
    return _vectors("features", features, used)


def _vectors(name: str, values: Any, used: Tensor) -> Tensor:
    rows = feature_rows(name, values, used)
    if rows.dim() < 2:
        fix = "give a vector per row, (n, d); of one number each it is `[:, None]`"
        raise ValueError(f"`{name}` has shape {tuple(rows.shape)}: {fix}.")
    return rows


def _names_for(method: Method, episodes: Episodes, names: Any, features: Tensor) -> Tensor | None:
    """The names (C, ...) as a tensor, for a method that uses them; refused where they are not there."""
    if not getattr(method, "uses_names", False):
        return None
    if names is None:
        found = f"{method.name!r} uses the names of the classes"
        raise ValueError(f"`names` is missing: {found}. Give one row per class.")
    rows = numbers("names", names)
    if not rows.dim() or len(rows) <= (highest := int(episodes.classes.max())):
        found = f"shape {tuple(rows.shape)} but an episode holds class {highest}"
        raise ValueError(f"`names` has {found}: give one row per class.")
    rows = _vectors("names", rows, episodes.classes.unique()).to(features.device)
    return rows.to(features.dtype) if rows.is_floating_point() and features.is_floating_point() else rows


def _answers(method: Method, support: Tensor, query: Tensor, extra: dict[str, Tensor]) -> Tensor:
    """The method's logits (E, M, N); features of a kind that it cannot compute with are named."""
    try:
        logits = method(support, query, **extra)
    except (RuntimeError, TypeError) as error:
        other = support.dtype != torch.get_default_dtype()
        if not other or not re.search("dtype|scalar ?type|floating point", str(error), re.IGNORECASE):
            raise
        fix = f"with which {method.name!r} cannot compute ({error}): give `features.float()`"
        raise ValueError(f"`features` are {support.dtype}, {fix}.") from error
    needed = (*query.shape[:2], support.shape[1])
    if not isinstance(logits, Tensor) or logits.shape != needed:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"`method` {method.name!r} gives {found}: logits are a tensor (E, M, N) = {needed}.")
    return logits


def _refuse_nan(method: Method, logits: Tensor, start: int) -> None:
    """Logits (E, M, N) that are NaN would count as an answer: the first class, or the one that is NaN."""
    if logits.sum().isnan() and (lost := logits.isnan()).any():  # the sum is cheap; of inf and -inf it is NaN
        episode = start + int(lost.flatten(1).any(1).nonzero()[0])
        fix = "it has diverged in training, or its arithmetic overflows"
        raise FloatingPointError(f"{method.name!r} answers NaN in episode {episode}: {fix}.")


def over_seeds(results: list[EpisodeResults]) -> EpisodeResults:
    """Puts runs of one method with several training seeds, on the same episodes, into one result (S, E)."""
    methods = sorted({result.method for result in results})
    if len(methods) != 1:
        raise ValueError(f"`results` are of {methods}: give at least one, and all of the same method.")
    if len({result.episodes_fingerprint for result in results}) > 1:
        raise ValueError("`results` were measured on different episodes: evaluate every seed on the same.")
    return replace(results[0], accuracies=torch.cat([result.accuracies for result in results]))


def compare_paired(a: EpisodeResults, b: EpisodeResults) -> PairedDifference:
    """The difference a − b on each of the episodes that both were measured on, and for each training seed.

    A result of one seed (of a method that is not trained) is compared with every seed of the other.
    """
    if a.episodes_fingerprint != b.episodes_fingerprint:
        fix = "sample once, and evaluate both methods on the same Episodes"
        raise ValueError(f"`a` and `b` were measured on different episodes: {fix}.")
    if a.n_seeds != b.n_seeds and 1 not in (a.n_seeds, b.n_seeds):
        found = f"`a` has {a.n_seeds} training seeds and `b` has {b.n_seeds}"
        raise ValueError(f"{found}: compare runs with the same seeds.")
    facts = vars(a) | {"accuracies": a.accuracies - b.accuracies}
    facts |= {"transductive": a.transductive or b.transductive, "against": b.method}
    return PairedDifference(**facts)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis of the values where mask is True: (..., n), (..., n) -> (...)."""
    return values.masked_fill(~mask, 0).sum(-1) / mask.sum(-1)
