"""Bad arguments of meta-training, and what cannot be trained on, are named."""

import pytest
import torch

from fewshot_lib.core import EpisodeSampler
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.maml import MAML, episode_tasks, meta_train, train_on_episodes

from .helpers import WAYS
from .helpers import vector_net as net
from .helpers import vector_tasks as tasks
from .training_helpers import LABELS, BestModels, dataset


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda learner: meta_train(learner, tasks, 3, schedule="linear"),
            "`schedule` is 'linear': use one of 'cosine', 'one_cycle', None",
        ),
        (lambda learner: meta_train(learner, tasks, 0), "`n_steps` is 0: use a whole number, 1 or more"),
        (
            lambda learner: train_on_episodes(learner, dataset(), 3, n_way=(2, 4)),
            r"`n_way` is \(2, 4\): use a whole number, 1 or more",
        ),
        (
            lambda learner: train_on_episodes(learner, dataset(), 3, n_way=WAYS, n_shot=(1, 2)),
            r"`n_shot` is \(1, 2\)",
        ),
        (lambda learner: train_on_episodes(learner, dataset(), 3, n_way=WAYS, n_tasks=0), "`n_tasks` is 0"),
        (
            lambda learner: train_on_episodes(learner, dataset(), 3),
            "`n_way` is 5: the model's head has 3 ways",
        ),
        (lambda learner: BestModels(learner, lambda: 0.0, k=0), "`k` is 0: use a whole number, 1 or more"),
        (lambda learner: BestModels(learner, lambda: 0.0).as_method(), "`validate` has kept no model yet"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(MAML(net()))


def test_what_cannot_be_trained_is_named():
    with pytest.raises(ValueError, match=r"`learner` \(MAML\) has no trainable parameter"):
        meta_train(MAML(net()).requires_grad_(False), tasks, 3)
    texts = ClassDataset(["a"] * 120, LABELS, [str(c) for c in range(12)], {"train": torch.arange(6)})
    with pytest.raises(ValueError, match="`dataset` holds texts.*inputs=features"):
        train_on_episodes(MAML(net()), texts, 3, n_way=WAYS)
    padded = EpisodeSampler(LABELS, torch.arange(12), 3, (1, 2), 2).sample(20)
    with pytest.raises(ValueError, match="`episodes` are padded, and tasks need a fixed n_shot"):
        episode_tasks(padded, dataset().inputs)
