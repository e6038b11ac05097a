"""A few labelled examples of all classes at once: ``FewShotClassifier``'s default beside simpler methods.

    python benchmarks/own_data.py compare --datasets hwu64 --draws 10      one of PARTS, see below
    python benchmarks/own_data.py page                                     all tables so far -> own_data.md

Of HWU64 all 64 classes, of the other published sets the test classes of their default split and of each its
first 200 texts. A draw takes the given number of examples of each class, and the whole rest is tested. Every
method answers the same draws, so differences are paired; intervals are over draws. The encoder is
all-MiniLM-L6-v2, frozen, one thread.

``choose`` shows how the settings of the default were chosen: on the training and validation classes of five
other sets, some tasks with a share of wrong names. HWU64, and all test classes, play no part in it. Every
table goes to a file of its own in ``--out``; ``page`` only joins them.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fewshot_lib import data
from fewshot_lib.classifier import FewShotClassifier
from fewshot_lib.classifier.methods import AUTO_FROM
from fewshot_lib.classifier.naming import TEMPLATE, spoken
from fewshot_lib.classifier.unlabelled import WithUnlabelled
from fewshot_lib.core import Method, few_shot_method, half_width
from fewshot_lib.course.labelling_report import Report
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import TextEncoder, encode, extract_features
from fewshot_lib.prototypes import NamesAsExamples, cosine_prototypes, name_mix, names_as_examples, zero_shot

CHOSEN_ON = ("huffpost", "reuters", "20news", "amazon", "docstrings")
ALL = ("train", "val", "test")
WRONG = 0.3  # of the names, in half of the tasks of the choice
PER_CLASS = 60  # texts of a class that take part in the choice, and in what comes after it
SEED, ROUND, N_ROUNDS = 1000, 20, 4  # seeds that no choice was made on; texts labelled a round
N_POOL, AUTO_WAYS = 20, 20  # unlabelled texts of a class; most classes of a task for "auto"
FIRST = 200  # texts of a class that take part in a comparison; of HWU64, all


INTRODUCTIONS = {
    "compare": """# A few examples of all classes at once

Made by `python benchmarks/own_data.py`, part by part (`--help`). HWU64 with all its 64 classes, the other
sets with the test classes of their default splits and the first 200 texts of each; frozen all-MiniLM-L6-v2
(128 tokens). Of each draw the examples are the training set and all other texts the test. Accuracy in %; in
brackets how many points *names as examples* is better on the same draws, with the 95 % interval over draws.
Inductive; nothing is trained but the head. The settings were chosen on training and validation classes
(last section). An earlier form of the trust in names was measured on test classes of Amazon, Reuters, 20
Newsgroups and HuffPost first; this one was then chosen on the other classes. HWU64 had no part in a choice.
SetFit on the same draws: [setfit_peer.md](setfit_peer.md).
""",
    "unlabelled": """## Unlabelled texts

`unlabelled`: half of the classes (those of HWU64, of the others the test classes; the first 60 texts of
each) are drawn anew each time. `fit(…, unlabelled=…)` is given texts without labels, and other texts are
asked about: points gained over the same examples alone, paired, with 95 % intervals over draws. In the
second pool each class has half of the texts of the one before; in the third there are as many texts of the
*other* classes again.
""",
    "auto": """## method="auto"

`auto`: on training and validation classes, since it is a choice and not a result. With wrong names three in
ten are handed round among the classes. What cross-validation on the examples chose, and what that brought.
""",
    "unknown": """## Knowing when it does not know

`unknown`: the classifier is given half of the classes, drawn anew each time, and asked about texts of all
(the first 60 of each class). Seeds from 1000 on; the score of familiarity was chosen on HuffPost, 20
Newsgroups and docstrings. AUROC: of known against unknown texts by familiarity. Refused: share at
`reject=0.05`, which promises at most 5 % of its own classes. Coverage and mean size in classes: of the sets
at `coverage=0.9`. In %, with 95 % intervals over draws. `reject=0.05` needs 19 held-out examples before it
can refuse anything, and with 9 or fewer a set at 0.9 may hold every class.
""",
    "suggest": """## What to label next

`suggest`: all classes, the first 60 texts of each, seeds from 1000 on. From one example of each class on,
twenty texts a round are labelled: those that `suggest` asks for, or twenty at random, from the same half of
the texts; the other half is tested. Accuracy in %, paired 95 % intervals over draws.
""",
    "choose": """## How the settings were chosen

`choose`: mean accuracy in % over training and validation classes of HuffPost, Reuters, 20 Newsgroups,
Amazon and docstrings, by examples of each class; 5 to 64 classes drawn anew each time, and in half of the
tasks three names in ten handed round among the classes: people give names that fit badly, too. w: the
weight of a name; C as in scikit-learn, for N classes; τ: of the doubt of a name.
""",
}


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
    NamesAsExamples(C=10, uses_names=False),
    NamesAsExamples(C=1, uses_names=False),
    name_mix,
    cosine_prototypes,
    nearest_neighbour,
    zero_shot,
)


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


def chosen(dataset: ClassDataset, splits: tuple[str, ...], per_class: int | None) -> tuple[Tensor, Tensor]:
    """Classes (N,) of some splits, and their rows (n,), perhaps only the first examples of each."""
    classes = torch.cat([dataset.classes(split) for split in splits]).sort().values
    rows = torch.isin(dataset.labels, classes).nonzero()[:, 0]
    if per_class is not None:
        rows = torch.cat([rows[dataset.labels[rows] == c][:per_class] for c in classes])
    return classes, rows


def read(name: str, encoder: TextEncoder, splits: tuple[str, ...], per_class: int | None = None) -> Set:
    """The classes of some splits of a data set, perhaps only the first examples of each."""
    dataset = data.load(name)
    classes, rows = chosen(dataset, splits, per_class)
    whole = per_class is None  # then its features are kept on the disk
    features = extract_features(encoder, dataset)[rows] if whole else encode(encoder, dataset.take(rows))
    said = [TEMPLATE.format(spoken(dataset.class_names[c])) for c in classes.tolist()]
    return Set(features, torch.searchsorted(classes, dataset.labels[rows]), encode(encoder, said))


def compared(name: str) -> tuple[tuple[str, ...], int | None]:
    """Splits and texts of a class that take part in a comparison: of HWU64 all, of others see ``FIRST``."""
    return (ALL, None) if name == "hwu64" else (("test",), FIRST)


def accuracy(method: Method, draw: Draw) -> float:
    """Of one draw, in %."""
    extra = {"names": draw.names} if getattr(method, "uses_names", False) else {}
    logits = method(draw.support, draw.query, **extra)[0]
    return 100 * (logits.argmax(-1) == draw.labels).double().mean().item()


def compare(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of one data set, and in words what it shows."""
    found = read(name, encoder, *compared(name))
    per_shot = {}
    for n_shot in options.shots:
        draws = [found.draw(n_shot, seed) for seed in range(options.draws)]
        per_shot[n_shot] = torch.tensor([[accuracy(m, d) for d in draws] for m in METHODS])
        print(name, n_shot, [f"{a:.1f}" for a in per_shot[n_shot].mean(1)], flush=True)
    shots = [f"{n_shot} example{'s' if n_shot > 1 else ''}" for n_shot in options.shots]
    yield f"### {name}: {len(found.names)} classes, {options.draws} draws\n"
    yield f"| method | {' | '.join(shots)} |"
    yield "|---" * (1 + len(shots)) + "|"
    for row, method in enumerate(METHODS):
        cells = [cell(a[row], a[0] if row else None) for a in per_shot.values()]
        yield f"| {label(method)} | {' | '.join(cells)} |"
    yield ""
    verdicts: dict[str, list[str]] = {"behind": [], "not told apart from": []}
    for n_shot, accuracies in per_shot.items():
        for row in range(1, len(METHODS)):
            difference = accuracies[0] - accuracies[row]
            if abs(difference.mean()) <= half_width(difference):
                verdicts["not told apart from"].append(f"{label(METHODS[row])} at {n_shot}")
            elif difference.mean() < 0:
                verdicts["behind"].append(f"{label(METHODS[row])} at {n_shot}")
    said = [f"{verdict} {', '.join(whom)}" for verdict, whom in verdicts.items() if whom]
    yield f"Names as examples is {'; '.join([*said, 'ahead of all others' if said else 'ahead of all'])}.\n"


def label(method: Method) -> str:
    """What the tables call a method."""
    plain = isinstance(method, NamesAsExamples) and not method.uses_names
    return f"logistic regression, C = {method.C}" if plain else method.name  # type: ignore[attr-defined]


def cell(accuracies: Tensor, best: Tensor | None) -> str:
    """Accuracy in %, and by how much the first row is better, with its paired 95 % interval."""
    if best is None:
        return f"**{accuracies.mean():.1f}** ± {half_width(accuracies):.1f}"
    difference = best - accuracies
    return f"{accuracies.mean():.1f} ({difference.mean():+.1f} ± {half_width(difference):.1f})"


def choose(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of settings: 5 to 64 classes drawn anew each time, with their names, and with wrong ones."""
    yield f"### {name.capitalize()} and training classes of {len(CHOSEN_ON)} sets, {options.draws} draws\n"
    sets = [read(name, encoder, ("train", "val"), PER_CLASS) for name in CHOSEN_ON]
    tasks = {
        (n_shot, wrong): [
            one_of_choice(s, seed, wrong).draw(n_shot, seed)
            for s, seed in itertools.product(sets, range(options.draws))
        ]
        for n_shot, wrong in itertools.product(options.shots, (0.0, WRONG))
    }
    columns = [f"{n_shot}{', some wrong' if wrong else ''}" for n_shot, wrong in tasks]
    yield f"| w | C | τ | {' | '.join(columns)} | mean |"
    yield "|---" * (4 + len(columns)) + "|"
    around = [(3, C, 0.2) for C in (2, 5, 10)]
    for weight, C, temperature in [*itertools.product((2, 3, 4), (None,), (0.1, 0.2, 0.4)), *around]:
        method = NamesAsExamples(weight, C, temperature)
        means = [sum(accuracy(method, d) for d in draws) / len(draws) for draws in tasks.values()]
        cells = " | ".join(f"{mean:.1f}" for mean in means)
        yield f"| {weight} | {C or '√N'} | {temperature} | {cells} | {sum(means) / len(means):.2f} |"


def one_of_choice(found: Set, seed: int, wrong: float, most: int = 64) -> Set:
    """5 to 64 of the classes, or other numbers of them; a share of their names is handed round among them."""
    generator = torch.Generator().manual_seed(seed)
    n_way = int(torch.randint(5, min(most, len(found.names)) + 1, (), generator=generator))
    classes = torch.randperm(len(found.names), generator=generator)[:n_way]
    place = torch.full((len(found.names),), -1)
    place[classes] = torch.arange(n_way)
    own = place[found.labels] >= 0
    names = found.names[classes].clone()
    moved = torch.arange(round(wrong * n_way))
    names[moved] = names[moved.roll(1)]
    return Set(found.features[own], place[found.labels[own]], names)


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


def fitted(known: Set, rows: Tensor, method: str | None = None) -> FewShotClassifier:
    """The default classifier, or another, on these examples of a set."""
    labels = known.labels[rows].tolist()
    names = {label: f"name {label}" for label in labels}
    classifier = FewShotClassifier(method, encoder=Lookup(known), names=names, template="{}")
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


def with_unlabelled(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of what unlabelled texts add, in pools of three kinds."""
    found = read(name, encoder, compared(name)[0], PER_CLASS)
    n_known = (len(found.names) + 1) // 2
    yield f"### {name}: {n_known} of {len(found.names)} classes, {options.draws} draws\n"
    yield f"| examples | without | {' | '.join(POOLS)} |"
    yield "|---" * (2 + len(POOLS)) + "|"
    for n_shot in options.shots:
        draws = [one_of_unlabelled(found, n_known, n_shot, SEED + d) for d in range(options.draws)]
        without, *with_pool = zip(*draws, strict=True)
        gains = [[b - a for a, b in zip(without, pool, strict=True)] for pool in with_pool]
        cells = " | ".join(f"+ {interval(gain)}".replace("+ -", "−") for gain in gains)
        yield f"| {n_shot} | {interval(list(without))} | {cells} |"
    yield ""


POOLS = (
    f"{N_POOL} texts of each class",
    f"{N_POOL}, {N_POOL // 2}, {N_POOL // 4}, …",
    "half of them foreign",
)


def one_of_unlabelled(found: Set, n_known: int, n_shot: int, seed: int) -> list[float]:
    """Accuracy in % without a pool and with each of POOLS, of one draw of classes and examples."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.labels), generator=generator)
    classes = torch.randperm(len(found.names), generator=generator).tolist()
    rows = [order[found.labels[order] == c] for c in classes]
    known, foreign = rows[:n_known], torch.cat(rows[n_known:])
    support = found.features[torch.stack([own[:n_shot] for own in known])].unsqueeze(0)
    names = found.names[classes[:n_known]].unsqueeze(0)
    pools = [own[n_shot : n_shot + min(N_POOL, (len(own) - n_shot) // 2)] for own in known]
    asked = [own[n_shot + len(pool) :] for own, pool in zip(known, pools, strict=True)]
    labels = torch.arange(n_known).repeat_interleave(torch.tensor([len(own) for own in asked]))
    query = found.features[torch.cat(asked)].unsqueeze(0)
    even = torch.cat(pools)
    uneven = torch.cat([pool[: max(1, len(pool) >> k)] for k, pool in enumerate(pools)])
    mixed = torch.cat([even, foreign[torch.randperm(len(foreign), generator=generator)[: len(even)]]])
    read_too = [WithUnlabelled(pool=found.features[pool]) for pool in (even, uneven, mixed)]
    answers = [method(support, query, names)[0].argmax(-1) for method in (names_as_examples, *read_too)]
    return [100 * float((answer == labels).double().mean()) for answer in answers]


def auto(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of ``method="auto"`` against the default, on training and validation classes."""
    found = read(name, encoder, ("train", "val"), PER_CLASS)
    yield f"### {name}: 5 to {AUTO_WAYS} classes, {options.draws} draws\n"
    yield "| examples | names | default | auto is better by | chosen |"
    yield "|---|---|---|---|---|"
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
        yield f"| {n_shot} | {kind} | {interval(default)} | {interval(gains)} | {counts} |"
    yield ""


PARTS = {
    "compare": compare,
    "unlabelled": with_unlabelled,
    "auto": auto,
    "unknown": unknown,
    "suggest": suggestions,
    "choose": choose,
}


def page(out: Path) -> str:
    """The page: what INTRODUCTIONS says, and below each the tables that there are."""
    sections = []
    for part, introduction in INTRODUCTIONS.items():
        tables = [file.read_text(encoding="utf-8") for file in sorted(out.glob(f"{part}-*.md"))]
        sections.append("\n".join([introduction, *(tables or ["Not run yet.\n"])]))
    return "\n".join(sections)


def main() -> None:
    """Writes and prints one table per data set, or the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "page"])
    parser.add_argument("--datasets", nargs="+", default=["hwu64"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("build/own_data"))
    options = parser.parse_args()
    if options.part == "page":
        Path(__file__).with_suffix(".md").write_text(page(options.out), encoding="utf-8")
        return
    torch.set_num_threads(1)
    encoder = TextEncoder()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ["validation"] if options.part == "choose" else options.datasets:
        lines = list(PARTS[options.part](name, options, encoder))
        file = options.out / f"{options.part}-{name}.md"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines), f"\nwritten to {file}", flush=True)


if __name__ == "__main__":
    main()
