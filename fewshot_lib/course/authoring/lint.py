"""The rules that every committed notebook keeps, each a function that yields what breaks it.

What a notebook must contain, in words that are looked for:

- a first cell that opens with ``# ``; "After this notebook you can"; a ``parameters`` cell;
- a cell tagged ``nbval-check-output``: toy numbers, the same in every profile, which the tests compare;
- a "Predict" prompt (a heading or bold text), and headings with "Quiz", "Recap" and "References";
- three questions or more under "Quiz", their options ``<details>`` named "A · …" and so on, of which one
  answers "Yes" or "Right", not always under the same letter;
- three exercises or more: a code cell tagged ``exercise`` with the stub and ``course.check``, before it three
  ``<details>`` whose summary says "Hint", after it the solution, folded, in a cell tagged ``solution``.

A notebook whose metadata say ``"fewshot": {"kind": "start"}`` needs fewer of these. An optional one, in
``notebooks/extra``, says ``{"kind": "extra"}``: one exercise is enough, and it needs no quiz and no recap.
"""

import ast
import itertools
import re
import statistics
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course.authoring.normalise import normalised
from fewshot_lib.course.formulas import MATH, mathml
from fewshot_lib.course.lesson import PARAMETER_DEFAULTS
from fewshot_lib.course.running.execution import read_notebook
from fewshot_lib.course.running.parameters import TAG, declared, tags
from fewshot_lib.course.running.solutions import CHECKED, EXERCISE, solution_of

MAX_BYTES, MAX_LINES, MAX_COLUMNS, MAX_IMPORTS = 1_000_000, 20, 110, 12
MAX_MEDIAN = 6  # lines of the middle one of all code cells: one idea a cell
N_HINTS, N_QUESTIONS = 3, 3
N_EXERCISES = {"start": 0, "extra": 1, "": 3}  # by the kind of a notebook

_FORBIDDEN = {
    r"^\s*(?:!\s*|%%?)[A-Za-z]": "a shell or magic command: notebooks are plain Python",
    r"\bsys\.path\b": "sys.path: install fewshot_lib instead",
    r"\bipywidgets\b|\binteract(ive|ive_output)?\(": "an ipywidgets call: use course.explore, whose controls "
    "work from the keyboard, and which works without them",
    r"\bplt\.show\(": "plt.show(): use course.show(fig, alt=...), which needs an alternative text",
}
_FOLDERS = "home|Users|root|tmp|var|usr|opt|mnt|work|private|content|etc"
_ABSOLUTE_PATH = re.compile(rf"(?<![\w.:/~-])/(?:{_FOLDERS})/[\w.~-]|\b[A-Z]:\\\\?\w")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_CODE_OR_MATH = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)
_TYPED_PERCENT = re.compile(r"\d+[.,]\d+\s?(?:%|percent\b)")
_MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(\s*<?([^)\s>]*)")
_SUMMARY_WITHOUT_BLANK_LINE = re.compile(r"</summary>(?![ \t]*\n[ \t]*\n)")
_OPTION = re.compile(r"<summary>([A-F]) · [^<]*</summary>\s*(Yes\b|Right\b)?")
_HINT = re.compile(r"<details>\s*<summary>[^<]*\bHint\b", re.IGNORECASE)
_LIBRARY_IMPORT = re.compile(r"^(?:from|import) fewshot_lib\b", re.MULTILINE)
# What may be the size of an episode, the functions that take one, and what leaves numbers numbers.
_SIZE = re.compile(r"n_(?:way|shot|query)|(?:\w*_)?(?:ways|shots|queries)", re.IGNORECASE)
_SIGNATURES = {
    "EpisodeSampler": ["labels", "classes", "n_way", "n_shot", "n_query"],
    "TaskSampler": ["tasks", "n_way", "n_shot", "n_query"],
}
_PURE = {"sorted", "list", "tuple", "set", "range", "min", "max", "int"}


def lint(path: Path) -> list[str]:
    """What is wrong with the notebook at ``path``, one sentence each; empty if nothing is."""
    size = path.stat().st_size
    too_large = [f"the file has {size:,} bytes: keep it under {MAX_BYTES:,}."] if size > MAX_BYTES else []
    try:
        notebook = read_notebook(path)
    except ValueError as error:
        return [str(error)]
    problems = too_large + [problem for rule in RULES for problem in rule(notebook)]
    if not problems and nbformat.writes(normalised(notebook)) + "\n" != path.read_text(encoding="utf-8"):
        return ["the file holds more than a reader sees: run `fewshot record` on it."]
    return problems


def _numbered(notebook: NotebookNode, kind: str) -> Iterator[tuple[str, NotebookNode]]:
    return ((f"cell {i}", cell) for i, cell in enumerate(notebook.cells, start=1) if cell.cell_type == kind)


def _kind(notebook: NotebookNode) -> str:
    """ "start", "extra", or nothing for a chapter like the others."""
    kind = notebook.metadata.get("fewshot", {}).get("kind")
    return kind if kind in N_EXERCISES else ""


def executed_in_order(notebook: NotebookNode) -> Iterator[str]:
    """Every code cell was run once, from the top."""
    for expected, (where, cell) in enumerate(_numbered(notebook, "code"), start=1):
        if not cell.source.strip():
            yield f"{where}: an empty code cell."
        elif (count := cell.execution_count) != expected:
            yield f"{where}: its execution count is {count} and should be {expected}: run `fewshot record`."
            return


def clean_outputs(notebook: NotebookNode) -> Iterator[str]:
    """No errors and no warnings among the outputs; widgets are found with all that recording removes."""
    for where, cell in _numbered(notebook, "code"):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{where}: the error {output.ename} is stored."
            elif output.output_type == "stream" and output.name == "stderr":
                yield f"{where}: a warning is stored ({output.text.strip()[:60]!r}): deal with its cause."


class _Images(HTMLParser):
    """Attributes of every <img> of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def alternative_texts(notebook: NotebookNode) -> Iterator[str]:
    """Every picture says in words what it shows, and none comes from the network."""
    for where, cell in _numbered(notebook, "code"):
        for data in (output.get("data", {}) for output in cell.outputs):
            images = _Images("".join(data.get("text/html", ""))).found
            if any(kind.startswith("image/") for kind in data) and not images:
                yield f"{where}: a figure without alternative text: show it with course.show(fig, alt=...)."
            if not all((image.get("alt") or "").strip() for image in images):
                yield f"{where}: an image in the output has an empty alt."
    for where, cell in _numbered(notebook, "markdown"):
        text = _CODE_OR_MATH.sub("", cell.source)
        found = [(image.get("alt") or "", image.get("src") or "") for image in _Images(text).found]
        for alt, source in found + _MARKDOWN_IMAGE.findall(text):
            name = f"{where}: the image {source[:60]!r}"
            if not alt.strip():
                yield f"{name} has no alternative text."
            if re.match(r"(https?:)?//", source):
                yield f"{name} comes from the network: ship it with the repository."


def nothing_of_this_machine(notebook: NotebookNode) -> Iterator[str]:
    """No absolute path and no memory address, in code or output."""
    for number, cell in enumerate(notebook.cells, start=1):
        texts = [cell.source]
        for output in cell.get("outputs", []):
            seen = {kind: data for kind, data in output.get("data", {}).items() if kind.startswith("text/")}
            texts += [output.get("text", ""), *map("".join, seen.values())]
        for text in texts:
            text = re.sub(r"data:image/[\w+;,=/\s-]*", "", text)
            if match := _ABSOLUTE_PATH.search(text):
                path = text[match.start() : match.end() + 20].splitlines()[0]
                yield f"cell {number}: an absolute path ({path!r})."
            if match := _ADDRESS.search(text):
                yield f"cell {number}: a memory address ({match[0]}), which changes with every run."


def short_cells(notebook: NotebookNode) -> Iterator[str]:
    """One idea a cell: none is long, and half of them are very short. Imports may be many."""
    lengths = []
    for where, cell in _numbered(notebook, "code"):
        if _only_imports(cell.source):
            continue
        lengths.append(sum(bool(line.strip()) for line in cell.source.splitlines()))
        if lengths[-1] > MAX_LINES:
            yield f"{where}: {lengths[-1]} lines of code; split it, {MAX_LINES} are the most."
    if lengths and (median := statistics.median(lengths)) > MAX_MEDIAN:
        yield f"its code cells have {median:g} lines in the median; split some, {MAX_MEDIAN} are the most."


def plain_code(notebook: NotebookNode) -> Iterator[str]:
    """Short lines of plain Python, and few imports."""
    for where, cell in _numbered(notebook, "code"):
        if (widest := max(map(len, cell.source.splitlines()), default=0)) > MAX_COLUMNS:
            yield f"{where}: a line of code has {widest} columns; {MAX_COLUMNS} are the most."
        for pattern, problem in _FORBIDDEN.items():
            if re.search(pattern, cell.source, re.MULTILINE):
                yield f"{where}: {problem}."
    source = "\n".join(cell.source for _, cell in _numbered(notebook, "code"))
    n_imports = len(_LIBRARY_IMPORT.findall(source))
    if n_imports > MAX_IMPORTS:
        yield f"{n_imports} imports from fewshot_lib; {MAX_IMPORTS} are the most: one per room."


def _only_imports(source: str) -> bool:
    try:
        return all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)
    except SyntaxError:  # another rule says so
        return False


def toy_numbers(notebook: NotebookNode) -> Iterator[str]:
    """Some cell's output is compared when the tests run the notebook; what is compared is text."""
    checked = [(where, cell) for where, cell in _numbered(notebook, "code") if CHECKED in tags(cell)]
    if not checked:
        yield f"no cell is tagged {CHECKED!r}: tag the toy numbers, which are the same in every profile."
    for where, cell in checked:
        if not cell.outputs:
            yield f"{where}: it is tagged {CHECKED!r} and has no output to compare."
        if any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})):
            yield f"{where}: it is tagged {CHECKED!r}, but a figure differs between machines."


def parameters_cell(notebook: NotebookNode) -> Iterator[str]:
    """One cell of literals with the course's names and defaults, before the library; all are used."""
    try:
        found = declared(notebook)
    except ValueError as error:
        yield str(error)
        return
    for name, default in PARAMETER_DEFAULTS.items():
        if name not in found:
            yield f"the parameters cell does not declare {name!r}."
        elif repr(found[name]) != repr(default):  # True is not 1 here
            yield f"the parameters cell sets {name} = {found[name]!r}; every notebook starts at {default!r}."
    code = [cell for _, cell in _numbered(notebook, "code")]
    before = itertools.takewhile(lambda cell: TAG not in tags(cell), code)
    if any("fewshot_lib" in cell.source for cell in before):
        yield "fewshot_lib is imported before the parameters cell."
    for name in found.keys() - {name for cell in code for name in _names_read(cell.source)}:
        yield f"the parameter {name!r} is declared and never used."


def _names_read(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the rule about plain Python names this cell
        return set()
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}


def sizes_from_parameters(notebook: NotebookNode) -> Iterator[str]:
    """No number is written where n_way, n_shot or n_query belong: a parameter takes effect in every cell.

    Tagged toy cells, exercises and the parameters themselves hold numbers, and so may a statement with the
    comment ``# napkin``. A size is known by its name: ``train_queries``, ``SHOTS``, an argument ``n_way``.
    """
    code = list(_numbered(notebook, "code"))
    if not any(TAG in tags(cell) for _, cell in code):  # the rule about the parameters cell names this
        return
    toys = {CHECKED, EXERCISE, TAG}
    cells = [(where, cell) for where, cell in code if not toys & set(tags(cell))]
    signatures = dict(_SIGNATURES)
    for _, cell in cells:
        for node in _nodes(cell.source):
            if isinstance(node, ast.FunctionDef):
                signatures[node.name] = [argument.arg for argument in node.args.args]
    for where, cell in cells:
        for name, value in _sizes(_nodes(cell.source, without="# napkin"), signatures):
            found = f"`{name}` is {ast.unparse(value)}, a number written into the cell"
            yield f"{where}: {found}: compute it from the parameters and the data, or mark it `# napkin`."


def _nodes(source: str, without: str = "") -> list[ast.AST]:
    """The syntax of the statements of a cell; without: not of those with this text in a line."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # the rule about plain Python names this cell
        return []
    lines = source.splitlines()
    spans = [(each, "\n".join(lines[each.lineno - 1 : each.end_lineno])) for each in statements]
    kept = [each for each, span in spans if not (without and without in span)]
    return [node for each in kept for node in ast.walk(each)]


def _sizes(nodes: list[ast.AST], signatures: dict[str, list[str]]) -> Iterator[tuple[str, ast.expr]]:
    """The names of sizes among these nodes, with the number that each is given."""
    bound = [pair for node in nodes for pair in _bound(node)]
    written = {name: value for name, value in bound if _is_number(value)}
    for name, value in bound + [pair for node in nodes for pair in _passed(node, signatures)]:
        if isinstance(value, ast.Name):  # as in: for k in (1, 5)
            value = written.get(value.id, value)
        if _SIZE.fullmatch(name) and _is_number(value):
            yield name, value


def _bound(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that an assignment or a loop binds, with the value or what the loop runs over."""
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.For | ast.comprehension):
        targets, value = [node.target], node.iter
    else:
        return
    for target in targets:
        if isinstance(node, ast.Assign) and isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            parts = zip(target.elts, value.elts, strict=False)
            yield from ((ast.unparse(name), part) for name, part in parts)  # a, b = 1, 2
        else:
            yield from ((name.id, value) for name in ast.walk(target) if isinstance(name, ast.Name))


def _passed(node: ast.AST, signatures: dict[str, list[str]]) -> Iterator[tuple[str, ast.expr]]:
    """Arguments of a call by their names; of a control of ``explore`` its default value."""
    if not isinstance(node, ast.Call):
        return
    function = ast.unparse(node.func).rpartition(".")[2]
    plain = itertools.takewhile(lambda value: not isinstance(value, ast.Starred), node.args)
    yield from zip(signatures.get(function, []), plain, strict=False)
    for keyword in node.keywords:
        control = function == "explore" and isinstance(keyword.value, ast.Tuple) and keyword.value.elts
        yield keyword.arg or "", control[0] if control else keyword.value


def _is_number(value: ast.expr) -> bool:
    """Whether a number, or a list of numbers, is written there: it holds one, and reads no name."""
    parts = list(ast.walk(value))
    holds = any(isinstance(part, ast.Constant) and type(part.value) in (int, float) for part in parts)
    return holds and not any(isinstance(part, ast.Name) and part.id not in _PURE for part in parts)


def sections(notebook: NotebookNode) -> Iterator[str]:
    """The parts that every chapter has."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell does not open with the title, `# `."
    prose = "\n".join(cell.source for _, cell in _numbered(notebook, "markdown"))
    needed = {"After this notebook you can": r"After this notebook you can"}
    headings = {"start": (), "extra": ("References",)}.get(_kind(notebook), ("Quiz", "Recap", "References"))
    if headings:
        needed["a Predict prompt"] = r"^(?:#+ |>? ?\*\*)Predict"
        needed |= {f"a heading {name!r}": rf"^#+ .*\b{name}\b" for name in headings}
    for name, pattern in needed.items():
        if not re.search(pattern, prose, re.MULTILINE):
            yield f"it lacks {name}."


def quiz(notebook: NotebookNode) -> Iterator[str]:
    """Each question has one right option, and its letter tells nothing."""
    prose = "\n".join(cell.source for _, cell in _numbered(notebook, "markdown"))
    part = re.split(r"^#+ .*\bQuiz\b.*$", prose, maxsplit=1, flags=re.MULTILINE)[1:]
    found = _OPTION.findall(re.split(r"^#+ ", part[0], maxsplit=1, flags=re.MULTILINE)[0]) if part else []
    starts = [i for i, (letter, _) in enumerate(found) if letter == "A"]
    questions = [found[i:j] for i, j in itertools.pairwise([*starts, len(found)])]
    if part and len(questions) < N_QUESTIONS and not _kind(notebook):
        yield f"the quiz has {len(questions)} questions with options; {N_QUESTIONS} are the least."
    right = [[letter for letter, yes in options if yes] for options in questions]
    for number, letters in enumerate(right, start=1):
        if len(letters) != 1:
            yield f"question {number} of the quiz has {len(letters)} right options; it needs 1."
    if len(right) > 1 and right[0] and all(letters == right[0] for letters in right):
        yield f"the right option of every question is {right[0][0]}: shuffle them."


def markdown_form(notebook: NotebookNode) -> Iterator[str]:
    """Collapsed parts that render, and no measured number typed by hand."""
    for where, cell in _numbered(notebook, "markdown"):
        if _SUMMARY_WITHOUT_BLANK_LINE.search(cell.source):
            yield f"{where}: no blank line after </summary>, so the markdown below it is not rendered."
        if cell.source.count("<details>") != cell.source.count("</details>"):
            yield f"{where}: a <details> is not closed in the same cell."
        if match := _TYPED_PERCENT.search(_CODE_OR_MATH.sub("", cell.source)):
            yield f"{where}: the number {match[0]!r} is typed by hand: compute it and use course.say."


def formulas(notebook: NotebookNode) -> Iterator[str]:
    """Every formula can be set, in the notebook as in the pages that are made of it."""
    for where, cell in _numbered(notebook, "markdown"):
        for found in MATH.finditer(_CODE.sub("", cell.source)):
            try:
                mathml(found["display"] or found["inline"], display=bool(found["display"]))
            except ValueError as error:
                yield f"{where}: {error}."


def exercises(notebook: NotebookNode) -> Iterator[str]:
    """Each exercise has its hints, a stub, a check and a solution."""
    positions = [i for i, cell in enumerate(notebook.cells) if EXERCISE in tags(cell)]
    if len(positions) < (least := N_EXERCISES[_kind(notebook)]):
        yield f"it has {len(positions)} exercises; the least is {least}."
    for i in positions:
        where, cell = f"cell {i + 1}", notebook.cells[i]
        before = itertools.takewhile(lambda c: c.cell_type == "markdown", reversed(notebook.cells[:i]))
        hints = len(_HINT.findall("\n".join(cell.source for cell in before)))
        if hints != N_HINTS:
            yield f"{where}: the exercise has {hints} hints in <details> before it; it needs {N_HINTS}."
        yield from (f"{where}: {problem}" for problem in _stub_problems(cell.source, solved=False))
        try:
            solution = solution_of(notebook, i)
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if not notebook.cells[i + 1].source.startswith("<details>"):
            yield f"{where}: its solution stands open under it: fold it into <details>."
        yield from (f"{where}, its solution: {problem}" for problem in _stub_problems(solution, solved=True))


def _stub_problems(source: str, solved: bool) -> Iterator[str]:
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        yield f"it is not Python ({error.msg})."
        return
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    for name in {"course.exercise", "course.check"} - called:
        yield f"it does not call {name}."
    returned = [part for node in nodes if isinstance(node, ast.Return) for part in ast.walk(node)]
    has_hole = any(isinstance(part, ast.Constant) and part.value is ... for part in returned)
    if has_hole == solved:
        yield "it still returns `...`." if solved else "it has no `return ...` to be replaced."


_OF_RUNS = executed_in_order, clean_outputs, alternative_texts, nothing_of_this_machine, toy_numbers
_OF_CODE = short_cells, plain_code, parameters_cell, sizes_from_parameters
_OF_WRITING = sections, markdown_form, formulas, exercises, quiz
RULES: tuple[Callable[[NotebookNode], Iterator[str]], ...] = (*_OF_RUNS, *_OF_CODE, *_OF_WRITING)
