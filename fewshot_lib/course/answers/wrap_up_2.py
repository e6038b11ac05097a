"""Wrap-up quiz 2, after chapters 04 to 06: two meta-gradients by hand, and letters that a run decides."""

from collections.abc import Callable


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
        "these are sums over the two tasks: equation (1) of chapter 06 has the mean": _forgotten_mean,
        "FOMAML and MAML are exchanged": lambda alpha, theta: two_gradients(alpha, theta)[::-1],
        "the gradient belongs at φ, after the inner step, not at θ": lambda alpha, theta: two_gradients(
            0.0, theta
        ),
    }
}


def letters_of(statements: dict[str, bool]) -> Callable[[], set[str]]:
    """The letters of the statements that are true in this run."""
    return lambda: {letter for letter, is_true in statements.items() if is_true}
