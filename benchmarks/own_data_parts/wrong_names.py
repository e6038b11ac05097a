"""Names that do not fit: what the default makes of them, beside a fixed weight and no names at all."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from own_data_draws import SEED, Draw, accuracy, compared, interval, read, table_head, table_row
from own_data_parts.choose import handed_round

from fewshot_lib.encoders import TextEncoder
from fewshot_lib.prototypes import NamesAsExamples, names_as_examples, weighed_names

SHARES = (0.0, 0.3, 0.6, 1.0)  # of the names
INTRODUCTION = """## Names that do not fit

`wrong_names`: the classes of the first section, seeds from 1000 on; about this share of the classes, drawn
anew each time, get each the name of another of them. Accuracy in %, and in brackets the points that asking
the examples brings over w = 3 for all, and over logistic regression with the same C = √N, which reads no
names; paired, with 95 % intervals over draws. The weight of the names cannot fall below 0.3.
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of one data set."""
    found = read(name, encoder, *compared(name))
    shots, n_way = [n for n in options.shots if n > 1], len(found.names)
    yield f"### {name}: {n_way} classes, {options.draws} draws\n"
    columns = (f"{n} examples (over w = 3; over no names)" for n in shots)
    yield from table_head("names that are wrong", *columns)
    for share in SHARES:
        cells = []
        for n_shot in shots:
            rows = []
            for seed in range(SEED, SEED + options.draws):
                generator, classes = torch.Generator().manual_seed(seed), torch.arange(n_way)
                moved = torch.randperm(n_way, generator=generator)[: round(share * n_way)]
                rows.append(of_one(found.of(classes, handed_round(classes, moved)).draw(n_shot, seed)))
            ours, fixed, without = torch.tensor(rows, dtype=torch.float64).T
            gains = [interval((ours - other).tolist(), "+.1f") for other in (fixed, without)]
            cells.append(f"{interval(ours.tolist())} ({'; '.join(gains)})".replace("± +", "± "))
        yield table_row(f"{share:.0%}", *cells)
    yield ""


def of_one(draw: Draw) -> list[float]:
    """Accuracies in %: the default, w = 3, no names."""
    methods = weighed_names, names_as_examples, NamesAsExamples(uses_names=False)
    return [accuracy(method, draw) for method in methods]
