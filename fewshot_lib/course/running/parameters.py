"""The parameters cell: which names a notebook declares, and putting other values in.

papermill runs a notebook with a misspelt parameter, or without the cell, and says nothing. Here both are
refused before any notebook starts. Injection is papermill's: a cell tagged ``injected-parameters`` right
after the one tagged ``parameters``, so the same notebooks also run under papermill.
"""

import ast
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course.lesson import check_parameters

TAG, INJECTED_TAG = "parameters", "injected-parameters"
OF_AN_EARLIER_RUN = {INJECTED_TAG, "papermill-error-cell-tag"}  # cells that some run added

NAMES = ("dataset", "profile")  # parameters that are no numbers
WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]{3})*)")
_NUMBER = re.compile(rf"{_WHOLE.pattern}(\.[0-9]*)?([eE][+-]?[0-9]+)?|[+-]?\.[0-9]+([eE][+-]?[0-9]+)?")


def tags(cell: Mapping[str, Any]) -> list[str]:
    """The tags of a cell, as JupyterLab shows them."""
    return cell["metadata"].get("tags", [])


def _holds_parameters(cell: Mapping[str, Any]) -> bool:
    return cell["cell_type"] == "code" and TAG in tags(cell)


def declared(notebook: NotebookNode) -> dict[str, Any]:
    """Names and values of the one cell tagged ``parameters``, which holds only ``name = literal`` lines."""
    cells = [cell for cell in notebook.cells if _holds_parameters(cell)]
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
    """["n_way=20", "dataset=omniglot"] -> {"n_way": 20, "dataset": "omniglot"}; values as in `read_value`."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`-p {assignment}` is not NAME=VALUE: write for example -p n_way=20.")
        if name in values:
            raise ValueError(f"`-p {name}` is given twice: give it once.")
        try:
            values[name] = read_value(text, a_name=name in NAMES)
        except ValueError as error:
            raise ValueError(f"`-p {assignment}`: {error}") from None
    return values


def read_value(text: str, a_name: bool = False) -> Any:
    """What a person typed: None, True, False, a decimal number, [a list], {a mapping}, and all else is text.

    Lists and mappings are written as in Python or JSON. Quotes around a text are taken off; "010" and "0x10"
    are texts, since no two people read the same number in them. a_name: a number is text, too ("2024").
    """
    text = text.strip()
    if not text:
        raise ValueError("the value is empty. Give one, or None for the notebook's own.")
    if text in WORDS:
        return WORDS[text]
    if not a_name and _NUMBER.fullmatch(text):
        return _number(text)
    if len(text) > 1 and text[0] in "\"'" and text[0] == text[-1]:
        return text[1:-1]
    return _collection(text) if text[0] + text[-1] in ("[]", "{}") else text


def _number(text: str) -> int | float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("the number is too large.")
    return int(text) if _WHOLE.fullmatch(text) else value


def _collection(text: str) -> Any:
    """A list or a mapping, as in Python or JSON."""
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(text)
            ast.literal_eval(repr(value))  # it becomes a line of the notebook: no NaN, no set() without items
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(value, list | dict):
            return value
    example = """'{"source": "my.csv", "label": "Topic"}'"""
    raise ValueError(f"the value is no list and no mapping as Python or JSON write them, such as {example}.")


def check_all(notebooks: Mapping[str, NotebookNode], values: Mapping[str, Any]) -> None:
    """Refuses, before anything runs, what would be ignored or fail later. notebooks: name -> notebook."""
    for name, notebook in notebooks.items():
        try:
            known = declared(notebook)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        for parameter in values.keys() - known.keys():
            close = difflib.get_close_matches(parameter, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it declares {', '.join(known) or 'none'}."
            raise ValueError(f"{name} has no parameter {parameter!r}: {hint}")
    check_parameters(**values)


def inject(notebook: NotebookNode, values: Mapping[str, Any]) -> NotebookNode:
    """A copy in which the values replace those of the parameters cell, and any injected before."""
    result = nbformat.from_dict(notebook)
    result.cells = [cell for cell in result.cells if not OF_AN_EARLIER_RUN & set(tags(cell))]
    if values:
        source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        cell = nbformat.v4.new_code_cell(source, id="injected-parameters", metadata={"tags": [INJECTED_TAG]})
        position = next(i for i, cell in enumerate(result.cells) if _holds_parameters(cell))
        result.cells.insert(position + 1, cell)
    return result
