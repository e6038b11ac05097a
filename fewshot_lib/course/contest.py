"""Many methods in many settings, on the same episodes: what each reaches, what a task costs it, the figures.

A *table* is {(ways, shots): {method: EpisodeResults}}, all results of a setting on the same episodes.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fewshot_lib.core import EpisodeResults, Episodes, Method, PairedDifference, compare_paired, evaluate
from fewshot_lib.course.plots import COLOURS, MARKERS, band_plot

Setting = tuple[int, int]
Table = Mapping[Setting, Mapping[str, EpisodeResults]]
REPEATS = 3
LOWEST = -25  # points: where the frame of differences ends


@dataclass(frozen=True)
class Entrant:
    """A method, and the features and class names that ``evaluate`` deals it.

    per_task: how many numbers it learns for one task, of the number of ways. before: learnt on other classes.
    """

    method: Method
    inputs: Tensor
    names: Tensor | None = None
    per_task: Callable[[int], int] = lambda ways: 0
    before: int = 0

    def on(self, episodes: Episodes, batch_size: int = 20) -> EpisodeResults:
        """Its accuracy on every episode."""
        named = {} if self.names is None else {"names": self.names}
        return evaluate(self.method, episodes, self.inputs, batch_size, **named)

    def cost(self, episodes: Episodes) -> tuple[float, int]:
        """Of the first episode alone, once it is dealt: seconds (a median), and bytes taken beside it."""
        one = episodes[:1].to(self.inputs.device)
        dealt = [self.inputs[one.support], self.inputs[one.query]]
        named = {} if self.names is None else {"names": self.names[one.classes]}

        @torch.no_grad()
        def answer() -> None:
            self.method(*dealt, **named)
            if self.inputs.is_cuda:
                torch.cuda.synchronize()

        taken, seconds = peak_memory(answer, self.inputs.device), []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            answer()
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds), taken


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """The most bytes of tensors that stood at once while ``run`` ran, beyond those before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write two lines a call
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    found = recorded.profiler.kineto_results.events()
    taken = sorted((event.start_ns(), event.nbytes()) for event in found if event.name() == "[memory]")
    most = held = 0
    for _, n_bytes in taken:
        held += n_bytes
        most = max(most, held)
    return most


def n_numbers(*modules: nn.Module) -> int:
    """How many numbers these modules have learnt."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def words_of(setting: Setting) -> str:
    """ "20 ways, 1 shot"."""
    ways, shots = setting
    return f"{ways} ways, {shots} shot{'s' * (shots > 1)}"


def against(table: Table, setting: Setting, name: str, other: str) -> PairedDifference:
    """How much better one method is than another in a setting, episode by episode."""
    return compare_paired(table[setting][name], table[setting][other])


def critical_difference(n_methods: int, n_settings: int) -> float:
    """Nemenyi's: closer mean ranks may be chance, at 5 % over all pairs (Demšar 2006, section 3.2.2)."""
    from scipy.stats import studentized_range  # a second to import

    q = studentized_range.ppf(0.95, n_methods, torch.inf) / 2**0.5
    return float(q * (n_methods * (n_methods + 1) / (6 * n_settings)) ** 0.5)


# Figures


def difference_panels(
    table: Table, reference: str, transductive: Sequence[str], names: Sequence[str], ways: Sequence[int]
) -> Figure:
    """Points against ``reference`` of the methods ``names``, a panel for each of ``ways``; down to LOWEST."""
    fig, axes = plt.subplots(
        1, len(ways), figsize=(1.5 + 4.5 * len(ways), 5.2), sharey=True, layout="constrained", squeeze=False
    )
    for ax, n_way in zip(axes[0], ways, strict=True):
        shots = sorted(k for n, k in table if n == n_way)
        ax.axhline(0, color="black", linewidth=2)
        for number, name in enumerate(names):
            band_plot(ax, shots, [against(table, (n_way, k), name, reference) for k in shots], name, number)
            dashed = "--" if name in transductive else "-"
            ax.lines[-1].set(linestyle=dashed, linewidth=2.5, markersize=9)
        ax.set(xscale="log", xticks=shots, ylim=(LOWEST, 10), ylabel="")
        ax.set_xticklabels(shots)
        ax.minorticks_off()
        ax.tick_params(labelsize=13)
        ax.set_title(f"{n_way} ways", fontsize=15)
        ax.set_xlabel("examples per class", fontsize=14)
    axes[0, 0].set_ylabel(f"points against\n{reference}", fontsize=14)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=12)
    return fig


def cost_figure(rows: Mapping[str, tuple[Entrant, Mapping[Setting, tuple[float, int]]]]) -> Figure:
    """Seconds and memory of one task in some settings, and numbers learnt: name -> entrant, its costs."""
    names, settings = list(rows), list(next(iter(rows.values()))[1])
    places = range(len(names))[::-1]
    fig, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 1 + 0.34 * len(names)), sharey=True, layout="constrained"
    )
    for number, setting in enumerate(settings):
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": ""}
        known = [
            (costs[setting], place)
            for (_, costs), place in zip(rows.values(), places, strict=True)
            if setting in costs
        ]
        milliseconds = [1000 * seconds for (seconds, _), _ in known]
        left.plot(milliseconds, [place for _, place in known], label=words_of(setting), **style)
        middle.plot([n_bytes / 2**20 for (_, n_bytes), _ in known], [place for _, place in known], **style)
    ways = settings[0][0]
    for number, (label, counts) in enumerate(
        {
            f"for one task of {ways} ways": [entrant.per_task(ways) for entrant, _ in rows.values()],
            "before, on other classes": [entrant.before for entrant, _ in rows.values()],
        }.items(),
        start=2,
    ):
        right.plot(counts, places, color=COLOURS[number], marker=MARKERS[number], linestyle="", label=label)
    left.set(xscale="log", yticks=places, yticklabels=names, xlabel="milliseconds for one task")
    middle.set(xscale="log", xlabel="MB beside its inputs")
    most = max(max(entrant.per_task(ways), entrant.before) for entrant, _ in rows.values())
    right.set(xscale="symlog", xlim=(-0.5, 5 * most + 1), xlabel="numbers learnt")
    for ax in (left, right):
        ax.legend(fontsize=7)
    for ax in (left, middle, right):
        ax.grid(axis="x", alpha=0.3)
    return fig


def rank_figure(ranks: Tensor, names: Sequence[str], difference: float) -> Figure:
    """Ranks (settings, methods): the means, best on top, and a band from the best, as wide as ``difference``.

    Methods whose means lie in it are not told apart from the best. Grey: a disc for every rank, the larger,
    the more settings have it.
    """
    order = ranks.mean(0).argsort().tolist()
    fig, ax = plt.subplots(figsize=(7.5, 1 + 0.36 * len(order)), layout="constrained")
    best = float(ranks.mean(0).min())
    ax.axvspan(best, best + difference, color=COLOURS[0], alpha=0.12, linewidth=0)
    for row, m in enumerate(order):
        found, times = ranks[:, m].unique(return_counts=True)
        ax.scatter(found, [row] * len(found), s=16 * times, color="grey", alpha=0.4, linewidth=0)
        ax.plot(float(ranks[:, m].mean()), row, marker=MARKERS[0], color=COLOURS[0])
    ax.set(yticks=range(len(order)), yticklabels=[names[m] for m in order], xlim=(0.5, len(order) + 0.5))
    ax.set_xlabel("rank, 1 is best (blue: mean; grey: the settings; band: critical difference)")
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    return fig
