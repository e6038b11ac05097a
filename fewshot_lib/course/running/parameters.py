"""The parameters cell: which names a notebook declares, and putting other values in.

papermill runs a notebook with a misspelt parameter, or without the cell, and says nothing. Here both are
refused before any notebook starts. Injection is papermill's: a cell tagged ``injected-parameters`` right
after the one tagged ``parameters``, so the same notebooks also run under papermill.
"""

import ast
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from fewshot_lib.course.lesson import check_parameters

TAG, INJECTED_TAG = "parameters", "injected-parameters"


def tags(cell: Mapping[str, Any]) -> list[str]:
    """The tags of a cell, as JupyterLab shows them."""
    return cell["metadata"].get("tags", [])


def declared(notebook: NotebookNode) -> dict[str, Any]:
    """Names and values of the one cell tagged ``parameters``, which holds only ``name = literal`` lines."""
    cells = [cell for cell in notebook.cells if TAG in tags(cell)]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells are tagged 'parameters': tag exactly one code cell so.")
    values = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = ast.literal_eval(value)
                case _:
                    raise ValueError
    except (ValueError, SyntaxError):
        raise ValueError("the parameters cell may hold nothing but `name = literal` lines.") from None
    return values


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """["n_way=20", "dataset=omniglot"] -> {"n_way": 20, "dataset": "omniglot"}; values are read as YAML."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`-p {assignment}` is not NAME=VALUE: write for example -p n_way=20.")
        if name in values:
            raise ValueError(f"`-p {name}` is given twice: give it once.")
        try:
            values[name] = yaml.safe_load(text)
            ast.literal_eval(repr(values[name]))  # it becomes a line of the notebook: no date, no NaN
        except (yaml.YAMLError, ValueError, SyntaxError):
            kinds = "a number, a word, a list or a mapping"
            raise ValueError(f"`-p {assignment}`: the value is not {kinds}. Put words in quotes.") from None
    return values


def check_all(notebooks: Mapping[str, NotebookNode], values: Mapping[str, Any]) -> None:
    """Refuses, before anything runs, what would be ignored or fail later. notebooks: name -> notebook."""
    for name, notebook in notebooks.items():
        try:
            known = declared(notebook)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        for parameter in values.keys() - known.keys():
            close = difflib.get_close_matches(parameter, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it declares {', '.join(known)}."
            raise ValueError(f"{name} has no parameter {parameter!r}: {hint}")
    check_parameters(**values)


def inject(notebook: NotebookNode, values: Mapping[str, Any]) -> NotebookNode:
    """A copy in which the values replace those of the parameters cell, and any injected before."""
    result = nbformat.from_dict(notebook)
    result.cells = [cell for cell in result.cells if INJECTED_TAG not in tags(cell)]
    if values:
        source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        cell = nbformat.v4.new_code_cell(source, id="injected-parameters", metadata={"tags": [INJECTED_TAG]})
        position = next(i for i, cell in enumerate(result.cells) if TAG in tags(cell))
        result.cells.insert(position + 1, cell)
    return result
