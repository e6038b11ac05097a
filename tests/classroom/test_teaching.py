"""The teacher's folder keeps up with the notebooks: what they ask is answered there, under the same names."""

import re
from pathlib import Path

import nbformat
import pytest

from fewshot_lib.course.classroom.slides import slides, write_slides
from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import EXERCISE

from .helpers import ROOT

CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
TEACHING = ROOT / "teaching"
LONGEST = 90  # minutes of a block
PREDICT = re.compile(r"^(?:#+ |>? ?\*\*)Predict", re.MULTILINE)
each = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
NUMBER = r"(?<![\w.,])[+-]?\d+\.\d+(?!\w|\.\d)"
MEASURED = re.compile(  # "34.4 % and 41.0 %", "+13.2 points", "8.8 to 17.7": what a page says was measured
    rf"{NUMBER} to {NUMBER}|(?:{NUMBER}(?:, | and | or ))*{NUMBER} ?(?:%|points?\b)"
)


def notes(path):
    """Heading -> text, of the notes for a notebook."""
    text = (TEACHING / "notes" / f"{path.stem[:2]}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text):
    """The first cells of the rows of a table."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|---" not in line][1:]


def asked(path):
    """Headings under which the notebook asks for a prediction, once for each; and titles of its exercises."""
    predictions, titles, heading = [], [], ""
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if found := re.match(r"#+ (.+)", line):
                    heading = found[1]
                if PREDICT.match(line):
                    predictions.append(heading)
        elif EXERCISE in tags(cell):
            titles.append(heading)
    return predictions, titles


@each
def test_each_prediction_has_its_expected_answer(path):
    predictions, _ = asked(path)
    answered = rows(notes(path)["Predictions"])
    assert [row[0] for row in answered] == predictions
    assert all(len(row[1]) > 40 for row in answered)


@each
def test_each_exercise_is_named(path):
    _, titles = asked(path)
    assert titles and not [title for title in titles if title not in notes(path)["Exercises"]]


@each
def test_blocks_are_short_enough_and_name_sections_that_exist(path):
    plan = notes(path)["Minute plan"]
    blocks = re.split(r"^### Block \d: (\d+) minutes$", plan, flags=re.MULTILINE)[1:]
    headings = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    numbers = set(re.findall(r"^## (\d+) · ", headings, re.MULTILINE))
    for length, table in zip(blocks[::2], blocks[1::2], strict=True):
        minutes = [int(row[0]) for row in rows(table)]
        assert sum(minutes) == int(length) <= LONGEST
        named = [n for row in rows(table) for n in re.findall(r"\b\d+\b", row[1])]
        assert set(named) <= numbers


@each
def test_three_misconceptions_each_with_a_question(path):
    found = re.findall(r"^(\d)\. \*\"(.+?)\"\*(.*?)(?=^\d\. |\Z)", notes(path)["Misconceptions"], re.M | re.S)
    assert [number for number, *_ in found] == ["1", "2", "3"]
    assert all("**Ask:**" in text and "?" in text for *_, text in found)
    assert len(notes(path)["What to cut"]) > 60


@each
def test_percentages_and_points_are_those_of_the_recording(path):
    """A sign on the page is a sign in the recording; without one, either will do."""
    page = " ".join((TEACHING / "notes" / f"{path.stem[:2]}.md").read_text(encoding="utf-8").split())
    stated = [n for part in MEASURED.findall(page.replace("−", "-")) for n in re.findall(NUMBER, part)]
    printed = set(re.findall(NUMBER, recorded(path).replace("−", "-")))
    printed |= {number.lstrip("+-") for number in printed}
    assert stated and not [number for number in stated if number not in printed]


def recorded(path):
    """What the cells of a notebook printed, without its figures."""
    kinds = ("text/markdown", "text/plain")
    shown = [output.get("data", {}).get(kind, "") for output in outputs(path) for kind in kinds]
    return "\n".join(["".join(text) for text in shown] + [o.text for o in outputs(path) if "text" in o])


def test_schedules_add_up():
    text = (TEACHING / "schedules.md").read_text(encoding="utf-8")
    assert {"Half a day", "Two days", "Twelve weeks"} <= set(re.findall(r"^## (.+)$", text, re.MULTILINE))
    for part in re.split(r"^#{2,3} ", text, flags=re.MULTILINE)[1:]:
        for row in rows(part):
            if found := re.fullmatch(r"(\d\d):(\d\d) – (\d\d):(\d\d)", row[0]):
                a, b, c, d = map(int, found.groups())
                assert 0 < 60 * c + d - 60 * a - b <= LONGEST, row
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == [str(week) for week in range(1, 13)]


def test_links_of_the_folder_lead_somewhere():
    for page in [*TEACHING.rglob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target} does not exist"


# Slides


@each
def test_slides_hold_the_figures_and_need_no_network(path):
    page = slides(nbformat.read(path, 4), path.stem)
    assert page.count("<section>") > 8
    assert not re.findall(r"""<(?:img|script|link|iframe)[^>]+(?:src|href)=["']https?:""", page)
    assert "<link" not in page and "MathJax" not in page
    stored = sum("<img" in "".join(o.get("data", {}).get("text/html", "")) for o in outputs(path))
    assert 0 < page.count("<img") <= stored
    assert page.count('alt="') >= page.count("<img")
    if "$$" in path.read_text(encoding="utf-8"):
        assert "<math" in page and "$$" not in page
    assert "course.check(" not in page and "Solution</summary>" not in page


def outputs(path):
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def test_what_becomes_a_slide():
    def text(source, **metadata):
        return nbformat.v4.new_markdown_cell(source, metadata=metadata)

    picture = '<img alt="a" src="data:image/png;base64,">'
    figure = nbformat.v4.new_output("display_data", {"text/html": picture})
    two_figures = nbformat.v4.new_code_cell("draw()", outputs=[figure, figure])
    toy = nbformat.v4.new_code_cell("print(1 < 2)", metadata={"tags": ["nbval-check-output"]})
    toy.outputs = [nbformat.v4.new_output("stream", text="True\n")]
    cells = [
        text("# Title\n\nShort. " + "Long sentence that goes on. " * 40),
        text("Before.\n\n> **Predict.** Which?\n\nAfter, $x^2$."),
        toy,
        two_figures,
        text("left out", slideshow={"slide_type": "skip"}),
        text("own slide", slideshow={"slide_type": "slide"}),
        text("## 2 · Exercises\n\n### Exercise 1"),
        text("stub"),
        text("## Recap\n\nDone. Keep a list: " + "of many things, " * 40 + "in short."),
    ]
    page = slides(nbformat.v4.new_notebook(cells=cells), "t")
    words = ["Title", "Predict", "After", "alt", "alt", "own slide", "Recap"]
    sections = re.findall(r"<section>(.*?)</section>", page, re.S)
    assert len(sections) == len(words) and all(w in part for w, part in zip(words, sections, strict=True))
    assert sections[0].count("goes on") < 20 and "left out" not in page and "stub" not in page
    assert "Done." in sections[-1] and "Keep a list" not in sections[-1], "it stays whole at its colon"
    assert "1 &lt; 2" in page and "True" in sections[2] and "<math" in page


def test_slides_are_written_where_they_are_wanted(tmp_path):
    made = write_slides(CHAPTERS[:1], tmp_path / "slides")
    assert [Path(path).name for path in made] == ["00_start_here.html"] and made[0].stat().st_size > 10_000
