"""``fewshot run``: every notebook in order, with what it recorded in one table at the end.

Everything is checked before the first notebook starts: names and values of parameters, the data set and what
each notebook needs of it, and that nothing of a person is in the way. A notebook that fails is named with its
cell and its error, and the others still run.
"""

import datetime
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from fewshot_lib import data
from fewshot_lib.course import needs
from fewshot_lib.course.lesson import PARAMETER_DEFAULTS, resolve_profile
from fewshot_lib.course.running import output, times
from fewshot_lib.course.running import parameters as parameter_cells
from fewshot_lib.course.running.execution import check_loopback, execute, kernel_environment, read_notebook
from fewshot_lib.course.running.solutions import fill_solutions
from fewshot_lib.data.cache import write_whole

CELL_SECONDS = {"smoke": 600, "laptop": 600, "gpu": 3600}  # time limit of a cell, unless another is given
CLEAR_LINE = "\r\x1b[K"


def run(
    paths: Sequence[Path],
    values: Mapping[str, Any],
    out: Path,
    *,
    threads: int,
    timeout: float | None = None,
    solutions: bool = False,
    say: Callable[[str], None] = print,
) -> bool:
    """Runs the notebooks with these parameter values; True where all of them reached their end.

    out: gets each executed notebook, its HTML page, and ``results.md`` and ``.csv`` of this run.
    solutions: the exercises are filled in first. Ctrl-C ends the run; what had finished is in the results.
    """
    profile = resolve_profile(values.get("profile"))
    prepared = _checked(paths, values, out, solutions, say)
    expected = times.load_times(paths[0].parent).get(profile, {})
    environment, limit = kernel_environment(threads), timeout or CELL_SECONDS[profile]
    done: dict[str, float] = {}  # notebook -> seconds
    failed: dict[str, str] = {}  # notebook -> where and why

    def left() -> str:
        waiting = [path.stem for path in paths if path.stem not in done]
        seconds = times.estimate_left(waiting, done, expected)
        return f", about {times.in_words(seconds)} left" if waiting and seconds is not None else ""

    out.mkdir(parents=True, exist_ok=True)
    output.remove_earlier(out, paths)
    rows: list[dict[str, Any]] = []  # kept here: another run may write into this directory meanwhile
    setting = f"profile {profile}, threads: {threads}{left()}"
    output.write_results(out, rows)  # nor are the tables those of an earlier run, should this one be stopped
    say(f"Notebooks: {len(paths)}, {setting}. Results: {out}")
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"started": started, "parameters": dict(values), "profile": profile, "threads": threads}
    try:
        for number, (path, notebook) in enumerate(prepared.items(), start=1):
            count = f"[{number}/{len(paths)}] {path.stem}"
            on_cell = _shows_cells(f"{CLEAR_LINE}{count}: cell", len(notebook.cells))
            outcome = execute(notebook, path.parent, environment=environment, timeout=limit, on_cell=on_cell)
            output.stamp(outcome.notebook, facts | {"failure": outcome.failure})
            write_whole(out / f"{path.stem}.ipynb", nbformat.writes(outcome.notebook) + "\n")
            write_whole(out / f"{path.stem}.html", html_page(outcome.notebook, path))
            done[path.stem] = outcome.seconds
            _to_terminal(CLEAR_LINE)
            verdict = "FAILED" if outcome.failure else "ok"
            say(f"{count}: {verdict}, {times.in_words(outcome.seconds)}{left()}")
            if outcome.failure:
                failed[path.stem] = outcome.failure
                say(f"    {outcome.failure}")
            try:
                rows += output.complete_rows(outcome.notebook)
            except ValueError as error:
                say(f"    not in the results: {error}")
            output.write_results(out, rows)  # after each notebook, so that nothing can cost what there is
    except KeyboardInterrupt:
        so_far = f"{len(done)} of {len(paths)} notebooks"
        raise KeyboardInterrupt(f"Stopped after {so_far}; their results are in {out}.") from None
    say(_verdict(out, done, failed))
    return not failed


def _checked(
    paths: Sequence[Path], values: Mapping[str, Any], out: Path, solutions: bool, say: Callable[[str], None]
) -> dict[Path, NotebookNode]:
    """The notebooks as they will run. ValueError or OSError for whatever would stop or spoil the run."""
    notebooks = {path: read_notebook(path) for path in paths}
    parameter_cells.check_all({path.stem: notebook for path, notebook in notebooks.items()}, values)
    prepared = {path: prepare(path, notebook, values, solutions) for path, notebook in notebooks.items()}
    output.check_names(paths)
    output.check_place(out, paths)
    check_loopback()
    check_dataset(notebooks, values, say)
    return prepared


def _verdict(out: Path, done: Mapping[str, float], failed: Mapping[str, str]) -> str:
    """What failed, or where to read; done: notebook -> seconds, failed: notebook -> where and why."""
    total = times.in_words(sum(done.values()))
    lines = [f"Every notebook ran to its end ({total} in all). Read {out / 'results.md'} or a page in {out}."]
    if failed:
        lines = [f"{len(failed)} of {len(done)} notebooks failed ({total}):"]
    lines += [f"  {name}: {failure}" for name, failure in failed.items()]
    if others := len({path.stem for path in out.glob("*.ipynb")} - done.keys()):
        hint = f"`fewshot results {out}` collects all that a run executed"
        lines.append(f"Other notebooks there: {others}, not in this table; {hint}.")
    return "\n".join(lines)


def check_dataset(
    notebooks: Mapping[Path, NotebookNode], values: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Refuses a data set that cannot be read, or that a notebook cannot run on; ``None`` is left to them."""
    if values.get("dataset") is None:
        return
    dataset = load_noting(values["dataset"], say)
    problems = {}
    for path, notebook in notebooks.items():
        if found := problems_of(path, notebook, values, dataset):
            problems[path.stem] = found
    if problems:
        lines = [f"  {name}: {problem}" for name, found in problems.items() for problem in found]
        good = [path.stem for path in notebooks if path.stem not in problems]
        rest = f"`fewshot run {' '.join(good)}` with the same options runs." if good else ""
        raise ValueError("\n".join(["Nothing was run, for these reasons:", *lines, *filter(None, [rest])]))


def load_noting(source: Any, say: Callable[[str], None]) -> data.ClassDataset:
    """The data set; what its loader warns of is said as notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = data.load(source)
    for note in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"note: {note}")
    return dataset


def problems_of(
    path: Path, notebook: NotebookNode, values: Mapping[str, Any], dataset: data.ClassDataset
) -> list[str]:
    """Why the notebook cannot run with these parameter values on the data set, a sentence each."""
    sizes = {**PARAMETER_DEFAULTS, **parameter_cells.declared(notebook), **values}
    return needs.problems(path.stem, dataset, *(sizes[name] for name in ("n_way", "n_shot", "n_query")))


def _to_terminal(text: str) -> None:
    if sys.stdout.isatty():
        print(text, end="", flush=True)


def _shows_cells(line: str, n_cells: int) -> Callable[[int], None]:
    """What to call before every cell: on a terminal it says which one runs."""
    return lambda position: _to_terminal(f"{line} {position + 1} of {n_cells}")


def prepare(path: Path, notebook: NotebookNode, values: Mapping[str, Any], solutions: bool) -> NotebookNode:
    """The notebook with these parameter values, perhaps with its exercises filled in."""
    try:
        return parameter_cells.inject(fill_solutions(notebook) if solutions else notebook, values)
    except ValueError as error:
        raise ValueError(f"{path.stem}, {error}") from None


def html_page(notebook: NotebookNode, path: Path) -> str:
    """The notebook as one HTML file that holds all it shows."""
    from fewshot_lib.course.running import pages  # slow to import, and only needed here

    return pages.html_page(notebook, path)
