"""What to label next: texts that the classifier asks for, beside random ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from own_data_draws import ALL, PER_CLASS, SEED, Set, interval, read, table_head, table_row
from own_data_parts.lookup import fitted, written

from fewshot_lib.encoders import TextEncoder

ROUND, N_ROUNDS = 20, 4  # texts labelled a round, and rounds
INTRODUCTION = """## What to label next

`suggest`: all classes, the first 60 texts of each, seeds from 1000 on. From one example of each class on,
twenty texts a round are labelled: those that `suggest` asks for, or twenty at random, from the same half of
the texts; the other half is tested. Accuracy in %, paired 95 % intervals over draws.
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """Rows of the table of suggested against random texts to label next, from one example a class on."""
    found = read(name, encoder, ALL, PER_CLASS)
    curves = torch.tensor(
        [[curve(found, SEED + d, asked) for asked in (True, False)] for d in range(options.draws)],
        dtype=torch.float64,
    )  # (draws, 2, rounds)
    yield f"### {name}: {len(found.names)} classes, {options.draws} draws\n"
    yield from table_head("texts labelled besides", "suggested", "at random", "difference")
    for step in range(curves.shape[-1]):
        asked, random = curves[:, 0, step], curves[:, 1, step]
        columns = asked, random, asked - random
        yield table_row(step * ROUND, *(interval(each.tolist()) for each in columns))
    yield ""


def curve(found: Set, seed: int, asked: bool) -> list[float]:
    """Accuracy in % on texts outside the pool after 0, 1, … rounds of labelling."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.labels), generator=generator)
    first = torch.stack([order[found.labels[order] == c][0] for c in range(len(found.names))])
    others = order[~torch.isin(order, first)]
    pool, tested = others[: len(others) // 2], others[len(others) // 2 :]
    accuracies = []
    for step in range(N_ROUNDS + 1):
        classifier = fitted(found, first)
        right = torch.from_numpy(classifier.predict(written(tested))) == found.labels[tested]
        accuracies.append(100 * right.double().mean().item())
        if step < N_ROUNDS:
            rows = classifier.suggest(written(pool), ROUND) if asked else range(ROUND)
            chosen = pool[torch.tensor(list(rows))]
            first, pool = torch.cat([first, chosen]), pool[~torch.isin(pool, chosen)]
    return accuracies
