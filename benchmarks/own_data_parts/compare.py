"""Names as examples beside simpler methods, on the same draws."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from own_data_draws import accuracy, called, compared, read, table_head, table_row
from torch import Tensor

from fewshot_lib.classifier.words import WEIGHT
from fewshot_lib.core import Method, few_shot_method, half_width
from fewshot_lib.encoders import TextEncoder
from fewshot_lib.prototypes import (
    NamesAsExamples,
    cosine_prototypes,
    name_mix,
    names_as_examples,
    weighed_names,
    zero_shot,
)

INTRODUCTION = """# A few examples of all classes at once

Made by `python benchmarks/own_data.py`, part by part (`--help`). HWU64 with all its 64 classes, the other
sets with the test classes of their default splits and the first 200 texts of each; frozen all-MiniLM-L6-v2,
which reads 256 tokens of a text. Of each draw the examples are the training set and all other texts the test.
Accuracy in %; in brackets how many points *names as examples* is better on the same draws, with the 95 %
interval over draws. Inductive; nothing is trained but the head.

*Names as examples* is the default of `FewShotClassifier`: its features have the words of the texts beside
what the encoder makes of them, and from two examples of a class on, held-out ones say how much the names
count. *Without the words* the same is *names as examples, weighed* of RESULTS.md; if, besides, each name
counts as at most w = 3 examples, it is *names as examples* there, and what was the default first. Rows with
*words* have them, too.

All settings were chosen on training and validation classes (last four sections; w = 3 with 128 tokens), but
how much the names of fewer than five classes count: on such, and on the sentiment of two sources. Two things
were known from test classes of Amazon, Reuters, 20 Newsgroups and HuffPost all the same: how an
earlier form of the trust in names did, and that w = 3 is behind logistic regression on Amazon. HWU64 had no
part in a choice. SetFit on the same draws: [setfit_peer.md](setfit_peer.md).

**What the words bring**: on Reuters 0.5 to 1.8 points and on HWU64 0.3 to 1.0, of which the 0.3 at two
examples could be chance; on 20 Newsgroups and HuffPost nothing at one example, 0.2 and 0.1 at two, and 1.0
and 0.6 at eight. On Amazon they *cost* 0.4 points at one example and 0.3 at two, and bring nothing at four.
"""


@few_shot_method("nearest neighbour, cosine", transductive=False)
def nearest_neighbour(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """Of each class its most similar example: k-NN with k = 1."""
    cosines = F.normalize(query, dim=-1).unsqueeze(1) @ F.normalize(support, dim=-1).mT  # (E, N, M, K)
    return cosines.amax(-1).mT


Rows = tuple[tuple[Method, bool], ...]  # and whether features have the words
ROWS: Rows = (
    (weighed_names, True),
    (weighed_names, False),
    (names_as_examples, False),
    (NamesAsExamples(C=10, uses_names=False), True),
    (NamesAsExamples(C=10, uses_names=False), False),
    (NamesAsExamples(C=1, uses_names=False), False),
    (name_mix, True),
    (name_mix, False),
    (cosine_prototypes, False),
    (nearest_neighbour, False),
    (zero_shot, False),
)


def table(name: str, options: argparse.Namespace, encoder: TextEncoder, rows: Rows = ROWS) -> Iterator[str]:
    """The table of one data set, and in words what it shows: of the first row beside the others."""
    found = read(name, encoder, *compared(name))
    per_shot = {}
    for n_shot in options.shots:
        draws = [
            {words: found.draw(n_shot, seed, WEIGHT * words) for words in (True, False)}
            for seed in range(options.draws)
        ]
        per_shot[n_shot] = torch.tensor([[accuracy(m, d[words]) for d in draws] for m, words in rows])
        print(name, n_shot, [f"{a:.1f}" for a in per_shot[n_shot].mean(1)], flush=True)
    shots = [f"{n_shot} example{'s' if n_shot > 1 else ''}" for n_shot in options.shots]
    yield f"### {called(name)}: {len(found.names)} classes, {options.draws} draws\n"
    yield from table_head("method", *shots)
    for i, (method, words) in enumerate(rows):
        cells = (cell(a[i], a[0] if i else None) for a in per_shot.values())
        yield table_row(label(method, words), *cells)
    yield ""
    verdicts: dict[str, list[str]] = {"behind": [], "not told apart from": []}
    for n_shot, accuracies in per_shot.items():
        for own, other in zip(accuracies[1:], rows[1:], strict=True):
            difference = accuracies[0] - own
            if abs(difference.mean()) <= half_width(difference):
                verdicts["not told apart from"].append(f"{label(*other)} at {n_shot}")
            elif difference.mean() < 0:
                verdicts["behind"].append(f"{label(*other)} at {n_shot}")
    said = [f"{verdict} {', '.join(whom)}" for verdict, whom in verdicts.items() if whom]
    yield f"Names as examples is {'; '.join([*said, 'ahead of all others' if said else 'ahead of all'])}.\n"


def label(method: Method, words: bool) -> str:
    """What the tables call a method."""
    if method is weighed_names:
        return "names as examples" if words else "without the words"
    if method is names_as_examples:
        return f"w = {method.weight:g}" if words else f"without the words, w = {method.weight:g}"
    name = f"logistic regression, C = {method.C}" if isinstance(method, NamesAsExamples) else method.name
    return f"{name}, words" if words else name


def cell(accuracies: Tensor, best: Tensor | None) -> str:
    """Accuracy in %, and by how much the first row is better, with its paired 95 % interval."""
    if best is None:
        return f"**{accuracies.mean():.1f}** ± {half_width(accuracies):.1f}"
    difference = best - accuracies
    return f"{accuracies.mean():.1f} ({difference.mean():+.1f} ± {half_width(difference):.1f})"
