"""The words of RESULTS.md: tables of a split family, what was aimed at, how it was measured.

The ± of a cell is half its 95 % interval over episodes. Of a trained model that over its seeds is added,
squares and root, as of two independent sources. A mean over sets has the interval of independent means; seeds
are averaged over the sets first, for one model serves them all.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fewshot_lib.core import half_width

Cell = dict[str, Any]
FAMILIES = {
    "bao": "Bao et al. (2020): test classes of other domains than training classes",
    "metaprompting": "Hou et al. (2022): the same, but for HuffPost's class 39, a duplicate of 35",
    "metaprompter": "Jiang et al. (2023): sibling classes stand in training and test",
}
FOUR = ("huffpost", "reuters", "20news", "amazon")  # the sets whose mean papers report
SHOTS = (1, 5)
BASELINE = "names as examples"
# What the project set itself, with an encoder of 110 million parameters: % on the four sets.
TARGETS = {
    ("bao", "inductive"): {1: 80.0, 5: 85.0},
    ("bao", "transductive"): {1: 83.0, 5: 87.0},
    ("metaprompter", "inductive"): {1: 82.0, 5: 87.0},
}
ENCODERS = {"mpnet": "all-mpnet-base-v2", "minilm": "all-MiniLM-L6-v2"}
IN_README = ("prototypes", "zero-shot", BASELINE, "relational", "balanced soft k-means with names (T)")
NOT_RUN = "not run"
TOKENS = 200  # of a text that an encoder reads, where its row says nothing else

ROWS_ARE = f"""\
- *{BASELINE}*: each name counts as at most 3 examples; *weighed*: as the examples say. Neither has the
  words that `FewShotClassifier` puts beside the encoder.
- *relational* starts from {BASELINE}. *GAT-Transformer*, *in-context* (after CAML) and *relational +
  GAT-Transformer* start from names + prototypes, so what the last has over the first is not its graph alone.
  All are trained jointly on the training classes of all sets of the family, and the step is kept that is best
  on validation classes.
- *soft k-means* takes the queries as they are; *balanced* is told that every class has as many of them, which
  is true of these episodes, and seldom of an inbox.
- *LoRA*: an encoder with adapters trained on the training classes, one for each seed.
- With one seed the interval is over episodes alone, too narrow for what is trained; with two, very wide."""


class Estimate(NamedTuple):
    """A mean, and half its 95 % interval; fractions."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.half:.1f}"


class Row(NamedTuple):
    """A method with an encoder in a family: the cells of its seeds, by set and number of shots."""

    method: str
    encoder: str
    kind: str
    cells: dict[tuple[str, int], list[Cell]]

    def estimate(self, sets: Sequence[str], n_shot: int, what: str = "mean") -> Estimate | None:
        """Of the mean over some sets; None where a set was not run, or not with the same seeds."""
        found = [self.cells.get((name, n_shot), []) for name in sets]
        seeds = {tuple(cell["seed"] for cell in cells) for cells in found}
        if len(seeds) != 1 or not all(found):
            return None
        values = torch.tensor([[cell[what] for cell in cells] for cells in found], dtype=torch.float64)
        interval = "ci95" if what == "mean" else f"{what}_ci95"
        of_episodes = [sum(cell[interval] for cell in cells) / len(cells) for cells in found]
        of_seeds = half_width(values.mean(0)) if values.shape[1] > 1 else 0.0
        return Estimate(values.mean().item(), math.hypot(math.hypot(*of_episodes) / len(sets), of_seeds))

    @property
    def n_seeds(self) -> int:
        return max((len(cells) for cells in self.cells.values()), default=0)


def rows_of(cells: Sequence[Cell], family: str) -> list[Row]:
    """All methods with their encoders, also those that this family has no cell of."""
    kinds = {cell["method"]: cell["kind"] for cell in cells}
    rows = []
    for method, encoder in sorted({(cell["method"], _encoder_of(cell)) for cell in cells}):
        found: dict[tuple[str, int], list[Cell]] = {}
        for cell in cells:
            if (cell["family"], cell["method"], _encoder_of(cell)) == (family, method, encoder):
                found.setdefault((cell["set"], cell["shots"]), []).append(cell)
        rows.append(Row(method, encoder, kinds[method], found))
    return sorted(rows, key=lambda row: (row.encoder, row.kind, -len(row.cells), _accuracy(row)))


def _encoder_of(cell: Cell) -> str:
    """As the tables name it; how many tokens it read is said where they are not ``TOKENS``."""
    tuned = "" if cell["tuned"] == "frozen" else f", {cell['tuned']}"
    tokens = "" if cell["max_tokens"] == TOKENS else f", {cell['max_tokens']} tokens"
    return cell["encoder"] + tuned + tokens


def _accuracy(row: Row) -> float:
    found = [cell["mean"] for cells in row.cells.values() for cell in cells]
    return sum(found) / max(1, len(found))


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def page(
    cells: Sequence[Cell], published: Sequence[Mapping[str, str]], prompts: Sequence[Mapping[str, str]] = ()
) -> str:
    """RESULTS.md. prompts: the lines of ``benchmarks/metaprompting.csv``."""
    parts = [
        "# Results",
        "Written by `fewshot results --publish` from [results/field.csv](results/field.csv), a line per "
        "measurement, and [results/published.csv](results/published.csv), figures of papers with their "
        "sources. No number is typed.",
        "Accuracy in %, ± half the 95 % interval over test episodes (of trained models: and over seeds). "
        "*(T)* marks transductive methods, which look at all queries before they answer. *Mean*: of "
        "HuffPost, Reuters, 20 Newsgroups and Amazon. *Minus*: the difference of the mean from "
        f"{BASELINE}, with the same encoder, paired on the same episodes. `{NOT_RUN}`: no measurement yet.",
        "## Aims",
        markdown(
            ["split family", "kind", "shots", "aim", "highest row", "its mean", "the aim is"],
            aims(cells),
        ),
        "The highest row was looked up on the test episodes; everything before it was chosen on validation "
        "classes. Where the aim lies inside the interval, it is not told apart from the mean.",
        "## The rows",
        ROWS_ARE,
    ]
    for family, meaning in FAMILIES.items():
        parts += [f"## Split family `{family}`", meaning + ".", family_table(cells, family, published)]
    if prompts:
        parts += [
            "## Prompts, split family `bao`",
            "Soft prompts, MetaPrompting and MetaPrompter need a masked language model; this one is small. "
            f"{_numbers(prompts, 'episodes')} episodes of their own; ± half the 95 % interval. The lines, "
            "with paired differences, and how they were measured: "
            "[benchmarks/metaprompting.md](benchmarks/metaprompting.md).",
            prompt_table(prompts),
        ]
    parts += [
        "Published figures are marked [V] read in the source, [V2] second-hand, [M] from memory and not "
        "verified. They are of other episodes, of all texts, and of all classes of Amazon: they can be put "
        "beside these rows, not subtracted from them."
    ]
    return "\n\n".join([*parts, "## How it was measured", measured_how(cells)]) + "\n"


def family_table(cells: Sequence[Cell], family: str, published: Sequence[Mapping[str, str]]) -> str:
    """Rows of methods, then those of papers; then which methods were run in other families only."""
    sets = [name for name in (*FOUR, "hwu64") if name != "hwu64" or family == "metaprompter"]
    head = ["method", "encoder", "seeds", *(f"{name}, {k}-shot" for k in SHOTS for name in sets)]
    head += [f"mean, {k}-shot" for k in SHOTS] + [f"minus, {k}-shot" for k in SHOTS]
    lines: list[list[str]] = []
    lacking: dict[str, list[str]] = {}
    for row in rows_of(cells, family):
        if not row.cells:
            lacking.setdefault(row.encoder, []).append(row.method)
            continue
        line = [row.method, row.encoder, str(row.n_seeds)]
        line += [str(row.estimate([name], k) or NOT_RUN) for k in SHOTS for name in sets]
        line += [str(row.estimate(FOUR, k) or NOT_RUN) for k in SHOTS]
        line += [signed(row.estimate(FOUR, k, "minus_names")) for k in SHOTS]
        lines.append(line)
    for paper in published:
        if paper["family"] == family:
            line = [f"*{paper['method']}*, published [{paper['mark']}]", paper["encoder"], "–"]
            line += [paper[f"{name}_{k}"] or "–" for k in SHOTS for name in sets]
            lines.append(line + [mean_of(paper, k) for k in SHOTS] + ["–", "–"])
    gaps = "; ".join(f"on {encoder}, {', '.join(methods)}" for encoder, methods in lacking.items())
    return markdown(head, lines) + (f"\n\nNot run in this family: {gaps}." if gaps else "")


def prompt_table(lines: Sequence[Mapping[str, str]]) -> str:
    """A row for each method, model and number of shots, a column for each set."""
    found: dict[tuple[str, ...], dict[str, Estimate]] = {}
    for line in lines:
        low, high = map(float, line["95 % interval"].split(" to "))
        estimate = Estimate(float(line["accuracy in %"]) / 100, (high - low) / 200)
        found.setdefault((line["method"], line["model"], line["shots"]), {})[line["data set"]] = estimate
    body = []
    for row, by_set in found.items():
        each = [by_set.get(name) for name in FOUR]
        of_all = [estimate for estimate in each if estimate]
        mean = Estimate(
            sum(e.mean for e in of_all) / len(FOUR), math.hypot(*(e.half for e in of_all)) / len(FOUR)
        )
        each.append(mean if len(of_all) == len(FOUR) else None)
        body.append([*row, *(str(estimate or NOT_RUN) for estimate in each)])
    return markdown(["method", "model", "shots", *FOUR, "mean"], body)


def mean_of(paper: Mapping[str, str], n_shot: int) -> str:
    """As published, or of the four sets where all are."""
    each = [paper[f"{name}_{n_shot}"] for name in FOUR]
    return paper[f"mean_{n_shot}"] or (f"{sum(map(float, each)) / len(each):.2f}" if all(each) else "–")


def signed(difference: Estimate | None) -> str:
    """In points."""
    if difference is None:
        return NOT_RUN
    return "–" if not any(difference) else f"{100 * difference.mean:+.1f} ± {100 * difference.half:.1f}"


def aims(cells: Sequence[Cell]) -> Iterable[list[str]]:
    """Of every aim: the highest row that is complete, and how far it is."""
    for (family, kind), aim in TARGETS.items():
        for n_shot, target in aim.items():
            found = [(row.estimate(FOUR, n_shot), row) for row in rows_of(cells, family) if row.kind == kind]
            complete = [(estimate, row) for estimate, row in found if estimate is not None]
            line = [family, kind, str(n_shot), f"{target:.1f}"]
            if not complete:
                yield [*line, NOT_RUN, NOT_RUN, NOT_RUN]
                continue
            estimate, row = max(complete, key=lambda pair: pair[0].mean)
            yield [*line, f"{row.method}, {row.encoder}", str(estimate), verdict(estimate, target)]


def verdict(found: Estimate, target: float) -> str:
    """Whether an aim in % is met, as far as the interval can tell."""
    over = 100 * found.mean - target
    if abs(over) > 100 * found.half:
        return "met" if over > 0 else f"missed by {-over:.1f}"
    return f"not told apart ({over:+.1f})"


def _numbers(lines: Sequence[Mapping[str, str]], column: str) -> str:
    return " or ".join(sorted({line[column] for line in lines}, key=int))


def measured_how(cells: Sequence[Cell]) -> str:
    """What every measurement must be quoted with."""

    def each(name: str) -> str:
        return ", ".join(sorted({str(cell[name]) for cell in cells}))

    texts = {cell["set"]: cell["texts"] for cell in cells}
    splits = sorted({f"{cell['set']}: {cell['split']}" for cell in cells if cell["split"] != cell["family"]})
    centred: dict[str, set[str]] = {}
    for cell in cells:
        if cell["features"] == "centred":
            centred.setdefault(f"{cell['set']}/{cell['family']}", set()).add(_encoder_of(cell))
    where = [f"{place} ({'; '.join(sorted(encoders))})" for place, encoders in sorted(centred.items())]
    hours = sum(cell["seconds"] for cell in cells) / 3600
    return "\n".join(
        [
            f"- {each('n_way')}-way, {each('n_query')} queries per class (Reuters has 20 texts a class), "
            f"{each('episodes')} saved episodes, the same for every method and encoder.",
            "- Texts of a test class that take part, a random choice: "
            + ", ".join(f"{name} {n}" for name, n in sorted(texts.items()))
            + " (Reuters has 20). The interval is over episodes of these texts, and does not hold what "
            "another choice of texts would change.",
            f"- Restricted: {', '.join(splits) or 'nothing'}.",
            "- Encoders frozen, but for those with LoRA: adapters trained on the training classes of all "
            f"sets of the family; {TOKENS} tokens of a text, unless a row says else; {each('precision')}.",
            "- Centred by the mean of training classes, as validation classes prefer: "
            + f"{', '.join(where) or 'none'}; the others raw.",
            f"- Device: {each('device')}, threads: {each('threads')}; {each('versions')}; "
            f"{hours:.1f} hours of testing in {len(cells):,} measurements.",
        ]
    )


def telling(cells: Sequence[Cell]) -> str:
    """Five rows for the README, with the largest encoder that all of them were measured with."""
    rows = {(row.encoder, row.method): row for row in rows_of(cells, "bao")}
    for encoder in ENCODERS:
        found = [rows.get((encoder, method)) for method in IN_README]
        columns = [[row.estimate(FOUR, k) if row else None for row in found] for k in SHOTS]
        if all(columns[0] + columns[1]):
            break
    lines = zip(IN_README, *([str(each or NOT_RUN) for each in column] for column in columns), strict=True)
    return markdown([f"method, {ENCODERS[encoder]} frozen", "1 shot", "5 shots"], lines)
