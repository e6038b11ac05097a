"""From the committed notebooks, two others: with the solutions filled in (tests), or without solutions (a class).

An exercise is a code cell tagged ``exercise`` (the stub and its ``course.check``); the markdown cell right after it is
tagged ``solution`` and holds the whole cell, solved, in one block of Python.
"""

from __future__ import annotations

import re

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course.parameters import tags

EXERCISE, SOLUTION = "exercise", "solution"
_CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def solution_of(notebook: NotebookNode, position: int) -> str:
    """The solved code of the exercise cell at ``position``. Raises ValueError where it does not follow."""
    following = notebook.cells[position + 1] if position + 1 < len(notebook.cells) else None
    if following is None or following.cell_type != "markdown" or SOLUTION not in tags(following):
        raise ValueError("the exercise is not followed by a markdown cell tagged 'solution'.")
    blocks = _CODE.findall(following.source)
    if len(blocks) != 1:
        raise ValueError(f"the solution holds {len(blocks)} blocks of ```python: give the whole cell in one.")
    return blocks[0].rstrip("\n")


def fill_solutions(notebook: NotebookNode) -> NotebookNode:
    """A copy in which every exercise cell holds its solution. Raises ValueError, with the cell, where there is none."""
    result = nbformat.from_dict(notebook)
    for position, cell in enumerate(result.cells):
        if EXERCISE in tags(cell):
            try:
                cell.source = solution_of(result, position)
            except ValueError as error:
                raise ValueError(f"cell {position + 1}: {error}") from None
    return result


def strip_solutions(notebook: NotebookNode) -> NotebookNode:
    """A copy without the solution cells: what a teacher hands out."""
    result = nbformat.from_dict(notebook)
    result.cells = [cell for cell in result.cells if SOLUTION not in tags(cell)]
    return result
