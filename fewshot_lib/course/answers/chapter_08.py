"""Chapter 08: PCGrad for many tasks, the loss of uncertainty weighting, how often each task is dealt."""

import torch
from torch import Tensor

from fewshot_lib.multitask import sampling_probabilities


def pcgrad_step(gradients: Tensor, order: Tensor) -> Tensor:
    """gradients (T, P), order (T,) -> step (P,): each gradient meets the *original* others in this order.

    It loses what conflicts.
    """
    step = torch.zeros(gradients.shape[1])
    for i in range(len(gradients)):
        g = gradients[i].clone()
        for j in order.tolist():
            dot = g @ gradients[j]
            if j != i and dot < 0:
                g = g - dot / gradients[j].square().sum() * gradients[j]
        step = step + g
    return step


def _always(gradients: Tensor, order: Tensor) -> Tensor:
    step = torch.zeros(gradients.shape[1])
    for i in range(len(gradients)):
        g = gradients[i].clone()
        for j in order.tolist():
            if j != i:
                g = g - (g @ gradients[j]) / gradients[j].square().sum() * gradients[j]
        step = step + g
    return step


def _against_projected(gradients: Tensor, order: Tensor) -> Tensor:
    projected = gradients.clone()
    for i in range(len(gradients)):
        for j in order.tolist():
            dot = projected[i] @ projected[j]
            if j != i and dot < 0:
                projected[i] = projected[i] - dot / projected[j].square().sum() * projected[j]
    return projected.sum(0)


def _all_at_once(gradients: Tensor, order: Tensor) -> Tensor:
    dots = gradients @ gradients.T
    shares = dots.clamp_max(0).fill_diagonal_(0) / gradients.square().sum(1)
    return (gradients - shares @ gradients).sum(0)


def uncertainty_loss(losses: Tensor, log_variances: Tensor) -> Tensor:
    """losses (T,), s (T,) -> Σ ½ e^{−s} L + ½ s, one number. Equation (3) of the notebook."""
    return (0.5 * (-log_variances).exp() * losses + 0.5 * log_variances).sum()


MISTAKES = {
    "pcgrad_step": {
        "only a conflict is taken off: where the product is positive, the gradient stays": _always,
        "each gradient meets the *original* others, not those that have already lost something": (
            _against_projected
        ),
        "one after the other: the second product is taken with what the first has left": _all_at_once,
        "PCGrad adds the projected gradients up; this is their mean": lambda g, order: (
            pcgrad_step(g, order) / len(g)
        ),
    },
    "uncertainty_loss": {
        "without the term ½ s nothing keeps the variances small, and all losses count for nothing": (
            lambda losses, s: (0.5 * (-s).exp() * losses).sum()
        ),
        "a large variance must make a loss count less: e^{−s}": lambda losses, s: (
            0.5 * s.exp() * losses + 0.5 * s
        ).sum(),
        "s is the *log*-variance: the weight is ½ e^{−s}, not ½ / s²": lambda losses, s: (
            0.5 * losses / s.square() + s.log()
        ).sum(),
        "both terms have the factor ½": lambda losses, s: ((-s).exp() * losses + s).sum(),
    },
    "sampling_probabilities": {
        "the exponent is 1/τ: a high temperature makes tasks more alike": lambda sizes, temperature: (
            sampling_probabilities(sizes, 1 / temperature)
        ),
        "this is a softmax of the sizes: the largest task would get nearly everything": (
            lambda sizes, temperature: (sizes.double() / temperature).softmax(0).float()
        ),
        "this is proportional to the sizes, whatever the temperature": lambda sizes, temperature: (
            sizes / sizes.sum()
        ),
    },
}
