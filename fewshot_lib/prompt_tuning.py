r"""Prompt tuning: in each episode the soft prompt descends the loss of the few support examples.

    θ_0 = θ,     θ_{s+1} = θ_s − α ∇ mean_i CrossEntropy(y_i, f(x_i; θ_s))       over the support (x_i, y_i)

Of a mixture of words and examples, f has the words only: a support text is itself one of the examples (``Mixture.inner``).

The language model is frozen (Lester et al. 2021, arXiv:2104.08691), or its adapters or weights descend with θ. With a few
examples much depends on the start θ: chapter 05 draws many, chapter 06 learns one.

The E episodes of a batch are tuned at once: their prompts are one tensor (E, P, d), and the losses are *summed*, so that each
prompt sees its own gradient only (``prompt_episodes`` says how the texts are read).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_lib.finetune import check_shapes, check_steps, masked_mean, one_of
from fewshot_lib.maml import Parameters
from fewshot_lib.masked_lm import MaskedLM
from fewshot_lib.prompt_episodes import episode_features, episode_logits
from fewshot_lib.prompt_model import PromptModel
from fewshot_lib.prompts import check_soft_tokens, trimmed
from fewshot_lib.verbalizers import Verbalizer

MOVING_AT_ONCE = 40_000_000  # numbers that are tuned together


class _Supports(NamedTuple):
    """What is tuned on: ids (E, N, K, L), their cues (E, N, K, d), the words (E, N, W, P), the mask (E, N, K), and prompts (E, P, d)
    to start from, each None where there is none."""

    ids: Tensor
    cues: Tensor | None
    labels: Tensor | None
    mask: Tensor | None
    start: Tensor | None

    @property
    def extra(self) -> dict[str, Tensor]:
        """What a verbalizer is told."""
        return {name: value for name, value in (("labels", self.labels), ("support_mask", self.mask)) if value is not None}

    def groups(self, size: int) -> Iterator[tuple[Tensor, _Supports]]:
        """Row numbers of the episodes, and these episodes, ``size`` at a time."""
        for rows in torch.arange(len(self.ids), device=self.ids.device).split(size):
            yield rows, _Supports(*(None if each is None else each[rows] for each in self))


@dataclass(frozen=True, eq=False)
class PromptTuning:
    """A method on tokenised texts: the model's trainable parameters are tuned on each episode's support, and then forgotten.

    model: it is itself never changed. adapt: which parameters move, as prefixes ("prompt", "lm"; None: all trainable).
    steps, lr: of the optimizer, "sgd" (plain, the inner loop of MAML) or "adam"; lm_lr: another rate for the language model's
    parameters. rates: learnt ones in place of lr, (name, step) -> α, as ``MAML.rate``; sgd only.
    verbalizer: for the answers another one than the model's own, with which (its ``inner``) it is tuned; made as in ``PromptModel``.
    graph_tokens: tokens whose graph is held in memory at a time (None: by the device). Episodes are independent: it changes no
    result.

    ``evaluate`` deals it ids (n, L) from ``Template.tokenise`` as features, and ``class_words`` as label features. With 0
    steps nothing depends on the episode, and every text is read once.

    Raises ValueError for settings out of range, and FloatingPointError when the parameters stop being numbers.
    """

    model: PromptModel
    steps: int = 10
    lr: float = 0.1
    optimizer: str = "sgd"
    adapt: str | Sequence[str] | None = "prompt"
    lm_lr: float | None = None
    rates: Callable[[str, int], Tensor | float] | None = None
    verbalizer: Callable[[MaskedLM], Verbalizer] | None = None
    label: str | None = None
    graph_tokens: int | None = None

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, ("sgd", "adam"))
        check_steps("steps", [self.steps])
        for name in ("lr", "lm_lr", "graph_tokens"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: it must be positive.")
        if self.rates is not None and self.optimizer != "sgd":
            raise ValueError("`rates` are those of plain gradient descent: use optimizer='sgd'.")
        if self.steps:
            self.model.trainable(self.adapt)

    @property
    def name(self) -> str:
        return self.label or f"prompt tuning, {self.steps} steps"

    @cached_property
    def answering(self) -> PromptModel:
        """The model that answers: under the verbalizer of the answers."""
        return self.model if self.verbalizer is None else self.model.with_verbalizer(self.verbalizer)

    @cached_property
    def tuning(self) -> PromptModel:
        """The model whose loss on the support is descended."""
        return self.model.inner

    @property
    def transductive(self) -> bool:
        return self.answering.verbalizer.transductive

    @property
    def uses_labels(self) -> bool:
        return self.answering.verbalizer.uses_labels or self.model.verbalizer.uses_labels

    def __call__(self, support: Tensor, query: Tensor, **extra: Tensor) -> Tensor:
        """support (E, N, K, L), query (E, M, L), labels (E, N, W, P) -> logits (E, M, N) after all steps."""
        return self.trajectory(support, query, [self.steps], **extra)[0]

    def trajectory(
        self,
        support: Tensor,
        query: Tensor,
        at: Sequence[int],
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        labels: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Logits after each number of steps in ``at``, from one run: (T, E, M, N).

        start: prompts (E, P, d) to start from in place of the model's own, for instance many starts for one episode.
        """
        check_steps("at", at)
        check_shapes(support, query, support_mask)
        check_soft_tokens(support, self.model.prompt.n_soft)
        support, query = trimmed(self.model.lm, support, query)
        shared = max(at) == 0 and start is None
        cues = None if shared else self.model.cues(query)
        everything = _Supports(support, None if shared else self.model.cues(support), labels, support_mask, start)
        answers = []
        for rows, supports in everything.groups(len(support) if shared else self._group_size(support)):
            extra = supports.extra | ({} if query_mask is None else {"query_mask": query_mask[rows]})
            own_cues = None if cues is None else cues[rows]
            descent = [None] * len(at) if shared else self._descent(supports, at)
            with torch.no_grad():
                answers.append(torch.stack([self._answer(own, supports, query[rows], own_cues, extra) for own in descent]))
        return torch.cat(answers, 1)

    def tuned(
        self, support: Tensor, support_mask: Tensor | None = None, labels: Tensor | None = None, start: Tensor | None = None
    ) -> Parameters:
        """The parameters after all steps, each (E, ...): {"prompt.tokens": (E, P, d)}."""
        (support,) = trimmed(self.model.lm, support)
        everything = _Supports(support, self.model.cues(support), labels, support_mask, start)
        parts = [next(self._descent(supports, [self.steps])) for _, supports in everything.groups(self._group_size(support))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _group_size(self, support: Tensor) -> int:
        own = dict(self.model.named_parameters())
        moving = sum(own[name].numel() for name in self.model.trainable(self.adapt))
        tokens = self.graph_tokens or (4096 if support.device.type == "cpu" else 16_384)
        return max(1, min(tokens // support[0].numel(), MOVING_AT_ONCE // moving))

    def _descent(self, supports: _Supports, at: Sequence[int]) -> Iterator[Parameters]:
        """The parameters (E, ...) after each number of steps in ``at``, in this order."""
        own = dict(self.model.named_parameters())
        moving = {name: own[name].detach().expand(len(supports.ids), *own[name].shape).clone() for name in self.model.trainable(self.adapt)}
        if supports.start is not None:
            moving["prompt.tokens"] = supports.start.detach().clone()
        moving = {name: value.requires_grad_() for name, value in moving.items()}
        adam, kept = None, {}
        if self.optimizer == "adam":
            adam = torch.optim.Adam([{"params": [p], "lr": self._rate(name, 0)} for name, p in moving.items()])
        for step in range(max(at) + 1):
            if step in at:
                kept[step] = {name: value.detach().clone() for name, value in moving.items()}
            if step < max(at):
                self._step(moving, supports, step, adam)
        if not all(value.isfinite().all() for value in kept[max(at)].values()):
            raise FloatingPointError(f"The parameters stopped being numbers within {max(at)} steps: use an `lr` below {self.lr}.")
        yield from (kept[step] for step in at)

    @torch.no_grad()
    def _step(self, moving: Parameters, supports: _Supports, step: int, adam: torch.optim.Optimizer | None) -> None:
        """Changes the parameters in place."""
        with torch.enable_grad():
            gradients = torch.autograd.grad(self._loss(moving, supports).sum(), list(moving.values()), materialize_grads=True)
        for (name, value), gradient in zip(moving.items(), gradients, strict=True):
            value.grad = gradient
            if adam is None:
                value -= self._rate(name, step) * gradient
        if adam is not None:
            adam.step()

    def _rate(self, name: str, step: int) -> Tensor | float:
        if self.rates is not None:
            return self.rates(name, step)
        return self.lr if self.lm_lr is None or name.startswith("prompt.") else self.lm_lr

    def _support_features(self, own: Parameters | None, supports: _Supports) -> Tensor:
        cues = None if supports.cues is None else supports.cues.flatten(1, 2)
        return episode_features(self.model, own, supports.ids.flatten(1, 2), cues).unflatten(1, supports.ids.shape[1:3])

    def _loss(self, moving: Parameters, supports: _Supports) -> Tensor:
        """Mean cross-entropy on the support of each episode, (E,)."""
        features = self._support_features(moving, supports)
        mask = torch.ones(features.shape[:3], dtype=torch.bool, device=features.device) if supports.mask is None else supports.mask
        extra = supports.extra | ({} if supports.mask is None else {"query_mask": mask.flatten(1)})
        log_p = episode_logits(self.tuning, moving, features, features.flatten(1, 2), extra).log_softmax(-1)
        right = log_p.unflatten(1, features.shape[1:3]).diagonal(dim1=1, dim2=3).transpose(1, 2)  # (E, N, K)
        return masked_mean(-right.flatten(1), mask.flatten(1))

    def _answer(self, own: Parameters | None, supports: _Supports, query: Tensor, cues: Tensor | None, extra: dict[str, Tensor]) -> Tensor:
        features = self._support_features(own, supports) if self.answering.verbalizer.uses_support else None
        return episode_logits(self.answering, own, features, episode_features(self.answering, own, query, cues), extra)
