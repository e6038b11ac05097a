"""Running one notebook without a reader, in a kernel of *this* interpreter.

Threads change results in the third digit and, when several runs share a machine, cost a factor of ten in
time, so their number is set before the kernel starts. What the file holds of an earlier run is cleared before
the first cell. A cell that waits for ever is stopped by a time limit, and so is all that stands around cells.
"""

import asyncio
import atexit
import contextlib
import math
import os
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import zmq.asyncio
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from fewshot_lib.core import positive
from fewshot_lib.course.machine import PACKAGE_ROOT
from fewshot_lib.course.records import STAMP
from fewshot_lib.course.running.parameters import INJECTED_TAG, tags

STARTUP_SECONDS = 60
GRACE = 20  # seconds that a kernel gets to end after Ctrl-C, or that a time limit gets to take effect
EXTRA = "extra"  # in the folder of the chapters, the folder of the optional notebooks
MOST_SECONDS = 10**7  # for one cell: 116 days
PATHS = ("FEWSHOT_CACHE", "FEWSHOT_DATA")  # settings that name a directory
STAMPS = (STAMP, "papermill", "widgets")  # metadata of a notebook that a run leaves
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAILING_LINE = re.compile(r"^-+> *\d+ (.*)$", re.MULTILINE)
_NO_NOTEBOOK = (nbformat.ValidationError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


class ThisInterpreter(KernelSpecManager):
    """Starts the Python that runs this code, whatever kernels are installed under whatever name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")


@dataclass(frozen=True)
class Outcome:
    """An executed notebook, the seconds that took, and where and why it stopped, if it did.

    peak_memory: bytes of its process and of those that it started, the most that was seen at one time.
    """

    notebook: NotebookNode
    seconds: float
    failure: str
    peak_memory: int = 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_timeout(timeout: float | None) -> None:
    """Refuses a time limit of a cell that is none; None means that of the profile."""
    if timeout is not None:
        positive(timeout=timeout)
        if timeout > MOST_SECONDS:
            raise ValueError(f"`timeout` is {timeout}: give at most {MOST_SECONDS:,} seconds.")


def kernel_environment(threads: int, **changes: str | None) -> dict[str, str]:
    """The environment of a headless kernel: no widgets, fixed threads, this fewshot_lib. None removes one.

    A kernel runs in the directory of its notebook, so relative paths are resolved in that of the caller.
    """
    places = (place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place)
    environment: dict[str, str | None] = {
        **os.environ,
        **{name: str(absolute(os.environ[name])) for name in PATHS if os.environ.get(name)},
        "FEWSHOT_STATIC": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger of the kernel warns on stderr
        "PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), *(str(absolute(place)) for place in places)]),
        **changes,
    }
    return {name: value for name, value in environment.items() if value is not None}


def absolute(path: str) -> Path:
    """The path from here. Links in it are kept: a data set bears the name that its file has here."""
    return Path(path).expanduser().absolute()


def find_notebooks(names: Iterable[str] = ()) -> list[Path]:
    """Paths of notebooks, each given as a path, a directory, or the beginning of a name ("02"); without, all.

    Names are those in ``notebooks`` here, or else in the one beside the package; "extra/vmap" or "vmap" is an
    optional one, "extra" all of them. A directory stands for its notebooks and for those in its ``extra``.
    """
    directory = here if (here := Path("notebooks")).is_dir() else PACKAGE_ROOT / "notebooks"
    found: list[Path] = []
    for name in names or [str(directory)]:
        path = Path(name)
        if path.is_file():
            matches = [path]
        elif folder := next((place for place in (path, directory / name) if place.is_dir()), None):
            matches = notebooks_in(folder)
        else:
            matches = notebooks_in(directory, name)
        if not matches:
            known = ", ".join(path.stem for path in notebooks_in(directory))
            what = f"a path or the beginning of a name ({known or f'no notebooks in {directory}'})"
            raise ValueError(f"There is no notebook {name!r}: give {what}.")
        known_files = {path.resolve() for path in found}
        found += [path for path in matches if path.resolve() not in known_files]
    return found


def notebooks_in(folder: Path, beginning: str = "") -> list[Path]:
    """The notebooks of a folder whose names begin so, and after them the optional ones in its ``extra``."""
    optional = sorted((folder / EXTRA).glob(f"{beginning}*.ipynb"))
    return sorted(folder.glob(f"{beginning}*.ipynb")) + optional


def read_notebook(path: Path) -> NotebookNode:
    """The notebook at ``path``. ValueError where the file is not one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cells without an id, as Colab writes them, get one here
            notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except _NO_NOTEBOOK as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a notebook ({what[:200]}).") from None


def clear(notebook: NotebookNode) -> None:
    """Takes away, in place, all that an earlier run left in the cells and in the metadata of the notebook."""
    for name in STAMPS:
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in ("execution", "papermill"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def check_loopback() -> None:
    """OSError where programs of this machine cannot talk to each other, as we do with a kernel."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=GRACE).close()
    except OSError as error:
        fix = "no notebook can run here until the loopback device (lo) is up"
        raise OSError(f"Nothing can connect to 127.0.0.1 ({error.strerror or error}): {fix}.") from None


class NoSignOfLife(Exception):
    """A notebook neither went on nor stopped at its time limits."""


def _interruptible(work: Coroutine[Any, Any, Any], watch: Callable[[], None] = lambda: None) -> None:
    """Runs a coroutine in a thread, so that Ctrl-C reaches this one and ends the work in order.

    In the main thread nbclient takes the signal for itself, and the run would go on with the next notebook;
    and there a loop may be running already, as in Jupyter. watch: called now and then; raises to give up.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(_to_the_end(work))

    def drive() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(BaseException):  # kept in the task, and raised from there below
            loop.run_until_complete(task)
        finished.set()
        loop.close()

    # An event, since a thread whose join() was interrupted counts as ended in Python 3.11; in short waits,
    # since a wait without limit cannot be interrupted on Windows. A daemon: no process waits for its end.
    finished = threading.Event()
    threading.Thread(target=drive, daemon=True).start()
    try:
        while not finished.wait(0.2):
            watch()
    except BaseException:  # Ctrl-C, the time limit of a test, or that above
        with contextlib.suppress(RuntimeError):  # it has just ended by itself
            loop.call_soon_threadsafe(task.cancel)
        finished.wait(GRACE)
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
        if others:
            await asyncio.wait(others, timeout=GRACE)


def execute(
    notebook: NotebookNode,
    directory: Path,
    *,
    environment: dict[str, str],
    timeout: float,
    on_cell: Callable[[int], None] = lambda position: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs the notebook (changed in place) in ``directory`` and returns what became of it.

    timeout: seconds for each cell. on_cell: called with the position of every code cell before it runs.
    stopped: for a thread that Ctrl-C does not reach, whether to stop as by Ctrl-C.
    An interrupt (Ctrl-C) stops the kernel and is passed on. Outputs are of this run alone.
    """
    clear(notebook)
    position, begin, peak = -1, time.monotonic(), 0
    last_sign = begin

    def started(cell: NotebookNode, cell_index: int) -> None:
        nonlocal position, last_sign
        position, last_sign = cell_index, time.monotonic()
        on_cell(cell_index)

    def watch(process: int | None) -> None:
        nonlocal peak
        if stopped():
            raise KeyboardInterrupt
        peak = max(peak, _memory(process))
        if time.monotonic() - last_sign > max(timeout, STARTUP_SECONDS) + 2 * GRACE:
            raise NoSignOfLife

    error, traceback = "", ""
    try:
        _in_a_kernel(notebook, directory, environment, timeout, started, watch)
    except CellExecutionError as raised:
        error, traceback = f"{raised.ename}: {_plain(raised.evalue)}", raised.traceback
    except (CellTimeoutError, NoSignOfLife):
        error = f"it took more than {timeout:g} s, the time limit of a cell (--timeout)"
    except DeadKernelError:
        error = "the Python process died (most often: out of memory)"
    except (RuntimeError, OSError) as raised:
        error = _plain(str(raised))
    seconds = time.monotonic() - begin
    if error and position < 0:
        return Outcome(notebook, seconds, f"its Python process did not start: {error}", peak)
    return Outcome(notebook, seconds, error and f"{_place(notebook, position, traceback)}: {error}", peak)


def _memory(process: int | None) -> int:
    """Bytes that a process and those that it started take now; 0 where there is none."""
    import psutil  # comes with ipykernel

    try:
        first = psutil.Process(process) if process else None
        family = [first, *first.children(recursive=True)] if first else []
        return sum(member.memory_info().rss for member in family)
    except psutil.Error:  # one of them has just ended
        return 0


def _in_a_kernel(
    notebook: NotebookNode,
    directory: Path,
    environment: dict[str, str],
    timeout: float,
    started: Callable[[NotebookNode, int], None],
    watch: Callable[[int | None], None],
) -> None:
    """Runs the cells in a new kernel, and leaves none behind, whatever happens.

    watch: called now and then with the id of its process, None before there is one; raises to give up.
    """
    # A context of our own. The manager would end its own while the thread that listens to the heartbeat still
    # uses it, which zeromq does not allow: if that thread opens a socket just then, the end never comes.
    context = zmq.asyncio.Context()
    manager = AsyncKernelManager(kernel_spec_manager=ThisInterpreter(), context=context)
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=math.ceil(timeout),  # of an answer that no cell waits for
        timeout_func=lambda cell: timeout,  # may be a fraction
        startup_timeout=STARTUP_SECONDS,
        record_timing=False,
        shutdown_kernel="immediate",  # it holds nothing worth saving, and a busy one complains on stderr
        resources={"metadata": {"path": str(directory)}},
        on_cell_start=started,
    )

    def process() -> Any:
        return getattr(manager.provisioner, "process", None)

    try:
        work = client.async_execute(cleanup_kc=True, env=environment)
        _interruptible(work, lambda: watch(getattr(process(), "pid", None)))
    finally:
        # else a client that hangs would hang the end of this process
        atexit.unregister(client._cleanup_kernel)
        if (running := process()) is not None and running.poll() is None:
            running.kill()
        # In a thread that nothing waits for: a socket that is still open holds up the end of its context.
        threading.Thread(target=context.destroy, kwargs={"linger": 0}, daemon=True).start()


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


def _plain(text: str) -> str:
    text = " ".join(_TERMINAL_COLOUR.sub("", text).split())
    return text if len(text) <= 400 else text[:399] + "…"
