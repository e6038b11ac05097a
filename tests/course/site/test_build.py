"""What goes into the site, and which links in it are found to be broken. Sphinx itself is not needed here."""

import nbformat
import pytest

from fewshot_lib.course.records import MIME
from fewshot_lib.course.site import build


@pytest.fixture
def root(tmp_path):
    """A small course."""
    for name, text in {
        "README.md": "# Me\n[room](fewshot_lib/core), [code](fewshot_lib/core/a.py), [`b`](benchmarks/fast)",
        "RESULTS.md": "# Results\n[web](https://example.org), `[no](link.md)`",
        "fewshot_lib/core/__init__.py": "",
        "fewshot_lib/core/a.py": "a = 1",
        "notebooks/glossary.md": "no title",
        "benchmarks/README.md": "# Speed",
        "benchmarks/fast/one.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    row = nbformat.v4.new_output("display_data", {"text/html": "", MIME: {}})
    seen = nbformat.v4.new_output("stream", text="seen")
    said = nbformat.v4.new_output(
        "display_data", {"text/markdown": "[a report](out/a.html), [web](https://a.b)"}
    )
    cells = [
        nbformat.v4.new_markdown_cell("# One\n[word](glossary.md#a), [room](../fewshot_lib/core)"),
        nbformat.v4.new_code_cell("x", outputs=[row, seen, said]),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks/01_one.ipynb")
    return tmp_path


def test_links_between_files_become_links_between_pages(root):
    build.gather(root, root / "out")
    page = (root / "out/README.md").read_text()
    assert "(api/core.rst)" in page and "(fewshot_lib/core/a.py)" in page and "(benchmarks/README.md)" in page
    assert (root / "out/fewshot_lib/core/a.py").read_text() == "a = 1", "a file to be downloaded"
    assert "`[no](link.md)`" in (root / "out/RESULTS.md").read_text()
    notebook = nbformat.read(root / "out/notebooks/01_one.ipynb", as_version=4)
    assert "[word](../notebooks/glossary.md#a), [room](../api/core.rst)" in notebook.cells[0].source
    seen, said = notebook.cells[1].outputs  # and no row of the table of results
    assert (seen.text, said.data["text/markdown"]) == ("seen", "a report, [web](https://a.b)")


def test_every_page_is_in_the_list_of_contents_and_has_a_title(root):
    build.gather(root, root / "out")
    index = (root / "out/index.md").read_text()
    assert all(f"\n{name}\n" in index for name in ("notebooks/01_one.ipynb", "RESULTS.md", "api/core"))
    assert (root / "out/notebooks/glossary.md").read_text() == "# Glossary\n\nno title"


@pytest.mark.parametrize(
    ("markup", "fault"),
    [
        ('<a href="b.html">', ""),
        ('<a href="b.html#here">', ""),
        ('<a href="https://example.org">', ""),
        ('<img src="data:image/png;base64,AA">', ""),
        ('<a href="c.html">', "leads to no file"),
        ('<a href="b.html#there">', "leads to no such place"),
        ('<a href="#there">', "leads to no such place"),
        ('<script src="https://example.org/a.js">', "comes from the network"),
        ('<link rel="stylesheet" href="//example.org/a.css">', "comes from the network"),
    ],
)
def test_broken_links_are_found(tmp_path, markup, fault):
    (tmp_path / "a.html").write_text(markup)
    (tmp_path / "b.html").write_text('<p id="here">')
    found = list(build.broken_links(tmp_path))
    assert [fault in each for each in found] == [True] * bool(fault)
