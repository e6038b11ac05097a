r"""Fine-tuning a classifier on the support set: pre-train, fine-tune, predict.

The encoder f is trained beforehand and stays as it is. For a new episode,

    (1)  M = [μ_1/‖μ_1‖, …, μ_N/‖μ_N‖]ᵀ                          the normalised class means, (N, d)
    (2)  p = Softmax(M q / τ),   q = f(x)/‖f(x)‖                  the prediction without any fine-tuning
    (3)  min over W, b of  1/S Σ_j CrossEntropy(y_j, p_j) + λ R   over S supports; start: W = M, b = 0
    (4)  p_k ∝ exp(sim(w_k, q)/τ + b_k)                           sim: the product w·q, or the cosine

with a regulariser R: ½‖W‖² (weight decay), or the mean entropy −Σ_k p_k log p_k of the predictions on the
*queries* (Dhillon et al. 2020, arXiv:1909.02729, section 3.2), which makes the method transductive; the same
entropy taken on the support is the inductive control. W may also start at random, as in Baseline and
Baseline++ (Chen et al. 2019, arXiv:1904.04232).

All E episodes are fine-tuned at once: W is (E, N, d), the losses of the episodes are *summed*, and SGD and
Adam act on each number by itself. The result is what a loop over episodes would give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import check_shapes, check_steps, masked_mean, one_of, positive, random_numbers
from fewshot_lib.prototypes import class_means

State = TypeVar("State")
OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    # a running mean of the gradients, as in Chen et al.
    "sgd": partial(torch.optim.SGD, momentum=0.9, dampening=0.9),
}


class Head(NamedTuple):
    """The classifiers of E episodes: weights (E, N, d), biases (E, N)."""

    weights: Tensor
    biases: Tensor


class LossInputs(NamedTuple):
    """What a loss may look at: features as the head sees them, and which of them are real.

    For an inductive method M = 0: it could not use the queries if it wanted to.
    """

    support: Tensor  # (E, N, K, d)
    support_mask: Tensor  # (E, N, K)
    query: Tensor  # (E, M, d)
    query_mask: Tensor  # (E, M)


Loss = Callable[[Head, LossInputs], Tensor]  # -> one value per episode, (E,)


@dataclass(frozen=True)
class FineTuning:
    """A method: heads fine-tuned on the supports of all episodes at once, by equations (1) to (4).

    head: "cosine", "linear" (sim is the product w·q) or "euclidean" (w·q − ½‖w‖²: −½‖w − q‖² but for what all
        ways share).
    init: "prototypes" (W = M), "means" (W = the plain means of f(x), or of q where ``normalise``) or "random"
        (normal rows of length about 1, the same in every episode).
    regulariser: None, "weight_decay", "entropy" (of the queries: transductive) or "support_entropy".
    weight: λ of the regulariser.
    temperature: τ.
    optimizer: "adam" or "sgd" (momentum 0.9).
    bias: whether b is trained, or stays 0.
    normalise: whether the head sees q = f(x)/‖f(x)‖ or f(x) as it is; a cosine head always sees directions.
    seed: of the random start.
    label: a name of your own.

    Weight decay is an L2 term in the loss, not AdamW's decay beside it; to a cosine head it changes nothing
    about the minimum of the cross-entropy, for a cosine ignores the length of w.
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
        positive(lr=self.lr, temperature=self.temperature)
        positive(or_zero=True, weight=self.weight)
        check_steps("steps", [self.steps])

    @property
    def name(self) -> str:
        regulariser = f", {self.regulariser.replace('_', ' ')}" if self.regulariser else ""
        return self.label or f"fine-tuned {self.head} head, {self.init} start{regulariser}"

    @property
    def transductive(self) -> bool:
        return self.regulariser in ("entropy", "information")

    def __call__(self, support: Tensor, query: Tensor, **masks: Tensor | None) -> Tensor:
        """support (E, N, K, d), query (E, M, d) -> logits (E, M, N); masks: as in ``loss_inputs``."""
        return self.trajectory(support, query, [self.steps], **masks)[0]

    def trajectory(self, support: Tensor, query: Tensor, at: Sequence[int], **masks: Tensor | None) -> Tensor:
        """Logits after each number of steps in ``at`` (not ``steps``), from one run: (T, E, M, N)."""
        return torch.stack([self.logits(head, query) for head in self.heads(support, query, at, **masks)])

    @torch.no_grad()
    def heads(self, support: Tensor, query: Tensor, at: Sequence[int], **masks: Tensor | None) -> list[Head]:
        """The heads after each number of steps in ``at``."""
        at = check_steps("at", at)
        check_shapes(support, query, masks.get("support_mask"))
        inputs = self.loss_inputs(support.detach(), query.detach(), **masks)
        head = self.start(support, masks.get("support_mask"))
        optimizer = OPTIMIZERS[self.optimizer](self.trainable(head), lr=self.lr)
        losses = [partial(loss, head, inputs) for loss in self.losses()]
        heads = descend(losses, optimizer, at, lambda: Head(*(tensor.clone() for tensor in head)))
        if not all(head.weights.isfinite().all() for head in heads):
            found = f"The weights stopped being numbers within {max(at)} steps"
            raise FloatingPointError(f"{found}: use an `lr` below {self.lr}.")
        return heads

    def start(self, support: Tensor, support_mask: Tensor | None = None) -> Head:
        """The heads at step 0: support (E, N, K, d) -> W by ``init``, b = 0."""
        e, n, _, d = support.shape
        if self.init == "random":
            drawn = torch.randn(n, d, generator=random_numbers(self.seed)) / d**0.5
            weights = drawn.to(support).repeat(e, 1, 1)
        elif self.init == "means":
            weights = class_means(F.normalize(support, dim=-1) if self.normalise else support, support_mask)
        else:
            weights = F.normalize(class_means(support, support_mask), dim=-1)
        return Head(weights, support.new_zeros(e, n))

    def trainable(self, head: Head) -> list[Tensor]:
        """The tensors of a head that the optimizer changes; from here on they require a gradient."""
        return [tensor.requires_grad_() for tensor in (head if self.bias else head[:1])]

    def loss_inputs(
        self,
        support: Tensor,
        query: Tensor,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> LossInputs:
        """Features of the encoder -> what the losses may look at. A mask of None is True everywhere."""
        if not self.transductive:
            query, query_mask = query[:, :0], None
        if support_mask is None:
            support_mask = support.new_ones(support.shape[:3], dtype=torch.bool)
        if query_mask is None:
            query_mask = query.new_ones(query.shape[:2], dtype=torch.bool)
        return LossInputs(self.seen(support), support_mask, self.seen(query), query_mask)

    def seen(self, features: Tensor) -> Tensor:
        """Features (..., d) as the head sees them: of length 1, or as they are."""
        return F.normalize(features, dim=-1) if self.normalise or self.head == "cosine" else features

    def logits(self, head: Head, features: Tensor) -> Tensor:
        """The exponent of equation (4): features (E, M, d) of the encoder -> (E, M, N)."""
        return self.scores(head, self.seen(features))

    def scores(self, head: Head, seen: Tensor) -> Tensor:
        """The exponent of equation (4) for features (E, M, d) as the head sees them -> (E, M, N)."""
        weights = F.normalize(head.weights, dim=-1) if self.head == "cosine" else head.weights
        # W qᵀ and not q Wᵀ: the backward pass then reads the features as they lie, four times as fast
        similarity = (weights @ seen.transpose(-1, -2)).transpose(-1, -2)
        if self.head == "euclidean":
            similarity = similarity - weights.square().sum(-1).unsqueeze(-2) / 2
        return similarity / self.temperature + head.biases.unsqueeze(-2)

    def losses(self) -> list[Loss]:
        """What one step descends, one after the other: here one loss, equation (3)."""
        if self.regulariser is None:
            return [self.support_loss]
        return [lambda head, inputs: self.support_loss(head, inputs) + self.penalty(head, inputs)]

    def support_loss(self, head: Head, inputs: LossInputs) -> Tensor:
        """Mean cross-entropy on the support examples, (E,)."""
        log_p = log_probabilities(self.scores(head, inputs.support.flatten(1, 2)))
        log_p = log_p.unflatten(1, inputs.support.shape[1:3])  # (E, N, K, N)
        right = log_p.diagonal(dim1=1, dim2=3).transpose(1, 2)  # of the right way: (E, N, K)
        return masked_mean(-right.flatten(1), inputs.support_mask.flatten(1))

    def penalty(self, head: Head, inputs: LossInputs) -> Tensor:
        """The regulariser λ R of equation (3), (E,)."""
        if self.regulariser == "weight_decay":
            return self.weight * (head.weights.square().sum((-2, -1)) / 2)
        features, mask = inputs.query, inputs.query_mask
        if self.regulariser == "support_entropy":
            features, mask = inputs.support.flatten(1, 2), inputs.support_mask.flatten(1)
        return self.weight * masked_mean(entropy(self.scores(head, features)), mask)


def descend(
    losses: Sequence[Callable[[], Tensor]],
    optimizer: torch.optim.Optimizer,
    at: Sequence[int],
    read: Callable[[], State],
) -> list[State]:
    """What ``read()`` gives after each number of steps in ``at``; a step descends each loss (E,) in turn.

    A loss is summed, so that no episode's gradient depends on how many others there are.
    """
    results = {}
    for step in range(max(at) + 1):
        for loss in losses if step else ():
            optimizer.zero_grad()
            with torch.enable_grad():
                loss().sum().backward()
            optimizer.step()
        if step in at:
            results[step] = read()
    return [results[step] for step in at]


def log_probabilities(logits: Tensor) -> Tensor:
    """log p of p = Softmax(logits): (..., N) -> (..., N).

    Along the axis before the last, once the two have changed places: so ``FineTuning.scores`` lie in memory,
    and a softmax along rows of five takes several times as long.
    """
    axis = max(-2, -logits.dim())
    return logits.transpose(-1, axis).log_softmax(axis).transpose(-1, axis)


def entropy(logits: Tensor) -> Tensor:
    """−Σ_k p_k log p_k of p = Softmax(logits), in nats: (..., N) -> (...)."""
    return entropy_of(log_probabilities(logits))


def entropy_of(log_p: Tensor) -> Tensor:
    """−Σ_k p_k log p_k of log p (..., N), in nats: (...); 0 log 0 = 0 (a log p of −∞)."""
    return -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0)).sum(-1)
