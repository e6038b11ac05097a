"""A step of joint training: all tasks in one batch, one task after the other, one episode after the other.

Four tasks with four 5-way 1-shot episodes each on 384-d features, 10 queries per class; a step is the loss,
its gradient and AdamW. All three have the same gradient. Below, what the balancers cost that need the
gradient of every task.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from speed.timing import OURS, beside, in_turn
from torch import Tensor, nn

from fewshot_lib.graphs import GATTransformer, RelationalNetwork
from fewshot_lib.multitask import balancer

N_TASKS, PER_TASK, N_WAY, N_QUERY, D = 4, 4, 5, 50, 384
HEAD = ["step", "by", "ms", "× ours", "range of rounds"]


def stepping(model: nn.Module, batch: tuple[Tensor, ...], size: int) -> Callable[[], None]:
    """A step of plain joint training whose forward passes take ``size`` episodes each."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        for support, query, labels in zip(*(part.split(size) for part in batch), strict=True):
            loss = F.cross_entropy(model(support, query).mT, labels)
            (loss * len(support) / len(batch[0])).backward()
        optimizer.step()

    return step


def balanced(model: nn.Module, batch: tuple[Tensor, ...], method: str) -> Callable[[], None]:
    """A step of joint training with a balancer."""
    optimizer, balancing = torch.optim.AdamW(model.parameters(), 1e-3), balancer(method, N_TASKS)
    support, query, labels = batch

    def step() -> None:
        optimizer.zero_grad()
        per_query = F.cross_entropy(model(support, query).mT, labels, reduction="none")
        balancing.backward(per_query.mean(1).view(N_TASKS, -1).mean(1), list(model.parameters()))
        optimizer.step()

    return step


def measure(tiny: bool) -> list[list[str]]:
    """Rows for the two models, and for balancers."""
    rows, rounds, d = [], 1 if tiny else 5, 8 if tiny else D
    generator, n_episodes = torch.Generator().manual_seed(0), N_TASKS * PER_TASK
    batch = (
        torch.randn(n_episodes, N_WAY, 1, d, generator=generator),
        torch.randn(n_episodes, N_QUERY, d, generator=generator),
        torch.randint(N_WAY, (n_episodes, N_QUERY), generator=generator),
    )
    models = {"GAT-Transformer": partial(GATTransformer, d), "relational network": RelationalNetwork}
    sizes = {OURS: n_episodes, "task by task": PER_TASK, "episode by episode": 1}
    for name, make in models.items():
        ways = {way: stepping(make().train(), batch, size) for way, size in sizes.items()}
        rows += beside(name, in_turn(ways, rounds=rounds))
    for method in ("uw", "pcgrad", "upgrad"):
        plain = stepping(RelationalNetwork(), batch, n_episodes)
        ways = {OURS: plain, method: balanced(RelationalNetwork(), batch, method)}
        rows += beside(f"relational network, {method} beside a plain sum", in_turn(ways, rounds=rounds))
    return rows
