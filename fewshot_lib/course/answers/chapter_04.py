"""Chapter 04: the inner loop, the meta-gradient of a quadratic task, Reptile's step, and the experiment."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import grad


def inner_loop(theta: Tensor, support_loss: Callable[[Tensor], Tensor], steps: int, lr: float) -> Tensor:
    """θ (d,) -> φ_m (d,) after m gradient steps; differentiable in θ."""
    phi = theta
    for _ in range(steps):
        phi = phi - lr * grad(support_loss)(phi)
    return phi


def meta_gradient(curvature: Tensor, minimum: Tensor, theta: Tensor, lr: float, steps: int) -> Tensor:
    """Tasks ½ Σ_i κ_i (φ_i − μ_i)², κ and μ (T, d), θ (d,) -> gradient (d,) of the mean loss after steps."""
    return (curvature * (1 - lr * curvature) ** (2 * steps) * (theta - minimum)).mean(0)


def reptile_step(theta: Tensor, adapted: Tensor, beta: float) -> Tensor:
    """θ (d,) and φ_m of T tasks (T, d) -> the new θ (d,)."""
    return theta + beta * (adapted.mean(0) - theta)


def central_difference(f: Callable[[float], float], x: float, eps: float) -> float:
    """f'(x) from two values of f; of the optional notebook on wrong gradients."""
    return (f(x + eps) - f(x - eps)) / (2 * eps)


def trained_with(train: Callable[[int], Any], after_five: Callable[[Any], Tensor]) -> Callable[[int], float]:
    """The experiment: the error after five steps at test time of a start trained with so many."""
    return lambda inner_steps: after_five(train(inner_steps)).mean().item()


def _fomaml(curvature: Tensor, minimum: Tensor, theta: Tensor, lr: float, steps: int) -> Tensor:
    return (curvature * (1 - lr * curvature) ** steps * (theta - minimum)).mean(0)


def _bowl(curvature: float, minimum: float) -> Callable[[Tensor], Tensor]:
    return lambda phi: 0.5 * (curvature * (phi - minimum) ** 2).sum()


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
        "this is FOMAML's: the factor (1 − ακ)^m of the chain rule is missing": _fomaml,
        "this is the gradient before adaptation": lambda curvature, minimum, theta, lr, steps: (
            curvature * (theta - minimum)
        ).mean(0),
        "this is the sum over the tasks, not the mean": lambda curvature, minimum, theta, lr, steps: (
            len(curvature) * meta_gradient(curvature, minimum, theta, lr, steps)
        ),
    },
    "central_difference": {
        "one-sided: its error falls with ε only": lambda f, x, eps: (f(x + eps) - f(x)) / eps,
        "the two points are 2ε apart": lambda f, x, eps: (f(x + eps) - f(x - eps)) / eps,
        "the sign: this goes from right to left": lambda f, x, eps: (f(x - eps) - f(x + eps)) / (2 * eps),
    },
    "reptile_step": {
        "the sign: θ moves towards the adapted weights": lambda theta, adapted, beta: reptile_step(
            theta, adapted, -beta
        ),
        "this is the sum over the tasks, not the mean": lambda theta, adapted, beta: (
            theta + beta * (adapted - theta).sum(0)
        ),
        "this jumps the whole way: β is missing": lambda theta, adapted, beta: adapted.mean(0),
    },
}
