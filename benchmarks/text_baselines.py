"""Frozen-encoder baselines on the published text sets: what every few-shot text result stands beside.

    python benchmarks/text_baselines.py [--datasets huffpost reuters 20news amazon] [--shots 1 5]
                                        [--family bao]

Rows: class names alone (zero-shot), prototypes, both together, logistic regression; 5-way, 1 and 5 shots, 15
queries per class, on 1,000 saved episodes of the test classes. With ``--shots 20 100 300`` it shows what the
same features allow once there are many labelled examples. The encoder is all-MiniLM-L6-v2, frozen, mean
pooling, 200 tokens. Features come from the cache the second time; an interrupted run goes on. Writes
text_baselines.md and .csv, and the episodes, to ``--out``. Amazon is restricted to the test classes that the
copy at hand contains, and says so.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from fewshot_lib import data
from fewshot_lib.core import EpisodeResults, Episodes, EpisodeSampler, compare_paired, evaluate, pick_device
from fewshot_lib.course.records import markdown
from fewshot_lib.encoders import TextEncoder, extract_features
from fewshot_lib.prototypes import cosine_prototypes, logistic_regression, name_features, name_mix, zero_shot

METHODS = (zero_shot, cosine_prototypes, name_mix, logistic_regression)
SHOTS, N_WAY, N_QUERY, MAX_TOKENS = (1, 5), 5, 15, 200
HEAD = [
    "data set",
    "split family",
    "method",
    "shots",
    "episodes",
    "accuracy in %",
    "95 % interval",
    "zero-shot subtracted, paired",
]


def episodes_of(dataset: data.ClassDataset, n_shot: int, n_episodes: int) -> Episodes:
    """Of the one split that the data set has; fewer queries or ways where a class or the split is small."""
    (classes,) = dataset.splits.values()
    n_query = min(N_QUERY, int(dataset.counts[classes].min()) - n_shot)
    sampler = EpisodeSampler(dataset.labels, classes, min(N_WAY, len(classes)), n_shot, n_query, seed=0)
    return sampler.sample(n_episodes)


def rows_of(name: str, encoder: TextEncoder, options: argparse.Namespace) -> list[list[str]]:
    """All rows of one data set; leaves its episodes in ``--out``."""
    dataset = data.load(name, split_family=options.family).only("test")
    print(dataset, flush=True)
    features, names = extract_features(encoder, dataset), name_features(encoder, dataset)
    rows = []
    for n_shot in options.shots:
        episodes = episodes_of(dataset, n_shot, options.episodes)
        episodes.save(options.out / f"{name}-{options.family}-{n_shot}shot.safetensors")
        names_alone = evaluate(zero_shot, episodes, features, names=names)
        for method in METHODS:
            result = evaluate(method, episodes, features, names=names)
            rows.append(row(dataset, n_shot, result, names_alone))
            print("  " + " | ".join(rows[-1]), flush=True)
    return rows


def row(
    dataset: data.ClassDataset, n_shot: int, result: EpisodeResults, names_alone: EpisodeResults
) -> list[str]:
    """One row of the table, in the order of HEAD."""
    (low, high), difference = result.interval, compare_paired(result, names_alone)
    return [
        dataset.name,
        dataset.split_family,
        result.method,
        str(n_shot),
        str(result.n_episodes),
        f"{100 * result.mean:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{100 * difference.mean:+.1f} ± {100 * difference.ci95:.1f}",
    ]


def page(rows: list[list[str]]) -> str:
    """text_baselines.md, from the rows of its table."""
    found: dict[tuple[str, str], list[float]] = {}
    for _, _, method, n_shot, _, mean, *_ in rows:
        found.setdefault((method, n_shot), []).append(float(mean))
    means = {key: sum(some) / len(some) for key, some in found.items()}
    told = []
    for n_shot in dict.fromkeys(n for _, n in means):
        ranked = sorted(((mean, m) for (m, n), mean in means.items() if n == n_shot), reverse=True)
        told.append(f"at {n_shot}-shot {', '.join(f'{method} {mean:.1f}' for mean, method in ranked)}")
    sets = ", ".join(dict.fromkeys(row[0] for row in rows))
    episodes = " or ".join(dict.fromkeys(row[4] for row in rows))
    parts = [
        "# Frozen-encoder baselines",
        f"**What needs no training, in the mean of {sets}, in %**: {'; '.join(told)}. Every few-shot text "
        "result should stand beside these. [RESULTS.md](../RESULTS.md) has more methods and encoders, on "
        "episodes of its own.",
        f"`python benchmarks/text_baselines.py`: {N_WAY}-way, {N_QUERY} queries per class (fewer where a "
        f"class is too small), {episodes} saved episodes of the test classes, all of their texts, the same "
        f"for all rows; all-MiniLM-L6-v2, frozen, {MAX_TOKENS} tokens of a text, features as they are. "
        "Intervals are over episodes.",
        markdown(HEAD, rows),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Writes the table, and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["huffpost", "reuters", "20news", "amazon"])
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument("--family", default="bao")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("build/baselines"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoder = TextEncoder(max_tokens=MAX_TOKENS).to(pick_device())
    rows = [row for name in options.datasets for row in rows_of(name, encoder, options)]
    with (options.out / "text_baselines.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *rows])
    (options.out / "text_baselines.md").write_text(page(rows), encoding="utf-8")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
