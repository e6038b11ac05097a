r"""The inner loop: how a model adapts to a task, and the members of the MAML family, which differ in it.

    (1)  φ_0 = θ,     φ_{s+1} = φ_s − α ∇L_s(φ_s)           L_s: the loss of the supports
    (2)  min over θ of  mean_t L_q(φ_S(θ))                  meta-gradient  (∂φ_S/∂θ)ᵀ ∇L_q(φ_S)
    (3)  ∂φ_S/∂θ = Π_s (I − α ∇²L_s(φ_s))                    second order: a product of Hessians

- FOMAML puts I for (3): ``first_order=True`` (Finn et al. 2017, arXiv:1703.03400).
- ANIL adapts the head only: ``adapt="head"`` (Raghu et al. 2020, arXiv:1909.09157).
- Meta-SGD learns α, one number per weight: ``rates="per_parameter"`` (Li et al. 2017, arXiv:1707.09835).
- ProtoMAML starts the head at the prototypes: ``start=prototype_head`` (Triantafillou et al. 2020,
  arXiv:1903.03096).
- MAML++ learns a rate per tensor and step, ``rates="per_tensor_per_step"``, and has batch-norm statistics,
  scales and shifts of its own at every step, ``per_step_norm=True`` (Antoniou et al. 2019, arXiv:1810.09502).

Two engines compute the same: ``"loop"`` takes one task after the other, ``"vmap"`` all at once. vmap is
faster on a GPU, and on a CPU through small networks; through wide convolutions a loop is
(benchmarks/README.md, "Meta-steps").
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from fewshot_lib.core import Method, checks, evaluation_mode, few_shot_method
from fewshot_lib.maml import norms

RATES = ("fixed", "per_parameter", "per_tensor_per_step")
Parameters = dict[str, Tensor]  # name in the model -> value


class Tasks(NamedTuple):
    """T tasks. A model of more than one tensor (token ids, their mask) gets a tuple or dict of them."""

    support: Tensor  # (T, S, ...)
    support_labels: Tensor  # (T, S)
    query: Tensor  # (T, Q, ...)
    query_labels: Tensor  # (T, Q)


class Adaptation(NamedTuple):
    """What the inner loop leaves behind, for one task; of T tasks, everything has a first axis T."""

    outputs: Tensor  # (A, Q, ...): for the queries, after each of A numbers of steps
    parameters: Parameters  # φ after the last of them
    averages: dict[int, Parameters]  # for each step, what the norms' running averages (C,) become


class Run(NamedTuple):
    """How a learner is computed, and called: ``MAML`` takes these by name."""

    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy  # (outputs (n, ...), labels (n, ...)) -> mean
    engine: str = "vmap"  # or "loop"
    chunk_size: int | None = None  # tasks whose graph is in memory at a time (None: all)
    name: str = "MAML"  # in tables and progress bars


class Classifier(nn.Module):
    """An encoder and a linear head: x (n, ...) -> logits (n, n_way)."""

    def __init__(self, encoder: nn.Module, n_features: int, n_way: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(n_features, n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def prototype_head(learner: MAML, fast: Parameters, support: Tensor, labels: Tensor) -> Parameters:
    """ProtoMAML's start of a ``Classifier``: w_k = 2c_k, b_k = −‖c_k‖² with the class means c_k.

    The first logits are then −‖f(x) − c_k‖² + const, and the gradient of the query loss flows through the
    means into the encoder.
    """
    features, _ = learner.call(fast, 0, support, part="encoder")
    n_way = len(learner.model.get_parameter("head.bias"))
    one_hot = F.one_hot(labels, n_way).to(features.dtype)  # (S, N)
    means = (one_hot.T @ features) / one_hot.sum(0).clamp_min(1).unsqueeze(-1)
    return {**fast, "head.weight": 2 * means, "head.bias": -means.square().sum(-1)}


class MAML(nn.Module):
    """A model and how it adapts to a task: its parameters are what the outer loop learns, θ and learnt rates.

    model: any module that takes a batch of examples. Its frozen parameters are neither adapted nor learnt.
    inner_steps, inner_lr: S and α of (1). first_order: I for (3).
    adapt: what moves in the inner loop, as prefixes of names: "head", or ("prompt", "head"). None: all.
    rates: "fixed", or learnt from the start ``inner_lr``: "per_parameter" or "per_tensor_per_step".
    start: a function (learner, θ, support, labels) -> φ_0.
    per_step_norm: scales and shifts of ``norms.BatchNorm`` belong to the step, and only the outer loop learns
        them.
    run: see :class:`Run`.

    The running averages of a ``norms.BatchNorm`` are kept for every step: φ_0 and φ_S are different networks.
    The arithmetic is float32: mixed precision under vmap is broken upstream. Norms that vmap gets wrong are
    refused (``norms.check``).
    """

    def __init__(
        self,
        model: nn.Module,
        inner_steps: int = 1,
        inner_lr: float = 0.1,
        *,
        first_order: bool = False,
        adapt: str | Sequence[str] | None = None,
        rates: str = "fixed",
        start: Callable[[MAML, Parameters, Tensor, Tensor], Parameters] | None = None,
        per_step_norm: bool = False,
        **run: Any,
    ) -> None:
        super().__init__()
        self.loss, self.engine, self.chunk_size, self.name = Run(**run)
        checks.one_of("engine", self.engine, ("vmap", "loop"))
        checks.one_of("rates", rates, RATES)
        if self.chunk_size is not None:
            checks.whole_number(1, chunk_size=self.chunk_size)
        checks.whole_number(0, inner_steps=inner_steps)
        inner_lr = checks.rate(inner_lr=inner_lr)
        self.model, self.start, self.rate_kind = model, start, rates
        self.inner_steps, self.inner_lr, self.first_order = inner_steps, inner_lr, first_order
        self.step_norms = norms.StepNorms(model, inner_steps, per_step_norm)
        self.adapted = self._names_of(adapt)
        self.rates = nn.ParameterDict()
        for name in self.adapted if rates != "fixed" else ():
            parameter = model.get_parameter(name)
            shape = parameter.shape if rates == "per_parameter" else (max(1, inner_steps),)
            self.rates[norms.key_of(name)] = nn.Parameter(parameter.new_full(shape, float(inner_lr)))
        linear_head = type(model) is Classifier and isinstance(model.head, nn.Linear)
        head_only = linear_head and all(name.startswith("head.") for name in self.adapted)
        self._guarded = self.engine == "vmap" and not head_only  # else the inner gradient meets no norm
        if self.engine == "vmap":
            norms.check_recurrent(model)
        norms.check(model, second_order_under_vmap=self._guarded and not first_order)

    def _names_of(self, adapt: str | Sequence[str] | None) -> list[str]:
        """The names of the parameters that move in the inner loop."""
        of_a_step = self.step_norms.at(0)
        learnt = [n for n, p in self.model.named_parameters() if p.requires_grad and n not in of_a_step]
        if adapt is not None:
            prefixes = tuple(f"{prefix}." for prefix in ([adapt] if isinstance(adapt, str) else adapt))
            for prefix in prefixes:
                if not any(f"{name}.".startswith(prefix) for name in learnt):
                    groups = ", ".join(sorted({name.split(".")[0] for name in learnt}))
                    found = f"{prefix[:-1]!r}, which fits no trainable parameter: the model has {groups}"
                    raise ValueError(f"`adapt` names {found}.")
            learnt = [name for name in learnt if f"{name}.".startswith(prefixes)]
        if not learnt and self.inner_steps:
            raise ValueError(f"`adapt` is {adapt!r}: this leaves nothing trainable to adapt.")
        return learnt

    def rate(self, name: str, step: int) -> Tensor | float:
        """α for one parameter at one step; beyond the steps it was trained for, the last step's."""
        if self.rate_kind == "fixed":
            return self.inner_lr
        learnt = self.rates[norms.key_of(name)]
        return learnt if self.rate_kind == "per_parameter" else learnt[min(step, len(learnt) - 1)]

    def call(
        self, fast: Parameters, step: int, x: Tensor, n_support: int | None = None, part: str = ""
    ) -> tuple[Tensor, Parameters]:
        """The model, or its submodule ``part``, with φ = ``fast`` after so many steps, on x (n, ...).

        x: a support set, or n_support supports and then the queries. Returns the outputs (n, ...), and what
        the norms' averages (C,) become.
        """
        state: Parameters = {**dict(self.model.named_parameters()), **self.step_norms.at(step), **fast}
        prefix = f"{part}." if part else ""
        state = {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
        with norms.inside_task(self.model, n_support):
            outputs = functional_call(self.model.get_submodule(part), state, (x,))
        return outputs, {n: state[n].detach() for n in self.step_norms.averages if n in state}

    def _step(
        self, fast: Parameters, step: int, support: Tensor, labels: Tensor, first_order: bool
    ) -> tuple[Parameters, Parameters]:
        """Equation (1): φ_s -> φ_{s+1}, and what the norms' averages become."""

        def support_loss(moving: Parameters) -> tuple[Tensor, Parameters]:
            outputs, averages = self.call(moving, step, support)
            return self.loss(outputs, labels), averages

        around: Any = norms.RefuseFusedNorms() if self._guarded else contextlib.nullcontext()
        with torch.no_grad() if first_order else around:  # a first-order gradient is a constant
            gradient, averages = grad(support_loss, has_aux=True)(fast)
        descended = {name: fast[name] - self.rate(name, step) * gradient[name] for name in self.adapted}
        return fast | descended, averages

    def _task(
        self, support: Tensor, labels: Tensor, query: Tensor, at: Sequence[int], first_order: bool
    ) -> Adaptation:
        """One task: max(at) steps (1) on its support, and answers to its queries after each number in at."""
        n_support = len(tree_leaves(support)[0]) if norms.needs_support(self.model) else 0
        asked = tree_map(lambda a, b: torch.cat([a, b]), support, query) if n_support else query
        fast: Parameters = {name: self.model.get_parameter(name) for name in self.adapted}  # φ_0 = θ
        if self.start is not None:
            fast = self.start(self, fast, support, labels)
        outputs, averages, following = {}, {}, fast  # of each step; φ_{s+1}
        for s in range(max(at) + 1):
            fast = following
            if s < max(at):
                following, averages[s] = self._step(fast, s, support, labels, first_order)
            if s in at:
                answers, averages[s] = self.call(fast, s, asked, n_support)
                outputs[s] = answers[n_support:]
        return Adaptation(torch.stack([outputs[s] for s in at]), fast, averages)

    def run(
        self, support: Tensor, labels: Tensor, query: Tensor, at: Sequence[int], first_order: bool = False
    ) -> Adaptation:
        """All T tasks, with outputs after each number of steps in ``at``: (T, A, Q, ...)."""
        parts = (support, labels, query)
        sizes = sorted({len(leaf) for leaf in tree_leaves(parts)})
        if len(sizes) > 1:
            found = "supports, labels and queries have different numbers of tasks"
            raise ValueError(f"`tasks` is {sizes}: {found}.")
        at = checks.check_steps("at", at)
        adapt_one = partial(self._task, at=at, first_order=first_order or self.first_order)
        # fused attention has no second derivative, and none of the rules that vmap needs
        with sdpa_kernel(SDPBackend.MATH):
            if self.engine == "vmap":
                with norms.vmap_words():
                    return vmap(adapt_one, randomness="different")(*parts)
            each = [adapt_one(*tree_map(lambda leaf, t=t: leaf[t], parts)) for t in range(sizes[0])]
        return tree_map(lambda *leaves: torch.stack(leaves), *each)

    def forward(
        self, support: Tensor, support_labels: Tensor, query: Tensor, n_steps: int | None = None
    ) -> Tensor:
        """Outputs (T, Q, ...) for the queries of T tasks after n_steps inner steps (None: inner_steps)."""
        steps = self.inner_steps if n_steps is None else n_steps
        return self.run(support, support_labels, query, [steps]).outputs[:, 0]

    def as_method(self, n_steps: int | None = None, name: str | None = None, batch_size: int = 50) -> Method:
        """The learner as a few-shot method on raw inputs: n_steps inner steps on each episode's support.

        support (E, N, K, ...), query (E, M, ...) -> logits (E, M, N), batch_size episodes at a time.
        """
        steps = self.inner_steps if n_steps is None else n_steps
        checks.whole_number(0, n_steps=steps)
        checks.whole_number(1, batch_size=batch_size)

        @few_shot_method(name or f"{self.name}, {steps} steps", transductive=self.transductive)
        @torch.no_grad()
        def adapt(support: Tensor, query: Tensor, support_mask: Tensor | None = None, **_: Tensor) -> Tensor:
            if support_mask is not None:
                fix = "needs a fixed n_shot: sample with a number, not a range"
                raise ValueError(f"`episodes` are padded, and {self.name} {fix}.")
            self.check_ways(support.shape[1])
            leaves = (support.flatten(1, 2), way_labels(support), query)
            with evaluation_mode(self):
                parts = zip(*(leaf.split(batch_size) for leaf in leaves), strict=True)
                return torch.cat([self(*part, n_steps=steps) for part in parts])

        return adapt

    def check_ways(self, n_way: int) -> None:
        """Refuses episodes that do not have as many ways as the linear head of a ``Classifier``."""
        head = self.model.head if isinstance(self.model, Classifier) else None
        ways = getattr(head, "out_features", n_way)
        if n_way != ways:
            fix = f"the model's head has {ways} ways; sample as many, or build it for {n_way}"
            raise ValueError(f"`n_way` is {n_way}: {fix}.")

    @property
    def transductive(self) -> bool:
        """Whether at test time a norm inside uses the statistics of the queries."""
        return any(norms.mixes_examples(module) for module in self.model.modules())


def way_labels(support: Tensor) -> Tensor:
    """support (E, N, K, ...) -> the way of every support (E, N·K)."""
    n_episodes, n_way, n_shot = support.shape[:3]
    return torch.arange(n_way, device=support.device).repeat_interleave(n_shot).expand(n_episodes, -1)
