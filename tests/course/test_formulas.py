"""Formulas as MathML: all of the course can be set, in letters that the font has, with their numbers."""

import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from fontTools.ttLib import TTFont

from fewshot_lib.course.authoring.lint import formulas
from fewshot_lib.course.formulas import FONT, MATH, css, mathml, mathml_or_source

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAGES = sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("extra/*.ipynb"), NOTEBOOKS / "symbols.md"])


class Text(HTMLParser):
    """What of MathML is drawn."""

    def __init__(self, markup):
        super().__init__()
        self.drawn = ""
        self.feed(markup)

    def handle_data(self, data):
        self.drawn += data


def written(path):
    """The text of a page, without code."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_formula_of_the_course_is_set_from_letters_that_the_font_has(path):
    letters = {*TTFont(FONT).getBestCmap(), 0xFE00}  # the last one asks for another form of the letter before
    for found in MATH.finditer(written(path)):
        markup = mathml(found["display"] or found["inline"], display=bool(found["display"]))
        assert not {sign for sign in Text(markup).drawn if ord(sign) not in letters and not sign.isspace()}


def test_a_display_keeps_its_number():
    assert mathml(r"p = \frac{1}{2} \tag{3}", display=True).count("<mtext>(3)</mtext>") == 1
    assert 'display="block"' in mathml("x", display=True) and "display" not in mathml("x")


def test_a_bracket_with_an_index_keeps_its_size():
    plain, indexed = (re.findall(r"<mo [^>]*>\)</mo>", mathml(rf"\bigl(x\bigr){end}")) for end in ("", "_k"))
    assert plain == indexed and len(plain) == 1


def test_what_is_no_formula_is_refused_or_shown_as_it_is():
    with pytest.raises(ValueError, match=r"formula '\\\\nowhere' cannot be set"):
        mathml(r"\nowhere")
    assert mathml_or_source(r"\nowhere < 1") == r"<code>\nowhere &lt; 1</code>"


def test_the_linter_names_a_formula_that_cannot_be_set():
    cells = [
        nbformat.v4.new_markdown_cell(text) for text in (r"$x$ costs \$5, `$\a$`", r"$$\frac{1}$$ and $x$")
    ]
    (problem,) = formulas(nbformat.v4.new_notebook(cells=cells))
    assert problem.startswith("cell 2: ") and "cannot be set" in problem


def test_the_font_is_in_the_page_or_beside_it():
    assert 'url("data:font/woff;base64,' in css() and 'url("here.woff")' in css("here.woff")
