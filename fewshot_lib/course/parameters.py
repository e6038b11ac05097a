"""The parameters cell: which names a notebook declares, and putting other values in.

papermill runs a notebook with a misspelt parameter, or without the cell, and says nothing. Here both are refused before
any notebook starts. Injection is papermill's: a cell tagged ``injected-parameters`` right after the one tagged
``parameters``, so the same notebooks also run under papermill.
"""

from __future__ import annotations

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
    """Names and values of the parameters cell.

    Raises ValueError unless exactly one cell is tagged ``parameters`` and it holds nothing but ``name = literal``.
    """
    cells = [cell for cell in notebook.cells if TAG in tags(cell)]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells are tagged 'parameters': tag exactly one code cell so.")
    values = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            if not (isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)):
                raise ValueError
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
    except (ValueError, SyntaxError):
        raise ValueError("the parameters cell may hold nothing but `name = literal` lines.") from None
    return values


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """["n_way=20", "dataset=omniglot"] -> {"n_way": 20, "dataset": "omniglot"}; values are read as YAML.

    Raises ValueError for what is not NAME=VALUE, or whose value is more than a number, a word, a list or a mapping.
    """
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`-p {assignment}` is not NAME=VALUE: write for example -p n_way=20.")
        if name in values:
            raise ValueError(f"`-p {name}` is given twice: give it once.")
        try:
            value = yaml.safe_load(text)
            is_literal = ast.literal_eval(repr(value)) == value
        except (yaml.YAMLError, ValueError, SyntaxError):
            is_literal = False
        if not is_literal:
            raise ValueError(f"`-p {assignment}`: the value is not a number, a word, a list or a mapping. Put words in quotes.")
        values[name] = value
    return values


def check_all(notebooks: Mapping[str, NotebookNode], values: Mapping[str, Any]) -> None:
    """Refuses, before anything runs, what would be ignored or fail later.

    notebooks: name -> notebook. Raises ValueError for a notebook without a parameters cell, a parameter that a notebook
    does not declare, and an impossible value.
    """
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
    """A copy of the notebook in which the values replace those of the parameters cell; earlier injections are dropped."""
    result = nbformat.from_dict(notebook)
    result.cells = [cell for cell in result.cells if INJECTED_TAG not in tags(cell)]
    if values:
        source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        cell = nbformat.v4.new_code_cell(source, id="injected-parameters", metadata={"tags": [INJECTED_TAG]})
        position = next(i for i, cell in enumerate(result.cells) if TAG in tags(cell))
        result.cells.insert(position + 1, cell)
    return result
