r"""What the examples themselves say about a classifier: each is answered by one that has not seen it.

One example *of every class* is left out at a time, so that no class is short of one while the others are
not, and the rest answers it. (More than ten examples a class: a tenth of each at a time.) Where the last
example of a class is left out, its name stands in; where there is no name, that example cannot be judged.

From the answers to the n held-out examples come

    accuracy        and Wilson's 95 % interval
    temperature T   p = Softmax(logits / T), the T of the best held-out likelihood, with log T ~ Normal(0, 1)
    conformal sets  all classes with 1 − p ≤ the ⌈(n + 1) · coverage⌉-th smallest of the held-out 1 − p_y
                    (Vovk et al. 2005; Sadinle et al. 2019, arXiv:1609.00451): as if the classifier that
                    answers had as few examples as those that were tested, so a little too careful
    p-values        of "this input belongs to one of the classes": the share of held-out examples that looked
                    at least as foreign
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_FOLDS = 10

Answer = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class HeldOut:
    """Answers to the n examples that could be judged.

    rows (n,): which examples. logits (n, N), labels (n,), familiarity (n,): see ``familiar``.
    """

    rows: Tensor
    logits: Tensor
    labels: Tensor
    familiarity: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def correct(self) -> Tensor:
        return self.logits.argmax(-1) == self.labels

    def temperature(self) -> float:
        """T of the module's docstring; 1 where nothing could be judged."""
        if not len(self):
            return 1.0
        from scipy.optimize import minimize_scalar

        def cost(log_t: float) -> float:
            log_p = (self.logits / math.exp(log_t)).log_softmax(-1)
            return -float(log_p.gather(1, self.labels.unsqueeze(1)).sum()) + log_t**2 / 2

        return math.exp(float(minimize_scalar(cost, bounds=(-4, 4), method="bounded").x))

    def threshold(self, coverage: float, temperature: float) -> float:
        """The largest 1 − p of a class that is still in the conformal set."""
        p = (self.logits / temperature).softmax(-1).gather(1, self.labels.unsqueeze(1))[:, 0]
        rank = math.ceil((len(self) + 1) * coverage)
        return math.inf if rank > len(self) else float((1 - p).sort().values[rank - 1])

    def p_values(self, familiarity: Tensor) -> Tensor:
        """Of inputs of this familiarity (m,): how many of the held-out examples were at most as familiar."""
        known = self.familiarity.sort().values
        at_most = torch.searchsorted(known, familiarity.contiguous(), right=True)
        return (at_most + 1) / (len(self) + 1)


def clearly_better(a: HeldOut, b: HeldOut) -> bool:
    """Whether a labels more of the same examples right, by more than the standard error of the difference."""
    gain = a.correct.double() - b.correct.double()
    return float(gain.mean()) > float(gain.std()) / math.sqrt(len(gain))


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of n (Wilson 1927): honest for few, and for 0 % and 100 %."""
    if not n:
        return 0.0, 1.0
    z = 1.959964
    share, extra = correct / n, z * z / n
    centre = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return max(0.0, centre - half), min(1.0, centre + half)


def deal(mask: Tensor, most: int = MAX_FOLDS) -> list[Tensor]:
    """Which examples (N, K) are left out together: as many folds as a class has examples, or ``most``."""
    n_folds = min(int(mask.sum(1).max()), most)
    fold = torch.arange(mask.shape[1]) % n_folds
    return [mask & (fold == each) for each in range(n_folds)]


def hold_out(
    support: Tensor,
    mask: Tensor,
    rows: Tensor,
    names: Tensor | None,
    answer: Answer,
    folds: Sequence[Tensor] | None = None,
) -> HeldOut:
    """Answers to every example by the others: support (N, K, d), mask (N, K), rows (N, K), names (N, d).

    answer: (support, mask, queries (m, d)) -> logits (m, N), familiarity (m,).
    folds: which examples (N, K) are left out together; None: see the docstring of the module.
    """
    found = []
    for left_out in deal(mask) if folds is None else folds:
        rest, kept = support, mask & ~left_out
        if len(emptied := (~kept.any(1)).nonzero()[:, 0]):
            if names is None:
                left_out = left_out & kept.any(1, keepdim=True)
            else:
                rest = support.clone()
                rest[emptied, 0] = names[emptied].to(rest)
            kept[emptied, 0] = True
        classes, shots = left_out.nonzero(as_tuple=True)
        if len(classes):
            answers = answer(rest, kept, support[classes, shots])
            found.append((rows[classes, shots], answers[0], classes, answers[1]))
    if not found:
        empty = torch.zeros(0, dtype=torch.int64)
        return HeldOut(empty, support.new_zeros(0, len(support)), empty, support.new_zeros(0))
    return HeldOut(*(torch.cat(parts) for parts in zip(*found, strict=True)))
