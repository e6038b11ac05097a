"""Choosing steps, learning rate, temperature: on validation classes, never on the classes that are reported.

On a support set of five examples nothing can be held back to choose settings with: they are chosen once for
all episodes, on episodes of *validation classes*. Whoever chooses on the test episodes reports the best of
many draws, which is above what the method can do: ``choose`` refuses episodes of any other classes.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_lib.core import (
    EpisodeResults,
    Episodes,
    Method,
    accuracy_per_episode,
    check_steps,
    evaluate,
    look_up,
    usable,
    whole_number,
)
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.finetuning.encoder import EncoderFineTuning
from fewshot_lib.finetuning.heads import FineTuning


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidate of the highest mean accuracy on validation episodes, and what every one reached there."""

    method: Method
    name: str
    results: dict[str, EpisodeResults]

    def __str__(self) -> str:
        """A table of the candidates, the best first."""
        ranked = sorted(self.results.items(), key=lambda item: -item[1].mean)
        width = max(map(len, self.results))
        return "\n".join(f"{name:<{width}}  {r.mean:6.1%} ± {r.ci95:.1%}" for name, r in ranked)


def grid(base: FineTuning, **values: Sequence) -> dict[str, FineTuning]:
    """All combinations, named: ``grid(base, steps=[0, 9], lr=[0.1])`` -> {"steps=0, lr=0.1": …, …}."""
    candidates = {}
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        name = ", ".join(f"{setting}={value}" for setting, value in settings.items())
        candidates[name] = replace(base, **settings)
    return candidates


def choose(
    candidates: Mapping[str, Method],
    episodes: Episodes,
    features: Tensor,
    dataset: ClassDataset,
    batch_size: int = 1000,
) -> Choice:
    """The named method of the highest mean accuracy on episodes of the data set's validation classes.

    Of equally good ones it is the first.

    features (n, d), or whatever the methods take. Candidates that differ in ``steps`` only are run once, to
    the most steps.
    """
    if not candidates or not isinstance(candidates, Mapping):
        raise ValueError("`candidates` holds no named method: give at least one, as {name: method}.")
    validation = dataset.classes("val").to(episodes.classes.device)
    others = episodes.classes[~torch.isin(episodes.classes, validation)].tolist()
    if others:
        other = f"class {others[0]} ({dataset.class_names[others[0]]!r})"
        fix = 'sample them from `dataset.classes("val")`, and keep the test classes for the report'
        raise ValueError(
            f"`episodes` hold {other}, which is not a validation class of {dataset.name}: {fix}."
        )
    families: dict[FineTuning, dict[str, int]] = {}  # those that differ in their steps only: names and steps
    found = {}
    for name, candidate in candidates.items():
        if isinstance(candidate, FineTuning):
            families.setdefault(replace(candidate, steps=0), {})[name] = candidate.steps
        else:
            found[name] = evaluate(candidate, episodes, features, batch_size)
    for family, steps in families.items():
        curve = evaluate_steps(family, episodes, features, list(steps.values()), batch_size)
        found |= dict(zip(steps, curve, strict=True))
    results = {name: found[name] for name in candidates}
    best = max(results, key=lambda name: results[name].mean)
    return Choice(candidates[best], best, results)


@torch.no_grad()
def evaluate_steps(
    fine_tuning: FineTuning | EncoderFineTuning,
    episodes: Episodes,
    features: Tensor,
    at: Sequence[int],
    batch_size: int = 1000,
) -> list[EpisodeResults]:
    """``evaluate`` after each number of steps in ``at``, from one run: accuracy against fine-tuning steps."""
    features, at = usable(episodes, features), check_steps("at", at)
    whole_number(1, batch_size=batch_size)
    batches, names = [], ("support_mask", "query_mask") if episodes.is_padded else ()
    for start in range(0, len(episodes), batch_size):
        batch = episodes[start : start + batch_size].to(features.device)
        masks = {name: getattr(batch, name) for name in names}
        support, query = look_up(features, batch.support), look_up(features, batch.query)
        trajectory = fine_tuning.trajectory(support, query, at, **masks)
        curve = [accuracy_per_episode(logits, batch.query_labels, batch.query_mask) for logits in trajectory]
        batches.append(torch.stack(curve))  # (T, E)
    return [
        EpisodeResults.of(accuracies, fine_tuning, episodes, method=f"{fine_tuning.name}, {step} steps")
        for step, accuracies in zip(at, torch.cat(batches, 1), strict=True)
    ]
