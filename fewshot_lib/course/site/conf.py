"""What Sphinx reads: its settings for the site (their names are Sphinx's own), and how formulas are set."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from fewshot_lib import __version__
from fewshot_lib.course.formulas import mathml, mathml_or_source

project, author, release = "Few-shot learning", "The fewshot_lib contributors", __version__
copyright = f"{author}. Code: MIT. Text and figures: CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc, language = "index", "en"
suppress_warnings = ["myst.header"]  # a chapter may go from a title to a sub-heading

# Chapters are shown as they were recorded. What a cell said in markdown may hold formulas.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4

# A room hands on the names that it imports: these are its page.
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
add_module_names = False

html_theme, html_title, html_favicon = "furo", "Few-shot learning", "icon.svg"
html_math_renderer = "mathml"
html_css_files, html_js_files = ["formulas.css", "course.css"], ["course.js"]
html_copy_source = html_show_sourcelink = False
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"

_ARGUMENT = re.compile(r"(?P<names>[a-z]\w*(?:, [a-z]\w*)*): ")


def _formula(node: nodes.math | nodes.math_block, display: bool) -> str:
    """The formula of a node; a warning, which fails the build, where it cannot be set."""
    try:
        return mathml(node.astext(), display=display)
    except ValueError as error:
        logging.getLogger(__name__).warning(str(error), location=node)
        return mathml_or_source(node.astext())


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_formula(node, display=False))
    raise nodes.SkipNode


def _display(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{_formula(node, display=True)}</div>')
    raise nodes.SkipNode


def _as_list(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Lines of a docstring that describe an argument, ``name: what it is``, become items of a list."""
    items, inside = [], False
    for line in lines:
        if found := _ARGUMENT.match(line):
            items += ["", f"- ``{found['names']}``: {line[found.end() :]}"]
        elif inside and line.strip():
            items.append(f"  {line.strip()}")
        else:
            items.append(line)
        inside = bool(line.strip()) and (inside or bool(found))
    lines[:] = items


def _is_foreign(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what scikit-learn puts into every estimator."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def _keep_together(app: Sphinx, document: nodes.document) -> None:
    """A number of a table is not broken at its ±."""
    together = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
    for entry in document.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            text.parent.replace(text, nodes.Text(text.replace(" ± ", together)))


def _with_levels(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """The headings of the list of contents have a level, which the theme forgets to say."""
    contents = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = contents.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> None:
    """Formulas become MathML: nothing is fetched."""
    app.config.html_static_path = [str(app.srcdir / "_static")]
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.connect("autodoc-process-docstring", _as_list)
    app.connect("autodoc-skip-member", _is_foreign)
    app.connect("doctree-read", _keep_together)
    app.connect("html-page-context", _with_levels, priority=900)  # after the theme
