r"""How much the names of the classes count: the examples have a say in it.

A name counts as w examples (equation (1) of ``prototypes.name_examples``), and w = 3 did best in the mean
over data sets of which the names fit. Yours may say more than others do, or nothing. Where a class has two
examples, one can be held out and asked about; with z_i(w) the logits of a held-out example i of class y_i,
and T the temperature of the probabilities,

    (1)  log E(w) = log p(w) + max_T [ log p(T) + Σ_i log Softmax(z_i(w) / T)[y_i] ]
    (2)  log w    = Σ_v E(v) log v / Σ_v E(v)

over a few v, far apart. p is what is known before an example is asked: log w ~ Normal(log 3, 1) and
log T ~ Normal(0, 1). Without the maximum over T a large w would win even where three names in ten mislead:
its logits are larger, and those of a few examples are less sure than they are right. What all this brings,
with names that fit and with wrong ones: ``benchmarks/own_data.md``.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fewshot_lib.classifier.held_out import deal, hold_out
from fewshot_lib.classifier.methods import answer
from fewshot_lib.prototypes import NamesAsExamples

WEIGHTS = (0.3, 1.0, 3.0, 9.0)
FOLDS, ENOUGH = 4, 256  # as many folds are asked as it takes to have so many answers
MOST = 16  # examples of a class in the mean: among more a name hardly counts, and asking all takes long


def found_weight(support: Tensor, mask: Tensor, names: Tensor) -> float:
    """w of a name: support (N, K, d), mask (N, K), names (N, d). 3 where no example can be spared."""
    counts = mask.sum(1, keepdim=True)
    spare = mask & (counts > 1)
    if not spare.any() or counts.double().mean() > MOST:
        return NamesAsExamples.weight
    rows, folds = torch.arange(mask.numel()).view_as(mask), deal(spare, FOLDS)
    folds = folds[: math.ceil(ENOUGH / int(folds[0].sum()))]

    def log_evidence(weight: float) -> float:
        method: Any = NamesAsExamples(weight)

        def answered(rest: Tensor, kept: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
            return answer(method, rest, kept, query, names), query.new_zeros(len(query))

        found = hold_out(support, mask, rows, names, answered, folds)
        return found.log_likelihood() - math.log(weight / NamesAsExamples.weight) ** 2 / 2

    share = torch.tensor([log_evidence(weight) for weight in WEIGHTS], dtype=torch.float64).softmax(0)
    return math.exp(share @ torch.tensor(WEIGHTS, dtype=torch.float64).log())
