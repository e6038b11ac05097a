"""Chapter 05: scores of label words, calibration, a seed chosen honestly, how many texts calibrate."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot_lib.core import Episodes, evaluate
from fewshot_lib.encoders import MaskedLM
from fewshot_lib.prompts import Words


def word_scores(logits: Tensor, words: Tensor) -> Tensor:
    """logits (n, V), words (N, W) ids filled up with −1 -> mean logit of each class's words (n, N)."""
    there = words >= 0
    found = logits[:, words.clamp_min(0)] * there
    return found.sum(-1) / there.sum(-1)


def calibrated(scores: Tensor, others: Tensor) -> Tensor:
    """scores (n, N) of the texts to be answered, others (n', N) of other texts -> scores (n, N)."""
    return scores - others.mean(0)


def honest_accuracy(accuracies: Tensor, halves: Tensor) -> Tensor:
    """accuracies (R, E), halves (S, E) bool -> accuracy of the seed best where True, over those where False.

    The mean over the S ways to halve the episodes.
    """
    return _reported(accuracies, halves, lambda half: ~half)


def _reported(accuracies: Tensor, halves: Tensor, on: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean accuracy of the seeds chosen on each half, reported on other episodes of each."""
    best = [int(accuracies[:, half].mean(1).argmax()) for half in halves]
    found = [accuracies[row, on(half)].mean() for row, half in zip(best, halves, strict=True)]
    return torch.stack(found).mean()


def calibration_needs(
    lm: MaskedLM, others: Tensor, episodes: Episodes, at_gap: Tensor, words: Tensor
) -> Callable[[int], float]:
    """The experiment: accuracy of label words that are calibrated on the first n of the other texts."""
    return lambda n: evaluate(Words(lm, centre=others[:n]), episodes, at_gap, names=words).mean


def _with_filling(logits: Tensor, words: Tensor) -> Tensor:
    return logits[:, words].mean(-1)


def _sums(logits: Tensor, words: Tensor) -> Tensor:
    return word_scores(logits, words) * (words >= 0).sum(-1)


MISTAKES = {
    "word_scores": {
        "the −1 that fill up count as words: in Python, −1 is the last word of the vocabulary": _with_filling,
        "this is the sum: a class with more words would win more often": _sums,
        "these are probabilities of the whole vocabulary: take the logits": lambda logits, words: word_scores(
            logits.softmax(-1), words
        ),
    },
    "calibrated": {
        "the sign: what it would say anyway is taken away": lambda scores, others: scores + others.mean(0),
        "this is the mean over the classes, which changes no answer": lambda scores, others: (
            scores - scores.mean(1, keepdim=True)
        ),
        "this is the mean over the texts that are answered: it would make the method transductive": (
            lambda scores, others: scores - scores.mean(0)
        ),
    },
    "honest_accuracy": {
        "this is the dishonest author's: chosen and reported on the same half": lambda a, halves: _reported(
            a, halves, lambda half: half
        ),
        "the seed is reported on all episodes: half of them had a say in choosing it": lambda a, halves: (
            _reported(a, halves, torch.ones_like)
        ),
        "the halves are swapped: True chooses, False reports": lambda a, halves: honest_accuracy(a, ~halves),
        "this is the best seed of all episodes: none is left to report it on": lambda a, halves: a.mean(
            1
        ).max(),
        "this is the mean over all seeds: nothing was chosen": lambda a, halves: a.mean(),
    },
}
