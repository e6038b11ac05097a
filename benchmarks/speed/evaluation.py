"""Drawing episodes, and evaluating prototypes on them: all at once, one by one, and with easyfsl.

All three draw episodes of the same size from the same cached features and return an accuracy. The loop is
what most code does: one episode at a time, with torch operations on small tensors. easyfsl goes its own path
for features: ``FeaturesDataset``, ``TaskSampler``, a ``DataLoader`` without workers, ``PrototypicalNetworks``
and ``evaluate``. Its sampler calls a constructor that torch has since removed; that call is made harmless.
"""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import torch
from speed.peers import peer
from speed.timing import OURS, Way, beside, in_turn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from fewshot_lib.core import EpisodeSampler, evaluate, look_up
from fewshot_lib.prototypes import euclidean_prototypes

N_CLASSES, PER_CLASS, N_WAY, N_QUERY = 200, 30, 5, 15
FLOOR = "drawing, fetching and one product alone"
HEAD = ["episodes", "by", "µs an episode", "× ours", "range of rounds"]


def data(n_features: int) -> tuple[Tensor, Tensor]:
    """Features (n, d) in noisy clusters, and labels (n,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    features = torch.randn(N_CLASSES, n_features, generator=generator)[labels]
    return features + 1.5 * torch.randn(features.shape, generator=generator), labels


def loop(features: Tensor, labels: Tensor, n_shot: int, n_episodes: int) -> float:
    """Draws and evaluates one episode after the other; the mean accuracy."""
    generator = torch.Generator().manual_seed(0)
    members = [(labels == c).nonzero().squeeze(1) for c in range(N_CLASSES)]
    target = torch.arange(N_WAY).repeat_interleave(N_QUERY)
    accuracies = []
    for _ in range(n_episodes):
        support, query = [], []
        for c in torch.randperm(N_CLASSES, generator=generator)[:N_WAY].tolist():
            rows = members[c][torch.randperm(PER_CLASS, generator=generator)]
            support.append(features[rows[:n_shot]].mean(0))
            query.append(features[rows[n_shot : n_shot + N_QUERY]])
        distances = torch.cdist(torch.cat(query), torch.stack(support))
        accuracies.append((distances.argmin(1) == target).double().mean().item())
    return sum(accuracies) / n_episodes


def batched(features: Tensor, labels: Tensor, n_shot: int, n_episodes: int) -> float:
    """The library: all episodes as one index tensor; the mean accuracy."""
    sampler = EpisodeSampler(labels, torch.arange(N_CLASSES), N_WAY, n_shot, N_QUERY, seed=0)
    return evaluate(euclidean_prototypes, sampler.sample(n_episodes), features).mean


def floor(features: Tensor, labels: Tensor, n_shot: int, n_episodes: int) -> None:
    """What no way can leave out on these episodes: to fetch their features, and to multiply them."""
    sampler = EpisodeSampler(labels, torch.arange(N_CLASSES), N_WAY, n_shot, N_QUERY, seed=0)
    for start in range(0, n_episodes, 50):
        episodes = sampler.sample(min(50, n_episodes - start))
        torch.bmm(look_up(features, episodes.query), look_up(features, episodes.support).mean(2).mT)


def easyfsl_loader(features: Tensor, labels: Tensor, n_shot: int, n_episodes: int) -> DataLoader:
    """easyfsl's episodes of cached features."""
    names = [str(c) for c in range(N_CLASSES)]
    dataset = peer("easyfsl.datasets").FeaturesDataset(labels.tolist(), features, names)
    with patch.object(Sampler, "__init__", lambda *_, **__: None):
        sampler = peer("easyfsl.samplers").TaskSampler(dataset, N_WAY, n_shot, N_QUERY, n_episodes)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)


def with_easyfsl(features: Tensor, labels: Tensor, n_shot: int, n_episodes: int) -> float:
    """Its prototypes on its episodes; the mean accuracy."""
    loader = easyfsl_loader(features, labels, n_shot, n_episodes)
    classifier = peer("easyfsl.methods").PrototypicalNetworks(nn.Identity())
    return peer("easyfsl.utils").evaluate(classifier, loader, device="cpu", use_tqdm=False)


def measure(tiny: bool) -> list[list[str]]:
    """Rows for two sizes; the loop and easyfsl get fewer episodes, as their time per episode is constant."""
    rows = []
    for n_shot, n_features, n_episodes in ((1, 64, 10_000), (5, 640, 2_000)):
        features, labels = data(n_features)
        sampler = EpisodeSampler(labels, torch.arange(N_CLASSES), N_WAY, n_shot, N_QUERY, seed=0)
        many, few = (20, 5) if tiny else (n_episodes, 200)
        ways: dict[str, Way] = {OURS: partial(batched, features, labels, n_shot, many)}
        drawn: dict[str, Way] = {OURS: partial(sampler.sample, many)}
        ways["plain loop"] = partial(loop, features, labels, n_shot, few)
        ways[FLOOR] = partial(floor, features, labels, n_shot, many)
        if peer("easyfsl.utils"):
            ways["easyfsl"] = partial(with_easyfsl, features, labels, n_shot, few)
            drawn["easyfsl"] = partial(_draw, features, labels, n_shot, few)
        amounts = dict.fromkeys(ways, few) | {OURS: many, FLOOR: many}
        case = f"5-way {n_shot}-shot, {n_features} features"
        accuracies = [
            way() for name, way in ways.items() if name != FLOOR
        ]  # of other episodes: equal up to chance
        assert tiny or max(accuracies) - min(accuracies) < 0.05, accuracies
        rows += beside(f"drawn: {case}", in_turn(drawn, amounts), 1e6)
        rows += beside(f"drawn and evaluated: {case}", in_turn(ways, amounts), 1e6)
    return rows


def _draw(*size: object) -> int:
    return sum(1 for _ in easyfsl_loader(*size))
