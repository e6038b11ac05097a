"""Wrap-up quiz 2, after chapters 04 to 06: two meta-gradients by hand, and what a run decides."""

from collections.abc import Callable

from torch import Tensor

from fewshot_lib.core import Episodes, compare_paired, evaluate
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import MaskedLM
from fewshot_lib.prompts import Words
from fewshot_lib.prototypes import cosine_prototypes, name_mix


def two_gradients(alpha: float, theta: float) -> tuple[float, float]:
    """Bowls ½ θ² and 2 (θ − 3)², support and queries alike: the gradients of MAML and of FOMAML at θ."""
    second, first = 0.0, 0.0
    for curvature, minimum in ((1.0, 0.0), (4.0, 3.0)):
        phi = theta - alpha * curvature * (theta - minimum)
        at_phi = curvature * (phi - minimum)
        first, second = first + at_phi / 2, second + (1 - alpha * curvature) * at_phi / 2
    return second, first


def _forgotten_mean(alpha: float, theta: float) -> tuple[float, float]:
    second, first = two_gradients(alpha, theta)
    return 2 * second, 2 * first


MISTAKES = {
    "two_gradients": {
        "these are sums over the two tasks: the mean was asked for": _forgotten_mean,
        "FOMAML and MAML are exchanged": lambda alpha, theta: two_gradients(alpha, theta)[::-1],
        "the gradient belongs at φ, after the inner step, not at θ": lambda alpha, theta: two_gradients(
            0.0, theta
        ),
    }
}


def inner_steps(head_after: Callable[[int], Tensor]) -> Callable[[], float]:
    """Question 2: points that five inner steps bring."""
    return lambda: 100 * (head_after(5) - head_after(0)).mean().item()


def names_ahead(episodes: Episodes, features: Tensor, names: Tensor) -> Callable[[], tuple[float, float]]:
    """Question 3: names + prototypes minus prototypes, and the half-width of its interval, in points."""

    def compared() -> tuple[float, float]:
        mixed, plain = (evaluate(m, episodes, features, names=names) for m in (name_mix, cosine_prototypes))
        difference = compare_paired(mixed, plain)
        return 100 * difference.mean, 100 * difference.ci95

    return compared


def calibration(
    lm: MaskedLM, dataset: ClassDataset, episodes: Episodes, gaps: Tensor, words: Tensor
) -> Callable[[], float]:
    """Question 4: points that the mean over training classes brings to zero-shot answers."""

    def compared() -> float:
        verbalizers = Words(lm, centre=gaps[dataset.rows("train")]), Words(lm)
        calibrated, plain = (evaluate(v, episodes, gaps, names=words) for v in verbalizers)
        return 100 * (calibrated.mean - plain.mean)

    return compared


def true_here(plain: Tensor, mixed: Tensor, bar: Tensor) -> Callable[[], set[str]]:
    """Question 5: accuracies (2, E) before and after tuning, (E,) of the bar -> the letters that are true."""
    (p0, p1), (m0, m1), b = plain.mean(1).tolist(), mixed.mean(1).tolist(), bar.mean().item()
    true = {"A": p1 - p0 > m1 - m0, "B": p1 > b, "C": m0 > p0, "D": abs(p1 - m1) < abs(p0 - m0)}
    return lambda: {letter for letter, is_true in true.items() if is_true}


def could_show_it() -> set[str]:
    """Question 6: the start alone, and a training without the loop."""
    return {"A", "C"}
