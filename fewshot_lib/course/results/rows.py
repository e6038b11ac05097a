"""What RESULTS.md is made of: measured rows, their means, and how far these can be trusted.

The ± of a cell is half its 95 % interval over episodes. Of a trained model that over its seeds is added,
squares and root, as of two independent sources. A mean over sets has the interval of independent means; seeds
are averaged over the sets first, for one model serves them all.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fewshot_lib.core import half_width

Cell = dict[str, Any]
FOUR = ("huffpost", "reuters", "20news", "amazon")  # the sets whose mean papers report
SHOTS = (1, 5)
BASELINE = "names as examples"
NOT_RUN = "not run"
TOKENS = 200  # of a text that an encoder reads, where its row says nothing else


class Estimate(NamedTuple):
    """A mean, and half its 95 % interval; fractions."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.half:.1f}"


def over_sets(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over data sets, whose episodes are independent: the squares of the halves add up."""
    n = len(estimates)
    return Estimate(sum(e.mean for e in estimates) / n, math.hypot(*(e.half for e in estimates)) / n)


class Row(NamedTuple):
    """A method with an encoder in a family: the cells of its seeds, by set and number of shots."""

    method: str
    encoder: str
    kind: str
    cells: dict[tuple[str, int], list[Cell]]

    def estimate(self, sets: Sequence[str], n_shot: int, what: str = "mean") -> Estimate | None:
        """Of the mean over some sets; None where a set was not run, or not with the same seeds."""
        found = [self.cells.get((name, n_shot), []) for name in sets]
        seeds = {tuple(cell["seed"] for cell in cells) for cells in found}
        if len(seeds) != 1 or not all(found):
            return None
        values = torch.tensor([[cell[what] for cell in cells] for cells in found], dtype=torch.float64)
        interval = "ci95" if what == "mean" else f"{what}_ci95"
        of_episodes = [sum(cell[interval] for cell in cells) / len(cells) for cells in found]
        of_seeds = half_width(values.mean(0)) if values.shape[1] > 1 else 0.0
        return Estimate(values.mean().item(), math.hypot(math.hypot(*of_episodes) / len(sets), of_seeds))

    @property
    def n_seeds(self) -> int:
        return max((len(cells) for cells in self.cells.values()), default=0)

    @property
    def trained(self) -> bool:
        """Whether something was learnt from training classes: by the method, or by the encoder's adapters."""
        cells = [cell for some in self.cells.values() for cell in some]
        return any(cell["training_seconds"] > 0 or cell["tuned"] != "frozen" for cell in cells)

    @property
    def seeds(self) -> str:
        """For a table: how many trainings, and a mark where they are too few for their interval."""
        if not self.trained:
            return "–"
        return {1: "1 (± too narrow)", 2: "2 (± very wide)"}.get(self.n_seeds, str(self.n_seeds))


def rows_of(cells: Sequence[Cell], family: str) -> list[Row]:
    """All methods with their encoders, also those that this family has no cell of."""
    kinds = {cell["method"]: cell["kind"] for cell in cells}
    rows = []
    for method, encoder in sorted({(cell["method"], encoder_of(cell)) for cell in cells}):
        found: dict[tuple[str, int], list[Cell]] = {}
        for cell in cells:
            if (cell["family"], cell["method"], encoder_of(cell)) == (family, method, encoder):
                found.setdefault((cell["set"], cell["shots"]), []).append(cell)
        rows.append(Row(method, encoder, kinds[method], found))
    return sorted(rows, key=lambda row: (row.encoder, row.kind, -len(row.cells), _accuracy(row)))


def highest_of(rows: Iterable[Row], n_shot: int) -> tuple[Estimate, Row] | None:
    """The highest mean of the four sets, and its row; None where no row has them all."""
    found = [(row.estimate(FOUR, n_shot), row) for row in rows]
    complete = [(estimate, row) for estimate, row in found if estimate is not None]
    return max(complete, key=lambda pair: pair[0].mean, default=None)


def encoder_of(cell: Cell) -> str:
    """As the tables name it; how many tokens it read is said where they are not ``TOKENS``."""
    tuned = "" if cell["tuned"] == "frozen" else f", {cell['tuned']}"
    tokens = "" if cell["max_tokens"] == TOKENS else f", {cell['max_tokens']} tokens"
    return cell["encoder"] + tuned + tokens


def _accuracy(row: Row) -> float:
    found = [cell["mean"] for cells in row.cells.values() for cell in cells]
    return sum(found) / max(1, len(found))


def signed(difference: Estimate | None) -> str:
    """A difference in points, "+1.2 ± 0.3"; "–": of the baseline from itself."""
    if difference is None:
        return NOT_RUN
    return "–" if not any(difference) else f"{100 * difference.mean:+.1f} ± {100 * difference.half:.1f}"


def mean_of(paper: Mapping[str, str], n_shot: int) -> str:
    """As published, or of the four sets where all are."""
    each = [paper[f"{name}_{n_shot}"] for name in FOUR]
    return paper[f"mean_{n_shot}"] or (f"{sum(map(float, each)) / len(each):.2f}" if all(each) else "–")
