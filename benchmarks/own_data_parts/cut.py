"""Where to cut long texts: names as examples on features of an encoder that reads less of a text, or more."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from own_data_draws import PER_CLASS, accuracy, interval, read, table_head, table_row

from fewshot_lib.encoders import TextEncoder
from fewshot_lib.prototypes import names_as_examples

CUTS = (128, 256, 512)  # tokens
INTRODUCTION = """## Where to cut

`cut`: all training and validation classes, the first 60 texts of each, of the sets with long texts; accuracy
of names as examples, w = 3 and without the words, in % with the first 256 tokens of every text, as its
encoder was published, and points gained or lost with the first 128 (on such texts it was trained) and the
first 512 (all that it has positions for); paired, with 95 % intervals over draws. In bfloat16
(`FEWSHOT_BF16=1`).
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """Rows of the table of cuts, by examples of each class."""
    cuts = {most: TextEncoder(max_tokens=most) for most in CUTS}
    sets = {most: read(name, reader, ("train", "val"), PER_CLASS) for most, reader in cuts.items()}
    yield f"### {name}: {len(sets[encoder.max_tokens].names)} classes, {options.draws} draws\n"
    others = [most for most in CUTS if most != encoder.max_tokens]
    yield from table_head("examples", f"{encoder.max_tokens} tokens", *others)
    for n_shot in options.shots:
        found = {
            most: [
                accuracy(names_as_examples, part.draw(n_shot, seed, words=0)) for seed in range(options.draws)
            ]
            for most, part in sets.items()
        }
        own = found[encoder.max_tokens]
        gains = [interval([a - b for a, b in zip(found[most], own, strict=True)]) for most in others]
        yield table_row(n_shot, interval(own), *gains)
