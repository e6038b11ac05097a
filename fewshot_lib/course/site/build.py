"""``fewshot site``: pages are gathered in one folder, Sphinx turns them into HTML, every link is looked at.

Links between files of the repository become links between pages: to a notebook or a text, to the page of a
room of the library. Any other file can be downloaded.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

from fewshot_lib.course import formulas
from fewshot_lib.course.machine import PACKAGE_ROOT
from fewshot_lib.course.records import MIME
from fewshot_lib.course.running.execution import read_notebook

HERE, STATIC = Path(__file__).parent, "_static"
# Heading in the list of contents -> what stands under it, in this order.
CONTENTS = {
    "Chapters": ["notebooks/[0-9]*.ipynb"],
    "Going further": ["notebooks/extra/*.ipynb"],
    "Look it up": ["notebooks/glossary.md", "notebooks/symbols.md"],
    "Results": ["RESULTS.md", "benchmarks/*.md"],
    "Data": ["data/*.md"],
    "Use and teach": ["README.md", "CONTRIBUTING.md", "teaching/**/*.md"],
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)(?P<path>[^)\s#]+)(?P<rest>[^)\s]*)(?=\))")
_TO_FILE = re.compile(r"\[(?P<words>[^\]\n]*)\]\((?![a-z]+:|#)[^)\s]*\)")  # which a run wrote on its machine
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def build(out: Path, say: Callable[[str], None] = print) -> bool:
    """Builds the site anew in ``out``; False where a page has a fault, each of which is said."""
    try:
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace
    except ModuleNotFoundError as error:
        raise ValueError(f"The site needs {error.name}: pip install 'fewshot-lib[site]'.") from None
    if not (PACKAGE_ROOT / "notebooks").is_dir():
        raise ValueError("The site is built from a clone of the course: here are no notebooks.")
    source = out / "source"
    for old in (source, out / "html", out / "doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    gather(PACKAGE_ROOT, source)
    with docutils_namespace():
        app = Sphinx(source, HERE, out / "html", out / "doctrees", "html", status=None, warningiserror=True)
        app.build()
    faults = [*broken_links(out / "html")]
    for fault in faults:
        say(fault)
    is_whole = app.statuscode == 0 and not faults
    say(f"Open {out / 'html' / 'index.html'}" if is_whole else "The site has faults: they are named above.")
    return is_whole


def gather(root: Path, source: Path) -> None:
    """Copies every page into ``source``, with links that hold there, and writes the pages of the library."""
    rooms = [path.parent.name for path in sorted((root / "fewshot_lib").glob("*/__init__.py"))]
    contents = {title: _found(root, patterns) for title, patterns in CONTENTS.items()}
    contents["Library"] = [f"api/{room}" for room in rooms]
    for room in rooms:
        _write(source / f"api/{room}.rst", API.format(room=room, line="=" * 40))
    for name in {path for paths in contents.values() for path in paths if (root / path).is_file()}:
        _write(source / name, _text(root / name, _relinked(root, source, root / name)))
    trees = [TREE.format(title=title, pages="\n".join(names)) for title, names in contents.items() if names]
    _write(source / "index.md", (HERE / "index.md").read_text(encoding="utf-8") + "".join(trees))
    for name in ("course.css", "course.js"):
        _write(source / STATIC / name, (HERE / name).read_text(encoding="utf-8"))
    _write(source / STATIC / "formulas.css", formulas.css(formulas.FONT.name))
    shutil.copy(formulas.FONT, source / STATIC)


API = """fewshot_lib.{room}
{line}

.. automodule:: fewshot_lib.{room}
   :members:
   :imported-members:
"""
TREE = """
```{{toctree}}
:caption: {title}
:hidden:

{pages}
```
"""


def _text(path: Path, relink: Callable[[str], str]) -> str:
    """A page with its links changed, and with a title."""
    if path.suffix == ".ipynb":
        notebook = read_notebook(path)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = relink(cell.source)
            elif cell.cell_type == "code":
                cell.outputs = list(_seen(cell.outputs))
        return nbformat.writes(notebook)
    text = relink(path.read_text(encoding="utf-8"))
    title = "" if text.startswith("# ") else f"# {path.stem.replace('_', ' ').capitalize()}\n\n"
    return title + text


def _seen(outputs: list[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """Outputs without the rows of the table of results, and without links to what a run wrote elsewhere."""
    for output in outputs:
        data = output.get("data", {})
        if "text/markdown" in data:
            data["text/markdown"] = _TO_FILE.sub(r"\g<words>", data["text/markdown"])
        if MIME not in data:
            yield output


def _found(root: Path, patterns: list[str]) -> list[str]:
    found = (sorted(root.glob(pattern)) for pattern in patterns)
    return [path.relative_to(root).as_posix() for paths in found for path in paths]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _relinked(root: Path, source: Path, page: Path) -> Callable[[str], str]:
    """What changes the links of a page; other files that they name are copied, to be downloaded."""

    def target(link: re.Match[str]) -> str:
        path = (page.parent / unquote(link["path"])).resolve()
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
        up = "../" * len(page.relative_to(root).parts[:-1])
        if path.is_dir():
            room = re.fullmatch(r"fewshot_lib/(\w+)", name)
            name = f"api/{room[1]}.rst" if room else _readme(root, path)
        elif path.is_file() and path.suffix not in (".md", ".ipynb"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / name)
        return f"{up}{name}{link['rest']}"

    def relink(text: str) -> str:
        parts = _CODE.split(text)
        return "".join(part if i % 2 else _LINK.sub(target, part) for i, part in enumerate(parts))

    return relink


def _readme(root: Path, folder: Path) -> str:
    """The page that describes a folder: its own, or that of the folder around it."""
    near = (parent / "README.md" for parent in (folder, *folder.parents))
    return next(path for path in near if path.is_file()).relative_to(root).as_posix()


class _Page(HTMLParser):
    """What a page points at, what it loads, and the names of its places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places |= {values.get("id", ""), values.get("name", "")}
        for name in {"href", "src"} & values.keys():
            loads = name == "src" or (
                tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload")
            )
            (self.loaded if loads else self.links).append(values[name])


def broken_links(html: Path) -> Iterator[str]:
    """Links that lead nowhere, and what a page would load from the network; one sentence each."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in html.rglob("*.html")}
    for path, page in sorted(pages.items()):
        for link in [*page.links, *page.loaded]:
            where, parts = f"{path.relative_to(html.resolve())}: {link[:100]!r}", urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    yield f"{where} comes from the network."
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{where} leads to no file."
            elif target in pages and unquote(parts.fragment) not in {"", *pages[target].places}:
                yield f"{where} leads to no such place on that page."
