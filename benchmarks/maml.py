"""A meta-step of MAML with a loop over tasks, with vmap, and with ``higher``: time, share of the arithmetic
floor, memory.

    python benchmarks/maml.py [--tasks 4] [--inner-steps 5] [--queries 15] [--width 64] [--norm batch]
                              [--repeats 3] [--threads 1] [--device cpu] [--tf32]

A meta-step is the loss and the meta-gradient of 5-way 1-shot tasks of random 28 x 28 images through Conv4.
Its floor is the time that its FLOPs would take at the rate of a large matrix product, measured in the same
run. With F FLOPs for one image in the forward pass, S inner steps, N_s supports and N_q queries, a task needs
9F·N_s·S + 3F·N_q, or 3F·N_s·S + 3F·N_q to first order: backward is twice the forward, and differentiating
both is twice them again. ``torch.utils.flop_counter`` checks it.

"unfolded" has matrix products in place of convolutions: from the second inner step on vmap makes grouped
convolutions, whose double backward torch computes one group, that is one task, at a time. ``higher`` is the
independent oracle and is optional (``pip install higher==0.2.1``): the largest difference of the
meta-gradients in float64 is printed, and must be below 1e-9. Times are medians, the engines taking turns;
what counts is their ratio. Memory is the peak of what a step allocates.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from fewshot_lib.core import pick_device
from fewshot_lib.encoders import Conv4
from fewshot_lib.maml import MAML, Classifier, Tasks, meta_loss, norms

N_WAY, N_SHOT, SIZE, INNER_LR = 5, 1, 28, 0.1
NORMS = ("batch", "running", "group")  # for these a query needs no supports, so that ``higher`` can take part
Step = Callable[[], list[Tensor]]  # -> the meta-gradient


class UnfoldedConv2d(nn.Conv2d):
    """A convolution as one matrix product with all patches."""

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel_size, padding=self.padding)  # (n, c·k·k, h·w)
        return (self.weight.flatten(1) @ patches + self.bias.unsqueeze(-1)).unflatten(-1, x.shape[-2:])


def unfolded(model: nn.Module) -> nn.Module:
    """A copy of the model with its convolutions unfolded."""
    model = copy.deepcopy(model)
    for name, old in list(model.named_modules()):
        if isinstance(old, nn.Conv2d):
            new = UnfoldedConv2d(old.in_channels, old.out_channels, old.kernel_size, padding=old.padding).to(
                old.weight
            )
            new.load_state_dict(old.state_dict())
            model.set_submodule(name, new)
    return model


def draw(n_tasks: int, n_query: int, device: torch.device) -> Tasks:
    """Random images in the shape of Omniglot episodes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n_tasks, N_WAY * (N_SHOT + n_query), 1, SIZE, SIZE, generator=generator)
    n_support = N_WAY * N_SHOT
    support, query = (torch.arange(N_WAY).repeat_interleave(n).expand(n_tasks, -1) for n in (N_SHOT, n_query))
    return Tasks(
        *(leaf.to(device) for leaf in (images[:, :n_support], support, images[:, n_support:], query))
    )


def by_library(model: nn.Module, tasks: Tasks, **options: object) -> Step:
    """The meta-gradient by ``MAML`` with these options."""
    learner = MAML(model, inner_lr=INNER_LR, **options)

    def step() -> list[Tensor]:
        learner.zero_grad()
        loss = meta_loss(learner, tasks)["loss"]
        if loss.requires_grad:  # with chunks, the gradient is there already
            loss.backward()
        return [p.grad for p in model.parameters()]

    return step


def by_higher(model: nn.Module, tasks: Tasks, inner_steps: int, first_order: bool) -> Step:
    """The meta-gradient by ``higher``, one task after the other."""
    import higher

    optimizer = torch.optim.SGD(model.parameters(), lr=INNER_LR)

    def step() -> list[Tensor]:
        total = [torch.zeros_like(p) for p in model.parameters()]
        for support, labels, query, answers in zip(*tasks, strict=True):
            options = {"copy_initial_weights": False, "track_higher_grads": not first_order}
            with higher.innerloop_ctx(model, optimizer, **options) as (fast, descent):
                for _ in range(inner_steps):
                    descent.step(F.cross_entropy(fast(support), labels))
                loss = F.cross_entropy(fast(query), answers) / len(tasks.support)
                wanted = fast.parameters() if first_order else model.parameters()
                total = [a + b for a, b in zip(total, torch.autograd.grad(loss, list(wanted)), strict=True)]
        return total

    return step


def steps_to_compare(model: nn.Module, tasks: Tasks, inner_steps: int, first_order: bool) -> dict[str, Step]:
    """Engine -> its meta-step; "unfolded" is vmap on the unfolded model."""
    options = {"inner_steps": inner_steps, "first_order": first_order}
    chunk = max(1, len(tasks.support) // 4)
    steps = {
        "loop": by_library(model, tasks, engine="loop", **options),
        "vmap": by_library(model, tasks, **options),
        f"vmap, chunks of {chunk}": by_library(model, tasks, chunk_size=chunk, **options),
        "vmap, unfolded": by_library(unfolded(model), tasks, **options),
    }
    if importlib.util.find_spec("higher") is not None:
        steps["higher"] = by_higher(model, tasks, **options)
    return steps


def flops(options: argparse.Namespace, first_order: bool) -> float:
    """FLOPs of a meta-step, by the formula above."""
    channels, sizes = [1, *[options.width] * 4], [SIZE, SIZE // 2, SIZE // 4, SIZE // 8]
    forward = (
        sum(2 * 9 * a * b * s * s for a, b, s in zip(channels, channels[1:], sizes, strict=False))
        + 2 * options.width * N_WAY
    )
    inner = (3 if first_order else 9) * forward * N_WAY * N_SHOT * options.inner_steps
    return options.tasks * (inner + 3 * forward * N_WAY * options.queries)


class Operations(TorchDispatchMode):
    """Counts the operations inside, and the largest number of bytes that their results held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.alive, self.peak, self.known = 0, 0, WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        for storage in _storages((args, kwargs)):
            self.known.setdefault(storage, True)  # made outside
        out = function(*args, **(kwargs or {}))
        self.counts[str(function)] += 1
        for storage in _storages(out):
            if storage not in self.known:
                self.known[storage] = True
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return out

    def _freed(self, n_bytes: int) -> None:
        self.alive -= n_bytes


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one run, with the device idle before and after it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def matmul_rate(device: torch.device, repeats: int) -> float:
    """FLOP/s of a large matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device)
    times = [seconds(lambda: a @ a, device) for _ in range(repeats + 1)]
    return 2 * n**3 / statistics.median(times[1:])


def peak_bytes(run: Callable[[], object], counted: Operations, device: torch.device) -> int:
    """What the allocator of a GPU has seen; elsewhere what was counted."""
    if device.type != "cuda":
        return counted.peak
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def compare(
    model: nn.Module,
    tasks: Tasks,
    options: argparse.Namespace,
    first_order: bool,
    rate: float,
    device: torch.device,
) -> None:
    """Prints a row for every engine."""
    name, work = "FOMAML" if first_order else "MAML", flops(options, first_order)
    steps, rows = steps_to_compare(model, tasks, options.inner_steps, first_order), {}
    with FlopCounterMode(display=False) as counter:
        steps["loop"]()
    share = counter.get_total_flops() / work
    print(
        f"\n{name}: {work / 1e9:.1f} GFLOP by the formula, {share:.3f} of them counted; floor "
        f"{1e3 * work / rate:.1f} ms"
    )
    for engine, step in steps.items():
        with Operations() as counted:
            step()
        rows[engine] = counted, peak_bytes(step, counted, device)
    times = {engine: [] for engine in steps}
    for _ in range(options.repeats):
        for engine, step in steps.items():
            times[engine].append(seconds(step, device))
    medians = {engine: statistics.median(values) for engine, values in times.items()}
    for engine, (counted, peak) in rows.items():
        took = medians[engine]
        print(
            f"{name:6} {engine:18} {1e3 * took:>9.1f} ms  {medians['loop'] / took:>5.2f} x loop  "
            f"{work / took / 1e9:>8.1f} GFLOP/s  {work / took / rate:>6.1%} of the floor  "
            f"{peak / 2**20:>8.1f} MiB  {counted.counts.total():>8,} operations"
        )


def deviations(model: nn.Module, tasks: Tasks, inner_steps: int) -> None:
    """Prints, and bounds, the largest difference from the loop's meta-gradient, relative to its largest."""
    model = copy.deepcopy(model).double()
    tasks = Tasks(*(leaf[:2].double() if leaf.is_floating_point() else leaf[:2] for leaf in tasks))
    print("\nlargest difference of the meta-gradient from the loop's, in float64, 2 tasks:")
    for first_order in (False, True):
        steps = steps_to_compare(model, tasks, inner_steps, first_order)
        gradients = {engine: step() for engine, step in steps.items()}
        scale = max(g.abs().max().item() for g in gradients["loop"])
        for engine, found in gradients.items():
            pairs = zip(found, gradients["loop"], strict=True)
            far = max((a - b).abs().max().item() for a, b in pairs) / scale
            print(f"{'FOMAML' if first_order else 'MAML':6} {engine:18} {far:.1e}")
            assert far < 1e-9, f"{engine} computes another meta-gradient than the loop"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=None, help="4, and 32 on a GPU")
    parser.add_argument("--inner-steps", type=int, default=5)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--norm", choices=NORMS, default="batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--tf32", action="store_true", help="matrix products and convolutions of a GPU in TF32"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    options.tasks = options.tasks or (32 if device.type == "cuda" else 4)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.manual_seed(0)
    model = norms.with_norm(Classifier(Conv4(width=options.width), options.width, N_WAY), options.norm).to(
        device
    )
    tasks = draw(options.tasks, options.queries, device)
    rate = matmul_rate(device, options.repeats)
    print(
        f"{options.tasks} tasks, {options.inner_steps} inner steps, {options.queries} queries per class, "
        f"Conv4-{options.width}, "
        f"{options.norm} norm, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
        f"matrix product: {rate / 1e9:,.0f} GFLOP/s" + (" (TF32)" if options.tf32 else "")
    )
    if importlib.util.find_spec("higher") is None:
        print("higher is not installed: the comparison with it was left out (pip install higher==0.2.1).")
    for first_order in (False, True):
        compare(model, tasks, options, first_order, rate, device)
    deviations(model, tasks, options.inner_steps)


if __name__ == "__main__":
    main()
