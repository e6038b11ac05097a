"""How much the words count beside the encoder: chosen on training and validation classes."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

from own_data_draws import PER_CLASS, SEED, accuracy, interval, read, table_head, table_row
from own_data_parts.choose import CHOSEN_ON, WRONG, one_of_choice

from fewshot_lib.encoders import TextEncoder
from fewshot_lib.prototypes import weighed_names

WEIGHTS = (0.3, 0.45, 0.6, 0.75, 0.9)  # α
INTRODUCTION = """## The words beside the encoder

`words`: the sets and classes of the next sections, seeds from 1000 on; points that the words of the texts
bring to names as examples, with the weight α where the encoder has 1 (`classifier/words.py`); paired, with
95 % intervals over tasks. In bfloat16 (`FEWSHOT_BF16=1`).

**Taken: α = 0.6**, a cautious choice that the table does not decide: from four examples on larger ones have
higher means, at one, where names mislead, lower ones. Before the words were chosen, these were tried on
other draws of such tasks, 20 to 75 of them (the scripts are not in the repository): the encoder's first layer
beside its last, +0.3 to +0.5 points at 1 to 8 examples, and other layers less or nothing; names moved to the
mean of the examples, +0.4 at one example, +0.3 at two, nothing from four on; held-out examples asked for C as
well, nothing at 2 and 4; features whitened by the examples' own covariance, less than nothing.
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """One row for each α."""
    sets = [read(name, encoder, ("train", "val"), PER_CLASS) for name in CHOSEN_ON]
    yield f"### Training and validation classes of {len(sets)} sets, {options.draws} tasks of each\n"
    columns = list(itertools.product(options.shots, (0.0, WRONG)))
    said = [f"{n_shot}{', some names wrong' if wrong else ''}" for n_shot, wrong in columns]
    yield from table_head("α", *said)
    gains: dict[float, list[str]] = {weight: [] for weight in WEIGHTS}
    for n_shot, wrong in columns:
        tasks = list(itertools.product(sets, range(SEED, SEED + options.draws)))
        found = [(one_of_choice(one, seed, wrong), seed) for one, seed in tasks]
        without, *with_words = [
            [accuracy(weighed_names, one.draw(n_shot, seed, weight)) for one, seed in found]
            for weight in (0.0, *WEIGHTS)
        ]
        for weight, own in zip(WEIGHTS, with_words, strict=True):
            gains[weight].append(interval([a - b for a, b in zip(own, without, strict=True)], "+.1f"))
        print(n_shot, wrong, {weight: cells[-1] for weight, cells in gains.items()}, flush=True)
    for weight, cells in gains.items():
        yield table_row(weight, *cells).replace("± +", "± ")
    yield ""
