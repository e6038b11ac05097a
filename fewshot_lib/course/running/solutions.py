"""From a committed notebook, the same with the solutions of its exercises filled in.

An exercise is a code cell tagged ``exercise`` (the stub and its ``course.check``); the markdown cell right
after it is tagged ``solution`` and holds the whole cell, solved, in one block of Python.
"""

import re

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course.running.parameters import tags

EXERCISE, SOLUTION = "exercise", "solution"
CHECKED = "nbval-check-output"  # toy numbers, the same in every profile
_CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def solution_of(notebook: NotebookNode, position: int) -> str:
    """The solved code of the exercise cell at ``position``; ValueError where it does not follow."""
    following = notebook.cells[position + 1] if position + 1 < len(notebook.cells) else None
    if following is None or following.cell_type != "markdown" or SOLUTION not in tags(following):
        raise ValueError("the exercise is not followed by a markdown cell tagged 'solution'.")
    blocks = _CODE.findall(following.source)
    if len(blocks) != 1:
        raise ValueError(f"the solution holds {len(blocks)} blocks of ```python: give the whole cell in one.")
    return blocks[0].rstrip("\n")


def fill_solutions(notebook: NotebookNode) -> NotebookNode:
    """A copy in which every exercise cell holds its solution; ValueError names the cell that has none."""
    result = nbformat.from_dict(notebook)
    for position, cell in enumerate(result.cells):
        if EXERCISE in tags(cell):
            try:
                cell.source = solution_of(result, position)
            except ValueError as error:
                raise ValueError(f"cell {position + 1}: {error}") from None
    return result
