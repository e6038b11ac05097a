"""Wrap-up quiz 3, after chapters 07 and 08: every answer is found by running something."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fewshot_lib.core import Episodes, Method
from fewshot_lib.graphs import GATTransformer, RelationalNetwork
from fewshot_lib.multitask import Task, balancer, evaluate_tasks
from fewshot_lib.prototypes import cosine_prototypes


def _mean(method: Method, tasks: Sequence[Task], episodes: Mapping[str, Episodes]) -> float:
    """Mean accuracy over tasks."""
    return sum(result.mean for result in evaluate_tasks(method, tasks, episodes).values()) / len(tasks)


def start(tasks: Sequence[Task], episodes: Mapping[str, Episodes]) -> Callable[[], float]:
    """Question 1: of cosine prototypes."""
    return lambda: _mean(cosine_prototypes, tasks, episodes)


def sizes(n_features: int) -> Callable[[], list[int]]:
    """Question 2: how many numbers the two models of chapter 08 learn, without names."""
    models = RelationalNetwork(use_names=False), GATTransformer(n_features, use_names=False)
    return lambda: [sum(p.numel() for p in model.parameters()) for model in models]


def listeners() -> set[str]:
    """Question 3: the two transductive ones."""
    return {"B", "D"}


def gain(network: Method, tasks: Sequence[Task], episodes: Mapping[str, Episodes]) -> Callable[[], float]:
    """Question 4: of the trained network over cosine prototypes."""
    return lambda: _mean(network, tasks, episodes) - _mean(cosine_prototypes, tasks, episodes)


def harmless(gradients: Tensor) -> set[str]:
    """Question 5: gradients (3, P) -> the steps along which all three losses fall."""
    steps = {"E": gradients[0]}
    for letter, name in zip("ABCD", ("sum", "pcgrad", "upgrad", "mgda"), strict=True):
        steps[letter] = balancer(name, 3).weigh(torch.ones(3), gradients).float() @ gradients
    return {letter for letter, step in steps.items() if bool(((gradients @ step) > 1e-6).all())}


MISTAKES = {
    "listeners": {
        "attention over all nodes is not transductive by itself: it is hidden from the queries": lambda: {
            "B",
            "C",
            "D",
        },
        "graphs are not transductive by themselves: edges that leave a query are cut": lambda: set("ABCD"),
    },
}
