"""Chapter 08: PCGrad for many tasks, a head that must not read everything, the gain from other tasks.

And its optional notebook on gradient aggregation: MGDA for two tasks, how often each task is dealt.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot_lib.course.chapters.chapter_08 import poor
from fewshot_lib.multitask import Task, sampling_probabilities


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


def masked_head(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """q, k, v (n, d), hidden (n, n), True where row must not read column -> what is heard (n, d)."""
    return (q @ k.T / q.shape[1] ** 0.5).masked_fill(hidden, -torch.inf).softmax(1) @ v


def gain_from_others(
    task: Task, others: list[Task], n_classes: int, accuracy: Callable[[list[Task]], float]
) -> Callable[[int], float]:
    """The experiment: accuracy of joint training less that of training alone, for a poor version of the task.

    accuracy(tasks to train on) -> accuracy on the task's test classes.
    """

    def gain(n_examples: int) -> float:
        few = poor(task, n_classes, n_examples)
        return accuracy([few, *others]) - accuracy([few])

    return gain


def mgda_share(g_1: Tensor, g_2: Tensor) -> Tensor:
    """The weight of g_1 (P,), between 0 and 1, in the shortest vector w g_1 + (1 − w) g_2."""
    return ((g_2 - g_1) @ g_2 / (g_2 - g_1).square().sum()).clamp(0, 1)


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
    "masked_head": {
        "scores are divided by the square root of d, the features of this head": lambda q, k, v, hidden: (
            (q @ k.T).masked_fill(hidden, -torch.inf).softmax(1) @ v
        ),
        "hidden after the softmax: the rest of a row no longer adds up to 1": lambda q, k, v, hidden: (
            (q @ k.T / q.shape[1] ** 0.5).softmax(1).masked_fill(hidden, 0) @ v
        ),
        "a score of 0 is not hidden: its softmax is not 0": lambda q, k, v, hidden: (
            (q @ k.T / q.shape[1] ** 0.5).masked_fill(hidden, 0).softmax(1) @ v
        ),
        "the rows must add up to 1, the columns need not: softmax over dimension 1": lambda q, k, v, hidden: (
            (q @ k.T / q.shape[1] ** 0.5).masked_fill(hidden, -torch.inf).softmax(0) @ v
        ),
    },
    "mgda_share": {
        "this is the weight of the other gradient": lambda g_1, g_2: 1 - mgda_share(g_1, g_2),
        "outside 0 and 1 the shortest vector is one of the gradients itself: clamp": lambda g_1, g_2: (
            (g_2 - g_1) @ g_2 / (g_2 - g_1).square().sum()
        ),
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
