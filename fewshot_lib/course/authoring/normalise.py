"""What a committed notebook keeps of a run: what a reader sees.

Two runs of the same code differ in times, in widget and kernel names, and in how the output arrived in
pieces. None of it is kept, so recording unchanged code again gives the same bytes, and a changed line is a
changed sight.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import nbformat
from nbformat import NotebookNode

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
CELL_METADATA = {"tags", "slideshow", "jupyter"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def normalised(notebook: NotebookNode) -> NotebookNode:
    """A copy without anything that differs between two runs of the same code."""
    result = nbformat.from_dict(notebook)
    result.metadata = nbformat.from_dict(METADATA | _kept(result.metadata, {"fewshot"}))
    named = all(cell.get("id") for cell in result.cells)
    if (result.nbformat, result.nbformat_minor) < (4, 5) or not named:
        result.nbformat, result.nbformat_minor = 4, 5
        for number, cell in enumerate(result.cells, start=1):
            cell["id"] = f"cell-{number:03d}"  # else, in the old format, a random one whenever it is read
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


def _outputs(cell: NotebookNode) -> Iterator[NotebookNode]:
    """The outputs as a reader sees them: text in whole streams, no widgets, no progress bars."""
    visible = [output for output in map(_cleaned, cell.outputs) if output is not None]
    for is_stream, group in itertools.groupby(visible, key=lambda output: output.output_type == "stream"):
        if not is_stream:
            yield from group
            continue
        pieces = list(group)
        for name in ("stdout", "stderr"):  # in a fixed order: two streams arrive in the order of the moment
            if text := "".join(piece.text for piece in pieces if piece.name == name):
                yield nbformat.v4.new_output("stream", name=name, text=text)


def _cleaned(output: NotebookNode) -> NotebookNode | None:
    """A copy without its widget; None for a progress bar, and for a widget that has no other form."""
    result = nbformat.from_dict(output)
    if result.output_type == "stream":
        is_bar = result.name == "stderr" and any(sign in result.text for sign in ("\r", "it/s", "s/it"))
        return None if is_bar else result
    is_widget = result.get("data", {}).pop(WIDGET_VIEW, None) is not None
    return None if is_widget and set(result.data) <= {"text/plain"} else result
