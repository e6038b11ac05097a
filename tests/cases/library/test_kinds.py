"""Lists, arrays, tables and scalars of every kind are read alike; what cannot be read is named."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fewshot_lib.core import EpisodeSampler, evaluate, fit, train_classifier
from fewshot_lib.encoders import encode
from fewshot_lib.maml import MAML
from fewshot_lib.prototypes import cosine_prototypes, zero_shot

from .helpers import EPISODES, LABELS, ROWS, dataset, with_maml, with_prototypes


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda t: np.array(t, np.int32), torch.tensor])
def test_f9_labels_and_classes_of_any_kind_draw_the_same_episodes(kind):
    expected = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5, seed=3).sample(9).fingerprint()
    labels, classes = kind(LABELS.tolist()), kind(list(range(8)))
    assert EpisodeSampler(labels, classes, 5, 1, 5, seed=3).sample(9).fingerprint() == expected
    numpy_sizes = EpisodeSampler(labels, classes, np.int64(5), np.int64(1), np.int64(5), np.int64(3))
    assert numpy_sizes.sample(np.int64(9)).fingerprint() == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (list("aabbcc"), "cannot be read as numbers: give"),
        ([0.5] * 12, "has 0.5 in row 0: use whole numbers"),
        (np.eye(3)[[0, 1, 2]], r"has shape \(3, 3\).*one-hot rows are `.argmax"),
        (pd.Series([0.0, None, 1.0]), "has nan in row 1: use whole numbers"),
        ([0, None, 1], "has nan in row 1: use whole numbers"),
    ],
)
def test_f9_labels_that_are_no_numbers_are_named(labels, message):
    with pytest.raises(ValueError, match=f"`labels` .*{message}"):
        EpisodeSampler(labels, [0, 1], 2, 1, 1)


@pytest.mark.parametrize(
    "kind", [np.asarray, pd.DataFrame, lambda t: t.tolist(), lambda t: t.double().numpy()]
)
def test_f9_features_of_any_kind_score_the_same(kind):
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(50)
    expected = evaluate(cosine_prototypes, episodes, ROWS).accuracies
    assert torch.equal(evaluate(cosine_prototypes, episodes, kind(ROWS)).accuracies, expected)
    names = ROWS[:8]
    of_names = evaluate(zero_shot, episodes, ROWS, names=names).accuracies
    assert torch.equal(evaluate(zero_shot, episodes, kind(ROWS), names=kind(names)).accuracies, of_names)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind",
    [
        lambda a: np.flip(np.flip(a, 0).copy(), 0),  # negative strides
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: pd.DataFrame(a).convert_dtypes() if a.ndim == 2 else pd.Series(a).convert_dtypes(),
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),  # not writable
        lambda a: a.astype(np.longdouble if a.dtype.kind == "f" else np.uint16),
        lambda a: a.astype(object),
        lambda a: torch.from_numpy(a).to_sparse(),
    ],
)
def test_f9_arrays_of_every_layout_are_read_without_a_warning(kind):
    labels, rows = kind(LABELS.numpy()), kind(ROWS.numpy())
    episodes = EpisodeSampler(labels, torch.arange(8), 5, 1, 5).sample(20)
    assert episodes.fingerprint() == EPISODES.fingerprint()
    expected = evaluate(cosine_prototypes, EPISODES, ROWS).accuracies
    assert torch.equal(evaluate(cosine_prototypes, EPISODES, rows).accuracies, expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(48, 5, dtype=torch.int64), r"`features` are torch.int64, .*give `features.float\(\)`"),
        (torch.ones(48), r"`features` has shape \(48,\): give a vector per row"),
        (ROWS.to(torch.complex64), "complex Tensor.* cannot be read as numbers"),
        (ROWS[:40], "`features` has 40 rows, and row 47 is asked for"),
        (None, "cannot be read as numbers|is the one number"),
    ],
)
def test_f9_features_of_no_use_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        evaluate(cosine_prototypes, EPISODES, rows)


def test_f9_numpy_scalars_are_rates_and_checkpoints_with_them_can_be_read(tmp_path):
    for rate in (np.float32(0.1), np.float64(0.1), np.int64(1), 0):
        assert MAML(nn.Linear(8, 5), inner_lr=rate).inner_lr == float(rate)
    for rate in (np.float32("nan"), -0.1, "0.1", None, True, np.inf):
        with pytest.raises(ValueError, match="`inner_lr` is .*: use a number, 0 or more"):
            MAML(nn.Linear(8, 5), inner_lr=rate)
    model, path = nn.Linear(1, 1), tmp_path / "c.pt"
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=np.float32(0.1))
        fit(lambda _: {"loss": model.weight.sum()}, model, optimizer, 2, checkpoint=path, checkpoint_every=1)


def test_f9_trainers_take_the_precision_of_their_model(tmp_path):
    double = dataset(inputs=ROWS.double())
    assert torch.equal(with_prototypes(double).weight.isfinite(), torch.ones(3, 5, dtype=torch.bool))
    with_maml(double)
    train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS.tolist(), LABELS.tolist(), np.int64(2))
    assert encode(nn.Flatten(), ROWS.double()).shape == (48, 5)  # an encoder without parameters
