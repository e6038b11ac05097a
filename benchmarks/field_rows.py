"""The rows of ``field.py``: every method of the table, in its order. A new method is one more line.

Settings that a method has were chosen on *validation* classes: ``python benchmarks/field.py --choose`` prints
the candidates below and what they reach there, by the mean over sets, families and shots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fewshot_lib.core import Method, seed_everything
from fewshot_lib.finetuning import TIM, FineTuning, TransductiveFineTuning
from fewshot_lib.graphs import Combined, GATTransformer, InContext, RelationalNetwork
from fewshot_lib.multitask import RandomRotation, Task, TaskSampler, train_jointly
from fewshot_lib.prototypes import (
    SoftKMeans,
    cosine_prototypes,
    name_mix,
    names_as_examples,
    weighed_names,
    zero_shot,
)

BASELINE = names_as_examples.name  # what every other row is compared with, in pairs


@dataclass(frozen=True)
class Trained:
    """A model trained jointly on the training classes of all sets of a family; the best validated is kept.

    make: of the number of features. training: what ``train_jointly`` takes.
    """

    make: Callable[[int], nn.Module]
    training: dict[str, Any]
    rotated: bool = False

    def __call__(self, tasks: Sequence[Task], seed: int) -> nn.Module:
        seed_everything(seed)
        model = self.make(tasks[0].features.shape[1]).to(tasks[0].features.device)
        augment = RandomRotation() if self.rotated else None
        sampler = TaskSampler(tasks, 5, (1, 5), 10, 8, augment=augment, seed=seed)
        train_jointly(model, sampler, **self.training, n_validation=100)
        return model.eval()


# The projected family is best early.
RELATIONAL = {"n_steps": 600, "lr": 5e-3, "validate_every": 100}
PROJECTED = {"n_steps": 300, "lr": 1e-3, "validate_every": 25}

ROWS: dict[str, Method | Trained] = {
    "zero-shot": zero_shot,
    "prototypes": cosine_prototypes,
    "names + prototypes": name_mix,
    BASELINE: names_as_examples,
    weighed_names.name: weighed_names,
    "cosine fine-tuning": FineTuning(temperature=0.1, lr=0.01, steps=20),
    "relational": Trained(lambda d: RelationalNetwork(head=names_as_examples), RELATIONAL),
    "GAT-Transformer": Trained(GATTransformer, PROJECTED, rotated=True),
    "in-context": Trained(InContext, PROJECTED, rotated=True),
    "relational + GAT-Transformer": Trained(
        lambda d: Combined(RelationalNetwork(), GATTransformer(d)), PROJECTED, rotated=True
    ),
    "transductive fine-tuning (T)": TransductiveFineTuning(),
    "TIM (T)": TIM(steps=100, lr=1e-3),
    "soft k-means with names (T)": SoftKMeans(query_weight=3, balanced=False),
    "balanced soft k-means with names (T)": SoftKMeans(),
    "relational (T)": Trained(
        lambda d: RelationalNetwork(head=names_as_examples, transductive=True), RELATIONAL
    ),
}
# What --choose compares: a row's setting is the best of these.
CANDIDATES: dict[str, list[Method]] = {
    "cosine fine-tuning": [
        FineTuning(temperature=0.1, lr=lr, steps=steps) for steps in (20, 100) for lr in (0.003, 0.01, 0.03)
    ],
    "transductive fine-tuning (T)": [
        TransductiveFineTuning(temperature=t, lr=lr) for t in (0.1, 1.0) for lr in (1e-3, 1e-2, 1e-1)
    ],
    "soft k-means with names (T)": [
        SoftKMeans(query_weight=b, temperature=t, balanced=False)
        for b in (0.3, 1, 3, 10)
        for t in (0.03, 0.06, 0.1)
    ],
    "balanced soft k-means with names (T)": [
        SoftKMeans(query_weight=b, temperature=t) for b in (0.3, 1, 3, 10) for t in (0.03, 0.06, 0.1)
    ],
    "TIM (T)": [TIM(steps=100, lr=lr, weight=w) for lr in (1e-3, 1e-2) for w in (1.0, 3.0, 10.0)],
}
