"""Formulas as MathML, which browsers draw themselves and screen readers speak: no script, and no network.

They need a font that knows mathematics, which many machines lack, so ``formulas.woff`` comes along: the
letters and signs of the course from STIX Two Math 2.11, © The STIX Fonts Project Authors, under the SIL Open
Font License 1.1.
"""

import base64
import html
import re
from functools import cache
from pathlib import Path
from typing import Any

FONT = Path(__file__).with_name("formulas.woff")
FAMILY = "Course Math"
_CLOSING = re.compile(r"(\\[bB]igg?r(?:\\[A-Za-z]+|.))(?=[_^])")  # an index makes Chromium forget its size
# $$…$$ and $…$ in markdown; a dollar in code, or after a backslash, is one.
MATH = re.compile(r"(?<![\\$])\$\$(?P<display>.+?)\$\$|(?<![\\$])\$(?P<inline>[^$\n]+?)\$", re.DOTALL)


def mathml(latex: str, *, display: bool = False) -> str:
    r"""LaTeX -> one <math> element; ``\tag{1}`` numbers a display. ValueError where it is no formula."""
    from math_core import LatexError

    source = _CLOSING.sub(r"\1{}", latex.strip())
    if r"\tag" in source and display:
        source = rf"\begin{{equation}}{source}\end{{equation}}"
    try:
        return _converter().convert_with_local_state(source, displaystyle=display)
    except LatexError as error:
        raise ValueError(f"the formula {latex.strip()!r} cannot be set: {error}") from None


@cache
def _converter() -> Any:
    from math_core import LatexToMathML

    return LatexToMathML(fancy_error=False)


def mathml_or_source(latex: str, *, display: bool = False) -> str:
    """The same for a page that has to come out: what is no formula stands there as it was written."""
    try:
        return mathml(latex, display=display)
    except ValueError:
        return f"<code>{html.escape(latex)}</code>"


def css(font: str | None = None) -> str:
    """Style of formulas. font: where the font is; None puts it into the style: a page that is one file."""
    source = font or f"data:font/woff;base64,{base64.b64encode(FONT.read_bytes()).decode()}"
    return (
        f'@font-face {{ font-family: "{FAMILY}"; src: url("{source}") format("woff"); }}\n'
        f'math {{ font-family: "{FAMILY}", math; font-size: 1.1em; }}\n'
        'math[display="block"] { overflow: auto hidden; max-width: 100%; padding: 0.3em 0; }\n'
    )
