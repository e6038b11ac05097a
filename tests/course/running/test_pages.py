"""The page of a notebook holds all that it shows."""

import base64
import re

import nbformat

from fewshot_lib.course.running.runner import html_page

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TEXT = """Let $c_k$ be the mean.

$$p_k = \\frac{1}{2} \\tag{1}$$

| a | b |
|---|---|
| $x$ | `$y$` |

![a dot](dot.png) and $\\nowhere$"""


def test_formulas_and_pictures_are_in_the_page_and_nothing_is_fetched(tmp_path):
    (tmp_path / "dot.png").write_bytes(PIXEL)
    said = nbformat.v4.new_output("display_data", {"text/markdown": "It is $q = 1$."})
    code = nbformat.v4.new_code_cell("1", outputs=[said], execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(TEXT), code])
    page = html_page(notebook, tmp_path / "one.ipynb")
    assert page.count("<math") == 4 and "<mtext>(1)</mtext>" in page
    assert "<code>$y$</code>" in page and r"<code>\nowhere</code>" in page
    assert re.findall(r'<(?:script|link|img)\b[^>]*?(?:src|href)="([^"]{0,10})', page) == ["data:image"]
    assert not re.search(r"<script|@import|url\((?!\"?data:|#)", page)
