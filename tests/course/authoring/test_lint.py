import re

import nbformat
import pytest

from fewshot_lib.course.authoring.lint import lint
from fewshot_lib.course.authoring.normalise import WIDGET_VIEW, normalised
from fewshot_lib.course.running.solutions import CHECKED

out = nbformat.v4.new_output


def as_executed(notebook):
    """With the execution counts of a run from the top, and the outputs that it already has."""
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.execution_count = count
    return normalised(notebook)


@pytest.fixture
def problems(course_notebook, written):
    """Lints the good notebook after ``change(notebook)``, which comes before or after the run."""

    def find(change, before=True):
        notebook = course_notebook()
        if before:
            change(notebook)
        notebook = as_executed(notebook)
        if not before:
            change(notebook)
        return lint(written(notebook))

    return find


def first(notebook, tag=None, kind=None):
    return next(c for c in notebook.cells if kind == c.cell_type or tag in c.metadata.get("tags", []))


def replaced(tag, old, new):
    def change(notebook):
        cell = first(notebook, tag)
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return change


def added_markdown(source):
    return lambda notebook: notebook.cells.append(nbformat.v4.new_markdown_cell(source, id="more"))


def added_code(source, *outputs):
    cell = nbformat.v4.new_code_cell(source, id="more", outputs=list(outputs))
    return lambda notebook: notebook.cells.append(cell)


def added_cells(number, n_lines, line="x = 1"):
    cells = [nbformat.v4.new_code_cell(f"{line}\n\n" * n_lines, id=f"more-{i}") for i in range(number)]
    return lambda notebook: notebook.cells.extend(cells)


def dropped(words):
    def change(notebook):
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace(words, "")

    return change


def one_question_thrice(its_right_option):
    def change(notebook):
        cell = next(c for c in notebook.cells if c.source.startswith("## Quiz"))
        heading, question = cell.source.replace("Yes, ", its_right_option).split("**Question?**")[:2]
        cell.source = heading + 3 * f"**Question?**{question}"

    return change


def unfolded_solution(notebook):
    cell = first(notebook, "solution")
    cell.source = cell.source[cell.source.index("```") : cell.source.rindex("</details>")]


def seen(data):
    return out("display_data", data=data)


PNG = {"image/png": "iVBORw0KGgo=", "text/plain": "figure"}
HTML = '<figure><img alt="A line." src="data:image/png;base64,/home/AAAA"></figure>'
FIGURE, MUTE = seen(PNG | {"text/html": HTML}), seen(PNG | {"text/html": HTML.replace("A line.", " ")})
ERROR = out("error", ename="KeyError", evalue="x", traceback=[])
EARLY = nbformat.v4.new_code_cell("import fewshot_lib", id="early")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (replaced("parameters", "n_shot = 1\n", ""), "does not declare 'n_shot'"),
        (replaced("parameters", "n_shot = 1", "n_shot = 5"), "sets n_shot = 5"),
        (replaced("parameters", "n_shot = 1", "n_shot = True"), "sets n_shot = True"),
        (replaced("parameters", "n_shot = 1", "n_shot = int('1')"), "nothing but `name = literal`"),
        (replaced("parameters", "seed = 0", "seed = 0\nwidth = 3"), "'width' is declared and never used"),
        (lambda nb: first(nb, "parameters").metadata.pop("tags"), "0 cells are tagged"),
        (lambda nb: nb.cells.insert(1, EARLY), "imported before"),
        (added_code("x = 1\n%cd data"), "shell or magic"),
        (added_code("%%time\nx = 1"), "shell or magic"),
        (added_code("import sys\nsys.path.append('x')"), "sys.path"),
        (added_code("interact(f, k=3)"), "ipywidgets"),
        (added_code("import ipywidgets as w"), "ipywidgets"),
        (added_code("plt.show()"), "course.show"),
        (added_code("x = 1\n\n" * 21), "21 lines of code"),
        (added_cells(7, n_lines=7), "7 lines in the median"),
        (added_code("x = '" + "y" * 105 + "'"), "a line of code has 111 columns"),
        (added_code("import fewshot_lib\n" * 12), "13 imports from fewshot_lib"),
        (lambda nb: first(nb, CHECKED).metadata.pop("tags"), f"no cell is tagged '{CHECKED}'"),
        (lambda nb: first(nb, CHECKED).update(outputs=[]), "has no output to compare"),
        (lambda nb: first(nb, CHECKED).outputs.append(FIGURE), "a figure differs between machines"),
        (added_code(""), "empty code cell"),
        (added_code("deal = EpisodeSampler(labels, classes, 5, lesson.n_shot)"), "`n_way` is 5"),
        (
            added_code("deal = EpisodeSampler(labels, classes, n_way=lesson.n_way, n_query=15)"),
            "`n_query` is 15",
        ),
        (added_code("for k in (1, 5):\n    core.EpisodeSampler(y, c, n, k, m)"), "`n_shot` is (1, 5)"),
        (added_code("SHOTS = sorted({1, 5})"), "`SHOTS` is sorted({1, 5})"),
        (added_code("ways, x = 20, n"), "`ways` is 20"),
        (added_code("def f(x, n_query):\n    return x\n\nf(n, 3)"), "`n_query` is 3"),
        (added_code("course.explore(f, n_way=(5, ways), alt='x')"), "`n_way` is 5"),
        (added_code("course.explore(f, a=(n, b), alt='x', frames=[dict(n_way=2)])"), "`n_way` is 2"),
        (added_code("open('/home/me/x')"), "an absolute path"),
        (added_code("print(p)", out("stream", text="saved in /tmp/abc\n")), "an absolute path"),
        (added_code("print(p)", out("stream", text="C:\\Users\\me\n")), "an absolute path"),
        (added_code("f", seen({"text/plain": "<f at 0x7f3a5c0d1e20>"})), "memory address"),
        (added_code("f", out("stream", name="stderr", text="UserWarning: no")), "a warning is stored"),
        (added_code("f", ERROR), "error KeyError is stored"),
        (added_code("f", seen(PNG)), "without alternative text"),
        (added_code("f", MUTE), "empty alt"),
        (added_markdown("![](map.svg)"), "'map.svg' has no alternative text"),
        (added_markdown('<img src="map.svg">'), "'map.svg' has no alternative text"),
        (added_markdown("![A map](https://example.org/map.svg)"), "comes from the network"),
        (added_markdown("It reaches 93.2 % on unseen classes."), "'93.2 %' is typed by hand"),
        (added_markdown("It reaches **93.2%**."), "typed by hand"),
        (added_markdown("<details><summary>M</summary>\nText.\n\n</details>"), "no blank line after"),
        (added_markdown("<details><summary>More</summary>\n\nText."), "not closed"),
        (dropped("# Tiny"), "does not open with the title"),
        (dropped("After this notebook you can"), "lacks After this notebook"),
        (dropped("### Predict"), "lacks a Predict prompt"),
        *((dropped(f"## {name}"), f"lacks a heading '{name}'") for name in ("Quiz", "Recap", "References")),
        (dropped(" · this"), "the quiz has 0 questions"),
        (one_question_thrice("No, "), "question 1 of the quiz has 0 right options"),
        (one_question_thrice("Yes, "), "the right option of every question is B"),
        (unfolded_solution, "its solution stands open"),
        (dropped("<details><summary>Hint 2</summary>\n\nThink.\n\n</details>"), "the exercise has 2 hints"),
        (lambda nb: first(nb, "exercise").metadata.pop("tags"), "it has 2 exercises"),
        (lambda nb: first(nb, "solution").metadata.pop("tags"), "is not followed by a markdown cell tagged"),
        (replaced("exercise", "return ...", "return x + 1"), "no `return ...`"),
        (replaced("exercise", "course.check(", "print("), "does not call course.check"),
        (replaced("exercise", "def ", "dfe "), "it is not Python"),
        (replaced("solution", "return x + 1", "return ..."), "its solution: it still returns"),
        (replaced("solution", "course.check(", "print("), "its solution: it does not call course.check"),
        (replaced("solution", "```python", "```"), "holds 0 blocks"),
    ],
)
def test_each_rule_finds_what_breaks_it_and_only_that(problems, change, problem):
    found = problems(change)
    assert any(problem in text for text in found), found
    # a missing heading also hides what stands under it; a question is named by its number
    assert len({re.sub(r"\d", "", text.split(": ", 1)[-1]) for text in found}) <= 2, found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda nb: first(nb, "exercise").update(execution_count=9), "its execution count is 9"),
        (lambda nb: nb.metadata.update(widgets={"state": {}}), "more than a reader sees"),
        (lambda nb: nb.metadata.language_info.update(version="3.11"), "more than a reader sees"),
        (lambda nb: first(nb, kind="code").metadata.update(execution={}), "more than a reader sees"),
        (lambda nb: first(nb, CHECKED).outputs.append(seen({WIDGET_VIEW: {}})), "more than a reader sees"),
    ],
)
def test_what_recording_removes_is_found(problems, change, problem):
    assert any(problem in text for text in problems(change, before=False))


@pytest.mark.parametrize(
    "change",
    [
        lambda notebook: None,
        added_markdown("A 95 % interval, a 5-way episode, $p = 93.2\\%$, `93.2 %`."),
        added_markdown("```python\nx = '93.2 %'\n```"),
        added_markdown("See https://example.org/home/x and data/home/file, n/a, and/or."),
        added_markdown("![A map](map.svg) and [a link](https://example.org/a.png)"),
        added_code("x = 7\ny = (x\n     - 2)\nrest = x % y\nassert y != x"),
        added_code("EpisodeSampler(y, c, *size, 0)\nSHOTS = sorted({lesson.n_shot, 5})\nn_query = min(3, m)"),
        added_code("course.explore(f, n_way=(lesson.n_way, [2, 5]), rate=(1, [1]), alt='x')\nn_steps = 300"),
        added_code("points(\n    # napkin: five points\n    n_way=5)\nshots = 5  # napkin"),
        added_code("import math, re\n" * 25),  # imports alone may be many
        added_cells(7, n_lines=6),
        added_cells(7, n_lines=7, line="import math"),
        added_code("figure", FIGURE),
        replaced("parameters", "n_episodes = None", "n_episodes = None  # None: by profile"),
    ],
)
def test_what_is_allowed_is_not_reported(problems, change):
    assert problems(change) == []


def test_the_first_notebook_needs_no_exercises_and_no_quiz(course_notebook, written):
    notebook = course_notebook()
    notebook.cells = [*notebook.cells[:3], first(notebook, CHECKED)]
    assert len(lint(written(as_executed(notebook)))) >= 4
    notebook.metadata["fewshot"] = {"kind": "start"}
    assert lint(written(as_executed(notebook))) == []


def test_an_optional_notebook_needs_one_exercise_and_no_quiz(course_notebook, written):
    notebook = course_notebook()
    notebook.metadata["fewshot"] = {"kind": "extra"}
    first_exercise = slice(5, 8)  # a text with its hints, the stub and the solution
    notebook.cells = [*notebook.cells[:8], notebook.cells[-1]]
    assert lint(written(as_executed(notebook))) == []
    del notebook.cells[first_exercise]
    assert lint(written(as_executed(notebook))) == ["it has 0 exercises; the least is 1."]


def test_a_large_file_and_a_broken_one_are_problems(course_notebook, written):
    path = written(as_executed(course_notebook()))
    path.write_text(path.read_text(encoding="utf-8") + " " * 1_000_000, encoding="utf-8")
    assert "keep it under 1,000,000" in lint(path)[0]
    path.write_text("{", encoding="utf-8")
    assert lint(path) == [f"{path} is not a notebook ({lint(path)[0].split('(', 1)[1]}"]
