"""The words of RESULTS.md: tables of a split family, what was aimed at, how it was measured."""

from collections.abc import Iterable, Mapping, Sequence

from fewshot_lib.course.records import markdown
from fewshot_lib.course.results.rows import (
    BASELINE,
    FOUR,
    NOT_RUN,
    SHOTS,
    TOKENS,
    Cell,
    Estimate,
    encoder_of,
    highest_of,
    mean_of,
    over_sets,
    rows_of,
    signed,
)
from fewshot_lib.course.results.short import among, cases, coverage, highest, other_texts

FAMILIES = {
    "bao": "Bao et al. (2020): test classes of other domains than training classes",
    "metaprompting": "Hou et al. (2022): the same, but for HuffPost's class 39, a duplicate of 35",
    "metaprompter": "Jiang et al. (2023): sibling classes stand in training and test",
}
# What the project set itself, with an encoder of 110 million parameters: % on the four sets.
TARGETS = {
    ("bao", "inductive"): {1: 80.0, 5: 85.0},
    ("bao", "transductive"): {1: 83.0, 5: 87.0},
    ("metaprompter", "inductive"): {1: 82.0, 5: 87.0},
}
ENCODERS = {"mpnet": "all-mpnet-base-v2", "minilm": "all-MiniLM-L6-v2"}
IN_README = ("prototypes", "zero-shot", BASELINE, "relational", "balanced soft k-means with names (T)")

ROWS_ARE = f"""\
- *{BASELINE}*: each name counts as at most 3 examples; *weighed*: as the examples say.
- *+ words*: the words of a text stand beside what the encoder makes of it. `FewShotClassifier` has both,
  *weighed* and *+ words*.
- *relational* starts from {BASELINE}. *GAT-Transformer*, *in-context* (after CAML) and *relational +
  GAT-Transformer* start from names + prototypes, so what the last has over the first is not its graph alone.
  All are trained jointly on the training classes of all sets of the family, and the step is kept that is best
  on validation classes.
- *soft k-means* takes the queries as they are; *balanced* is told that every class has as many of them, which
  is true of these episodes, and seldom of an inbox.
- *LoRA*: an encoder with adapters trained on the training classes, one for each seed.
- *Seeds*: of what is trained. With one seed the interval is over episodes alone, too narrow; with two, it is
  very wide. Both are marked."""


def page(
    cells: Sequence[Cell],
    published: Sequence[Mapping[str, str]],
    prompts: Sequence[Mapping[str, str]] = (),
    choices: Sequence[Mapping[str, str]] = (),
) -> str:
    """RESULTS.md. prompts: the lines of ``benchmarks/metaprompting.csv``; choices: of field_choices.csv."""
    texts = f" {other_texts(choices)}" if choices else ""
    parts = [
        "# Results",
        "5-way, classes that no one trained on. Accuracy in %, the mean of HuffPost, Reuters, 20 Newsgroups "
        "and Amazon, ± half the 95 % interval over test episodes (of what is trained: and over seeds). "
        "*(T)*: transductive, it looks at all queries before it answers. "
        f"*Over {BASELINE}*: in points, with the same encoder, paired on the same episodes.",
        "## In short",
        "Which method to take, how sure it is, and what it costs, where test classes are of other domains "
        "than all that was trained on (split family `bao`):",
        cases(cells, "bao"),
        "Where the interval of a gap holds 0, the method is not told apart from "
        f"{BASELINE}. Costs are medians on one CPU thread of machines that did other work as well, features "
        "given: encoding the texts comes on top, and training the adapters, over an hour of CPU a seed "
        "([field.md](benchmarks/field.md)).",
        "**What ± leaves out**: each class takes part with a fixed choice of its texts."
        + (texts or " What another choice would change was not measured."),
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
        parts += [
            f"## Split family `{family}`",
            f"{meaning}. The highest rows, looked up on the test episodes:",
            highest(cells, family, published),
            folded(family_table(cells, family, published)),
        ]
    if prompts:
        parts += [
            "## Prompts, split family `bao`",
            "Soft prompts, MetaPrompting and MetaPrompter need a masked language model; this one is small. "
            f"{_numbers(prompts, 'episodes')} episodes of their own; ± half the 95 % interval, over these "
            "alone: one training. The highest rows of each model:",
            highest_prompts(prompts),
            folded(prompt_table(prompts)),
            "With paired differences, and how they were measured: "
            "[benchmarks/metaprompting.md](benchmarks/metaprompting.md).",
        ]
    parts += [
        "## Published figures",
        "[V] read in the source, [V2] second-hand, [M] from memory and not verified. They are of other "
        "episodes, of all texts, and of all classes of Amazon: they can be put beside these rows, not "
        "subtracted from them.",
        "## Not run",
        "In which split families a method was run on an encoder; –: never. A cell of the tables above that "
        f"says `{NOT_RUN}` lacks a measurement in a family where others are there.",
        coverage(cells),
        "## How it was measured",
        "Written by `fewshot results --publish` from [results/field.csv](results/field.csv), a line per "
        "measurement by [benchmarks/field.py](benchmarks/field.py), and "
        "[results/published.csv](results/published.csv), figures of papers with their sources. No number is "
        "typed.",
        measured_how(cells),
        "Features centred by the mean of training classes, as validation classes prefer; in which split "
        "families, by set and encoder (–: raw):",
        centred_where(cells),
    ]
    return "\n\n".join(parts) + "\n"


def folded(table: str) -> str:
    """A table of all rows, with their number, that a reader opens."""
    n_rows = len(table.splitlines()) - 2
    return f"<details>\n<summary>All rows ({n_rows})</summary>\n\n{table}\n\n</details>"


def family_table(cells: Sequence[Cell], family: str, published: Sequence[Mapping[str, str]]) -> str:
    """Rows of methods, then those of papers."""
    sets = [name for name in (*FOUR, "hwu64") if name != "hwu64" or family == "metaprompter"]
    head = ["method", "encoder", "seeds", *(f"{name}, {k}-shot" for k in SHOTS for name in sets)]
    head += [f"mean, {k}-shot" for k in SHOTS] + [f"over {BASELINE}, {k}-shot" for k in SHOTS]
    lines: list[list[str]] = []
    for row in rows_of(cells, family):
        if not row.cells:
            continue
        line = [row.method, row.encoder, row.seeds]
        line += [str(row.estimate([name], k) or NOT_RUN) for k in SHOTS for name in sets]
        line += [str(row.estimate(FOUR, k) or NOT_RUN) for k in SHOTS]
        line += [signed(row.estimate(FOUR, k, "minus_names")) for k in SHOTS]
        lines.append(line)
    for paper in published:
        if paper["family"] == family:
            line = [f"*{paper['method']}*, published [{paper['mark']}]", paper["encoder"], "–"]
            line += [paper[f"{name}_{k}"] or "–" for k in SHOTS for name in sets]
            lines.append(line + [mean_of(paper, k) for k in SHOTS] + ["–", "–"])
    return markdown(head, lines)


def prompt_rows(lines: Sequence[Mapping[str, str]]) -> dict[tuple[str, ...], list[Estimate | None]]:
    """(method, model, shots) -> what it reaches on each of the four sets, and their mean if all are there."""
    found: dict[tuple[str, ...], dict[str, Estimate]] = {}
    for line in lines:
        low, high = map(float, line["95 % interval"].split(" to "))
        estimate = Estimate(float(line["accuracy in %"]) / 100, (high - low) / 200)
        found.setdefault((line["method"], line["model"], line["shots"]), {})[line["data set"]] = estimate
    rows: dict[tuple[str, ...], list[Estimate | None]] = {}
    for row, by_set in found.items():
        of_all = [by_set[name] for name in FOUR if name in by_set]
        mean = over_sets(of_all) if len(of_all) == len(FOUR) else None
        rows[row] = [*(by_set.get(name) for name in FOUR), mean]
    return rows


def prompt_table(lines: Sequence[Mapping[str, str]]) -> str:
    """A row for each method, model and number of shots, a column for each set."""
    body = [[*row, *(str(each or NOT_RUN) for each in found)] for row, found in prompt_rows(lines).items()]
    return markdown(["method", "model", "shots", *FOUR, "mean"], body)


def highest_prompts(lines: Sequence[Mapping[str, str]]) -> str:
    """The highest mean of each model at each number of shots."""
    best: dict[tuple[str, str], tuple[Estimate, str]] = {}
    for (method, model, shots), (*_, mean) in prompt_rows(lines).items():
        if mean and ((model, shots) not in best or mean.mean > best[model, shots][0].mean):
            best[model, shots] = mean, method
    rows = [[model, shots, method, str(mean)] for (model, shots), (mean, method) in best.items()]
    return markdown(["model", "shots", "highest row", "mean"], rows)


def aims(cells: Sequence[Cell]) -> Iterable[list[str]]:
    """Of every aim: the highest row that is complete, and how far it is."""
    for (family, kind), aim in TARGETS.items():
        for n_shot, target in aim.items():
            line = [family, kind, str(n_shot), f"{target:.1f}"]
            rows = (row for row in rows_of(cells, family) if row.kind == kind)
            if (found := highest_of(rows, n_shot)) is None:
                yield [*line, NOT_RUN, NOT_RUN, NOT_RUN]
                continue
            estimate, row = found
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
    splits: dict[str, set[str]] = {}
    for cell in cells:
        if cell["split"] != cell["family"]:
            told = cell["split"].removeprefix(cell["family"]).strip(" ()")
            splits.setdefault(f"{cell['set']}, {told}", set()).add(cell["family"])
    restricted = [f"{what} ({', '.join(sorted(where))})" for what, where in sorted(splits.items())]
    hours = sum(cell["seconds"] for cell in cells) / 3600
    return "\n".join(
        [
            f"- {each('n_way')}-way, {each('n_query')} queries per class (Reuters has 20 texts a class), "
            f"{each('episodes')} saved episodes, the same for every method and encoder.",
            "- Texts of a test class that take part, a random choice: "
            + ", ".join(f"{name} {n}" for name, n in sorted(texts.items()))
            + " (Reuters has 20).",
            f"- Restricted: {'; '.join(restricted) or 'nothing'}.",
            "- Encoders frozen, but for those with LoRA: adapters trained on the training classes of all "
            f"sets of the family; {TOKENS} tokens of a text, unless a row says else; {each('precision')}.",
            f"- Device: {each('device')}, threads: {each('threads')}; {each('versions')}; "
            f"{hours:.1f} hours of testing in {len(cells):,} measurements.",
        ]
    )


def centred_where(cells: Sequence[Cell]) -> str:
    """A table: in which split families the features of a set (row) by an encoder (column) were centred."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for cell in cells:
        families = found.setdefault((cell["set"], encoder_of(cell)), {})
        families.setdefault(cell["family"], set()).add(cell["features"])
    sets, encoders = (sorted({key[part] for key in found}) for part in (0, 1))
    lines = []
    for name in sets:
        line = [name]
        for encoder in encoders:
            spaces = found.get((name, encoder), {})
            centred = [family for family, some in spaces.items() if "centred" in some]
            mixed = any(len(some) > 1 for some in spaces.values())  # each seed of an encoder has its own
            line.append(among(centred, spaces) + ", of some seeds" * mixed if spaces else NOT_RUN)
        lines.append(line)
    return markdown(["data set", *encoders], lines)


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
