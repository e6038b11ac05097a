"""Whether the examples may say how much the names count: on training and validation classes."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import torch
from own_data_draws import PER_CLASS, SEED, interval, read, table_head, table_row
from own_data_parts.choose import CHOSEN_ON, one_of_choice
from own_data_parts.wrong_names import SHARES, of_one

from fewshot_lib.encoders import TextEncoder

WAYS = 64  # most classes of a task
INTRODUCTION = """## Whether the examples are asked

`weight`: the sets of the next section and its classes, other seeds. Points gained where held-out examples
say how much the names count, over w = 3 for all, in the mean over the sets; paired, with 95 % intervals over
tasks. A share of the names is handed round. Without the words. In bfloat16 (`FEWSHOT_BF16=1`).

**Taken: they are asked**, from two examples of a class on. Tried before, on other draws of such tasks with up
to 20 classes (the script is not in the repository): without the maximum over T 3.2 ± 0.8 points worse than
w = 3 at 2 examples where three names in ten mislead, with it 0.8 ± 0.7 better; in place of a mean of the
four weights the best of them, or the mean of the answers of four heads, and three other densities of w: at
most 0.9 points apart, and that where six names in ten mislead.
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """One row for each share of wrong names."""
    sets = [read(name, encoder, ("train", "val"), PER_CLASS) for name in CHOSEN_ON]
    shots, seeds = [n for n in options.shots if n > 1], range(SEED, SEED + options.draws)
    yield f"### Training and validation classes of {len(sets)} sets, {options.draws} tasks of each\n"
    yield from table_head("names that are wrong", *(f"{n} examples" for n in shots))
    for share in SHARES:
        cells = []
        for n_shot in shots:
            tasks = itertools.product(sets, seeds)
            draws = [one_of_choice(one, seed, share, WAYS).draw(n_shot, seed, words=0) for one, seed in tasks]
            ours, fixed, _ = torch.tensor([of_one(draw) for draw in draws], dtype=torch.float64).T
            cells.append(interval((ours - fixed).tolist()))
        yield table_row(f"{share:.0%}", *cells)
    yield ""
