"""Chapter 04: the inner loop, the meta-gradient of a quadratic task, and Reptile's step."""

from collections.abc import Callable

from torch import Tensor
from torch.func import grad


def inner_loop(theta: Tensor, support_loss: Callable[[Tensor], Tensor], steps: int, lr: float) -> Tensor:
    """θ (d,) -> φ_S (d,) after S gradient steps; differentiable in θ."""
    phi = theta
    for _ in range(steps):
        phi = phi - lr * grad(support_loss)(phi)
    return phi


def meta_gradient(a: Tensor, c: Tensor, theta: Tensor, lr: float, steps: int) -> Tensor:
    """Tasks ½ Σ_i a_i (φ_i − c_i)², a and c (T, d), θ (d,) -> gradient (d,) of the mean loss after steps."""
    return (a * (1 - lr * a) ** (2 * steps) * (theta - c)).mean(0)


def reptile_step(theta: Tensor, adapted: Tensor, epsilon: float) -> Tensor:
    """θ (d,) and φ_S of T tasks (T, d) -> the new θ (d,)."""
    return theta + epsilon * (adapted.mean(0) - theta)


def _fomaml(a: Tensor, c: Tensor, theta: Tensor, lr: float, steps: int) -> Tensor:
    return (a * (1 - lr * a) ** steps * (theta - c)).mean(0)


def _bowl(a: float, c: float) -> Callable[[Tensor], Tensor]:
    return lambda phi: 0.5 * (a * (phi - c) ** 2).sum()


BOWLS = [_bowl(2.0, 3.0), _bowl(0.5, -1.0)]

MISTAKES = {
    "inner_loop": {
        "the sign: this climbs": lambda theta, loss, steps, lr: inner_loop(theta, loss, steps, -lr),
        "every gradient must be taken at the newest φ, not at θ": lambda theta, loss, steps, lr: (
            theta - steps * lr * grad(loss)(theta)
        ),
        "this takes one step too many": lambda theta, loss, steps, lr: inner_loop(theta, loss, steps + 1, lr),
        "this takes one step, whatever `steps` says": lambda theta, loss, steps, lr: inner_loop(
            theta, loss, 1, lr
        ),
    },
    "meta_gradient": {
        "this is FOMAML's: the factor (1 − αa)^S of the chain rule is missing": _fomaml,
        "this is the gradient before adaptation": lambda a, c, theta, lr, steps: (a * (theta - c)).mean(0),
        "this is the sum over the tasks; equation (2) has the mean": lambda a, c, theta, lr, steps: (
            len(a) * meta_gradient(a, c, theta, lr, steps)
        ),
    },
    "reptile_step": {
        "the sign: θ moves towards the adapted weights": lambda theta, adapted, epsilon: reptile_step(
            theta, adapted, -epsilon
        ),
        "this is the sum over the tasks, not the mean": lambda theta, adapted, epsilon: (
            theta + epsilon * (adapted - theta).sum(0)
        ),
        "this jumps the whole way: ε is missing": lambda theta, adapted, epsilon: adapted.mean(0),
    },
}
