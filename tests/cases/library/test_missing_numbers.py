"""NaN and infinity: no features, no names, no answer and no score."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fewshot_lib.core import EpisodeSampler, evaluate, feature_rows, few_shot_method, train_classifier
from fewshot_lib.finetuning import FineTuning, evaluate_steps
from fewshot_lib.multitask import Task, TaskSampler
from fewshot_lib.prototypes import cosine_prototypes, zero_shot

from .helpers import EPISODES, LABELS, ROWS, dataset, with_prototypes


@pytest.mark.parametrize(("value", "word"), [(torch.nan, "NaN"), (torch.inf, "an infinite number")])
def test_a4_features_that_are_no_numbers_are_refused_by_row(value, word):
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(100)
    bad = ROWS.clone()
    bad[17, 3] = value
    with pytest.raises(ValueError, match=rf"`features` has {word} in row 17: leave"):
        evaluate(cosine_prototypes, episodes, bad)
    with pytest.raises(ValueError, match="`features` has .* in row 17"):
        evaluate_steps(FineTuning(), episodes, bad, [0, 1])
    names = torch.randn(8, 5)
    names[2] = value
    with pytest.raises(ValueError, match=rf"`names` has {word} in row 2"):
        evaluate(zero_shot, episodes, ROWS, names=names)
    bad[[1, 3]] = value
    with pytest.raises(ValueError, match=r"in row 1 \(and 2 more rows have\)"):
        evaluate(cosine_prototypes, episodes, bad)
    with pytest.raises(ValueError, match=r"NaN or infinite in example no. 1, of class 'a' \(and 2 more\)"):
        dataset(inputs=bad)  # so no trainer sees it
    with pytest.raises(ValueError, match=rf"`inputs` has {word} in row 1"):
        train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), bad, LABELS, 1)


def test_large_numbers_are_numbers_and_opposite_infinities_are_not():
    """Neither is told by their sum: it is infinite for the first and no number for the second."""
    large = torch.full_like(ROWS, torch.finfo(ROWS.dtype).max)
    assert feature_rows("features", large) is large
    large[2, 0], large[5, 1] = torch.inf, -torch.inf
    with pytest.raises(ValueError, match=r"an infinite number in row 2 \(and 1 more rows have\)"):
        feature_rows("features", large)
    assert (
        feature_rows("features", large, torch.tensor([0, 1, 7])) is large
    )  # what is not used may be anything


def test_names_of_a_task_are_numbers_too():
    data = dataset()
    names = torch.randn(8, 5)
    names[0] = torch.nan
    with pytest.raises(ValueError, match="`names` of task `t` has NaN in row 0"):
        TaskSampler([replace(Task("t", data, data.inputs), names=names)], 2, 1, 2, 2)


def test_a4_what_is_missing_in_an_array_is_nan():
    missing = ROWS.numpy() == ROWS[EPISODES.support[0, 0, 0], 0].item()
    masked = np.ma.masked_array(ROWS.numpy(), missing)
    nullable = pd.DataFrame(ROWS.numpy()).convert_dtypes().mask(missing)
    for rows in (masked, nullable):
        with pytest.raises(ValueError, match="`features` has NaN in row"):
            evaluate(cosine_prototypes, EPISODES, rows)


def test_a4_an_answer_that_is_no_number_is_no_answer():
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(20)

    @few_shot_method("diverged", transductive=False)
    def diverged(support, query):
        logits = query.new_zeros(*query.shape[:2], 5)
        logits[..., 0], logits[7, 3, 2] = -torch.inf, torch.nan  # −∞ is an answer: never this class
        return logits

    with pytest.raises(FloatingPointError, match="'diverged' answers NaN in episode 7"):
        evaluate(diverged, episodes, ROWS, batch_size=10)


def test_a4_a_validation_that_is_no_number_is_no_score():
    with pytest.raises(FloatingPointError, match="`validate` gives NaN at step 4"):
        with_prototypes(dataset(), validate=lambda: float("nan"))
