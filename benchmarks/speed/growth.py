"""How cost grows with episodes, ways, shots, tasks, inner steps.

The slope is that between the last two points, on logarithmic axes, where what is constant matters least: 1 is
linear, below 1 a part of the cost is still constant, and up to 1.1 counts as linear. What grows faster says
why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from speed import evaluation, finetuning, maml
from speed.peers import peer
from speed.timing import Way, in_turn

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.prototypes import euclidean_prototypes

Curve = dict[str, list[float]]  # "x", and "seconds" of each
HEAD = ["cost of", "with more", "by", "from", "to", "ms at the ends", "slope", "growth"]
LINEAR = 1.1  # the largest slope that is called so
# Why what grows faster does: (cost, of what there is more, by what).
REASONS = {
    ("evaluation", "ways", "fewshot_lib"): "N ways have N times 5 queries, each compared with N classes",
}


def evaluating(n_episodes: int = 500, n_way: int = 5, n_shot: int = 1) -> Way:
    """Episodes drawn and classified by prototypes of 64-d features."""
    features, labels = evaluation.data(64)
    sampler = EpisodeSampler(labels, torch.arange(evaluation.N_CLASSES), n_way, n_shot, 5, seed=0)
    return lambda: evaluate(euclidean_prototypes, sampler.sample(n_episodes), features)


def tuning(n_episodes: int = 10, n_shot: int = 1) -> Way:
    """Cosine fine-tuning of 640-d features."""
    return partial(finetuning.METHODS["Finetune"], *finetuning.draw(n_episodes, n_shot))


def meta_step(engine: str, n_tasks: int = 2, inner_steps: int = 2) -> Way:
    """A meta-step of MAML through Conv4 with 32 channels."""
    options = {"engine": engine, "inner_steps": inner_steps}
    return maml.by_library(maml.conv4(32), maml.draw(n_tasks), **options)


def by_easyfsl(n_episodes: int) -> Way:
    """The same episodes on easyfsl's path."""
    return partial(evaluation.with_easyfsl, *evaluation.data(64), 1, n_episodes)


def plans() -> list[tuple[str, str, str, Callable[[int], Way], list[int]]]:
    """(cost, of what there is more, by what, what makes a run of x, its x)."""
    found = [
        ("evaluation", "episodes", "fewshot_lib", evaluating, [100, 300, 1000, 3000, 10_000, 30_000]),
        ("evaluation", "ways", "fewshot_lib", lambda n: evaluating(n_way=n), [2, 5, 10, 20, 50, 100]),
        ("evaluation", "shots", "fewshot_lib", lambda n: evaluating(n_shot=n), [1, 2, 5, 10, 20]),
        ("fine-tuning", "episodes", "fewshot_lib", tuning, [1, 3, 10, 30, 100]),
        ("fine-tuning", "shots", "fewshot_lib", lambda n: tuning(n_shot=n), [1, 2, 5, 10, 20]),
    ]
    for engine in ("vmap", "loop"):
        found += [
            ("MAML", "tasks", engine, partial(meta_step, engine), [1, 2, 4, 8, 16]),
            ("MAML", "inner steps", engine, lambda n, e=engine: meta_step(e, inner_steps=n), [1, 2, 5, 10]),
        ]
    if peer("easyfsl.utils"):
        found.insert(1, ("evaluation", "episodes", "easyfsl", by_easyfsl, [10, 30, 100, 300]))
    return found


def verdict(cost: str, more: str, by: str, found: float) -> str:
    """What a slope means; of one of ours that is more than linear, why."""
    if found > LINEAR and by == "easyfsl":
        return "more than linear"
    if found > LINEAR:
        return f"more than linear: {REASONS.get((cost, more, by), 'not explained')}"
    return "linear" if found > 2 - LINEAR else "less than linear, a part is constant"


def timed(make: Callable[[int], Way], sizes: list[int], rounds: int) -> list[float]:
    """Median seconds at each size."""
    runs = {str(x): make(x) for x in sizes}
    times = in_turn(runs, rounds=rounds)
    return [times.per_unit(x) for x in runs]


def slope(curve: Curve) -> float:
    """Between the last two points."""
    (x0, x1), (y0, y1) = curve["x"][-2:], curve["seconds"][-2:]
    return math.log(y1 / y0) / math.log(x1 / x0)


def measure(tiny: bool) -> tuple[list[list[str]], list[dict]]:
    """The table, and its curves."""
    rows, curves = [], []
    for cost, more, by, make, sizes in plans():
        some, rounds = (sizes[:2], 1) if tiny else (sizes, 3)
        seconds = timed(make, some, rounds)
        curve = {"x": some, "seconds": seconds}
        ends = " to ".join(f"{1e3 * seconds[end]:.3g}" for end in (0, -1))
        line = [cost, more, by, f"{some[0]:,}", f"{some[-1]:,}", ends, f"{slope(curve):.2f}"]
        rows.append([*line, verdict(cost, more, by, slope(curve))])
        curves.append({"cost": cost, "more": more, "by": by, **curve})
    return rows, curves


def in_words(curves: list[dict]) -> str:
    """What one sees in the picture."""
    ends = [f"{c['cost']} by {c['by']}, {c['more']}: {slope(c):.2f}" for c in curves]
    told = "Seconds against size on logarithmic axes, a grey line of slope 1 beside each. Slope at the end: "
    return told + "; ".join(ends) + "."


def picture(curves: list[dict], path: str) -> None:
    """Draws the curves, one pair of axes for each quantity."""
    from matplotlib.figure import Figure

    groups = {key: list(some) for key, some in itertools.groupby(sorted(curves, key=_axes), _axes)}
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, math.ceil(len(groups) / 2), squeeze=False).flatten()
    for axes, ((cost, more), some) in zip(panels, groups.items(), strict=False):
        for curve, style in zip(some, ("o-", "s--", "^:"), strict=False):
            axes.loglog(curve["x"], curve["seconds"], style, label=curve["by"])
        x, y = some[0]["x"], some[0]["seconds"]
        axes.loglog(x, [y[-1] * each / x[-1] for each in x], color="0.7", lw=1, label="linear")
        axes.set(title=f"{cost}: {more}", xlabel=more, ylabel="seconds")
        axes.legend(fontsize=8, loc="lower right")
    for axes in panels[len(groups) :]:
        axes.remove()
    figure.savefig(path, dpi=80)


def _axes(curve: dict) -> tuple[str, str]:
    return curve["cost"], curve["more"]
