"""Times that can be compared: the ways take turns in one process, and what counts is the ratio of a round.

On a CPU these are processor seconds of one thread: on an idle machine the same as the clock's, and on a busy
one nearly so. A GPU is waited for, by the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

OURS = "fewshot_lib"
Way = Callable[[], object]


class Times(NamedTuple):
    """Seconds of every way, one per round; ``amounts``: how many episodes or steps a run of it computes."""

    seconds: dict[str, list[float]]
    amounts: dict[str, float]

    def per_unit(self, way: str) -> float:
        """Median seconds for one unit."""
        return statistics.median(self.seconds[way]) / self.amounts[way]

    def ratio(self, way: str, to: str = OURS) -> tuple[float, float, float]:
        """How many times as long as ``to`` a unit takes: median, smallest, largest of the rounds."""
        pairs = zip(self.seconds[way], self.seconds[to], strict=True)
        ratios = [a / b * self.amounts[to] / self.amounts[way] for a, b in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)


def seconds(run: Way, device: torch.device | None = None) -> float:
    """Of one run, with the device idle before and after it."""
    if device is None or device.type != "cuda":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(ways: dict[str, Way], amounts: dict[str, float] | float = 1, rounds: int = 5) -> Times:
    """Every way once to warm up, then ``rounds`` times in turn: a slow minute hits all alike."""
    for run in ways.values():
        run()
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            found[name].append(seconds(run))
    return Times(found, amounts if isinstance(amounts, dict) else dict.fromkeys(ways, amounts))


def beside(case: str, times: Times, scale: float = 1e3, **more: dict[str, str]) -> list[list[str]]:
    """Rows [case, way, time per unit × scale, ratio to ours, its range, more …] of a table."""
    rows = []
    for way in times.seconds:
        middle, low, high = times.ratio(way)
        ratio = ["1", ""] if way == OURS else [f"**{middle:.3g}**", f"{low:.3g} to {high:.3g}"]
        extra = [column.get(way, "") for column in more.values()]
        rows.append([case, way, f"{scale * times.per_unit(way):.3g}", *ratio, *extra])
    return rows
