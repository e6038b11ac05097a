"""Chapter 05: scores of label words, calibration, a seed chosen honestly, how many texts calibrate."""

from collections.abc import Callable

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


def honest_accuracy(accuracies: Tensor) -> Tensor:
    """accuracies (R, E) -> mean accuracy on each episode of the seed that is best on all the others."""
    total = accuracies.sum(1, keepdim=True)
    best = (total - accuracies).argmax(0)
    return accuracies.gather(0, best.unsqueeze(0)).mean()


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
        "this is the dishonest author's: chosen and reported on the same episodes": lambda a: a.mean(1).max(),
        "this picks the best seed for each episode after having seen it": lambda a: a.max(0).values.mean(),
        "this is the mean over all seeds: nothing was chosen": lambda a: a.mean(),
    },
}
