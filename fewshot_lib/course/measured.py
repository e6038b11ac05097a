"""What benchmarks measured and chapters show: tables of pages in ``benchmarks/``, read and never typed."""

from itertools import dropwhile, takewhile
from pathlib import Path

from fewshot_lib.course.machine import PACKAGE_ROOT
from fewshot_lib.data.reporting import DataError


def measured_table(name: str) -> list[dict[str, str]]:
    """The first table of ``benchmarks/<name>.md``, a dict per row: column -> cell.

    The page is looked for in the course, then around the notebook: the students' edition, whose library is
    installed elsewhere, has it there.
    """
    return _first_table(_page(name))


def measured_tables(name: str, section: str) -> dict[str, list[dict[str, str]]]:
    """The tables below the heading ``section`` of ``benchmarks/<name>.md``: sub-heading -> its table."""
    lines = _page(name)
    begun = dropwhile(lambda line: line.lstrip("#").strip() != section or not line.startswith("#"), lines)
    inside = list(takewhile(lambda line: not line.startswith(("# ", "## ")), list(begun)[1:]))
    starts = [number for number, line in enumerate(inside) if line.startswith("### ")]
    if not starts:
        raise DataError(f"benchmarks/{name}.md has no tables in a section {section!r}: look at its headings.")
    return {inside[start].removeprefix("### "): _first_table(inside[start:]) for start in starts}


def _page(name: str) -> list[str]:
    here = Path.cwd()
    for folder in (PACKAGE_ROOT, here, *here.parents[:2]):
        if (page := folder / "benchmarks" / f"{name}.md").is_file():
            return page.read_text(encoding="utf-8").splitlines()
    fix = "run the notebook in its folder of the course, or put the page there"
    raise DataError(f"There is no benchmarks/{name}.md around {here}: {fix}.")


def _first_table(lines: list[str]) -> list[dict[str, str]]:
    table = takewhile(_is_row, dropwhile(lambda line: not _is_row(line), lines))
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return [dict(zip(head, row, strict=True)) for row in rows]


def _is_row(line: str) -> bool:
    return line.startswith("|")
