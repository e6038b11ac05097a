"""What the classifier knows of what it does not know: texts of classes that it has never seen."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from own_data_draws import ALL, PER_CLASS, SEED, Set, interval, read, table_head, table_row
from own_data_parts.lookup import fitted, written
from sklearn.metrics import roc_auc_score

from fewshot_lib.course.labelling.report import Report
from fewshot_lib.encoders import TextEncoder

SHARES = (0.05, 0.2)
UNKNOWN = [
    "AUROC",
    *(f"refused at {share}, of {whose}" for share in SHARES for whose in ("its classes", "others")),
    "calibration error",
    "coverage",
    "set size",
]
INTRODUCTION = """## Knowing when it does not know

`unknown`: the classifier is given half of the classes, drawn anew each time, and asked about texts of all
(the first 60 of each class). Seeds from 1000 on; the score of familiarity was chosen on HuffPost, 20
Newsgroups and docstrings. AUROC: of known against unknown texts by familiarity. Refused: share at
`reject=0.05` and `reject=0.2`, which promise at most 5 and 20 % of its own classes. Coverage and mean size in
classes: of the sets at `coverage=0.9`. In %, with 95 % intervals over draws. `reject=0.05` needs 19 held-out
examples before it can refuse anything, and with 9 or fewer a set at 0.9 may hold every class.

What no example has of a new text's words counts in its length (`classifier/words.py`), as a held-out
example's own words do. Without that column new texts look more familiar than held-out ones, and less is
refused, of both kinds (at 8 examples 25, 43 and 44 % of the others on HWU64, Amazon and Reuters).
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """Rows of the table of what the classifier knows of what it does not know."""
    found = read(name, encoder, ALL, PER_CLASS)
    n_known = len(found.names) // 2
    yield f"### {name}: {n_known} of {len(found.names)} classes known, {options.draws} draws\n"
    yield from table_head("examples", *UNKNOWN)
    for n_shot in options.shots:
        per_draw = [one_of_unknown(found, n_known, n_shot, SEED + draw) for draw in range(options.draws)]
        forms = [".1f"] * (len(UNKNOWN) - 1) + [".2f"]
        columns = zip(zip(*per_draw, strict=True), forms, strict=True)
        yield table_row(n_shot, *(interval(list(values), form) for values, form in columns))
    yield ""


def one_of_unknown(found: Set, n_known: int, n_shot: int, seed: int) -> tuple[float, ...]:
    """What UNKNOWN names, in % (the size of the sets in classes), of one draw of classes and examples."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randperm(len(found.names), generator=generator)[:n_known]
    order = torch.randperm(len(found.labels), generator=generator)
    support = torch.cat([order[found.labels[order] == c][:n_shot] for c in classes])
    rest = order[~torch.isin(order, support)]
    own = torch.isin(found.labels[rest], classes)
    classifier = fitted(found, support)
    scores = classifier._scores(written(rest))
    refused = [classifier._labelled(scores, share).rejected for share in SHARES]
    truth, asked = found.labels[rest[own]].tolist(), written(rest[own])
    sets = classifier.predict_set(asked, coverage=0.9)
    known = [str(label) for label in classifier.classes_]
    report = Report.of(known, classifier.predict_proba(asked), list(map(str, truth)), asked)
    return (
        100 * roc_auc_score(own, scores[1]),
        *(100 * each[part.numpy()].mean() for each in refused for part in (own, ~own)),
        100 * report.calibration_error,
        100 * sum(label in s for label, s in zip(truth, sets, strict=True)) / len(sets),
        sum(map(len, sets)) / len(sets),
    )
