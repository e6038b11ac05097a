"""What ``fewshot data inspect`` prints: the report on a data set, and what each chapter can run on it."""

from pathlib import Path
from typing import Any

from fewshot_lib.course import needs
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.checks.inspect import Report, inspect

SHOTS = (1, 5)


def inspected(source: Any) -> Report:
    """The report on what ``data.load(source)`` returns; the lengths of texts are counted in tokens."""
    return inspect(source, count_tokens=count_tokens)


def count_tokens(texts: list[str]) -> list[int]:
    """n texts -> how many tokens each has for the course's encoder, the two at its ends included."""
    from fewshot_lib import encoders  # seconds to import, and pictures need none

    return encoders.count_tokens(texts).tolist()


def report(found: Report, all_classes: bool = False) -> str:
    """The report as text."""
    return f"{found.format(all_classes)}\n\n{chapters(found.data)}"


def chapters(dataset: ClassDataset) -> str:
    """A table: at 1 and at 5 shots, the most ways of every chapter and its most queries at that many ways.

    Where there are none, the reason why the smallest episodes (2-way 1-shot, 1 query) are not possible.
    """
    head = "".join(f"{f'n_way, n_query at n_shot={shots}':>30}" for shots in SHOTS)
    lines = ["what each chapter can run: at most so many classes an episode, and so many queries of each"]
    lines.append(f"{'chapter':<30}{head}")
    for notebook in needs.NEEDS:
        most = [needs.largest(notebook, dataset, shots) for shots in SHOTS]
        cells = [f"{n_way:,}, {n_query:,}" if n_way else "-" for n_way, n_query in most]
        why = needs.problems(notebook, dataset, 2, 1, 1)
        row = "".join(f"{cell:>30}" for cell in cells) if not why else f"  not possible: {why[0]}"
        lines.append(f"{Path(notebook).stem:<30}{row}")
    return "\n".join(lines)
