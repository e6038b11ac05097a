"""What the tests of meta-training share: a data set, a score on it, and MAML++'s ensemble."""

import torch

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.data.dataset import ClassDataset

from .helpers import WAYS, benchmark, randn

LABELS = torch.arange(12).repeat_interleave(10)
BestModels = benchmark("maml_omniglot").BestModels  # MAML++'s ensemble


def dataset():
    centres, noise = randn(12, 4, seed=5), randn(120, 4, seed=6)
    splits = {"train": torch.arange(6), "val": torch.arange(6, 9), "test": torch.arange(9, 12)}
    return ClassDataset(centres[LABELS] + 0.3 * noise, LABELS, [str(c) for c in range(12)], splits)


def scored(learner, n_episodes=40):
    """The accuracy on validation classes, as a function without arguments."""
    data = dataset()
    sampler = EpisodeSampler(data.labels, data.classes("val"), WAYS, 1, 4, seed=1)
    episodes = sampler.sample(n_episodes)
    return lambda: evaluate(learner.as_method(), episodes, data.inputs).mean
