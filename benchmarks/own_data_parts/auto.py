"""``method="auto"`` beside the default."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator

import torch
from own_data_draws import PER_CLASS, SEED, interval, read, table_head, table_row
from own_data_parts.choose import WRONG, one_of_choice
from own_data_parts.lookup import fitted, written

from fewshot_lib.classifier.methods import AUTO_FROM
from fewshot_lib.encoders import TextEncoder

AUTO_WAYS = 20  # most classes of a task
INTRODUCTION = """## method="auto"

`auto`: on training and validation classes, since it is a choice and not a result. With wrong names three in
ten are handed round among the classes. What cross-validation on the examples chose, and what that brought.
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of ``method="auto"`` against the default, on training and validation classes."""
    found = read(name, encoder, ("train", "val"), PER_CLASS)
    yield f"### {name}: 5 to {AUTO_WAYS} classes, {options.draws} draws\n"
    yield from table_head("examples", "names", "default", "auto is better by", "chosen")
    for n_shot, wrong in itertools.product([n for n in options.shots if n >= AUTO_FROM], (0.0, WRONG)):
        default, gains, chosen = [], [], Counter[str]()
        for draw in range(options.draws):
            task = one_of_choice(found, SEED + draw, wrong, AUTO_WAYS)
            generator = torch.Generator().manual_seed(draw)
            order = torch.randperm(len(task.labels), generator=generator)
            support = torch.cat([order[task.labels[order] == c][:n_shot] for c in range(len(task.names))])
            asked = order[~torch.isin(order, support)]
            both = [fitted(task, support, method) for method in (None, "auto")]
            scores = [100 * (c.predict(written(asked)) == task.labels[asked].numpy()).mean() for c in both]
            default.append(scores[0])
            gains.append(scores[1] - scores[0])
            chosen[both[1].method_.name] += 1
        kind = "some wrong" if wrong else "right"
        counts = ", ".join(f"{method} {n}" for method, n in chosen.most_common())
        yield table_row(n_shot, kind, interval(default), interval(gains), counts)
    yield ""
