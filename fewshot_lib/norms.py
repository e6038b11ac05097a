r"""Normalisation layers that a meta-gradient can pass through, and the choice of whose statistics they use.

Inside a few-shot task a batch norm,

    y = (x − m)/√(v + ε) · w + b        with the mean m and variance v of each channel,

has a choice that the accuracy hangs on:

- ``"batch"``: m and v of the examples at hand. A query is then normalised by the *other queries* of its task: the learner
  is transductive, as MAML was published (openai/supervised-reptile#12 calls it "basically cheating").
- ``"support"``: m and v of the task's support set, for supports and queries alike (MetaBN in Bronskill et al. 2020,
  arXiv:2003.03284). The learner is inductive.
- ``"running"``: at test time, averages over the training tasks, for the queries. (The inner loop keeps to the statistics of
  its support set: with averages, the gradients are others than those the start was made for.) The learner is inductive.
- ``"group"``: no batch at all: m and v of groups of channels of *one* example (Wu and He 2018, arXiv:1803.08494).

The layers are written out with mean and variance. The fused ones of torch (``nn.BatchNorm``, ``nn.LayerNorm``,
``nn.InstanceNorm``) give a **silently wrong second derivative under ``torch.vmap``** (torch 2.13, 0.2 to 3 % off in our tests; the
loss is right): chapter 04 finds it by finite differences.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FUSED = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm)
NORMS = ("batch", "support", "running", "group")
FUSED_CALLS = (F.layer_norm, F.batch_norm, F.instance_norm, torch.layer_norm, torch.batch_norm, torch.instance_norm)


class BatchNorm(nn.Module):
    """Batch norm written out: x (n, C, ...) -> the same shape. ``statistics`` is "batch", "support" or "running", as above.

    Outside of a task it is an ordinary batch norm; ``inside_task`` says what is support and what is query.

    The running averages are *assigned* anew and never changed in place, so that ``functional_call`` can carry them
    through a function transform. Same parameter names as ``nn.BatchNorm2d``.
    """

    def __init__(self, n_channels: int, statistics: str = "batch", eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if statistics not in NORMS[:3]:
            raise ValueError(f"`statistics` is {statistics!r}: use {', '.join(map(repr, NORMS[:3]))}.")
        self.num_features, self.eps, self.momentum = n_channels, eps, momentum
        self.statistics, self.adapting, self.n_support = statistics, False, None
        self.track_running_stats = statistics == "running"
        self.weight, self.bias = nn.Parameter(torch.ones(n_channels)), nn.Parameter(torch.zeros(n_channels))
        if self.track_running_stats:
            self.register_buffer("running_mean", torch.zeros(n_channels))
            self.register_buffer("running_var", torch.ones(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        if self.training or self.adapting or not self.track_running_stats:
            variance, mean = torch.var_mean(
                x[: self.n_support] if self.statistics == "support" else x, [d for d in range(x.dim()) if d != 1], correction=0
            )
            if self.track_running_stats and self.training:
                n = x.numel() // x.shape[1]
                unbiased = variance.detach() * (n / max(1, n - 1))
                self.running_mean = torch.lerp(self.running_mean, mean.detach(), self.momentum)
                self.running_var = torch.lerp(self.running_var, unbiased, self.momentum)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"{self.num_features}, statistics={self.statistics}"


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` written out with mean and variance: the same numbers, and right second derivatives under vmap."""

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


def with_statistics(model: nn.Module, statistics: str) -> nn.Module:
    """A copy whose ``BatchNorm`` layers take other statistics from now on, with the weights as they are.

    "batch" and "running" learners are trained alike, and differ only at test time. ValueError for averages that do not exist.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            if statistics not in NORMS[:3] or (statistics == "running" and not hasattr(module, "running_mean")):
                raise ValueError(f"`statistics` is {statistics!r}: use 'batch' or 'support', or train with 'running' from the start.")
            module.statistics, module.track_running_stats = statistics, statistics == "running"
    return model


@contextlib.contextmanager
def inside_task(model: nn.Module, n_support: int | None) -> Iterator[None]:
    """Tells the norms of the model what passes through: the support set (None), or n_support supports and then the queries."""
    inside = [module for module in model.modules() if isinstance(module, BatchNorm)]
    try:
        for module in inside:
            module.adapting, module.n_support = n_support is None, n_support
        yield
    finally:
        for module in inside:
            module.adapting, module.n_support = False, None


def mixes_examples(module: nn.Module) -> bool:
    """Whether it is a norm that at test time normalises a query by the other queries."""
    if isinstance(module, BatchNorm):
        return module.statistics == "batch"
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats


def needs_support(model: nn.Module) -> bool:
    """Whether a norm inside normalises the queries by the supports, which must then pass through together with them."""
    return any(isinstance(module, BatchNorm) and module.statistics == "support" for module in model.modules())


def with_norm(model: nn.Module, norm: str) -> nn.Module:
    """A copy of the model with every batch norm replaced by the chosen one: "batch", "support", "running" or "group".

    Scales and shifts are kept; running averages start anew. ValueError for another choice, or without a batch norm.
    """
    if norm not in NORMS:
        raise ValueError(f"`norm` is {norm!r}: use one of {', '.join(map(repr, NORMS))}.")

    def build(old: nn.Module) -> nn.Module:
        n_channels = old.num_features
        if norm == "group":
            return _with_affine_of(GroupNorm(math.gcd(8, n_channels), n_channels, old.eps), old)
        return _with_affine_of(BatchNorm(n_channels, norm, old.eps, _momentum(old)), old)

    return _replaced(model, (nn.modules.batchnorm._BatchNorm, BatchNorm), build)


def vmap_safe(model: nn.Module) -> nn.Module:
    """A copy of the model that computes the same, with the fused norms of torch written out. No state is lost.

    Batch norms keep their running averages, and an instance norm becomes the group norm of single channels that it is.
    """

    def build(old: nn.Module) -> nn.Module:
        if isinstance(old, nn.LayerNorm):
            return _with_affine_of(LayerNorm(old.normalized_shape, old.eps, old.elementwise_affine, old.bias is not None), old)
        if isinstance(old, nn.modules.instancenorm._InstanceNorm):
            if old.track_running_stats:
                raise ValueError("`model` has an instance norm with running statistics, which has no written-out form: use nn.GroupNorm.")
            return _with_affine_of(GroupNorm(old.num_features, old.num_features, old.eps, old.affine), old)
        new = BatchNorm(old.num_features, "running" if old.track_running_stats else "batch", old.eps, _momentum(old))
        if old.track_running_stats:
            new.running_mean, new.running_var = old.running_mean.clone(), old.running_var.clone()
        return _with_affine_of(new, old)

    safe = (BatchNorm, LayerNorm)
    return _replaced(model, FUSED, build, keep=safe)


def _replaced(model: nn.Module, kinds: tuple[type, ...], build: Callable, keep: tuple[type, ...] = ()) -> nn.Module:
    model = copy.deepcopy(model)
    found = [name for name, module in model.named_modules() if isinstance(module, kinds) and not isinstance(module, keep)]
    if not found:
        raise ValueError(f"`model` ({type(model).__name__}) has no normalisation layer to replace: use it as it is.")
    for name in found:
        old = model.get_submodule(name)
        new = build(old).to(next(model.parameters(), torch.empty(0))).train(old.training)  # its device and its precision
        if not name:
            return new
        model.set_submodule(name, new)
    return model


def _with_affine_of(new: nn.Module, old: nn.Module) -> nn.Module:
    """``new`` with the scale and shift of ``old``, in its precision; where it has none, new ones that stay 1 and 0."""
    new.requires_grad_(False)
    for name, parameter in old.named_parameters():
        setattr(new, name, copy.deepcopy(parameter))
    return new


def _momentum(old: nn.Module) -> float:
    return 0.1 if old.momentum is None else old.momentum


def check(model: nn.Module, engine: str, second_order: bool) -> None:
    """Refuses what is impossible, fused norms with running averages, and what is wrong: fused norms in a second derivative under vmap."""
    for name, module in model.named_modules():
        if not isinstance(module, FUSED) or isinstance(module, LayerNorm):
            continue
        found = f"`model` holds {type(module).__name__} as {name or 'itself'!r}"
        if getattr(module, "track_running_stats", False):
            raise ValueError(
                f"{found}, which changes its running averages in place, and no gradient transform allows that: "
                "use `norms.with_norm(model, norm)`, or `norms.vmap_safe(model)`."
            )
        if second_order and engine == "vmap":
            raise ValueError(
                f"{found}, and engine='vmap' would get a wrong meta-gradient through it: "
                "use `norms.vmap_safe(model)` (the same layers, written out), or engine='loop'."
            )


class RefuseFusedNorms(TorchFunctionMode):
    """Inside ``with RefuseFusedNorms():`` a model that calls ``F.layer_norm`` and the like itself is refused, too."""

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        if func in FUSED_CALLS:
            raise ValueError(
                f"`model` calls {func.__name__}, through which engine='vmap' gets a wrong meta-gradient: "
                "use the layers of `norms` in its place, or engine='loop'."
            )
        return func(*args, **(kwargs or {}))
