"""``fewshot slides``: a chapter as slides, one file that opens in any browser without network.

Slides are made of what the notebook holds. A heading opens a slide, and a prediction prompt has one of its
own; of running text the first sentences are taken, equations, lists and tables whole; of the code the toy
numbers, tagged ``nbval-check-output``; of the outputs figures and sentences. Exercises, quiz and references
are left out. An author overrides this with JupyterLab's slide types: *slide* opens one, *skip* leaves a cell
out.

Keys: arrows, Home, End; ``n`` shows the rest of the code.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from nbconvert.filters.markdown_mistune import MarkdownWithMath
from nbformat import NotebookNode

from fewshot_lib.course.formulas import css
from fewshot_lib.course.running.execution import read_notebook
from fewshot_lib.course.running.pages import Renderer
from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import CHECKED, EXERCISE, SOLUTION
from fewshot_lib.data.cache import write_whole

MOST_PROSE = 360  # characters of running text on a slide: the rest is for reading, not for a wall
_PROMPT = re.compile(r"(?:^>.*\n?)+", re.MULTILINE)
_DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)
_PRACTICE = re.compile(r"^#+ .*\b(?:Exercises?|Quiz|References)\b", re.MULTILINE)
_WHOLE = ("#", "$$", "- ", "1. ", "|", "```", ">")
STYLE = """*{box-sizing:border-box}body{margin:0;font:clamp(18px,2vw,32px)/1.4 system-ui,sans-serif;
color:#111;background:#fff}section{display:none;min-height:100vh;padding:4vh 6vw 8vh}
section.now{display:block}h1{font-size:2em}h2{font-size:1.5em}h3{font-size:1.2em}
img{max-width:100%;height:60vh;object-fit:contain;object-position:left}figure{margin:0}pre{font-size:.72em;background:#f2f2f2;
padding:.6em;overflow:auto}blockquote{border-left:.3em solid #0072b2;margin:0;padding:.2em 1em;
font-size:1.15em}table{border-collapse:collapse;font-size:.8em}td,th{padding:.2em .6em;
border-bottom:1px solid #bbb;text-align:left}footer{position:fixed;bottom:1vh;right:2vw;
font-size:.5em;color:#555}.code{display:none}.all .code{display:block}figcaption{font-size:.6em;
color:#333}@media print{section{display:block;break-after:page}footer{display:none}}"""
SCRIPT = """const all=[...document.querySelectorAll('section')];let at=0;
function show(n){all[at].classList.remove('now');at=Math.max(0,Math.min(all.length-1,n));
all[at].classList.add('now');document.querySelector('footer').textContent=(at+1)+' / '+all.length;
history.replaceState(null,'','#'+(at+1));scrollTo(0,0)}
addEventListener('keydown',e=>{
if(['ArrowRight','PageDown',' '].includes(e.key)){show(at+1);e.preventDefault()}
else if(['ArrowLeft','PageUp'].includes(e.key)){show(at-1);e.preventDefault()}
else if(e.key==='Home')show(0);else if(e.key==='End')show(all.length-1);
else if(e.key==='n')document.body.classList.toggle('all')});
show((parseInt(location.hash.slice(1))||1)-1)"""


def write_slides(paths: Sequence[Path], out: Path) -> list[Path]:
    """One HTML file per notebook, from its stored outputs."""
    out.mkdir(parents=True, exist_ok=True)
    made = [out / f"{path.stem}.html" for path in paths]
    for path, place in zip(paths, made, strict=True):
        write_whole(place, slides(read_notebook(path), path.stem))
    return made


def slides(notebook: NotebookNode, name: str) -> str:
    """The slides of a notebook as one page: pictures, formulas (MathML) and their font are in it."""
    found = [content for content in _slides(notebook) if content.strip()]
    sections = "".join(f"<section>{content}</section>\n" for content in found)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    title = escape(name.replace("_", " "))
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{title}: slides</title>'
        f"<style>{STYLE}{css()}</style></head><body><main>{sections}</main><footer></footer><script>{SCRIPT}</script></body></html>\n"
    )


def _slides(notebook: NotebookNode) -> Iterator[str]:
    current, filled, in_practice = "", 0.0, False
    for cell in notebook.cells:
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "")
        if kind == "skip" or {EXERCISE, SOLUTION} & set(tags(cell)):
            continue
        if cell.cell_type == "markdown" and re.match(r"#+ ", cell.source):
            in_practice = bool(_PRACTICE.match(cell.source))
        if in_practice and kind != "slide":
            continue
        for piece, opens in _of_text(cell.source) if cell.cell_type == "markdown" else _of_code(cell):
            size = _size(piece)
            if opens or (filled and filled + size > 1) or (kind == "slide" and piece):
                yield current
                current, filled, kind = "", 0.0, ""
            current, filled = current + piece, filled + size
    yield current


def _size(piece: str) -> float:
    """About which share of a slide a piece of HTML takes."""
    if piece.startswith('<pre class="code">'):
        return 0.0  # not shown at first
    if "<img" in piece or "<svg" in piece:
        return 0.8
    if piece.startswith("<pre"):
        return (piece.count("\n") + 2) / 18
    rows = piece.count("<tr>") + piece.count("<li>") + piece.count('display="block"')
    text = re.sub(r"<math.*?</math>|<[^>]+>", "", piece, flags=re.DOTALL)
    return len(text) / 900 + rows / 20 + piece.count("<h") / 10


def _of_text(source: str) -> Iterator[tuple[str, bool]]:
    """Parts of a text cell as HTML, each with whether it opens a slide."""
    source, position = _DETAILS.sub("", source), 0
    for prompt in _PROMPT.finditer(source):
        yield from _of_prose(source[position : prompt.start()])
        yield html(prompt[0]), True
        position = prompt.end()
        yield "", bool(source[position:].strip())
    yield from _of_prose(source[position:])


def _of_prose(source: str) -> Iterator[tuple[str, bool]]:
    for part in re.split(r"(?=^#{1,3} )", source, flags=re.MULTILINE):
        if part.strip() and not _PRACTICE.match(part):
            for number, block in enumerate(_short(part)):
                yield html(block), block.startswith("#") and not number


def _short(text: str) -> list[str]:
    """Headings, equations, lists and tables whole; of running text as many sentences as there is room for."""
    kept, room = [], MOST_PROSE
    for block in re.split(r"\n\s*\n", text.strip()):
        if not block.startswith(_WHOLE):
            sentences = re.split(r"(?<=[.!?])\s", block)
            while sentences and len(" ".join(sentences)) > room:
                sentences.pop()
            block = " ".join(sentences)
            room -= len(block)
        kept.append(block)
    joined: list[str] = []
    for block in filter(None, kept):
        if joined and joined[-1].endswith((":", "**")) and not joined[-1].startswith("#"):
            joined[-1] += f"\n\n{block}"  # what leads to a list or an equation stays with it
        else:
            joined.append(block)
    return joined


def _of_code(cell: NotebookNode) -> Iterator[tuple[str, bool]]:
    """Of a code cell: toy code and its numbers, figures, and what the course says in a sentence."""
    is_toy = CHECKED in tags(cell)
    yield f'<pre class="{"toy" if is_toy else "code"}">{escape(cell.source)}</pre>', False
    for output in cell.outputs:
        data = output.get("data", {})
        shown, said = ("".join(data.get(kind, "")) for kind in ("text/html", "text/markdown"))
        if is_toy and output.output_type == "stream" and output.name == "stdout":
            yield f"<pre>{escape(output.text)}</pre>", False
        elif "<img" in shown or "<svg" in shown:
            yield shown, False
        elif said and len(said) < 2 * MOST_PROSE and "<details>" not in said:
            yield html(said), False


def html(markdown: str) -> str:
    """Markdown as HTML with formulas as MathML."""
    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(markdown)
