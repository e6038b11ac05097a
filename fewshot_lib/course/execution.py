"""Running one notebook without a reader: in a kernel of *this* interpreter, with fixed threads and a time limit.

Threads change results in the third digit and, when several runs share a machine, cost a factor of ten in time, so their
number is set before the kernel starts. A cell that waits for ever is stopped by the time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import tempfile
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

import fewshot_lib
from fewshot_lib.course.parameters import INJECTED_TAG, tags

PACKAGE_ROOT = Path(fewshot_lib.__file__).resolve().parent.parent
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAILING_LINE = re.compile(r"^-+> *\d+ (.*)$", re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


class ThisInterpreter(KernelSpecManager):
    """Starts the Python that runs this code, whatever kernels are installed under whatever name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")


@dataclass(frozen=True)
class Failure:
    """Where and why a notebook stopped. cell: its number in the notebook as it is on disk, from 1."""

    cell: int
    heading: str
    line: str
    error: str

    def __str__(self) -> str:
        place = f"cell {self.cell}" + (f", under {self.heading!r}" if self.heading else "")
        return f"{place}, at `{self.line}`: {self.error}"


@dataclass(frozen=True)
class Outcome:
    """An executed notebook (up to its failure, if there is one), and the seconds that took."""

    notebook: NotebookNode
    seconds: float
    failure: Failure | None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kernel_environment(threads: int, **changes: str | None) -> dict[str, str]:
    """The environment of a headless kernel: this one, with no widgets, fixed threads, and this very fewshot_lib.

    changes: further variables; None removes one.
    """
    environment = dict(os.environ, FEWSHOT_STATIC="1", OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else the debugger of the kernel warns on stderr
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return environment


def default_directory() -> Path:
    """``notebooks`` here, else the one beside the package."""
    here = Path("notebooks")
    return here if here.is_dir() else PACKAGE_ROOT / "notebooks"


def find_notebooks(names: Iterable[str] = ()) -> list[Path]:
    """Paths of notebooks, each given as a path, a directory, or the beginning of a name ("02"); all, if none is given.

    Raises ValueError naming what was not found.
    """
    directory = default_directory()
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
            known = ", ".join(p.stem for p in sorted(directory.glob("*.ipynb"))) or f"no notebooks in {directory}"
            raise ValueError(f"There is no notebook {name!r}: give a path or the beginning of a name ({known}).")
        found += [path for path in matches if path not in found]
    return found


def read_notebook(path: Path) -> NotebookNode:
    """The notebook at ``path``. Raises ValueError where the file is not one."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a notebook ({str(error).splitlines()[0]}).") from None
    return notebook


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all: beside its final place first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


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
    begin, failure = time.monotonic(), None
    try:
        _interruptible(client.async_execute(cleanup_kc=True, env=environment))
    except CellExecutionError as error:
        failure = _failure(notebook, position, f"{error.ename}: {_shortened(error.evalue)}", error.traceback)
    except CellTimeoutError:
        failure = _failure(notebook, position, f"it took more than {timeout:g} s, the time limit of a cell (--timeout)")
    except DeadKernelError:
        failure = _failure(notebook, position, "the Python process died (most often: out of memory)")
    return Outcome(notebook, time.monotonic() - begin, failure)


def _interruptible(work: Coroutine[Any, Any, Any]) -> None:
    """Runs a coroutine in a thread, so that Ctrl-C reaches this one and ends the work in order.

    In the main thread nbclient takes the signal for itself, and the run would go on with the next notebook.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(_to_the_end(work))

    def drive() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(BaseException):  # kept in the task, and raised from there below
            loop.run_until_complete(task)
        loop.close()
        finished.set()

    # An event, since a thread whose join() was interrupted counts as ended in Python 3.11; in short waits, since a wait
    # without limit cannot be interrupted on Windows.
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


def _failure(notebook: NotebookNode, position: int, error: str, traceback: str = "") -> Failure:
    before = notebook.cells[: position + 1]
    headings = [text for cell in before if cell.cell_type == "markdown" for text in _HEADING.findall(cell.source)]
    lines = _FAILING_LINE.findall(_TERMINAL_COLOUR.sub("", traceback))
    code = [line for line in notebook.cells[position].source.splitlines() if line.strip() and not line.startswith("#")]
    injected = sum(INJECTED_TAG in tags(cell) for cell in before)
    return Failure(
        cell=position + 1 - injected,
        heading=headings[-1].strip() if headings else "",
        line=(lines or code or [""])[0].strip(),
        error=error,
    )


def _shortened(text: str, length: int = 400) -> str:
    text = " ".join(_TERMINAL_COLOUR.sub("", text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
