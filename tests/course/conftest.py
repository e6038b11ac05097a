"""Tiny notebooks and captured outputs, shared by the tests of the course layer."""

from types import SimpleNamespace

import nbformat
import pytest
from matplotlib import pyplot as plt

from fewshot_lib.course import PARAMETER_DEFAULTS, explorer, figures, records
from fewshot_lib.course.running.solutions import CHECKED

PARAMETERS = "\n".join(f"{name} = {value}" for name, value in PARAMETER_DEFAULTS.items())
SETUP = """from types import SimpleNamespace
from fewshot_lib import course
lesson = course.setup("tiny", profile=profile, seed=seed, dataset=dataset,
                      n_way=n_way, n_shot=n_shot, n_query=n_query, n_episodes=n_episodes)"""
RECORD = """results = SimpleNamespace(n_way=lesson.n_way, n_shot=lesson.n_shot, n_query=lesson.n_query,
    n_episodes=lesson.n_episodes, n_seeds=1, transductive=False, mean=0.5, interval=(0.4, 0.6))
lesson.record("Half", results, dataset=SimpleNamespace(name=lesson.dataset, split_family="scripts"))"""
HINTS = "\n".join(f"<details><summary>Hint {i}</summary>\n\nThink.\n\n</details>" for i in (1, 2, 3))
STUB = """@course.exercise(reference=lambda x: x + {n})
def add_{n}(x):
    return {answer}

course.check(add_{n}, cases=[(1,), (2,)])"""
OPTION = "<details><summary>{} · this</summary>\n\n{}, because.\n\n</details>\n"
QUESTIONS = [
    "".join(OPTION.format(letter, "Yes" if letter == right else "No") for letter in "ABC") for right in "BCA"
]
QUIZ = "## Quiz\n\n" + "\n".join(f"**Question?**\n\n{options}" for options in QUESTIONS)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("FEWSHOT_PROFILE", "FEWSHOT_STATIC", "FEWSHOT_STRICT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


def tagged(tags):
    return {"tags": list(tags)} if tags else {}


@pytest.fixture
def code():
    """Makes a code cell: code("x = 1", "tag")."""
    return lambda source, *tags: nbformat.v4.new_code_cell(source, metadata=tagged(tags))


@pytest.fixture
def text():
    """Makes a markdown cell."""
    return lambda source, *tags: nbformat.v4.new_markdown_cell(source, metadata=tagged(tags))


@pytest.fixture
def notebook():
    """Makes a notebook from cells whose names are their numbers."""

    def make(*cells, **metadata):
        for number, cell in enumerate(cells, start=1):
            cell["id"] = f"c{number}"
        kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, **metadata}
        return nbformat.v4.new_notebook(cells=list(cells), metadata=metadata)

    return make


@pytest.fixture
def course_notebook(code, text, notebook):
    """Makes a notebook that keeps every rule of the course; not executed. More cells go to its end."""

    def make(*more):
        exercises = []
        for n in (1, 2, 3):
            solved = STUB.format(n=n, answer=f"x + {n}")
            solution = f"<details><summary>Solution</summary>\n\n```python\n{solved}\n```\n\n</details>"
            exercises.append(text(f"### Exercise {n}\n\n{HINTS}"))
            exercises.append(code(STUB.format(n=n, answer="..."), "exercise"))
            exercises.append(text(solution, "solution"))
        toy = code("print(1 + 1)", CHECKED)
        toy.outputs = [nbformat.v4.new_output("stream", text="2\n")]
        return notebook(
            text("# Tiny\n\nAfter this notebook you can\n\n- add."),
            code(PARAMETERS, "parameters"),
            code(SETUP),
            text("### Predict\n\nWhat is 1 + 1?"),
            toy,
            *exercises,
            code(RECORD),
            *more,
            text(QUIZ),
            text("## Recap\n\nNothing."),
            text("## References\n\nNone."),
        )

    return make


@pytest.fixture
def row(results, glyphs):
    """A recorded result."""
    return records.make_row("Half", results(), dataset=glyphs, notebook="tiny", profile="smoke")


@pytest.fixture
def quick_notebook(code, text, notebook, row):
    """Makes a notebook that records a row without the course, whose import takes seconds; and more cells."""

    def make(*more, **changed):
        data = {"text/plain": "", records.MIME: row | changed}
        record = code(f"from IPython.display import display\ndisplay({data!r}, raw=True)")
        return notebook(text("# Quick"), code(PARAMETERS, "parameters"), record, *more)

    return make


@pytest.fixture
def written(tmp_path):
    """Writes a notebook into the test's directory and returns its path."""

    def write(notebook, name="01_tiny"):
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def displayed(monkeypatch):
    """What the course displays, as (data, metadata) pairs; widgets as they are."""
    shown = []

    def display(data, metadata=None, raw=False):
        shown.append((data, metadata) if raw else data)

    for module in (figures, records, explorer):
        monkeypatch.setattr(module, "display", display)
    return shown


@pytest.fixture
def results():
    """Makes what ``record`` needs of EpisodeResults."""
    facts = {"n_way": 5, "n_shot": 1, "n_query": 15, "n_episodes": 1000, "n_seeds": 1, "transductive": False}
    facts |= {"mean": 0.5, "interval": (0.4, 0.6)}
    return lambda **changed: SimpleNamespace(**(facts | changed))


@pytest.fixture
def glyphs():
    """What ``record`` needs of a ClassDataset."""
    return SimpleNamespace(name="glyphs", split_family="scripts")
