"""Choosing steps, learning rate, temperature: on validation classes, never on the classes that are reported.

Every fine-tuned method has settings, and on a support set of five examples nothing can be held back to choose them with.
They are chosen once for all episodes, on episodes of *validation classes*. Whoever chooses on the test episodes reports
the best of many draws, which is above what the method can do: ``choose`` refuses episodes of any other classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import Episodes
from fewshot_lib.evaluation import EpisodeResults, Method, accuracy_per_episode, evaluate
from fewshot_lib.finetune import FineTuning


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidate of the highest mean accuracy on the validation episodes, and what every candidate reached there."""

    method: Method
    name: str
    results: dict[str, EpisodeResults]

    def __str__(self) -> str:
        """A table of the candidates, the best first."""
        ranked = sorted(self.results.items(), key=lambda item: -item[1].mean)
        width = max(map(len, self.results))
        return "\n".join(f"{name:<{width}}  {result.mean:6.1%} ± {result.ci95:.1%}" for name, result in ranked)


def grid(base: FineTuning, **values: Sequence) -> dict[str, FineTuning]:
    """All combinations of some settings, named: ``grid(base, steps=[0, 20], lr=[0.1])`` -> {"steps=0, lr=0.1": …, …}."""
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    return {", ".join(f"{name}={value}" for name, value in settings.items()): replace(base, **settings) for settings in combinations}


def choose(candidates: Mapping[str, Method], episodes: Episodes, features: Tensor, dataset: ClassDataset, batch_size: int = 1000) -> Choice:
    """The best of some named methods on episodes of the data set's validation classes; of equals, the first.

    features (n, d), or whatever the methods take. Candidates that differ in ``steps`` only are run once, to the most
    steps. Raises ValueError when an episode holds a class that is no validation class, and for no candidates.
    """
    if not candidates:
        raise ValueError("`candidates` is empty: give at least one named method.")
    foreign = episodes.classes[~torch.isin(episodes.classes, dataset.classes("val").to(episodes.classes.device))]
    if len(foreign):
        raise ValueError(
            f"`episodes` hold class {int(foreign[0])} ({dataset.class_names[int(foreign[0])]!r}), which is not a validation class of "
            f'{dataset.name}: sample them from `dataset.classes("val")`, and keep the test classes for the report.'
        )
    families: dict[object, list[str]] = {}  # the same settings but for the number of steps
    for name, candidate in candidates.items():
        families.setdefault(replace(candidate, steps=0) if isinstance(candidate, FineTuning) else name, []).append(name)
    results = {}
    for family, names in families.items():
        if isinstance(family, FineTuning):
            steps = [candidates[name].steps for name in names]
            results.update(zip(names, evaluate_steps(family, episodes, features, steps, batch_size), strict=True))
        else:
            results[family] = evaluate(candidates[family], episodes, features, batch_size)
    results = {name: results[name] for name in candidates}
    best = max(results, key=lambda name: results[name].mean)
    return Choice(candidates[best], best, results)


@torch.no_grad()
def evaluate_steps(
    fine_tuning: FineTuning, episodes: Episodes, features: Tensor, at: Sequence[int], batch_size: int = 1000
) -> list[EpisodeResults]:
    """``evaluate`` after each number of steps in ``at``, from one run: the curve of accuracy against fine-tuning steps.

    fine_tuning: anything with a ``trajectory``, so also a ``backbone.EncoderFineTuning``.
    """
    accuracies = []
    for start in range(0, len(episodes), batch_size):
        batch = episodes[start : start + batch_size].to(features.device)
        masks = (batch.support_mask, batch.query_mask) if episodes.is_padded else ()
        trajectory = fine_tuning.trajectory(features[batch.support], features[batch.query], at, *masks)  # (T, E, M, N)
        accuracies.append(torch.stack([accuracy_per_episode(logits, batch.query_labels, batch.query_mask) for logits in trajectory]))
    shape = (episodes.n_way, episodes.n_shot, episodes.n_query)
    return [
        EpisodeResults(row.unsqueeze(0), f"{fine_tuning.name}, {step} steps", fine_tuning.transductive, *shape, episodes.fingerprint())
        for step, row in zip(at, torch.cat(accuracies, 1).cpu(), strict=True)
    ]
