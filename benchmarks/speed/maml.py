"""A meta-step of MAML with a loop over tasks, with vmap, with ``higher`` and with torchopt.

A meta-step is the loss and the meta-gradient of 5-way 1-shot tasks of random 28 × 28 images through Conv4.
Its floor is the time that its FLOPs would take at the rate of a large matrix product, measured in the same
run. With F FLOPs for one image in the forward pass, S inner steps, N_s supports and N_q queries, a task needs
9F·N_s·S + 3F·N_q, or 3F·N_s·S + 3F·N_q to first order: backward is twice the forward, and differentiating
both is twice them again. ``torch.utils.flop_counter`` must count the same.

"unfolded" has matrix products in place of convolutions: from the second inner step on vmap makes grouped
convolutions, whose double backward torch computes one group, that is one task, at a time. On a CPU that makes
a loop about as fast where channels are many; where they are few, Python is what takes the time, and vmap,
which calls it once for all tasks, is faster. Without ``core.keep_memory``, tensors of all tasks at once cost
up to a third more on Linux. All ways must have the same meta-gradient: in float64, to 1e-9 of its largest
number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from speed.operations import Operations
from speed.peers import peer
from speed.timing import OURS, beside, in_turn, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fewshot_lib.encoders import Conv4
from fewshot_lib.maml import MAML, Classifier, Tasks, meta_loss, norms

N_WAY, N_QUERY, SIZE, INNER_LR = 5, 15, 28, 0.1
NARROW = 16  # channels of a network in which a loop waits for Python
Step = Callable[[], list[Tensor]]  # -> the meta-gradient
HEAD = [
    "meta-step",
    "by",
    "ms",
    "× ours",
    "range of rounds",
    "GFLOP/s",
    "of the floor",
    "operations",
    "peak MiB",
]
HEAD.append("gradient off by")


class Setting(NamedTuple):
    """How many tasks and inner steps, of which order, through how wide a network."""

    n_tasks: int = 4
    inner_steps: int = 5
    first_order: bool = False
    width: int = 64

    @property
    def options(self) -> dict[str, int | bool]:
        """Those of ``MAML``."""
        return {"inner_steps": self.inner_steps, "first_order": self.first_order}

    @property
    def forward(self) -> list[int]:
        """FLOPs of one image, layer by layer."""
        channels, sizes = [1, *[self.width] * 4], [SIZE, SIZE // 2, SIZE // 4, SIZE // 8]
        layers = zip(channels, channels[1:], sizes, strict=False)
        return [*(2 * 9 * a * b * s * s for a, b, s in layers), 2 * self.width * N_WAY]

    @property
    def flops(self) -> float:
        """FLOPs of a meta-step, by the formula above."""
        forward = sum(self.forward)
        inner = (3 if self.first_order else 9) * forward * N_WAY * self.inner_steps
        return self.n_tasks * (inner + 3 * forward * N_WAY * N_QUERY)


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
            size = old.in_channels, old.out_channels, old.kernel_size
            new = UnfoldedConv2d(*size, padding=old.padding).to(old.weight)
            new.load_state_dict(old.state_dict())
            model.set_submodule(name, new)
    return model


def draw(n_tasks: int) -> Tasks:
    """Random images in the shape of Omniglot episodes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n_tasks, N_WAY * (1 + N_QUERY), 1, SIZE, SIZE, generator=generator)
    support, query = (torch.arange(N_WAY).repeat_interleave(n).expand(n_tasks, -1) for n in (1, N_QUERY))
    return Tasks(images[:, :N_WAY], support, images[:, N_WAY:], query)


def conv4(width: int) -> nn.Module:
    """Conv4 and a linear head; a query needs no supports for its norm, so that the others can take part."""
    torch.manual_seed(0)
    return norms.with_norm(Classifier(Conv4(width=width), width, N_WAY), "batch")


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


def mean_over_tasks(gradient: Callable[..., tuple[Tensor, ...]], tasks: Tasks) -> list[Tensor]:
    """The meta-gradient of tasks that come one after the other."""
    each = [gradient(*task) for task in zip(*tasks, strict=True)]
    return [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]


def by_higher(model: nn.Module, tasks: Tasks, inner_steps: int, first_order: bool) -> Step:
    """The meta-gradient by ``higher``, one task after the other."""
    optimizer = torch.optim.SGD(model.parameters(), lr=INNER_LR)
    options = {"copy_initial_weights": False, "track_higher_grads": not first_order}

    def of_one(support: Tensor, labels: Tensor, query: Tensor, answers: Tensor) -> tuple[Tensor, ...]:
        with peer("higher").innerloop_ctx(model, optimizer, **options) as (fast, descent):
            for _ in range(inner_steps):
                descent.step(F.cross_entropy(fast(support), labels))
            wanted = fast.parameters() if first_order else model.parameters()
            return torch.autograd.grad(F.cross_entropy(fast(query), answers), list(wanted))

    return partial(mean_over_tasks, of_one, tasks)


def by_torchopt(model: nn.Module, tasks: Tasks, inner_steps: int) -> Step:
    """The meta-gradient by torchopt's ``MetaSGD``, one task after the other; to second order only."""
    torchopt, model = peer("torchopt"), copy.deepcopy(model)
    learnt, inner = list(model.parameters()), torchopt.MetaSGD(model, lr=INNER_LR)
    start = [torchopt.extract_state_dict(part, by="reference") for part in (model, inner)]

    def of_one(support: Tensor, labels: Tensor, query: Tensor, answers: Tensor) -> tuple[Tensor, ...]:
        for _ in range(inner_steps):
            inner.step(F.cross_entropy(model(support), labels))
        found = torch.autograd.grad(F.cross_entropy(model(query), answers), learnt)
        for part, state in zip((model, inner), start, strict=True):
            torchopt.recover_state_dict(part, state)
        return found

    return partial(mean_over_tasks, of_one, tasks)


def steps_to_compare(model: nn.Module, tasks: Tasks, setting: Setting) -> dict[str, Step]:
    """Way -> its meta-step; the first is the library's default, vmap."""
    options = setting.options
    chunk = max(1, len(tasks.support) // 2)
    steps = {
        OURS: by_library(model, tasks, **options),
        "ours, loop": by_library(model, tasks, engine="loop", **options),
        "ours, in two chunks": by_library(model, tasks, chunk_size=chunk, **options),
        "ours, unfolded": by_library(unfolded(model), tasks, **options),
    }
    if peer("higher"):
        steps["higher"] = by_higher(model, tasks, **options)
    if peer("torchopt") and not setting.first_order:
        steps["torchopt"] = by_torchopt(model, tasks, setting.inner_steps)
    return steps


def deviations(setting: Setting) -> dict[str, float]:
    """Of every way's meta-gradient from the loop's, relative to its largest number; float64, 2 tasks."""
    model, tasks = conv4(setting.width).double(), draw(2)
    tasks = tasks._replace(support=tasks.support.double(), query=tasks.query.double())
    gradients = {way: step() for way, step in steps_to_compare(model, tasks, setting).items()}
    expected = gradients["ours, loop"]
    scale, off = max(g.abs().max().item() for g in expected), {}
    for way, found in gradients.items():
        off[way] = max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True)) / scale
        assert off[way] < 1e-9, f"{way} computes another meta-gradient than the loop: {off[way]:.1e}"
    return off


def matmul_rate(device: torch.device | None = None, n: int = 2048) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(n, n, device=device)
    return 2 * n**3 / sorted(seconds(lambda: a @ a, device) for _ in range(5))[2]


def measure(tiny: bool) -> list[list[str]]:
    """Rows of all ways: the published network to second and to first order, and a narrow one."""
    rate, rows = matmul_rate(n=256 if tiny else 2048), []
    for setting in (Setting(), Setting(first_order=True), Setting(width=NARROW)):
        if tiny:
            setting = setting._replace(n_tasks=2, inner_steps=2, width=4)
        steps = steps_to_compare(conv4(setting.width), draw(setting.n_tasks), setting)
        counted = {}
        for way, step in steps.items():
            with Operations() as counted[way]:
                step()
        with FlopCounterMode(display=False) as counter:
            steps["ours, loop"]()
        share = counter.get_total_flops() / setting.flops
        # less than the formula says, for pictures need no gradient: under half of the first layer's share
        least = 1 - setting.forward[0] / sum(setting.forward) / 2
        assert tiny or least < share < 1.05, f"{share:.3f} of the formula's FLOPs were counted"
        times, off = in_turn(steps, rounds=1 if tiny else 5), deviations(setting)
        speed = {way: setting.flops / times.per_unit(way) for way in steps}
        name = "FOMAML" if setting.first_order else "MAML"
        rows += beside(
            f"{name}, {setting.n_tasks} tasks, {setting.inner_steps} inner steps, {setting.width} channels",
            times,
            gflops={way: f"{value / 1e9:.1f}" for way, value in speed.items()},
            floor={way: f"{value / rate:.0%}" for way, value in speed.items()},
            operations={way: f"{found.counts.total():,}" for way, found in counted.items()},
            peak={way: f"{found.peak / 2**20:.0f}" for way, found in counted.items()},
            off={way: f"{value:.0e}" for way, value in off.items()},
        )
    return rows
