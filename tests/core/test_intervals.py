"""Do the course's intervals hold the truth as often as they say? Are shuffled labels guessed?"""

import pytest
import torch

from fewshot_lib.core import EpisodeResults, EpisodeSampler, compare_paired, evaluate, mean_interval
from fewshot_lib.graphs import RelationalNetwork
from fewshot_lib.prototypes import SoftKMeans, cosine_prototypes, name_mix, names_as_examples

N_CLASSES, PER_CLASS, D = 12, 40, 16


@pytest.fixture(scope="module")
def world():
    """Features around a centre per class, and around it the name of the class."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(N_CLASSES, D, generator=generator)
    labels = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    features = centres[labels] + 1.5 * torch.randn(len(labels), D, generator=generator)
    return features, labels, centres + torch.randn(N_CLASSES, D, generator=generator)


def sampler(labels, seed, n_shot=1):
    return EpisodeSampler(labels, torch.arange(N_CLASSES), 5, n_shot, 10, seed)


def covered(intervals, truth):
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def test_the_interval_over_episodes_covers_the_mean_over_all_episodes(world):
    """As often as 0.95, to 3 standard errors of a count of 400; of the paired difference, too."""
    features, labels, names = world
    episodes = sampler(labels, 0).sample(40_000)
    a, b = (
        evaluate(method, episodes, features, 4000, names=names) for method in (cosine_prototypes, name_mix)
    )
    truth, difference = a.mean, compare_paired(b, a)
    rows = torch.arange(len(episodes)).split(100)
    for accuracies, mean in ((a.accuracies[0], truth), (difference.accuracies[0], difference.mean)):
        assert covered([mean_interval(accuracies[r]) for r in rows], mean) == pytest.approx(0.95, abs=0.033)


def test_the_interval_over_seeds_covers_the_mean_over_trainings():
    """With 3 seeds whose episodes are the same: normal means, the t-interval of 2 degrees of freedom."""
    generator = torch.Generator().manual_seed(0)
    of_seeds = 0.7 + 0.02 * torch.randn(1000, 3, 1, generator=generator)
    easy = 0.1 * torch.randn(1, 1, 50, generator=generator)  # how easy an episode is, for every seed
    runs = of_seeds + easy - easy.mean()
    intervals = [EpisodeResults(run, "A", False, 5, 1, 15, "same").interval for run in runs]
    assert covered(intervals, 0.7) == pytest.approx(0.95, abs=0.021)


@pytest.mark.parametrize("n_shot", [1, 5])
@pytest.mark.parametrize(
    "method",
    [cosine_prototypes, name_mix, names_as_examples, SoftKMeans(), RelationalNetwork().eval()],
    ids=lambda method: method.name,
)
def test_shuffled_labels_give_chance(method, n_shot, world):
    """Over several shuffles: one alone may by accident have a class that its examples tell."""
    features, labels, names = world
    found = []
    for seed in range(12):
        shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
        episodes = sampler(shuffled, seed, n_shot).sample(50)
        found.append(evaluate(method, episodes, features, names=names).mean)
    low, high = mean_interval(torch.tensor(found))
    slack = (high - low) / 2  # so that 1 in 20 correct methods does not fail: twice the 95 % interval
    assert low - slack <= 0.2 <= high + slack and high - low < 0.04
