"""Running one notebook without a reader, in a kernel of *this* interpreter.

Threads change results in the third digit and, when several runs share a machine, cost a factor of ten in
time, so their number is set before the kernel starts. A cell that waits for ever is stopped by a time limit.
"""

import asyncio
import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from fewshot_lib.course.machine import PACKAGE_ROOT
from fewshot_lib.course.running.parameters import INJECTED_TAG, tags
from fewshot_lib.data.cache import atomic_write

_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAILING_LINE = re.compile(r"^-+> *\d+ (.*)$", re.MULTILINE)
_NO_NOTEBOOK = nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, UnicodeDecodeError
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


class ThisInterpreter(KernelSpecManager):
    """Starts the Python that runs this code, whatever kernels are installed under whatever name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")


@dataclass(frozen=True)
class Outcome:
    """An executed notebook, the seconds that took, and where and why it stopped, if it did."""

    notebook: NotebookNode
    seconds: float
    failure: str


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kernel_environment(threads: int, **changes: str | None) -> dict[str, str]:
    """The environment of a headless kernel: no widgets, fixed threads, this fewshot_lib. None removes one."""
    environment: dict[str, str | None] = {
        **os.environ,
        "FEWSHOT_STATIC": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger of the kernel warns on stderr
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")])),
        **changes,
    }
    return {name: value for name, value in environment.items() if value is not None}


def find_notebooks(names: Iterable[str] = ()) -> list[Path]:
    """Paths of notebooks, each given as a path, a directory, or the beginning of a name ("02"); without, all.

    Names are those in ``notebooks`` here, or else in the one beside the package.
    """
    directory = here if (here := Path("notebooks")).is_dir() else PACKAGE_ROOT / "notebooks"
    found: list[Path] = []
    for name in names or [str(directory)]:
        path = Path(name)
        if path.is_dir():
            matches = sorted(path.glob("*.ipynb"))
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(directory.glob(f"{name}*.ipynb"))
        if not matches:
            known = ", ".join(sorted(path.stem for path in directory.glob("*.ipynb")))
            what = f"a path or the beginning of a name ({known or f'no notebooks in {directory}'})"
            raise ValueError(f"There is no notebook {name!r}: give {what}.")
        found += [path for path in matches if path not in found]
    return found


def read_notebook(path: Path) -> NotebookNode:
    """The notebook at ``path``. ValueError where the file is not one."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except _NO_NOTEBOOK as error:
        raise ValueError(f"{path} is not a notebook ({str(error).splitlines()[0]}).") from None


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _interruptible(work: Coroutine[Any, Any, Any]) -> None:
    """Runs a coroutine in a thread, so that Ctrl-C reaches this one and ends the work in order.

    In the main thread nbclient takes the signal for itself, and the run would go on with the next notebook;
    and there a loop may be running already, as in Jupyter.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(_to_the_end(work))

    def drive() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(BaseException):  # kept in the task, and raised from there below
            loop.run_until_complete(task)
        loop.close()
        finished.set()

    # An event, since a thread whose join() was interrupted counts as ended in Python 3.11; in short waits,
    # since a wait without limit cannot be interrupted on Windows.
    finished = threading.Event()
    threading.Thread(target=drive).start()
    try:
        while not finished.wait(0.2):
            pass
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(task.cancel)
        finished.wait()
        raise
    task.result()


async def _to_the_end(work: Coroutine[Any, Any, Any]) -> None:
    """Does the work, and ends what it started beside itself."""
    try:
        await work
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def execute(
    notebook: NotebookNode,
    directory: Path,
    *,
    environment: dict[str, str],
    timeout: float,
    on_cell: Callable[[int], None] = lambda position: None,
) -> Outcome:
    """Runs the notebook (changed in place) in ``directory`` and returns what became of it.

    timeout: seconds for each cell. on_cell: called with the position of every code cell before it runs.
    An interrupt (Ctrl-C) stops the kernel and is passed on.
    """
    position = 0

    def started(cell: NotebookNode, cell_index: int) -> None:
        nonlocal position
        position = cell_index
        on_cell(cell_index)

    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_spec_manager=ThisInterpreter()),
        timeout=timeout,
        record_timing=False,
        shutdown_kernel="immediate",  # it holds nothing worth saving, and a busy one complains on stderr
        resources={"metadata": {"path": str(directory)}},
        on_cell_start=started,
    )
    begin, error, traceback = time.monotonic(), "", ""
    try:
        _interruptible(client.async_execute(cleanup_kc=True, env=environment))
    except CellExecutionError as raised:
        error, traceback = f"{raised.ename}: {_plain(raised.evalue)}", raised.traceback
    except CellTimeoutError:
        error = f"it took more than {timeout:g} s, the time limit of a cell (--timeout)"
    except DeadKernelError:
        error = "the Python process died (most often: out of memory)"
    seconds = time.monotonic() - begin
    return Outcome(notebook, seconds, error and f"{_place(notebook, position, traceback)}: {error}")


def _place(notebook: NotebookNode, position: int, traceback: str) -> str:
    """The cell, counted from 1 as in the file on disk, the heading above it, and the line that failed."""
    before = notebook.cells[: position + 1]
    prose = "\n".join(cell.source for cell in before if cell.cell_type == "markdown")
    heading = [f", under {text.strip()!r}" for text in _HEADING.findall(prose)][-1:]
    source = notebook.cells[position].source.splitlines()
    code = [line for line in source if line.strip() and not line.startswith("#")] or [""]
    lines = _FAILING_LINE.findall(_TERMINAL_COLOUR.sub("", traceback)) or code
    injected = sum(INJECTED_TAG in tags(cell) for cell in before)
    return f"cell {position + 1 - injected}{''.join(heading)}, at `{lines[0].strip()}`"


def _plain(text: str, length: int = 400) -> str:
    text = " ".join(_TERMINAL_COLOUR.sub("", text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
