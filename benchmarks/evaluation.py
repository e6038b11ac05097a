"""Episodes per second: one batched computation beside a plain loop over episodes, in the same run.

    python benchmarks/evaluation.py [--episodes 10000] [--repeats 5] [--device cpu]

Both draw the same kind of episodes from cached 64-d features (5-way 1-shot, 15 queries per class), classify
with Euclidean prototypes, and return an accuracy per episode. The loop is what most code does: one episode at
a time, with torch operations on small tensors. Figures are medians over the repeats; what counts is the
ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from fewshot_lib.core import EpisodeSampler, evaluate, pick_device
from fewshot_lib.prototypes import euclidean_prototypes

N_CLASSES, PER_CLASS, N_FEATURES = 200, 20, 64
N_WAY, N_SHOT, N_QUERY = 5, 1, 15


def loop(features: torch.Tensor, labels: torch.Tensor, n_episodes: int) -> torch.Tensor:
    """Draws and evaluates one episode after the other; accuracies (E,)."""
    generator = torch.Generator().manual_seed(0)
    members = [(labels == c).nonzero().squeeze(1) for c in range(N_CLASSES)]
    accuracies = []
    for _ in range(n_episodes):
        support, query, query_labels = [], [], []
        for way, c in enumerate(torch.randperm(N_CLASSES, generator=generator)[:N_WAY].tolist()):
            rows = members[c][torch.randperm(PER_CLASS, generator=generator).to(labels.device)]
            support.append(features[rows[:N_SHOT]].mean(0))
            query.append(features[rows[N_SHOT : N_SHOT + N_QUERY]])
            query_labels += [way] * N_QUERY
        distances = torch.cdist(torch.cat(query), torch.stack(support))
        target = torch.tensor(query_labels, device=labels.device)
        accuracies.append((distances.argmin(1) == target).double().mean().item())
    return torch.tensor(accuracies)


def batched(features: torch.Tensor, labels: torch.Tensor, n_episodes: int) -> torch.Tensor:
    """The library: all episodes as one index tensor; accuracies (E,)."""
    sampler = EpisodeSampler(labels, torch.arange(N_CLASSES), N_WAY, N_SHOT, N_QUERY, seed=0)
    return evaluate(euclidean_prototypes, sampler.sample(n_episodes), features).accuracies[0]


def seconds(run: Callable[[], torch.Tensor], repeats: int) -> float:
    """Median seconds of a run; ``.tolist()`` waits for the device."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run().tolist()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Prints both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    device = pick_device(options.device)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    features = torch.randn(N_CLASSES, N_FEATURES, generator=generator)[labels]
    features = (features + 1.5 * torch.randn(features.shape, generator=generator)).to(device)
    labels = labels.to(device)

    few = max(1, options.episodes // 10)  # the loop is slow: a tenth of the episodes, the rate is the same
    a, b = batched(features, labels, options.episodes), loop(features, labels, few)
    machine = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{options.episodes:,} episodes, {machine}")
    print(f"mean accuracy: batched {a.mean():.4f}, loop {b.mean():.4f} (other episodes: equal up to chance)")
    fast = options.episodes / seconds(lambda: batched(features, labels, options.episodes), options.repeats)
    slow = few / seconds(lambda: loop(features, labels, few), options.repeats)
    print(f"batched {fast:>12,.0f} episodes per second")
    print(f"loop    {slow:>12,.0f} episodes per second")
    print(f"ratio   {fast / slow:>12.1f}")


if __name__ == "__main__":
    main()
