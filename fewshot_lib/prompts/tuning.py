r"""Prompt tuning: in each episode the soft prompt descends the loss of the few support examples.

    θ_0 = θ,     θ_{s+1} = θ_s − α ∇ mean_i CrossEntropy(y_i, f(x_i; θ_s))       over the support (x_i, y_i)

Of a mixture of words and examples, f has the words only (``Verbalizer.on_support``). The language model is
frozen (Lester et al. 2021, arXiv:2104.08691), or its adapters or weights descend with θ. With a few examples
much depends on the start θ: chapter 05 draws many, chapter 06 learns one.

The E episodes of a batch are tuned at once, and their losses are *summed*, so that each prompt sees its own
gradient only. A prompt is something that goes *in*: a text of episode e is read with row e of the prompts
(E, P, d), and texts of all episodes can stand in any order, short with short. Weights are not; where those of
the language model differ, ``vmap`` runs one copy for each episode.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fewshot_lib.core import check_shapes, check_steps, masked_mean, one_of, positive
from fewshot_lib.encoders import MaskedLM
from fewshot_lib.prompts.model import PromptModel
from fewshot_lib.prompts.templates import check_soft_tokens, mask_features, trimmed
from fewshot_lib.prompts.verbalizers import Verbalizer

MOVING_AT_ONCE = 40_000_000  # numbers that are tuned together
# Tokens whose graph is held at a time. Episodes are independent, so the answers do not depend on it.
CPU_TOKENS, GPU_TOKENS = 4096, 16_384

Tensors = dict[str, Tensor]  # of E episodes: each (E, ...)


@dataclass(frozen=True, eq=False)
class PromptTuning:
    """A method on tokenised texts: what ``adapt`` names is tuned on each episode's support, from its start.

    steps, lr: of the optimizer, "sgd" (plain, the inner loop of MAML) or "adam". With 0 steps nothing depends
        on the episode, and every text is read once.
    adapt: which parameters move, as prefixes ("prompt", "lm"); None: all trainable ones.
    rates: learnt ones in place of lr, (name, step) -> α, as ``MAML.rate``; sgd only.
    verbalizer: gives the answers in place of the model's own, which the tuning uses; see ``PromptModel``.
    label: a name of your own.

    ``evaluate`` deals it ids (n, L) from ``Template.tokenise`` as features, and ``class_words`` as names.
    """

    model: PromptModel
    steps: int = 10
    lr: float = 0.1
    optimizer: str = "sgd"
    adapt: str | Sequence[str] | None = "prompt"
    rates: Callable[[str, int], Tensor | float] | None = None
    verbalizer: Callable[[MaskedLM], Verbalizer] | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, ("sgd", "adam"))
        check_steps("steps", [self.steps])
        positive(lr=self.lr)
        if self.rates is not None and self.optimizer != "sgd":
            raise ValueError("`rates` are those of plain gradient descent: use optimizer='sgd'.")
        if self.steps:
            self.model.trainable(self.adapt)

    @property
    def name(self) -> str:
        return self.label or f"prompt tuning, {self.steps} steps"

    @cached_property
    def answering(self) -> Verbalizer:
        return self.model.verbalizer if self.verbalizer is None else self.verbalizer(self.model.lm)

    @property
    def transductive(self) -> bool:
        return self.answering.transductive

    @property
    def uses_names(self) -> bool:
        return self.answering.uses_names or self.model.verbalizer.uses_names

    def __call__(self, support: Tensor, query: Tensor, **extra: Tensor) -> Tensor:
        """support (E, N, K, L), query (E, M, L), names (E, N, W, P) -> logits (E, M, N) after all steps."""
        return self.trajectory(support, query, [self.steps], **extra)[0]

    def trajectory(self, support: Tensor, query: Tensor, at: Sequence[int], **extra: Tensor | None) -> Tensor:
        """Logits after each number of steps in ``at``, from one run: (T, E, M, N).

        extra: names (E, N, W, P), support_mask (E, N, K), query_mask (E, M), and as start prompts (E, P, d)
        in place of the model's own: as many starts for one episode.
        """
        at = check_steps("at", at)
        check_shapes(support, query, extra.get("support_mask"))
        batch = self._batch(extra, support=support, query=query)
        if max(at) == 0 and "start" not in batch:
            with torch.no_grad():
                return self._answer(None, batch).expand(len(at), -1, -1, -1)
        groups = []
        for episodes in self._groups(batch):
            descent = self._descent(episodes, at)
            with torch.no_grad():
                groups.append(torch.stack([self._answer(parameters, episodes) for parameters in descent]))
        return torch.cat(groups, 1)

    def tuned(self, support: Tensor, **extra: Tensor | None) -> Tensors:
        """The parameters after all steps, each (E, ...): {"prompt.tokens": (E, P, d)}. extra: as above."""
        batch = self._batch(extra, support=support)
        parts = [self._descent(episodes, [self.steps])[0] for episodes in self._groups(batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _batch(self, extra: dict[str, Tensor | None], **texts: Tensor) -> Tensors:
        """Texts without columns of padding, and what else there is."""
        if unknown := sorted(set(extra) - {"names", "support_mask", "query_mask", "start"}):
            raise TypeError(f"`{unknown[0]}` is unknown: use names, support_mask, query_mask or start.")
        check_soft_tokens(texts["support"], self.model.prompt.n_soft)
        batch = dict(zip(texts, trimmed(self.model.lm, *texts.values()), strict=True))
        return batch | {name: tensor for name, tensor in extra.items() if tensor is not None}

    def _groups(self, batch: Tensors) -> Iterator[Tensors]:
        """As many episodes at a time as memory has room for, with the cues of their texts."""
        for side in batch.keys() & {"support", "query"}:
            if (cues := self.model.cues(batch[side])) is not None:
                batch = batch | {f"{side}_cues": cues}
        parameters, support = dict(self.model.named_parameters()), batch["support"]
        n_moving = sum(parameters[name].numel() for name in self.model.trainable(self.adapt))
        tokens = CPU_TOKENS if support.device.type == "cpu" else GPU_TOKENS
        size = max(1, min(tokens // support[0].numel(), MOVING_AT_ONCE // n_moving))
        for rows in torch.arange(len(support), device=support.device).split(size):
            yield {name: tensor[rows] for name, tensor in batch.items()}

    def _descent(self, episodes: Tensors, at: Sequence[int]) -> list[Tensors]:
        """The parameters after each number of steps in ``at``."""
        own, n_episodes = dict(self.model.named_parameters()), len(episodes["support"])
        names = self.model.trainable(self.adapt)
        moving = {name: own[name].expand(n_episodes, *own[name].shape) for name in names}
        if "start" in episodes:
            moving["prompt.tokens"] = episodes["start"]
        moving = {name: value.detach().clone().requires_grad_() for name, value in moving.items()}
        adam = torch.optim.Adam(moving.values(), lr=self.lr) if self.optimizer == "adam" else None
        found: dict[int, Tensors] = {}
        for step in range(max(at) + 1):
            if step in at:
                found[step] = {name: value.detach().clone() for name, value in moving.items()}
            if step < max(at):
                self._step(moving, episodes, step, adam)
        if not all(value.isfinite().all() for value in found[max(at)].values()):
            fix = f"use an `lr` below {self.lr}"
            raise FloatingPointError(f"The parameters stopped being numbers within {max(at)} steps: {fix}.")
        return [found[step] for step in at]

    def _step(self, moving: Tensors, episodes: Tensors, step: int, adam: torch.optim.Adam | None) -> None:
        """Changes the parameters in place."""
        with torch.enable_grad():
            loss = self._support_loss(moving, episodes).sum()
        gradients = torch.autograd.grad(loss, list(moving.values()), materialize_grads=True)
        for (name, value), gradient in zip(moving.items(), gradients, strict=True):
            if adam is None:
                value.data -= (self.rates(name, step) if self.rates else self.lr) * gradient
            else:
                value.grad = gradient
        if adam is not None:
            adam.step()

    def _support_loss(self, parameters: Tensors, episodes: Tensors) -> Tensor:
        """Mean cross-entropy on the support of each episode, (E,)."""
        features = self._read(parameters, episodes, "support")
        mask = episodes.get("support_mask", features.new_ones(features.shape[:3], dtype=torch.bool))
        queries = {"query": features.flatten(1, 2), "query_mask": mask.flatten(1)}  # each its own support
        known = episodes | {"support": features, **queries}
        log_p = self._verbalise(parameters, self.model.verbalizer.on_support, known).log_softmax(-1)
        right = log_p.unflatten(1, mask.shape[1:]).diagonal(dim1=1, dim2=3).transpose(1, 2)  # (E, N, K)
        return masked_mean(-right.flatten(1), mask.flatten(1))

    def _answer(self, parameters: Tensors | None, episodes: Tensors) -> Tensor:
        """Logits (E, M, N), with the parameters of each episode or, None, the model's own."""
        sides = ("support", "query") if self.answering.uses_support else ("query",)
        features = {side: self._read(parameters, episodes, side) for side in sides}
        return self._verbalise(parameters, self.answering, episodes | features)

    def _read(self, parameters: Tensors | None, episodes: Tensors, side: str) -> Tensor:
        """The [MASK] features (E, ..., d) of one side, each text with the parameters (E, ...) of its episode.

        Without parameters with the model's own: equal texts are then read once.
        """
        model, ids = self.model, episodes[side]
        texts = ids.flatten(1, -2)
        if parameters is None:
            rows, place = texts.flatten(0, 1).unique(dim=0, return_inverse=True)
            features = mask_features(model.lm, rows, model.prompt(model.cues(rows)))[place]
        elif all(name.startswith("prompt.") for name in parameters):
            of_prompt = {name.removeprefix("prompt."): value for name, value in parameters.items()}
            cues = [episodes[f"{side}_cues"].flatten(1, -2)] if f"{side}_cues" in episodes else []
            prompts = vmap(partial(functional_call, model.prompt))(of_prompt, *cues)
            features = mask_features(model.lm, texts, prompts if cues else prompts.unsqueeze(1))
        else:
            features = vmap(partial(_with, model, model.features))(parameters, texts)
        return features.reshape(*ids.shape[:-1], -1)

    def _verbalise(self, parameters: Tensors | None, verbalizer: Verbalizer, known: Tensors) -> Tensor:
        """Logits (E, M, N) from what is known of E episodes, by each episode's own head if it has one."""

        def logits(known: Tensors) -> Tensor:
            extra = {name: known[name] for name in ("names", "support_mask", "query_mask") if name in known}
            return verbalizer(known["support"], known["query"], **extra)

        def of_episode(parameters: Tensors, known: Tensors) -> Tensor:
            alone = {name: value.unsqueeze(0) for name, value in known.items()}
            return _with(self.model, logits, parameters, alone)[0]

        if parameters and any(name.startswith("lm.") and "lora_" not in name for name in parameters):
            return vmap(of_episode)(parameters, known)
        return logits(known)


def _with(model: nn.Module, function: Callable[..., Tensor], parameters: Tensors, *inputs: object) -> Tensor:
    """The function's value while the model has these parameters in place of its own."""
    caller = nn.Module()  # what ``functional_call`` can put parameters into
    caller.model, caller.forward = model, function
    return functional_call(caller, {f"model.{name}": value for name, value in parameters.items()}, inputs)
