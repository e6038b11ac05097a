"""A tiny notebook that records one row, and a way to run points without a kernel."""

import json
from concurrent.futures import Future

import nbformat
import pytest

from fewshot_lib.course import records, sweeps
from fewshot_lib.course.running.execution import Outcome
from fewshot_lib.course.sweeps import points

TINY = """row = {row!r}
row |= dict(n_way=n_way, n_shot=n_shot, profile=profile)
row |= dict(mean=0.5 + 0.02 * n_shot + 0.01 * (seed % 7) + rate, episodes_id=f"{{seed}}, {{n_shot}}")
from IPython.display import display
display({{"text/plain": "", {mime!r}: row}}, raw=True)"""


@pytest.fixture
def tiny(code, text, notebook, row, written):
    """The path of a notebook that takes a second, most of it to start; its mean depends on its parameters."""
    own = "profile = None\nseed = 0\ndataset = None\nn_way = 5\nn_shot = 1\nn_query = 15\nrate = 0.0"
    cells = text("# Tiny"), code(own, "parameters"), code(TINY.format(row=row, mime=records.MIME))
    return written(notebook(*cells))


@pytest.fixture
def planned(tiny, tmp_path):
    """Plans a sweep of the tiny notebook over the values given."""

    def plan(out="out", **grid):
        grid.setdefault("profile", ["smoke"])
        return sweeps.plan([tiny], grid, tmp_path / out, say=lambda line: None)

    return plan


@pytest.fixture
def no_kernel(monkeypatch):
    """Points run in this process, their cells by ``exec``. Returns the cell that each was given."""
    calls = []

    def execute(notebook, directory, *, environment, timeout, stopped):
        calls.append(notebook.cells[2].source)
        scope, failure = {}, ""
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(cell.source.split("from IPython")[0], scope)
        if scope["seed"] == 99:
            failure = "cell 3, under 'Tiny', at `x`: RuntimeError: on purpose"
        data = {records.MIME: json.loads(json.dumps(scope["row"])), "text/plain": ""}
        notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", data=data)]
        return Outcome(notebook, 2.0, failure, 10**8)

    monkeypatch.setattr(points, "execute", execute)
    monkeypatch.setattr(points, "html_page", lambda notebook, path: "<p>page</p>")
    return calls


class Inline:
    """An executor that runs each point at once, here."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def inline():
    return Inline()
