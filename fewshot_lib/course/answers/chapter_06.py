"""Chapter 06 and its optional notebook: mixed verbalizers, spreads without noise, prompts from a pool."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewshot_lib.core import Episodes
from fewshot_lib.prompts import MetaPrompting


def pooled_prompts(cues: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """cues (n, d), keys (K, d), values (K, P, d) -> prompts (n, P, d): (1) and (2) of ``prompts.meta``."""
    return torch.einsum("nk,kpd->npd", (cues @ keys.T / keys.shape[-1] ** 0.5).softmax(-1), values)


def mixture(words: Tensor, examples: Tensor, weight: float) -> Tensor:
    """Logits (M, N) of two verbalizers -> log of the weighted mean of their probabilities (M, N)."""
    return torch.logaddexp(
        words.log_softmax(-1) + math.log(weight), examples.log_softmax(-1) + math.log(1 - weight)
    )


def _naive_mixture(words: Tensor, examples: Tensor, weight: float) -> Tensor:
    return (weight * words.softmax(-1) + (1 - weight) * examples.softmax(-1)).log()


def real_spread(table: Tensor) -> Tensor:
    """Accuracies (runs, E) on the same E episodes -> the spread of the runs, less what is noise."""
    n_runs, n_episodes = table.shape
    left = table - table.mean(1, keepdim=True) - table.mean(0, keepdim=True) + table.mean()
    noise = left.square().sum() / ((n_runs - 1) * (n_episodes - 1))
    return (table.mean(1).var() - noise / n_episodes).clamp_min(0).sqrt()


def _unpaired_spread(table: Tensor) -> Tensor:
    noise = table.var(1).mean()
    return (table.mean(1).var() - noise / table.shape[1]).clamp_min(0).sqrt()


def longer_test(
    measure: Callable[..., Any], learned: MetaPrompting, plain: MetaPrompting, episodes: Episodes
) -> Callable[[int], float]:
    """Steps of Adam in the test -> accuracy of a learned start after them, minus that of its ablation."""

    def difference(n_steps: int) -> float:
        method = learned.as_method(n_steps, optimizer="adam", lr=0.01)
        adapted = measure(method, episodes, [n_steps], "longer")[n_steps].mean
        return float(adapted - measure(plain.as_method(0), episodes, [0], "as it is")[0].mean)

    return difference


MISTAKES = {
    "pooled_prompts": {
        "you forgot to divide by √d": lambda q, k, v: torch.einsum("nk,kpd->npd", (q @ k.T).softmax(-1), v),
        "the softmax runs over the texts: each text needs weights that add up to 1 over the prompts": (
            lambda q, k, v: torch.einsum("nk,kpd->npd", (q @ k.T / k.shape[-1] ** 0.5).softmax(0), v)
        ),
        "you took the best prompt only: the mixture has all of them": lambda q, k, v: v[(q @ k.T).argmax(-1)],
    },
    "mixture": {
        "you averaged the logits: the probabilities are to be averaged": lambda a, b, w: (
            w * a + (1 - w) * b
        ).log_softmax(-1),
        "the weights are turned round": lambda a, b, w: mixture(b, a, w),
        "with large logits this is minus infinity: stay with logarithms": _naive_mixture,
        "these are probabilities: return their logarithm": lambda a, b, w: mixture(a, b, w).exp(),
    },
    "real_spread": {
        "this still has the noise of the episodes in it": lambda table: table.mean(1).std(),
        "you forgot that the episodes are the same: what they have in common is no noise": _unpaired_spread,
        "this is the variance: take its square root": lambda table: real_spread(table) ** 2,
    },
}
