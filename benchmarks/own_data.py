"""A few labelled examples of all classes at once: ``FewShotClassifier``'s default beside simpler methods.

    python benchmarks/own_data.py [--datasets hwu64] [--shots 1 2 4 8] [--draws 10]
    python benchmarks/own_data.py --choose
    python benchmarks/own_data.py --unknown --datasets hwu64 reuters amazon --draws 20
    python benchmarks/own_data.py --suggest --datasets hwu64 reuters amazon --draws 20

Of HWU64 all 64 classes, of the other published sets the test classes of their default split and of each its
first 200 texts. A draw takes the given number of examples of each class, and the whole rest is tested. Every
method answers the same draws, so differences are paired; intervals are over draws. The encoder is
all-MiniLM-L6-v2, frozen, one thread.

``--choose`` shows how the weight of a name and C were chosen: on the training and validation classes of five
other sets, by the mean accuracy over sets, shots and draws. HWU64, and all test classes, play no part in it.

``--unknown`` gives the classifier half of the classes and asks it about texts of all: does it know what it
does not know? ``--suggest`` labels twenty texts at a time, those that it asks for or random ones. Both on all
classes, the first 60 texts of each. Every table goes to a page of its own in ``--out``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fewshot_lib import data
from fewshot_lib.classifier import FewShotClassifier
from fewshot_lib.classifier.naming import TEMPLATE, spoken
from fewshot_lib.core import Method, few_shot_method, half_width
from fewshot_lib.course.labelling_report import Report
from fewshot_lib.encoders import TextEncoder, encode, extract_features
from fewshot_lib.prototypes import NamesAsExamples, cosine_prototypes, name_mix, names_as_examples, zero_shot

CHOSEN_ON = ("huffpost", "reuters", "20news", "amazon", "docstrings")
ALL = ("train", "val", "test")
PER_CLASS = 60  # texts of a class that take part in the choice, and in what comes after it
SEED, ROUND, N_ROUNDS = 1000, 20, 4  # seeds that no choice was made on; texts labelled a round
FIRST = 200  # texts of a class that take part in a comparison; of HWU64, all


class Draw(NamedTuple):
    """support (1, N, K, d), query (1, M, d), names (1, N, d), labels of the queries (M,)."""

    support: Tensor
    query: Tensor
    names: Tensor
    labels: Tensor


@few_shot_method("nearest neighbour, cosine", transductive=False)
def nearest_neighbour(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """Of each class its most similar example: k-NN with k = 1."""
    cosines = F.normalize(query, dim=-1).unsqueeze(1) @ F.normalize(support, dim=-1).mT  # (E, N, M, K)
    return cosines.amax(-1).mT


METHODS: tuple[Method, ...] = (
    names_as_examples,
    NamesAsExamples(uses_names=False),
    NamesAsExamples(C=1, uses_names=False),
    name_mix,
    cosine_prototypes,
    nearest_neighbour,
    zero_shot,
)
LABELS = {METHODS[1]: "logistic regression, C = 10", METHODS[2]: "logistic regression, C = 1"}


class Set(NamedTuple):
    """Features (n, d), labels (n,) counted from 0, features of the names (N, d), of some classes."""

    features: Tensor
    labels: Tensor
    names: Tensor

    def draw(self, n_shot: int, seed: int) -> Draw:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=generator)
        rows = [order[self.labels[order] == c] for c in range(len(self.names))]
        support = torch.stack([own[:n_shot] for own in rows])
        rest = torch.cat([own[n_shot:] for own in rows])
        parts = self.features[support], self.features[rest], self.names
        return Draw(*(part.unsqueeze(0) for part in parts), self.labels[rest])


def read(name: str, encoder: TextEncoder, splits: tuple[str, ...], per_class: int | None = None) -> Set:
    """The classes of some splits of a data set, perhaps only the first examples of each."""
    dataset = data.load(name)
    classes = torch.cat([dataset.classes(split) for split in splits]).sort().values
    rows = torch.isin(dataset.labels, classes).nonzero()[:, 0]
    if per_class is None:
        features = extract_features(encoder, dataset)[rows]
    else:
        rows = torch.cat([rows[dataset.labels[rows] == c][:per_class] for c in classes])
        features = encode(encoder, dataset.take(rows))
    said = [TEMPLATE.format(spoken(dataset.class_names[c])) for c in classes.tolist()]
    return Set(features, torch.searchsorted(classes, dataset.labels[rows]), encode(encoder, said))


def accuracy(method: Method, draw: Draw) -> float:
    """Of one draw, in %."""
    extra = {"names": draw.names} if getattr(method, "uses_names", False) else {}
    logits = method(draw.support, draw.query, **extra)[0]
    return 100 * (logits.argmax(-1) == draw.labels).double().mean().item()


def compare(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """Rows of the table of one data set."""
    every = name == "hwu64"
    found = read(name, encoder, ALL if every else ("test",), None if every else FIRST)
    per_shot = {}
    seconds = {}
    for n_shot in options.shots:
        draws = [found.draw(n_shot, seed) for seed in range(options.draws)]
        per_shot[n_shot] = [torch.tensor([accuracy(m, d) for d in draws]) for m in METHODS]
        start = time.perf_counter()
        names_as_examples.fit(draws[0].support, draws[0].names)
        seconds[n_shot] = time.perf_counter() - start
        print(name, n_shot, [f"{a.mean():.1f}" for a in per_shot[n_shot]], flush=True)
    size = f"{len(found.names)} classes, {options.draws} draws"
    shots = [f"{n_shot} example{'s' if n_shot > 1 else ''}" for n_shot in options.shots]
    yield f"### {name}: {size}\n"
    yield f"| method | {' | '.join(shots)} |"
    yield "|---" * (1 + len(shots)) + "|"
    for row, method in enumerate(METHODS):
        cells = [
            cell(per_shot[n_shot][row], per_shot[n_shot][0] if row else None) for n_shot in options.shots
        ]
        yield f"| {LABELS.get(method, method.name)} | {' | '.join(cells)} |"
    fits = ", ".join(f"{seconds[n_shot]:.2f}" for n_shot in options.shots)
    yield f"\nSeconds to fit the head of the first row: {fits}.\n"


def cell(accuracies: Tensor, best: Tensor | None) -> str:
    """Accuracy in %, and by how much the first row is better, with its paired 95 % interval."""
    if best is None:
        return f"**{accuracies.mean():.1f}** ± {half_width(accuracies):.1f}"
    difference = best - accuracies
    return f"{accuracies.mean():.1f} ({difference.mean():+.1f} ± {half_width(difference):.1f})"


def choose(options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """Rows of the table of settings."""
    sets = [read(name, encoder, ("train", "val"), PER_CLASS) for name in CHOSEN_ON]
    yield f"| weight | C | {' | '.join(map(str, options.shots))} | mean |"
    yield "|---" * (3 + len(options.shots)) + "|"
    for weight, C in itertools.product((0.5, 1, 2, 3, 4), (5, 10, 20)):
        method, means = NamesAsExamples(weight, C), []
        for n_shot in options.shots:
            found = [accuracy(method, s.draw(n_shot, seed)) for s in sets for seed in range(options.draws)]
            means.append(sum(found) / len(found))
        yield f"| {weight} | {C} | {' | '.join(f'{m:.2f}' for m in means)} | {sum(means) / len(means):.2f} |"


class Lookup(nn.Module):
    """Stands for the encoder: "text 7" and "name 3" -> what it made of them."""

    max_tokens = 128

    def __init__(self, known: Set) -> None:
        super().__init__()
        self.text = nn.Parameter(known.features, requires_grad=False)
        self.name = nn.Parameter(known.names, requires_grad=False)

    def forward(self, written: list[str]) -> Tensor:
        places = (each.split() for each in written)
        return torch.stack([getattr(self, kind)[int(row)] for kind, row in places])


def fitted(known: Set, rows: Tensor) -> FewShotClassifier:
    """The default classifier on these examples of a set."""
    labels = known.labels[rows].tolist()
    names = {label: f"name {label}" for label in labels}
    classifier = FewShotClassifier(encoder=Lookup(known), names=names, template="{}")
    return classifier.fit(written(rows), labels)


def written(rows: Tensor) -> list[str]:
    """How ``Lookup`` knows some texts."""
    return [f"text {row}" for row in rows.tolist()]


def interval(values: list[float], form: str = ".1f") -> str:
    """The mean over draws, with its 95 % interval."""
    found = torch.tensor(values, dtype=torch.float64)
    return f"{found.mean():{form}} ± {half_width(found):{form}}"


UNKNOWN = [
    "AUROC",
    "refused, of its classes",
    "refused, of others",
    "calibration error",
    "coverage",
    "set size",
]


def unknown(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """Rows of the table of what the classifier knows of what it does not know."""
    found = read(name, encoder, ALL, PER_CLASS)
    n_known = len(found.names) // 2
    yield f"### {name}: {n_known} of {len(found.names)} classes known, {options.draws} draws\n"
    yield f"| examples | {' | '.join(UNKNOWN)} |"
    yield "|---" * (1 + len(UNKNOWN)) + "|"
    for n_shot in options.shots:
        per_draw = [one_of_unknown(found, n_known, n_shot, SEED + draw) for draw in range(options.draws)]
        forms = [".1f"] * 5 + [".2f"]
        cells = [interval(list(v), form) for v, form in zip(zip(*per_draw, strict=True), forms, strict=True)]
        yield f"| {n_shot} | {' | '.join(cells)} |"
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
    refused = classifier._labelled(scores, 0.05).rejected
    truth, asked = found.labels[rest[own]].tolist(), written(rest[own])
    sets = classifier.predict_set(asked, coverage=0.9)
    known = [str(label) for label in classifier.classes_]
    report = Report.of(known, classifier.predict_proba(asked), list(map(str, truth)), asked)
    return (
        100 * roc_auc_score(own, scores[1]),
        100 * refused[own.numpy()].mean(),
        100 * refused[~own.numpy()].mean(),
        100 * report.calibration_error,
        100 * sum(label in s for label, s in zip(truth, sets, strict=True)) / len(sets),
        sum(map(len, sets)) / len(sets),
    )


def suggestions(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """Rows of the table of suggested against random texts to label next, from one example a class on."""
    found = read(name, encoder, ALL, PER_CLASS)
    curves = torch.tensor(
        [[curve(found, SEED + d, asked) for asked in (True, False)] for d in range(options.draws)],
        dtype=torch.float64,
    )  # (draws, 2, rounds)
    yield f"### {name}: {len(found.names)} classes, {options.draws} draws\n"
    yield "| texts labelled besides | suggested | at random | difference |"
    yield "|---|---|---|---|"
    for step in range(curves.shape[-1]):
        asked, random = curves[:, 0, step], curves[:, 1, step]
        cells = interval(asked.tolist()), interval(random.tolist()), interval((asked - random).tolist())
        yield f"| {step * ROUND} | {' | '.join(cells)} |"
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


def main() -> None:
    """Writes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["hwu64"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--choose", action="store_true", help="show how the settings were chosen")
    parser.add_argument("--unknown", action="store_true", help="texts of classes that it was not given")
    parser.add_argument("--suggest", action="store_true", help="what to label next, against chance")
    parser.add_argument("--out", type=Path, default=Path("build/own_data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = TextEncoder()
    lines: list[str] = []
    table, page = compare, "own_data"
    if options.unknown or options.suggest:
        table, page = (unknown, "unknown") if options.unknown else (suggestions, "suggest")
    tables = [table(name, options, encoder) for name in options.datasets]
    if options.choose:
        tables, page = [choose(options, encoder)], "choice"
    for line in itertools.chain.from_iterable(tables):
        print(line, flush=True)
        lines.append(line)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{page}.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()
