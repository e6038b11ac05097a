"""What a committed notebook keeps of a run: what a reader sees.

Two runs of the same code differ in times, in widget and kernel names, and in how the output arrived in pieces. None of
it is kept, so recording unchanged code again gives the same bytes, and a changed line is a changed sight.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import nbformat
from nbformat import NotebookNode

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
CELL_METADATA = {"tags", "slideshow", "jupyter"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def normalised(notebook: NotebookNode) -> NotebookNode:
    """A copy without anything that differs between two runs of the same code."""
    result = nbformat.from_dict(notebook)
    result.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}} | _kept(result.metadata, {"fewshot"}))
    _name_cells(result)
    count = itertools.count(1)
    for cell in result.cells:
        cell.metadata = nbformat.from_dict(_kept(cell.metadata, CELL_METADATA))
        if cell.cell_type == "code":
            executed = bool(cell.source.strip()) and cell.execution_count is not None
            cell.execution_count = next(count) if executed else None
            cell.outputs = list(_outputs(cell))
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    return result


def _kept(metadata: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name in names}


def _name_cells(notebook: NotebookNode) -> None:
    """Notebooks older than format 4.5 get a random name per cell when they are read; these get the same at every run."""
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5) or not all(cell.get("id") for cell in notebook.cells):
        notebook.nbformat, notebook.nbformat_minor = 4, 5
        for number, cell in enumerate(notebook.cells, start=1):
            cell["id"] = f"cell-{number:03d}"


def _outputs(cell: NotebookNode) -> Iterator[NotebookNode]:
    """The outputs as a reader sees them: text in whole streams, no widgets, no progress bars."""
    visible = [output for output in map(_cleaned, cell.outputs) if output is not None]
    for is_stream, group in itertools.groupby(visible, key=lambda output: output.output_type == "stream"):
        if not is_stream:
            yield from group
            continue
        texts: dict[str, str] = {}
        for output in group:
            texts[output.name] = texts.get(output.name, "") + output.text
        # in a fixed order: two streams arrive in the order of the moment
        yield from (nbformat.v4.new_output("stream", name=name, text=texts[name]) for name in ("stdout", "stderr") if name in texts)


def _cleaned(output: NotebookNode) -> NotebookNode | None:
    result = nbformat.from_dict(output)
    if result.output_type == "stream":
        return None if result.name == "stderr" and _is_progress(result.text) else result
    if "data" in result:
        if result.data.pop(WIDGET_VIEW, None) is not None and set(result.data) <= {"text/plain"}:
            return None
    return result


def _is_progress(text: str) -> bool:
    return "\r" in text or "it/s" in text or "s/it" in text
