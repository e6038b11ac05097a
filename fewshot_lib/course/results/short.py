"""The short tables of RESULTS.md: which method to take, what is highest in a family, what was never run."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from fewshot_lib.course.records import markdown
from fewshot_lib.course.results.rows import (
    BASELINE,
    FOUR,
    NOT_RUN,
    SHOTS,
    Cell,
    Row,
    encoder_of,
    highest_of,
    mean_of,
    rows_of,
    signed,
)

# What a reader has, and the row that is then to be looked at: a method with an encoder.
CASES = (
    ("a few examples and the names of the classes", BASELINE, "mpnet"),
    ("the same, and a smaller encoder", BASELINE, "minilm"),
    ("labelled texts of other classes, to train on", "relational", "mpnet"),
    ("the same, and time to train adapters of the encoder", "relational", "mpnet, LoRA, 200 steps"),
    ("all queries at once", "soft k-means with names (T)", "mpnet"),
    ("all queries at once, as many of every class", "balanced soft k-means with names (T)", "mpnet"),
)
KINDS = ("inductive, nothing trained", "inductive", "transductive")


def cases(cells: Sequence[Cell], family: str) -> str:
    """A table with a row for each of ``CASES``: its means, its gaps to the baseline, and what it costs."""
    rows = {(row.method, row.encoder): row for row in rows_of(cells, family)}
    gap = f"over {BASELINE}"
    head = ["with", "take", "encoder", "seeds", *(f"{k}-shot" for k in SHOTS)]
    head += [f"{gap}, {k}-shot" for k in SHOTS] + ["training, s", "ms an episode"]
    lines = []
    for case, method, encoder in CASES:
        if (row := rows.get((method, encoder))) is None:
            continue
        means = [str(row.estimate(FOUR, k) or NOT_RUN) for k in SHOTS]
        gaps = [signed(row.estimate(FOUR, k, "minus_names")) for k in SHOTS]
        lines.append([case, method, encoder, row.seeds, *means, *gaps, *costs(cells, method, encoder)])
    return markdown(head, lines)


def costs(cells: Sequence[Cell], method: str, encoder: str) -> list[str]:
    """Median seconds of training and milliseconds an episode, on one thread of a CPU."""
    some = [
        cell
        for cell in cells
        if (cell["method"], encoder_of(cell), cell["threads"]) == (method, encoder, 1)
        and "NVIDIA" not in cell["device"]
    ]
    if not some:
        return ["–", "–"]
    training = statistics.median(cell["training_seconds"] for cell in some)
    episode = statistics.median(1000 * cell["seconds"] / cell["episodes"] for cell in some)
    return [f"{training:.0f}" if training else "none", f"{episode:.1f}"]


def highest(cells: Sequence[Cell], family: str, published: Sequence[Mapping[str, str]]) -> str:
    """A table with the highest complete row of a family for each kind and number of shots."""
    rows = rows_of(cells, family)
    head = ["kind", "shots", "highest row", "encoder", "seeds", "mean", f"over {BASELINE}"]
    lines = []
    for kind in KINDS:
        for n_shot in SHOTS:
            if (found := highest_of((row for row in rows if _of_kind(row, kind)), n_shot)) is None:
                line = [NOT_RUN] * 5
            else:
                estimate, row = found
                gap = signed(row.estimate(FOUR, n_shot, "minus_names"))
                line = [row.method, row.encoder, row.seeds, str(estimate), gap]
            paper = best_published(published, family, kind, n_shot)
            lines.append([kind, str(n_shot), *line, paper])
    return markdown([*head, "highest published mean"], lines)


def _of_kind(row: Row, kind: str) -> bool:
    return row.kind == kind.split(",")[0] and not (row.trained and "nothing trained" in kind)


def best_published(published: Sequence[Mapping[str, str]], family: str, kind: str, n_shot: int) -> str:
    """The highest mean of a family and kind in papers, with its source; all of them are of trained models."""
    some = [paper for paper in published if (paper["family"], paper["kind"]) == (family, kind)]
    found = [(mean_of(paper, n_shot), paper) for paper in some]
    known = [(float(mean), paper) for mean, paper in found if mean != "–"]
    if not known:
        return "–"
    mean, paper = max(known, key=lambda pair: pair[0])
    return f"{mean:.2f}, {paper['method']}, {paper['encoder']} [{paper['mark']}]"


def coverage(cells: Sequence[Cell]) -> str:
    """A table: in which split families a method (row) was run on an encoder (column)."""
    found: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        found.setdefault((cell["method"], encoder_of(cell)), set()).add(cell["family"])
    every = {cell["family"] for cell in cells}
    methods, encoders = (sorted({key[part] for key in found}) for part in (0, 1))
    lines = [
        [method, *(among(found.get((method, encoder), set()), every) for encoder in encoders)]
        for method in methods
    ]
    return markdown(["method", *encoders], lines)


def among(some: Iterable[str], every: Iterable[str]) -> str:
    """Some of the split families, said in the fewest words."""
    some, every = set(some), set(every)
    if not some or some == every:
        return "all" if some else "–"
    lacking = sorted(every - some)
    return ", ".join(sorted(some)) if len(some) <= len(lacking) else f"not {', '.join(lacking)}"


def over_choices(
    lines: Sequence[Mapping[str, str]], name: str, method: str, n_shot: int, what: str = "mean"
) -> list[float]:
    """In %, what a method reaches on each choice of the texts of a set; that of RESULTS.md first.

    lines: those of ``benchmarks/field_choices.py``. what: another column of theirs.
    """
    key = (name, method, str(n_shot))
    some = [line for line in lines if (line["set"], line["method"], line["shots"]) == key]
    return [100 * float(line[what]) for line in sorted(some, key=lambda line: int(line["choice"]))]


def deviation_of_mean(each: Iterable[Sequence[float]]) -> float:
    """Standard deviation over choices of the mean over sets; each: a set's values, one for each choice.

    Choices of one set say nothing about those of another: variances add. A set without a second choice adds
    none.
    """
    each = list(each)
    return math.hypot(*(statistics.stdev(some) for some in each if len(some) > 1)) / len(each)


def other_texts(lines: Sequence[Mapping[str, str]]) -> str:
    """A sentence: what another choice of texts changes."""
    sets = {k: [over_choices(lines, name, BASELINE, k) for name in FOUR] for k in SHOTS}
    widest = max(max(some) - min(some) for each in sets.values() for some in each)
    of_mean = ", ".join(f"{deviation_of_mean(sets[k]):.1f} at {k}-shot" for k in SHOTS)
    return (
        f"Other texts of the same classes move {BASELINE} on MiniLM by up to {widest:.1f} points on one set, "
        f"and the mean of the four by a standard deviation of {of_mean}: "
        "[benchmarks/field_choices.md](benchmarks/field_choices.md)."
    )
