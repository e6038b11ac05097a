"""What unlabelled texts add to a few examples, in pools of three kinds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from own_data_draws import PER_CLASS, SEED, Set, compared, interval, read, table_head, table_row

from fewshot_lib.classifier.unlabelled import WithUnlabelled
from fewshot_lib.encoders import TextEncoder
from fewshot_lib.prototypes import NamesAsExamples, found_weight

N_POOL = 20  # unlabelled texts of a class
POOLS = (
    f"{N_POOL} texts of each class",
    f"{N_POOL}, {N_POOL // 2}, {N_POOL // 4}, …",
    "half of them foreign",
)
INTRODUCTION = """## Unlabelled texts

`unlabelled`: half of the classes (those of HWU64, of the others the test classes; the first 60 texts of
each) are drawn anew each time. `fit(…, unlabelled=…)` is given texts without labels, and other texts are
asked about: points gained over the same examples alone, paired, with 95 % intervals over draws. In the
second pool each class has half of the texts of the one before; in the third there are as many texts of the
*other* classes again.
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of what unlabelled texts add, in pools of three kinds."""
    found = read(name, encoder, compared(name)[0], PER_CLASS)
    n_known = (len(found.names) + 1) // 2
    yield f"### {name}: {n_known} of {len(found.names)} classes, {options.draws} draws\n"
    yield from table_head("examples", "without", *POOLS)
    for n_shot in options.shots:
        draws = [one_of_unlabelled(found, n_known, n_shot, SEED + d) for d in range(options.draws)]
        without, *with_pool = zip(*draws, strict=True)
        gains = [[b - a for a, b in zip(without, pool, strict=True)] for pool in with_pool]
        cells = (f"+ {interval(gain)}".replace("+ -", "−") for gain in gains)
        yield table_row(n_shot, interval(list(without)), *cells)
    yield ""


def one_of_unlabelled(found: Set, n_known: int, n_shot: int, seed: int) -> list[float]:
    """Accuracy in % without a pool and with each of POOLS, of one draw of classes and examples."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.labels), generator=generator)
    classes = torch.randperm(len(found.names), generator=generator).tolist()
    rows = [order[found.labels[order] == c] for c in classes]
    known, foreign = rows[:n_known], torch.cat(rows[n_known:])
    rows_of_support = torch.stack([own[:n_shot] for own in known])
    found = found.with_words(rows_of_support.flatten())
    support = found.features[rows_of_support].unsqueeze(0)
    names = found.names[classes[:n_known]].unsqueeze(0)
    pools = [own[n_shot : n_shot + min(N_POOL, (len(own) - n_shot) // 2)] for own in known]
    asked = [own[n_shot + len(pool) :] for own, pool in zip(known, pools, strict=True)]
    labels = torch.arange(n_known).repeat_interleave(torch.tensor([len(own) for own in asked]))
    query = found.features[torch.cat(asked)].unsqueeze(0)
    even = torch.cat(pools)
    uneven = torch.cat([pool[: max(1, len(pool) >> k)] for k, pool in enumerate(pools)])
    mixed = torch.cat([even, foreign[torch.randperm(len(foreign), generator=generator)[: len(even)]]])
    weight = float(found_weight(support, names))
    read_too = [WithUnlabelled(weight, pool=found.features[pool]) for pool in (even, uneven, mixed)]
    answers = [method(support, query, names)[0].argmax(-1) for method in (NamesAsExamples(weight), *read_too)]
    return [100 * float((answer == labels).double().mean()) for answer in answers]
