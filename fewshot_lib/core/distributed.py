r"""Long training by several processes, which ``torchrun`` starts: the same steps, each computed in shares.

    torchrun --nproc-per-node 4 train.py          # on one machine; a GPU for each process where there are any

    with processes():                             # train.py; without torchrun it is one process as ever
        train_on_episodes(learner.to(pick_device()), dataset, 60_000, n_tasks=32, checkpoint="run.ckpt")

Every process draws the same episodes from the same seed. What costs is a function of many rows, texts or
tasks, z = f_θ(x) for x_1 … x_n; process r of R computes every R-th row, and all get all of z (``in_shares``).
From there on everybody computes the same: loss L, balancing, metrics, steps. The gradient of L comes out of

    ∇L = 1/R Σ_r ∇_r,      ∇_r = R Σ_{i of r} (∂z_i/∂θ)ᵀ ∂L/∂z_i  +  what does not go through a share

which is the mean over processes that ``core.fit`` takes before its step. So a run by R processes is the run
of one, up to rounding (and to dropout, whose masks are drawn per process). MAML calls its model through
``functional_call``, which DistributedDataParallel doesn't see; and DDP would not know of the batch norm of an
episode (``CommonBatchNorm``), nor of the gradients per task that balancing compares.

Process 0 alone prints and writes checkpoints; all read them, so ``checkpoint`` is on a disk they share.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only


@contextmanager
def processes() -> Iterator[None]:
    """Inside, the processes that torchrun started train as one, each on a GPU of its own.

    Without torchrun nothing changes.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if on_gpus := torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # which "cuda" means from here on
    dist.init_process_group("nccl" if on_gpus else "gloo")
    try:
        yield
        dist.barrier()  # nobody hangs up while another still speaks; after an error, nobody waits
    finally:
        dist.destroy_process_group()


def _place() -> tuple[int, int]:
    """The number r of this process, and how many there are, R."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


def leads() -> bool:
    """Whether this process is the one that prints and writes."""
    return _place()[0] == 0


def in_shares(function: Callable[..., Any], *parts: Any) -> Any:
    """``function(*parts)`` of tensors (n, ...), or trees of them, to tensors (n, ...): every process computes
    the rows r, r + R, … and gets all."""
    rank, ranks = _place()
    if ranks == 1:
        return function(*parts)
    n_rows = len(next(leaf for leaf in tree_leaves(parts) if isinstance(leaf, Tensor)))
    if n_rows < ranks:
        found = f"A step of {n_rows} rows, episodes or tasks for {ranks} processes"
        raise ValueError(f"{found}: give each at least one, or start fewer.")
    shares = tree_map_only(Tensor, lambda leaf: leaf[rank::ranks], parts)
    return tree_map_only(Tensor, lambda leaf: _Whole.apply(leaf, n_rows), function(*shares))


class _Whole(torch.autograd.Function):
    """The rows of all processes from those of each; backwards R times the gradient of one's own."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, n_rows: int) -> Tensor:
        rank, ranks = _place()
        whole = share.new_zeros(n_rows, *share.shape[1:])
        whole[rank::ranks] = share
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rank, ranks = _place()
        return ranks * gradient[rank::ranks], None


class _Sum(torch.autograd.Function):
    """The sum over processes; whatever each makes of it, its gradient is the sum, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    backward = forward


class CommonBatchNorm(TorchFunctionMode):
    """Inside, batch norm in train mode takes the statistics of the rows of all processes.

    ``nn.SyncBatchNorm`` does the same, on GPUs only, and in another module.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        norm = _batch_norm if func is F.batch_norm and _place()[1] > 1 else func
        return norm(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """``F.batch_norm`` of x (n, C, ...), n of each process."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    rows = x.to(torch.promote_types(x.dtype, torch.float32)).transpose(0, 1).flatten(1)  # (C, n · ...)
    count = _Sum.apply(rows.new_tensor(rows.shape[1]))
    mean = _Sum.apply(rows.sum(1)) / count
    centred = rows - mean.unsqueeze(1)
    variance = _Sum.apply(centred.square().sum(1)) / count
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.detach().to(running_mean), momentum)
        running_var.lerp_((variance.detach() * count / (count - 1)).to(running_var), momentum)
    normed = (centred * (variance.unsqueeze(1) + eps).rsqrt()).to(x.dtype)
    normed = normed.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)
    shape = (1, -1, *[1] * (x.dim() - 2))
    normed = normed if weight is None else normed * weight.view(shape)
    return normed if bias is None else normed + bias.view(shape)


@torch.no_grad()
def mean_over_processes(tensors: Iterable[Tensor | None]) -> None:
    """Puts the mean over processes into every tensor that is there, in one message."""
    found = [tensor for tensor in tensors if tensor is not None and tensor.numel()]
    if _place()[1] == 1 or not found:
        return
    flat = torch.cat([tensor.flatten() for tensor in found])
    dist.all_reduce(flat)
    parts = (flat / _place()[1]).split([tensor.numel() for tensor in found])
    for tensor, part in zip(found, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def start_alike(model: nn.Module) -> None:
    """Gives every process the weights and averages of process 0."""
    for value in model.state_dict().values() if _place()[1] > 1 else ():
        if isinstance(value, Tensor):
            dist.broadcast(value, 0)
