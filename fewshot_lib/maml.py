r"""Learning to start: MAML and its family. What is learnt is the initialisation from which a few gradient steps suffice.

On a task with support loss L_s and query loss L_q, starting from θ, the **inner loop** takes S steps,

    (1)  φ_0 = θ,     φ_{s+1} = φ_s − α ∇L_s(φ_s)

and the **outer loop** lowers the query loss *after* them, on average over tasks (Finn et al. 2017, arXiv:1703.03400):

    (2)  min over θ of  mean_t L_q(φ_S(θ))                  meta-gradient  (∂φ_S/∂θ)ᵀ ∇L_q(φ_S)
    (3)  ∂φ_S/∂θ = Π_s (I − α ∇²L_s(φ_s))                    second order: a product of Hessians

- FOMAML puts I for (3): ``first_order=True``.
- ANIL adapts the head only (Raghu et al. 2020, arXiv:1909.09157): ``adapt="head"``.
- Meta-SGD learns α, one number per weight (Li et al. 2017, arXiv:1707.09835): ``rates="per_parameter"``.
- ProtoMAML starts the head at the prototypes (Triantafillou et al. 2020, arXiv:1903.03096): ``start=prototype_head``.
- MAML++ (Antoniou et al. 2019, arXiv:1810.09502) learns a rate per tensor and step (``rates="per_tensor_per_step"``),
  and has its own batch-norm statistics, scales and shifts at every step (``per_step_norm``).

The outer loop, with Reptile's and MAML++'s losses, is ``meta_training``. Two engines compute the same: ``"loop"`` takes one
task after the other, ``"vmap"`` all at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from fewshot_lib import norms
from fewshot_lib.evaluation import Method, method
from fewshot_lib.training import evaluation_mode

Parameters = dict[str, Tensor]
RATES = ("fixed", "per_parameter", "per_tensor_per_step")


class Tasks(NamedTuple):
    """T tasks: support (T, S, ...), its labels (T, S), query (T, Q, ...), its labels (T, Q).

    A model that takes more than one tensor (token ids and their mask) gets a tuple or dict of tensors (T, S, ...).
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor


class Classifier(nn.Module):
    """An encoder and a linear head: x (n, ...) -> logits (n, n_way)."""

    def __init__(self, encoder: nn.Module, n_features: int, n_way: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(n_features, n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def prototype_head(learner: MAML, fast: Parameters, support: Tensor, labels: Tensor) -> Parameters:
    """ProtoMAML's start: w_k = 2c_k, b_k = −‖c_k‖² with the class means c_k, so that the first logits are −‖f(x) − c_k‖² + const.

    The gradient of the query loss flows through the means into the encoder. The model is a ``Classifier``.
    """
    features = learner.call(fast, 0, support, part="encoder")[0]
    one_hot = F.one_hot(labels, learner.model.head.out_features).to(features.dtype)  # (S, N)
    means = (one_hot.T @ features) / one_hot.sum(0).clamp_min(1).unsqueeze(-1)
    return {**fast, "head.weight": 2 * means, "head.bias": -means.square().sum(-1)}


class MAML(nn.Module):
    """A model and how it adapts to a task. Its parameters are all that the outer loop learns: θ, and rates where they are learnt.

    model: any module that takes a batch of examples. Parameters with ``requires_grad=False`` are neither adapted nor learnt.
    inner_steps, inner_lr: S and α of (1). first_order: I for (3). adapt: which parameters move in the inner loop, as
    prefixes of their names ("head", or ("prompt", "head")); None: all.
    rates: "fixed", or learnt from the start ``inner_lr``. start: a function (learner, θ, support, labels) -> φ_0.
    per_step_norm: scales and shifts of ``norms.BatchNorm`` belong to the step, and are learnt in the outer loop only.
    loss: (outputs (n, ...), labels (n, ...)) -> mean loss. engine: "vmap" or "loop". chunk_size: tasks whose graph is held in
    memory at a time (None: all); the gradients of the chunks are added up, and the result is the same.

    The running averages of a ``norms.BatchNorm`` are kept for every step: φ_0 and φ_S are different networks.
    The arithmetic is float32: mixed precision under vmap is broken upstream.

    Raises ValueError for settings out of range, a prefix that fits no parameter, and norms that vmap gets wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_steps: int = 1,
        inner_lr: float = 0.1,
        first_order: bool = False,
        adapt: str | Sequence[str] | None = None,
        rates: str = "fixed",
        start: Callable[[MAML, Parameters, Tensor, Tensor], Parameters] | None = None,
        per_step_norm: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        engine: str = "vmap",
        chunk_size: int | None = None,
        name: str = "MAML",
    ) -> None:
        super().__init__()
        _check("inner_steps", inner_steps, isinstance(inner_steps, int) and inner_steps >= 0, "use a whole number, 0 or more")
        _check("inner_lr", inner_lr, isinstance(inner_lr, (int, float)) and 0 <= inner_lr < float("inf"), "use a number, 0 or more")
        _check("rates", rates, rates in RATES, f"use one of {', '.join(map(repr, RATES))}")
        _check("engine", engine, engine in ("vmap", "loop"), "use 'vmap' or 'loop'")
        _check("chunk_size", chunk_size, chunk_size is None or isinstance(chunk_size, int) and chunk_size >= 1, "use None, or 1 or more")
        self.model, self.loss, self.start, self.engine, self.chunk_size, self.name = model, loss, start, engine, chunk_size, name
        self.inner_steps, self.inner_lr, self.first_order, self.rate_kind = inner_steps, inner_lr, first_order, rates
        self.norm_names = [n for n, module in model.named_modules() if isinstance(module, norms.BatchNorm)]
        self.step_scales = nn.ParameterDict()  # per step: (S + 1, C)
        self.step_averages = nn.Module()
        self._make_step_state(per_step_norm)
        self.adapted = self._adapted_names(adapt)
        _check("adapt", adapt, self.adapted or not inner_steps, "this leaves nothing trainable to adapt")
        self.rates = nn.ParameterDict(
            {_key(n): self._first_rate(p) for n, p in model.named_parameters() if n in self.adapted and rates != "fixed"}
        )
        linear_head = type(model) is Classifier and isinstance(model.head, nn.Linear)
        head_only = linear_head and all(n.startswith("head.") for n in self.adapted)  # the inner gradient meets no norm
        norms.check(model, engine, second_order=not (first_order or head_only))
        self._guarded = engine == "vmap" and not head_only

    def _make_step_state(self, per_step_norm: bool) -> None:
        _check(
            "per_step_norm", per_step_norm, self.norm_names or not per_step_norm, "the model has no norms.BatchNorm: see norms.with_norm"
        )
        for name in self.norm_names:
            norm = self.model.get_submodule(name)
            for part in ("weight", "bias") if per_step_norm else ():
                value = getattr(norm, part)
                per_step = value.detach().expand(self.inner_steps + 1, -1).clone()
                self.step_scales[_key(f"{name}.{part}")] = nn.Parameter(per_step, requires_grad=value.requires_grad)
            for part, value in norm.named_buffers():
                self.step_averages.register_buffer(_key(f"{name}.{part}"), value.expand(self.inner_steps + 1, -1).clone())

    def _adapted_names(self, adapt: str | Sequence[str] | None) -> list[str]:
        learnt = [n for n, p in self.model.named_parameters() if p.requires_grad and _key(n) not in self.step_scales]
        if adapt is None:
            return learnt
        prefixes = (adapt,) if isinstance(adapt, str) else tuple(adapt)
        for prefix in prefixes:
            if not any(f"{n}.".startswith(f"{prefix}.") for n in learnt):
                groups = sorted({n.split(".")[0] for n in learnt})
                raise ValueError(f"`adapt` names {prefix!r}, which fits no trainable parameter: the model has {', '.join(groups)}.")
        return [n for n in learnt if any(f"{n}.".startswith(f"{prefix}.") for prefix in prefixes)]

    def _first_rate(self, parameter: Tensor) -> nn.Parameter:
        shape = parameter.shape if self.rate_kind == "per_parameter" else (max(1, self.inner_steps),)
        return nn.Parameter(torch.full(shape, float(self.inner_lr), dtype=parameter.dtype, device=parameter.device))

    def rate(self, name: str, step: int) -> Tensor | float:
        """α for one parameter at one step; beyond the steps it was trained for, the last step's."""
        if self.rate_kind == "fixed":
            return self.inner_lr
        learnt = self.rates[_key(name)]
        return learnt if self.rate_kind == "per_parameter" else learnt[min(step, len(learnt) - 1)]

    def call(
        self, fast: Parameters, step: int, x: Tensor, *, n_support: int | None = None, detached: bool = False, part: str = ""
    ) -> tuple[Tensor, Parameters]:
        """The model (or its submodule) with the parameters φ = ``fast``: outputs for x, and the norms' new averages.

        x is a support set, or n_support supports and then the queries.
        """
        state = dict(self.model.named_parameters()) if detached else {}
        state |= _at_step(self.step_scales.items(), step)
        if detached:  # a first-order gradient needs no graph beyond its own step
            state = {name: value.detach() for name, value in state.items()}
        averages = _at_step(self.step_averages.named_buffers(), step)
        state |= fast | averages
        prefix = f"{part}." if part else ""
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        with norms.inside_task(self.model, n_support):
            outputs = functional_call(self.model.get_submodule(part), inside, (x,))
        return outputs, {name: inside.get(name.removeprefix(prefix), old).detach() for name, old in averages.items()}

    def _task(self, support: Tensor, labels: Tensor, query: Tensor, at: Sequence[int], first_order: bool) -> tuple:
        """The inner loop (1) on one task -> query outputs after each number of steps in ``at`` (A, Q, ...), φ_S, averages per step."""
        parameters = dict(self.model.named_parameters())
        fast = {name: parameters[name] for name in self.adapted}
        if self.start is not None:
            fast = self.start(self, fast, support, labels)
        outputs, averages = {}, []
        for s in range(max(at) + 1):
            if s < max(at):

                def support_loss(moving: Parameters, s: int = s) -> tuple[Tensor, Parameters]:
                    answers, new = self.call(moving, s, support, detached=first_order)
                    return self.loss(answers, labels), new

                with norms.RefuseFusedNorms() if self._guarded and not first_order else contextlib.nullcontext():
                    here = {name: value.detach() for name, value in fast.items()} if first_order else fast
                    gradient, new = grad(support_loss, has_aux=True)(here)
            if s in at:
                outputs[s], new = self._answers(fast, s, support, query)
            if s < max(at):
                fast = fast | {name: fast[name] - self.rate(name, s) * gradient[name] for name in self.adapted}
            averages.append(new)  # of the queries, where they were asked
        return torch.stack([outputs[s] for s in at]), fast, averages

    def _answers(self, fast: Parameters, step: int, support: Tensor, query: Tensor) -> tuple[Tensor, Parameters]:
        n_support = len(tree_leaves(support)[0]) if norms.needs_support(self.model) else 0
        x = tree_map(lambda a, b: torch.cat([a, b]), support, query) if n_support else query
        outputs, new = self.call(fast, step, x, n_support=n_support)
        return outputs[n_support:], new

    def run(self, support: Tensor, support_labels: Tensor, query: Tensor, at: Sequence[int], first_order: bool | None = None) -> tuple:
        """All T tasks -> query outputs (T, A, Q, ...) after each number of steps in ``at``, φ (T, ...) and averages (T, C) per step."""
        sizes = {len(leaf) for leaf in tree_leaves((support, support_labels, query))}
        _check("tasks", sorted(sizes), len(sizes) == 1, "supports, labels and queries have different numbers of tasks")
        _check("at", at, len(at) > 0 and min(at) >= 0, "give numbers of inner steps, 0 or more")
        first_order = self.first_order if first_order is None else first_order

        def one(support: Tensor, labels: Tensor, query: Tensor) -> tuple:
            return self._task(support, labels, query, at, first_order)

        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative, and none of the rules that vmap needs
            if self.engine == "vmap":
                return vmap(one, randomness="different")(support, support_labels, query)
            each = [one(*tree_map(lambda leaf, t=t: leaf[t], (support, support_labels, query))) for t in range(sizes.pop())]
        return tree_map(lambda *leaves: torch.stack(leaves), *each)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_steps: int | None = None) -> Tensor:
        """Outputs (T, Q, ...) for the queries of T tasks after n_steps inner steps (None: inner_steps)."""
        return self.run(support, support_labels, query, [self.inner_steps if n_steps is None else n_steps])[0][:, 0]

    @torch.no_grad()
    def keep_averages(self, seen: list[tuple[float, list[Parameters]]]) -> None:
        """Takes over the norms' new averages per step, (T, C) each as ``run`` returns them, from chunks with their shares of the tasks."""
        for key, stack in self.step_averages.named_buffers():
            for s in range(min(len(stack), len(seen[0][1]))):
                stack[s] = sum(share * averages[s][_name(key)].mean(0) for share, averages in seen)
            self.model.get_buffer(_name(key)).copy_(stack[0])  # the model as such is φ_0

    def as_method(self, n_steps: int | None = None, name: str | None = None, batch_size: int = 50) -> Method:
        """The learner as a few-shot method on raw inputs, adapted with n_steps inner steps on each episode's support.

        support (E, N, K, ...), query (E, M, ...) -> logits (E, M, N), batch_size episodes at a time. Transductive where a
        norm uses the statistics of the batch. ValueError for padded episodes: the head has a fixed number of ways.
        """
        steps = self.inner_steps if n_steps is None else n_steps
        _check("n_steps", steps, isinstance(steps, int) and steps >= 0, "use a whole number, 0 or more")
        _check("batch_size", batch_size, batch_size >= 1, "use at least 1 episode")

        @method(name or f"{self.name}, {steps} steps", transductive=self.transductive)
        @torch.no_grad()
        def adapted(support: Tensor, query: Tensor, support_mask: Tensor | None = None, **_: Tensor) -> Tensor:
            if support_mask is not None:
                raise ValueError(f"`episodes` are padded, and {self.name} needs a fixed n_way and n_shot: sample with numbers, not ranges.")
            n_way, n_shot = support.shape[1:3]
            self.check_ways(n_way)
            labels = torch.arange(n_way, device=query.device).repeat_interleave(n_shot).expand(len(support), -1)
            parts = zip(*(leaf.split(batch_size) for leaf in (support.flatten(1, 2), labels, query)), strict=True)
            with evaluation_mode(self):
                return torch.cat([self(*part, n_steps=steps) for part in parts])

        return adapted

    def check_ways(self, n_way: int) -> None:
        """Refuses episodes that do not have as many ways as the linear head of a ``Classifier``."""
        has = getattr(self.model.head, "out_features", n_way) if isinstance(self.model, Classifier) else n_way
        _check("n_way", n_way, has == n_way, f"the model's head has {has} ways; sample as many, or build it for {n_way}")

    @property
    def transductive(self) -> bool:
        """Whether at test time a norm inside uses the statistics of the queries."""
        return any(norms.mixes_examples(module) for module in self.model.modules())


def _at_step(stacks: Iterable[tuple[str, Tensor]], step: int) -> Parameters:
    return {_name(key): stack[min(step, len(stack) - 1)] for key, stack in stacks}


def _key(name: str) -> str:
    return name.replace(".", "/")  # a name in a ParameterDict or of a buffer must not hold a dot


def _name(key: str) -> str:
    return key.replace("/", ".")


def _check(argument: str, value: object, fine: object, fix: str) -> None:
    if not fine:
        raise ValueError(f"`{argument}` is {value!r}: {fix}.")
