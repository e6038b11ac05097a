"""What the tests of the library share: a small data set, episodes and tasks, and short trainings on it."""

import torch
from torch import nn

from fewshot_lib.core import EpisodeSampler
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.maml import MAML, Classifier, Tasks, train_on_episodes
from fewshot_lib.prototypes import train_prototypical

LABELS = torch.arange(8).repeat_interleave(6)
ROWS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
SIZES = {"n_way": 2, "n_shot": 1, "n_query": 2}
EPISODES = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(20)


def dataset(labels=LABELS, inputs=ROWS, names="abcdefgh", **splits):
    splits = {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]} | splits
    return ClassDataset(inputs, labels, list(names), {s: torch.tensor(c) for s, c in splits.items()})


def with_prototypes(data, **loop):
    model = nn.Linear(5, 3)
    train_prototypical(model, data, 4, **SIZES, **loop)
    return model


def with_maml(data, **loop):
    model = MAML(Classifier(nn.Linear(5, 3), 3, 2))
    train_on_episodes(model, data, 4, **SIZES, **loop)
    return model


def tasks():
    y = torch.arange(5).repeat(3, 1)
    return Tasks(torch.randn(3, 5, 8), y, torch.randn(3, 5, 8), y)
