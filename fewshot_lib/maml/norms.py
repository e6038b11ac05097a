r"""Normalisation layers that a meta-gradient can pass through, and the choice of whose statistics they use.

Inside a few-shot task a batch norm,

    y = (x − m)/√(v + ε) · w + b        with the mean m and variance v of each channel,

has a choice that the accuracy depends on:

- ``"batch"``: m and v of the examples at hand. A query is then normalised by the *other queries* of its task:
  transductive, as MAML was published (openai/supervised-reptile#12 calls it "basically cheating").
- ``"support"``: m and v of the task's support set, for supports and queries alike (MetaBN in Bronskill et al.
  2020, arXiv:2003.03284). Inductive.
- ``"running"``: at test time, averages over the training tasks, for the queries; inductive. (The inner loop
  keeps to its support set: with averages, the gradients are others than those the start was made for.)
- ``"group"``: no batch at all: m and v of groups of channels of *one* example (Wu and He 2018,
  arXiv:1803.08494).

The layers are written out with mean and variance. The fused ones of torch (``nn.BatchNorm``,
``nn.LayerNorm``, ``nn.InstanceNorm``) give a **silently wrong second derivative under ``torch.vmap``** (torch
2.13, 0.2 to 3 % off in our tests; the loss is right): notebooks/extra/vmap_detective.ipynb finds it.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from fewshot_lib.core import one_of

NORMS = ("batch", "support", "running", "group")
FUSED = (_BatchNorm, _InstanceNorm, nn.LayerNorm)
FUSED_CALLS = [
    getattr(home, f"{kind}_norm") for home in (F, torch) for kind in ("batch", "instance", "layer")
]


class BatchNorm(nn.Module):
    """Batch norm written out: x (n, C, ...) -> the same shape. statistics: "batch", "support" or "running".

    Outside of a task it is an ordinary batch norm; ``inside_task`` says what is support and what is query.
    The running averages are *assigned* anew and never changed in place, so that ``functional_call`` can carry
    them through a function transform. Same parameter names as ``nn.BatchNorm2d``.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, n_channels: int, statistics: str = "batch", eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__()
        one_of("statistics", statistics, NORMS[:3])
        self.num_features, self.eps, self.momentum = n_channels, eps, 0.1 if momentum is None else momentum
        self.statistics, self.adapting = statistics, False
        self.n_support: int | None = None
        self.weight, self.bias = nn.Parameter(torch.ones(n_channels)), nn.Parameter(torch.zeros(n_channels))
        if statistics == "running":
            self.register_buffer("running_mean", torch.zeros(n_channels))
            self.register_buffer("running_var", torch.ones(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        tracks = self.statistics == "running"
        if tracks and not (self.training or self.adapting):
            mean, variance = self.running_mean, self.running_var
        else:
            seen = x[: self.n_support] if self.statistics == "support" else x
            variance, mean = torch.var_mean(seen, [d for d in range(x.dim()) if d != 1], correction=0)
        if tracks and self.training:
            n = x.numel() // x.shape[1]
            unbiased = variance.detach() * (n / max(1, n - 1))
            self.running_mean = torch.lerp(self.running_mean, mean.detach(), self.momentum)
            self.running_var = torch.lerp(self.running_var, unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"{self.num_features}, statistics={self.statistics}"


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` written out."""

    def forward(self, x: Tensor) -> Tensor:
        dims = list(range(-len(self.normalized_shape), 0))
        variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        x = (x - mean) * (variance + self.eps).rsqrt()
        if self.weight is not None:
            x = x * self.weight
        return x if self.bias is None else x + self.bias


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` for any memory layout: torch 2.13 has none for channels-last images under vmap."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


class StepNorms(nn.Module):
    """What the ``BatchNorm`` layers of a model have for every number of inner steps, 0 to S: (S + 1, C) each.

    Running averages and, where they are learnt per step, scales and shifts (MAML++, Antoniou et al. 2019,
    section 4). All start as the model's own, and are called as there, with "/" for ".".
    """

    def __init__(self, model: nn.Module, n_steps: int, learns_scales: bool) -> None:
        super().__init__()
        layers = [(name, norm) for name, norm in model.named_modules() if isinstance(norm, BatchNorm)]
        if learns_scales and not layers:
            fix = "the model has no norms.BatchNorm: see norms.with_norm"
            raise ValueError(f"`per_step_norm` is {learns_scales}: {fix}.")
        for layer, norm in layers:
            for part, value in norm.named_buffers(layer):
                self.register_buffer(key_of(part), value.expand(n_steps + 1, -1).clone())
            for part, value in norm.named_parameters(layer) if learns_scales else ():
                stack = value.detach().expand(n_steps + 1, -1).clone()
                self.register_parameter(key_of(part), nn.Parameter(stack, requires_grad=value.requires_grad))
        self.averages = [key.replace("/", ".") for key, _ in self.named_buffers()]

    def at(self, step: int) -> dict[str, Tensor]:
        """Name in the model -> its value (C,) after so many steps; beyond the last step, the last one's."""
        stacks = [*self.named_parameters(), *self.named_buffers()]
        return {key.replace("/", "."): stack[min(step, len(stack) - 1)] for key, stack in stacks}

    @torch.no_grad()
    def keep(self, model: nn.Module, chunks: list[tuple[float, dict[int, dict[str, Tensor]]]]) -> None:
        """Takes over new averages, (T, C) for each step, of chunks of tasks with their shares of them all."""
        for name in self.averages:
            stack = self.get_buffer(key_of(name))
            for s in range(min(len(stack), len(chunks[0][1]))):
                stack[s] = sum(share * averages[s][name].mean(0) for share, averages in chunks)
            model.get_buffer(name).copy_(stack[0])  # the model as such is φ_0


def key_of(name: str) -> str:
    """A name in the model as one of a parameter or buffer of another module: without a dot."""
    return name.replace(".", "/")


def _batch_norms(model: nn.Module) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def with_statistics(model: nn.Module, statistics: str) -> nn.Module:
    """A copy whose ``BatchNorm`` layers take other statistics from now on, with the weights as they are.

    "batch" and "running" learners are trained alike, and differ only at test time.
    """
    model = copy.deepcopy(model)
    for norm in _batch_norms(model):
        if statistics not in (NORMS[:3] if hasattr(norm, "running_mean") else NORMS[:2]):
            fix = "use 'batch' or 'support', or train with 'running' from the start"
            raise ValueError(f"`statistics` is {statistics!r}: {fix}.")
        norm.statistics = statistics
    return model


@contextlib.contextmanager
def inside_task(model: nn.Module, n_support: int | None) -> Iterator[None]:
    """Tells the norms what passes: the support set (None), or n_support supports and then the queries."""
    inside = _batch_norms(model)
    try:
        for norm in inside:
            norm.adapting, norm.n_support = n_support is None, n_support
        yield
    finally:
        for norm in inside:
            norm.adapting, norm.n_support = False, None


def mixes_examples(module: nn.Module) -> bool:
    """Whether it is a norm that at test time normalises a query by the other queries."""
    if isinstance(module, BatchNorm):
        return module.statistics == "batch"
    return isinstance(module, _BatchNorm) and not module.track_running_stats


def needs_support(model: nn.Module) -> bool:
    """Whether a norm inside normalises queries by supports, which must then pass together with them."""
    return any(norm.statistics == "support" for norm in _batch_norms(model))


def with_norm(model: nn.Module, norm: str) -> nn.Module:
    """A copy with every batch norm replaced by the chosen one: "batch", "support", "running" or "group".

    Scales and shifts are kept; running averages start anew.
    """
    one_of("norm", norm, NORMS)

    def build(old: Any) -> nn.Module:
        if norm == "group":
            return GroupNorm(math.gcd(8, old.num_features), old.num_features, old.eps)
        return BatchNorm(old.num_features, norm, old.eps, old.momentum)

    return _replaced(model, (_BatchNorm, BatchNorm), build)


def vmap_safe(model: nn.Module) -> nn.Module:
    """A copy that computes the same, with the fused norms of torch written out. No state is lost.

    An instance norm becomes the group norm of single channels that it is.
    """

    def build(old: Any) -> nn.Module:
        if isinstance(old, nn.LayerNorm):
            return LayerNorm(old.normalized_shape, old.eps, old.elementwise_affine, old.bias is not None)
        if isinstance(old, _InstanceNorm):
            if old.track_running_stats:
                found = "an instance norm with running statistics, which has no written-out form"
                raise ValueError(f"`model` has {found}: use nn.GroupNorm.")
            return GroupNorm(old.num_features, old.num_features, old.eps, old.affine)
        if not old.track_running_stats:
            return BatchNorm(old.num_features, "batch", old.eps, old.momentum)
        new = BatchNorm(old.num_features, "running", old.eps, old.momentum)
        new.running_mean, new.running_var = old.running_mean.clone(), old.running_var.clone()
        return new

    return _replaced(model, FUSED, build)


def _replaced(model: nn.Module, kinds: tuple[type[nn.Module], ...], build: Callable) -> nn.Module:
    """A copy with the layers of these kinds built anew, where they are not written out already."""
    model = copy.deepcopy(model)
    found = _of_kinds(model, kinds)
    if not found:
        none = "has no normalisation layer to replace: use it as it is"
        raise ValueError(f"`model` ({type(model).__name__}) {none}.")
    for name, old in found.items():
        new = build(old).requires_grad_(False)  # where the old has no scale and shift, these stay 1 and 0
        for part, parameter in old.named_parameters():
            setattr(new, part, copy.deepcopy(parameter))
        new = new.to(next(model.parameters(), torch.empty(0))).train(old.training)  # its device and precision
        if not name:
            return new
        model.set_submodule(name, new)
    return model


def _of_kinds(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """The layers of these kinds by name, but for the written-out ``LayerNorm``, which is one of torch's."""
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds) and not isinstance(m, LayerNorm)}


def check(model: nn.Module, second_order_under_vmap: bool) -> None:
    """Refuses fused norms: with running averages always, else where vmap gets the second derivative wrong."""
    for name, module in _of_kinds(model, FUSED).items():
        found = f"`model` holds {type(module).__name__} as {name or 'itself'!r}"
        if getattr(module, "track_running_stats", False):
            reason = "changes its running averages in place, and no gradient transform allows that"
            fix = "use `norms.with_norm(model, norm)`, or `norms.vmap_safe(model)`"
            raise ValueError(f"{found}, which {reason}: {fix}.")
        if second_order_under_vmap:
            fix = "use `norms.vmap_safe(model)` (the same layers, written out), or engine='loop'"
            raise ValueError(f"{found}, and engine='vmap' would get a wrong meta-gradient through it: {fix}.")


class RefuseFusedNorms(TorchFunctionMode):
    """Inside ``with RefuseFusedNorms():`` a model that calls ``F.layer_norm`` and the like is refused."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FUSED_CALLS:
            wrong = f"calls {func.__name__}, through which engine='vmap' gets a wrong meta-gradient"
            fix = "use the layers of `norms` in its place, or engine='loop'"
            raise ValueError(f"`model` {wrong}: {fix}.")
        return func(*args, **(kwargs or {}))


def check_recurrent(model: nn.Module) -> None:
    """Refuses recurrent layers, which vmap has no rules for: an LSTM, a GRU, and their cells."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            found = f"`model` holds {type(module).__name__} as {name or 'itself'!r}"
            raise ValueError(f"{found}, which engine='vmap' cannot run: use engine='loop'.")


@contextlib.contextmanager
def vmap_words() -> Iterator[None]:
    """Around vmap: what it cannot run is a ValueError that names the other engine."""
    try:
        yield
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        if not any(
            word in str(error) for word in ("vmap", "Batching rule", "doesn't match the broadcast shape")
        ):
            raise
        raise ValueError(f"`model` cannot run under engine='vmap' ({why}): use engine='loop'.") from error
