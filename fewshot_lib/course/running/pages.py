"""A notebook as one HTML file that holds all it shows: pictures, formulas and their font."""

from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.exporters.html import contextfilter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from fewshot_lib.course.formulas import css, mathml_or_source

# Of nbconvert's page, without the scripts that it loads from the network.
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}<style>{{ resources.formulas }}</style>{%- endblock -%}"""


class Renderer(IPythonRenderer):
    """Markdown -> HTML, with MathML where nbconvert leaves formulas to a script."""

    def block_math(self, body: str) -> str:
        return mathml_or_source(body, display=True)

    def inline_math(self, body: str) -> str:
        return mathml_or_source(body)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


class _Exporter(HTMLExporter):
    @contextfilter
    def markdown2html(self, context: Any, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        path = context["resources"]["metadata"]["path"]
        renderer = Renderer(escape=False, attachments=attachments, embed_images=True, path=path)
        return MarkdownWithMath(renderer=renderer).render(source)


def html_page(notebook: NotebookNode, path: Path) -> str:
    """The page of a notebook at ``path``."""
    exporter = _Exporter(embed_images=True, raw_template=TEMPLATE)
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}, "formulas": css()}
    return exporter.from_notebook_node(notebook, resources=resources)[0]
