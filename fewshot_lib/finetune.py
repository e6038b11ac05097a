r"""Fine-tuning a classifier on the support set: pre-train, fine-tune, predict.

The encoder f is trained beforehand and stays as it is. For a new episode,

    (1)  M = [μ_1/‖μ_1‖, …, μ_N/‖μ_N‖]ᵀ                         the normalised class means, (N, d)
    (2)  p = Softmax(M q / τ),   q = f(x)/‖f(x)‖                 the prediction without any fine-tuning
    (3)  min over W, b of  1/S Σ_j CrossEntropy(y_j, p_j) + λ R   over the S support examples; start: W = M, b = 0
    (4)  p_k ∝ exp(sim(w_k, q)/τ + b_k)                          sim: the product w·q, or the cosine of w and q

with a regulariser R: ½‖W‖² (weight decay), or the mean entropy −Σ_k p_k log p_k of the predictions on the *queries*
(Dhillon et al. 2020, arXiv:1909.02729, section 3.2), which makes the method transductive; the same entropy taken on the
support is the inductive control. W may also start at random, as in ``baselines``.

All E episodes are fine-tuned at once: W is (E, N, d), the losses of the episodes are *summed*, so that each episode's
gradient is its own, and SGD and Adam act on each number by itself. The result is what a loop over episodes would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.prototypes import class_means

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, dampening=0.9),  # a running mean of the gradients, as in Chen et al.
}


class Head(NamedTuple):
    """The classifiers of E episodes: weights (E, N, d), biases (E, N). A way that is only padding has the bias −∞."""

    weights: Tensor
    biases: Tensor


class Task(NamedTuple):
    """What a loss may look at: support (E, N, K, d) and its mask (E, N, K); query (E, M, d) and its mask (E, M).

    The queries are None for an inductive method: it could not use them if it wanted to.
    """

    support: Tensor
    support_mask: Tensor
    query: Tensor | None
    query_mask: Tensor | None


Loss = Callable[[Head, Task], Tensor]  # -> one value per episode, (E,)


@dataclass(frozen=True)
class FineTuning:
    """A method: heads fine-tuned on the supports of all episodes at once. The settings are those of the equations.

    head: "cosine", "linear" (sim is the product w·q) or "euclidean" (w·q − ½‖w‖²: −½‖w − q‖² but for what all ways share).
    init: "prototypes" (W = M), "means" (W = the plain means of f(x), or of q where ``normalise``) or "random" (normal
    rows of length about 1, the same in every episode).
    regulariser: None, "weight_decay", "entropy" (of the queries: transductive), "support_entropy"; weight: its λ.
    steps, lr: of the optimizer, "adam" or "sgd" (momentum 0.9). temperature: τ.
    bias: whether b is trained, or stays 0. normalise: whether the head sees q = f(x)/‖f(x)‖ or f(x) as it is; a cosine
    head always sees directions only. seed: of the random start. label: a name of your own.

    With the cosine head, weight decay leaves the minimum of the cross-entropy where it is: a cosine ignores the length
    of w. It is an L2 term in the loss, not AdamW's decay beside it.

    Raises ValueError for a setting that does not exist or is out of range.
    """

    head: str = "cosine"
    init: str = "prototypes"
    regulariser: str | None = None
    weight: float = 1.0
    steps: int = 100
    lr: float = 0.01
    temperature: float = 0.1
    optimizer: str = "adam"
    bias: bool = True
    normalise: bool = True
    seed: int = 0
    label: str | None = None

    regularisers: ClassVar[tuple[str | None, ...]] = (None, "weight_decay", "entropy", "support_entropy")

    def __post_init__(self) -> None:
        one_of("head", self.head, ("cosine", "linear", "euclidean"))
        one_of("init", self.init, ("prototypes", "means", "random"))
        one_of("regulariser", self.regulariser, self.regularisers)
        one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))
        for name in ("lr", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: it must be positive.")
        if not self.weight >= 0:
            raise ValueError(f"`weight` is {self.weight}: it must be 0 or more.")
        check_steps("steps", [self.steps])

    @property
    def name(self) -> str:
        extras = f", {self.regulariser.replace('_', ' ')}" if self.regulariser else ""
        return self.label or f"fine-tuned {self.head} head, {self.init} start{extras}"

    @property
    def transductive(self) -> bool:
        return self.regulariser == "entropy"

    def __call__(self, support: Tensor, query: Tensor, support_mask: Tensor | None = None, query_mask: Tensor | None = None) -> Tensor:
        """support (E, N, K, d), query (E, M, d) -> logits (E, M, N) after all steps. See ``heads`` for the errors."""
        return self.trajectory(support, query, [self.steps], support_mask, query_mask)[0]

    def trajectory(
        self,
        support: Tensor,
        query: Tensor,
        at: Sequence[int],
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits after each number of steps in ``at``, from one run: (T, E, M, N). ``steps`` plays no part."""
        return torch.stack([self.logits(head, query) for head in self.heads(support, query, at, support_mask, query_mask)])

    def heads(
        self,
        support: Tensor,
        query: Tensor,
        at: Sequence[int],
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> list[Head]:
        """The heads after each number of steps in ``at``. Works under ``torch.no_grad()`` too, as in ``evaluate``.

        ValueError for shapes that do not fit, or for padded ways without query_mask where queries are learnt from;
        FloatingPointError when the weights stop being numbers.
        """
        check_steps("at", at)
        check_shapes(support, query, support_mask)
        support, query = support.detach(), query.detach()
        task, head = self.task(support, query, support_mask, query_mask), self.start(support, support_mask)
        optimizer = OPTIMIZERS[self.optimizer](self.trained(head), lr=self.lr)
        kept = {}
        for step in descend([partial(loss, head, task) for loss in self.losses()], optimizer, max(at)):
            if step in at:
                kept[step] = Head(*(tensor.detach().clone() for tensor in head))
        if not kept[max(at)].weights.isfinite().all():
            raise FloatingPointError(f"The weights stopped being numbers within {max(at)} steps: use an `lr` below {self.lr}.")
        return [kept[step] for step in at]

    def start(self, support: Tensor, support_mask: Tensor | None = None) -> Head:
        """The heads at step 0: support (E, N, K, d) -> W by ``init``, b = 0."""
        e, n, _, d = support.shape
        if self.init == "random":
            drawn = torch.randn(n, d, generator=torch.Generator().manual_seed(self.seed)) / d**0.5
            weights = drawn.to(support).repeat(e, 1, 1)
        elif self.init == "means":
            weights = class_means(F.normalize(support, dim=-1) if self.normalise else support, support_mask)
        else:
            weights = F.normalize(class_means(support, support_mask), dim=-1)
        biases = support.new_zeros(e, n)
        if support_mask is not None:
            biases = biases.masked_fill(~support_mask.any(-1), -torch.inf)
        return Head(weights, biases)

    def trained(self, head: Head) -> list[Tensor]:
        """The tensors of a head that the optimizer changes."""
        return [tensor.requires_grad_() for tensor in (head if self.bias else head[:1])]

    def task(self, support: Tensor, query: Tensor, support_mask: Tensor | None = None, query_mask: Tensor | None = None) -> Task:
        """Features of the encoder -> what the losses look at: features as the head sees them, and masks without None."""
        if support_mask is None:
            support_mask = torch.ones(support.shape[:3], dtype=torch.bool, device=support.device)
        if not self.transductive:
            return Task(self.seen(support), support_mask, None, None)
        if query_mask is None:
            if not support_mask.any(-1).all():
                raise ValueError(
                    f"`support_mask` has ways without support, so some queries are padding too, and {self.name!r} learns from queries: "
                    "give `query_mask` (E, M), or draw episodes with a fixed `n_way`."
                )
            query_mask = torch.ones(query.shape[:2], dtype=torch.bool, device=query.device)
        return Task(self.seen(support), support_mask, self.seen(query), query_mask)

    def seen(self, features: Tensor) -> Tensor:
        """Features (..., d) as the head sees them: of length 1, or as they are."""
        return F.normalize(features, dim=-1) if self.normalise or self.head == "cosine" else features

    def logits(self, head: Head, features: Tensor) -> Tensor:
        """The exponent of equation (4): features (E, M, d) of the encoder, of queries or of supports -> (E, M, N)."""
        return self.scores(head, self.seen(features))

    def scores(self, head: Head, seen: Tensor) -> Tensor:
        """The exponent of equation (4) for features (E, M, d) as the head sees them -> (E, M, N)."""
        weights = F.normalize(head.weights, dim=-1) if self.head == "cosine" else head.weights
        # W qᵀ and not q Wᵀ: the backward pass then reads the features in the order they lie in, four times as fast.
        similarity = (weights @ seen.transpose(-1, -2)).transpose(-1, -2)
        if self.head == "euclidean":
            similarity = similarity - weights.square().sum(-1).unsqueeze(-2) / 2
        return similarity / self.temperature + head.biases.unsqueeze(-2)

    def losses(self) -> list[Loss]:
        """What one step descends, one after the other: here one loss, equation (3)."""
        if self.regulariser is None:
            return [self.support_loss]
        return [lambda head, task: self.support_loss(head, task) + self.weight * self.penalty(head, task)]

    def support_loss(self, head: Head, task: Task) -> Tensor:
        """Mean cross-entropy on the support examples, (E,)."""
        log_p = self.scores(head, task.support.flatten(1, 2)).log_softmax(-1).unflatten(1, task.support.shape[1:3])
        right = log_p.diagonal(dim1=1, dim2=3).transpose(1, 2)  # of the right way: (E, N, K, N) -> (E, N, K)
        return masked_mean(-right.flatten(1), task.support_mask.flatten(1))

    def penalty(self, head: Head, task: Task) -> Tensor:
        """The regulariser R of equation (3), (E,)."""
        if self.regulariser == "weight_decay":
            return head.weights.square().sum((-2, -1)) / 2
        if self.regulariser == "entropy":
            return masked_mean(entropy(self.scores(head, task.query)), task.query_mask)
        return masked_mean(entropy(self.scores(head, task.support.flatten(1, 2))), task.support_mask.flatten(1))


def descend(losses: Sequence[Callable[[], Tensor]], optimizer: torch.optim.Optimizer, steps: int) -> Iterator[int]:
    """Takes optimizer steps, and yields how many are done: 0, 1, …, steps. One step descends each loss (E,) in turn."""
    yield 0
    for step in range(1, steps + 1):
        for loss in losses:
            optimizer.zero_grad()
            with torch.enable_grad():
                loss().sum().backward()  # a sum, so that no episode's gradient depends on how many others there are
            optimizer.step()
        yield step


def entropy(logits: Tensor) -> Tensor:
    """−Σ_k p_k log p_k of p = Softmax(logits), in nats: (..., N) -> (...); logits of −∞ are no class at all."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0)).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis of the values where mask is True: (..., n), (..., n) -> (...)."""
    return values.masked_fill(~mask, 0).sum(-1) / mask.sum(-1)


def one_of(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    """Raises ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"`{name}` is {value!r}: use one of {', '.join(map(repr, allowed))}.")


def check_steps(name: str, steps: Sequence[int]) -> None:
    """Raises ValueError unless there are numbers of steps, whole and not negative."""
    if not len(steps) or not all(isinstance(step, int) and step >= 0 for step in steps):
        raise ValueError(f"`{name}` is {steps[0] if name == 'steps' else steps}: give whole numbers of steps, 0 or more.")


def check_shapes(support: Tensor, query: Tensor, support_mask: Tensor | None) -> None:
    """Raises ValueError unless support (E, N, K, ...), query (E, M, ...) and support_mask (E, N, K) fit together."""
    if support.dim() < 4 or query.shape[:1] + query.shape[2:] != support.shape[:1] + support.shape[3:]:
        raise ValueError(
            f"`support` is {tuple(support.shape)} and `query` is {tuple(query.shape)}: "
            "they must be (E, N, K, d) and (E, M, d), with the same E and d."
        )
    if support_mask is not None and support_mask.shape != support.shape[:3]:
        raise ValueError(f"`support_mask` is {tuple(support_mask.shape)}: for this support it must be {tuple(support.shape[:3])}.")
