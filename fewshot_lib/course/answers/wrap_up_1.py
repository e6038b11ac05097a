"""Wrap-up quiz 1, on chapters 00 to 03: numbers that need code, and sets of letters."""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fewshot_lib.core import Episodes, Method, compare_paired, evaluate
from fewshot_lib.data import ClassDataset
from fewshot_lib.finetuning import choose
from fewshot_lib.prototypes import cosine_prototypes

Three = tuple[float, float, float]  # the mean of a difference, and the ends of its interval


def accuracy(test: Mapping[int, Episodes], features: Tensor) -> Callable[[int], float]:
    """Cosine prototypes on the test episodes with k shots."""
    return lambda k: evaluate(cosine_prototypes, test[k], features).mean


def episodes_needed(std: float, half_width: float) -> int:
    """Episodes after which 1.96 std/√n is at most the half-width."""
    return math.ceil((1.96 * std / half_width) ** 2)


def covered() -> set[str]:
    """What an interval over episodes of the same five classes leaves out."""
    return {"B", "C", "D"}


def difference(test: Mapping[int, Episodes], raw: Tensor, trained: Tensor) -> Callable[[int], Three]:
    """Cosine prototypes on trained features minus those on raw ones, on the same episodes."""

    def compared(k: int) -> Three:
        a, b = (evaluate(cosine_prototypes, test[k], features) for features in (trained, raw))
        return (compare_paired(a, b).mean, *compare_paired(a, b).interval)

    return compared


def gain(
    episodes_of: Callable,
    test: Mapping[int, Episodes],
    candidates: Mapping[str, Method],
    dataset: ClassDataset,
    seed: int,
) -> Callable[[Tensor, int, int], Three]:
    """Chosen on validation classes, compared with cosine prototypes on the test episodes."""

    def compared(features: Tensor, k: int, n_val: int) -> Three:
        best = choose(candidates, episodes_of("val", k, n_val, seed + 1), features, dataset).method
        a, b = (evaluate(method, test[k], features) for method in (best, cosine_prototypes))
        return (compare_paired(a, b).mean, *compare_paired(a, b).interval)

    return compared


def supported(
    gain: Callable[..., Three], letters_against_pixels: Callable[..., Three], cases: Sequence, n_shot: int
) -> Callable[[], set[str]]:
    """The sentences of question 6 whose interval lies above zero."""

    def letters() -> set[str]:
        lower = {"A": letters_against_pixels(n_shot)[1]}
        lower |= {letter: gain(*case)[1] for letter, case in zip("BCD", cases, strict=True)}
        return {letter for letter, low in lower.items() if low > 0}

    return letters


MISTAKES = {
    "episodes_needed": {
        "the ratio is to be squared": lambda std, half_width: math.ceil(1.96 * std / half_width),
        "this is without the 1.96 of a 95 % interval": lambda std, half_width: math.ceil(
            (std / half_width) ** 2
        ),
    },
    "not_covered": {
        "other examples are drawn in every episode: that is what the interval is about": lambda: set("ABCD"),
        "this is what it covers; the question asks what it leaves out": lambda: {"A"},
        "and which digits there are? They are the same five in every episode": lambda: {"C", "D"},
        "another country is another population: no episode comes from there": lambda: {"B", "D"},
    },
}
