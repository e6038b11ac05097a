"""Arguments that cannot be, or do not fit together, are refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

from fewshot_lib.core import (
    EpisodeSampler,
    evaluate,
    few_shot_method,
    pick_device,
    seed_everything,
    train_classifier,
)
from fewshot_lib.encoders import Conv4, encode
from fewshot_lib.finetuning import FineTuning, evaluate_steps
from fewshot_lib.maml import MAML, Tasks, meta_loss
from fewshot_lib.multitask import Task
from fewshot_lib.prototypes import cosine_prototypes, zero_shot

from .helpers import EPISODES, LABELS, ROWS, dataset, tasks, with_prototypes


def test_f9_what_evaluate_is_given_fits_together():
    names = ROWS[:8].double()
    expected = evaluate(zero_shot, EPISODES, ROWS, names=ROWS[:8]).accuracies
    assert torch.equal(evaluate(zero_shot, EPISODES, ROWS, names=names).accuracies, expected)
    with pytest.raises(ValueError, match=r"`names` has shape \(20, 5, 3\): it must be \(E, N, d\)"):
        evaluate(zero_shot, EPISODES, ROWS, names=torch.ones(8, 3))
    with pytest.raises(TypeError, match=r"`episodes` is of type EpisodeSampler: .*sample\(n_episodes\)"):
        evaluate(cosine_prototypes, EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5), ROWS)

    @few_shot_method("short", transductive=False)
    def short(support, query, **_):
        return torch.zeros(len(query), query.shape[1], 9)

    with pytest.raises(ValueError, match=r"`method` 'short' gives \(20, 25, 9\): .* = \(20, 25, 5\)"):
        evaluate(short, EPISODES, ROWS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EpisodeSampler(LABELS, range(8), np.array([5, 6])), r"`n_way` is array\(\[5, 6\]\)"),
        (
            lambda: EpisodeSampler(LABELS, range(8), 5, (1, 2, 3)),
            r"`n_shot` is \(1, 2, 3\): use a number, or",
        ),
        (
            lambda: EpisodeSampler(LABELS, range(8), 5, 1, 2, 2**64),
            "`seed` is 18446744073709551616: use a whole",
        ),
        (
            lambda: EpisodeSampler(LABELS, [0, 99], 2, 1, 1, class_names=list("abcdefgh")),
            "Class 99 has 0 exam",
        ),
        (lambda: FineTuning(lr="0.1"), "`lr` is '0.1': it must be positive"),
        (lambda: evaluate_steps(FineTuning(), EPISODES, ROWS, 3), "`at` is 3: give whole numbers of steps"),
        (lambda: pick_device("cpu:x"), "`device` is 'cpu:x', which this machine does not have"),
        (lambda: pick_device("cuda:99"), "`device` is 'cuda:99', which this machine does not have"),
        (lambda: seed_everything("1"), "`seed` is '1': use a whole number"),
        (lambda: EPISODES[np.int64(0)], "`episodes` is 0: use a slice"),
        (lambda: Task("t", dataset(), ROWS[:, 0]), r"`features` of task 't' has shape \(48,\) for n = 48"),
        (
            lambda: encode(Conv4(3), torch.rand(2, 28, 28, 3)),
            r"`images` have shape \(2, 28, 28, 3\): give \(n, 3",
        ),
        (lambda: encode(Conv4(), torch.full((2, 1, 28, 28), torch.nan)), "`inputs` has NaN in row 0"),
        (lambda: encode(Conv4(), []), "`texts` is .*: give a list with at least one text"),
        (lambda: encode(Conv4(), ["a"]), "`images` are a list: give a tensor"),
        (lambda: encode(Conv4(), torch.rand(2, 1, 28, 28), 0), "`batch_size` is 0"),
        (
            lambda: train_classifier(nn.Linear(5, 3), nn.Linear(3, 4), ROWS, LABELS, 2),
            "`labels` run from 0 to 7",
        ),
        (lambda: with_prototypes(dataset(), validate_every=0), "`validate_every` is 0: use a whole number"),
        (lambda: meta_loss(MAML(nn.Linear(8, 5)), Tasks(*(t[:0] for t in tasks()))), "`n_tasks` is 0"),
    ],
)
def test_f9_arguments_that_cannot_be_are_refused_by_name(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
