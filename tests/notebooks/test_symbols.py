"""The table of symbols: each letter that a chapter's formulas use is in it, and has one meaning there."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHAPTERS = sorted([*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("extra/*.ipynb")])
# words of LaTeX that stand for no quantity
WORDING = re.compile(r"\\(?:text|mathrm|operatorname\*?|tag|begin|end|textbf|textit)\{[^}]*\}")
GREEK = """alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma
tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell""".split()


def letters(formula: str) -> set[str]:
    """Letters and Greek names of a formula, without accents, fonts, functions and words."""
    formula = WORDING.sub(" ", formula)
    found = re.findall(r"\\([A-Za-z]+)|([A-Za-z])", formula)
    return {letter or name for name, letter in found if letter or name in GREEK}


def tables() -> dict[str, dict[str, str]]:
    """Heading -> letter -> meaning, of ``notebooks/symbols.md``."""
    found: dict[str, dict[str, str]] = {}
    for line in (NOTEBOOKS / "symbols.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            rows = found[line[3:]] = {}
        elif line.startswith("| $"):
            symbols, meaning = line.split("|")[1:3]
            for letter in letters(" ".join(re.findall(r"\$(.+?)\$", symbols))):
                assert letter not in rows, f"{letter} stands twice"
                rows[letter] = meaning.strip()
    return found


def test_a_chapter_gives_no_second_meaning_to_a_common_letter() -> None:
    common, *own = tables().values()
    assert len(common) > 30
    assert not [letter for table in own for letter in table if letter in common]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_letter_of_a_formula_is_in_the_table(path: Path) -> None:
    found = tables()
    common = next(iter(found.values()))
    own = found.get(f"Chapter {path.stem[:2]}", {}) if path.parent == NOTEBOOKS else found.get(path.stem, {})
    used: set[str] = set()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for display, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", cell.source, re.DOTALL):
                used |= letters(display or inline)
    assert not used - {*common, *own}, "add them to notebooks/symbols.md, or use the letters that are there"
    assert not own.keys() - used, "the chapter's own table names letters that it does not use"
