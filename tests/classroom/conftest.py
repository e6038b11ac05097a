"""What the tests of the classroom share: a class that hands something in."""

import nbformat
import pytest

from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import EXERCISE

from .helpers import ROOT


@pytest.fixture
def hand_in(tmp_path):
    """Puts a notebook of chapter 00 into a class's folder, with this code in place of its exercise."""

    def put(student, code, *more, stem="00_start_here"):
        notebook = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", 4)
        for cell in notebook.cells:
            if EXERCISE in tags(cell):
                cell.source = code
        notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
        folder = tmp_path / "handed_in" / student
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{stem}.ipynb")
        return tmp_path / "handed_in"

    return put
