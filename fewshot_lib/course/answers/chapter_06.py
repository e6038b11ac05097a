"""Chapter 06: prompts from a pool, mixed verbalizers, the spread between templates without the noise."""

import math

import torch
from torch import Tensor


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


def template_spread(table: Tensor) -> Tensor:
    """Accuracies (T, E) of T templates on the same E episodes -> their spread, less what is noise."""
    n_templates, n_episodes = table.shape
    left = table - table.mean(1, keepdim=True) - table.mean(0, keepdim=True) + table.mean()
    noise = left.square().sum() / ((n_templates - 1) * (n_episodes - 1))
    return (table.mean(1).var() - noise / n_episodes).clamp_min(0).sqrt()


def _unpaired_spread(table: Tensor) -> Tensor:
    noise = table.var(1).mean()
    return (table.mean(1).var() - noise / table.shape[1]).clamp_min(0).sqrt()


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
    "template_spread": {
        "this still has the noise of the episodes in it": lambda table: table.mean(1).std(),
        "you forgot that the episodes are the same: what they have in common is no noise": _unpaired_spread,
        "this is the variance: take its square root": lambda table: template_spread(table) ** 2,
    },
}
