"""The glossary says where a term is introduced: there, and not after it is first used, it must be found."""

from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8").splitlines()[6:]
]


def prose(chapter):
    """All text that a reader of the chapter meets outside code, in small letters on one line."""
    (path,) = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return " ".join(" ".join(c.source for c in cells if c.cell_type == "markdown").lower().split())


@pytest.mark.parametrize(("term", "chinese", "meaning", "chapter"), ROWS, ids=[row[0] for row in ROWS])
def test_a_term_is_in_the_chapter_that_introduces_it(term, chinese, meaning, chapter):
    assert term.lower() in prose(chapter)
    assert any("\u4e00" <= sign <= "\u9fff" for sign in chinese) and len(meaning) > 10


def test_every_term_stands_once():
    terms = [row[0].lower() for row in ROWS]
    assert len(set(terms)) == len(terms) > 40 and all(len(row) == 4 for row in ROWS)
