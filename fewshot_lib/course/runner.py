"""``fewshot run``: every notebook in order, with what it recorded in one table at the end.

Names and values of parameters are checked before the first notebook starts. A notebook that fails is named with its
cell and its error, and the others still run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course import parameters as parameter_cells
from fewshot_lib.course import records, times
from fewshot_lib.course.execution import Outcome, execute, kernel_environment, read_notebook, write_whole
from fewshot_lib.course.lesson import resolve_profile
from fewshot_lib.course.solutions import fill_solutions

CELL_SECONDS = {"smoke": 600, "laptop": 600, "gpu": 3600}  # time limit of a cell, unless another is given


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C; the results of the notebooks that had finished are written."""


def run(
    paths: Sequence[Path],
    values: Mapping[str, Any],
    out: Path,
    *,
    threads: int,
    timeout: float | None = None,
    solutions: bool = False,
    keep_times: bool = False,
    say: Callable[[str], None] = print,
) -> bool:
    """Runs the notebooks with these parameter values; True where all of them reached their end.

    Writes into ``out``: each executed notebook and its HTML page, ``results.md`` and ``results.csv`` (the results of all
    notebooks there). solutions: the exercises are filled in first. keep_times: the seconds become the expected ones.

    Raises ValueError, before anything runs, for parameters that cannot work, and Interrupted on Ctrl-C.
    """
    profile = resolve_profile(values.get("profile"))
    notebooks = {path: read_notebook(path) for path in paths}
    parameter_cells.check_all({path.stem: notebook for path, notebook in notebooks.items()}, values)
    prepared = {path: _prepared(path, notebook, values, solutions) for path, notebook in notebooks.items()}
    expected = times.load_times(paths[0].parent).get(profile, {})
    how = {"environment": kernel_environment(threads), "timeout": timeout or CELL_SECONDS[profile]}
    progress = _Progress([path.stem for path in paths], expected, say)
    out.mkdir(parents=True, exist_ok=True)
    say(f"Notebooks: {len(paths)}, profile {profile}, threads: {threads}{progress.left()}. Results go to {out}.")
    try:
        for path, notebook in prepared.items():
            outcome = execute(notebook, path.parent, on_cell=progress.start(path.stem, len(notebook.cells)), **how)
            _write(out, path, outcome.notebook, {"parameters": dict(values), "profile": profile, "threads": threads})
            progress.finish(path.stem, outcome)
    except KeyboardInterrupt:
        write_results(out)
        raise Interrupted(f"Stopped after {len(progress.done)} of {len(paths)} notebooks; their results are in {out}.") from None
    write_results(out)
    if keep_times and not progress.failed:
        times.keep_times(paths[0].parent, profile, progress.done)
    say(progress.summary(out))
    return not progress.failed


def _prepared(path: Path, notebook: NotebookNode, values: Mapping[str, Any], solutions: bool) -> NotebookNode:
    try:
        return parameter_cells.inject(fill_solutions(notebook) if solutions else notebook, values)
    except ValueError as error:
        raise ValueError(f"{path.stem}, {error}") from None


def _write(out: Path, path: Path, notebook: NotebookNode, how: dict[str, Any]) -> None:
    notebook.metadata["fewshot_run"] = how
    write_whole(out / path.name, nbformat.writes(notebook) + "\n")
    write_whole(out / f"{path.stem}.html", html_page(notebook, path))


def html_page(notebook: NotebookNode, path: Path) -> str:
    """The notebook as one HTML file with its pictures inside. Formulas are set by MathJax, which comes from the network."""
    from nbconvert import HTMLExporter  # slow to import, and only needed here

    exporter = HTMLExporter(embed_images=True)
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def write_results(directory: Path) -> list[dict[str, Any]]:
    """Collects what the executed notebooks in a directory recorded and writes results.md and results.csv there.

    Returns the rows.
    """
    rows = records.collect(read_notebook(path) for path in sorted(directory.glob("*.ipynb")))
    text = records.markdown_table(rows) if rows else "Nothing was recorded."
    note = "In brackets: the 95 % confidence interval. Differences are paired, on the same episodes."
    write_whole(directory / "results.md", f"# Results\n\n{text}\n\n{note}\n")
    write_whole(directory / "results.csv", records.csv_table(rows))
    return rows


class _Progress:
    """One line per notebook, with the time that is left; on a terminal also the cell that runs."""

    def __init__(self, names: Sequence[str], expected: Mapping[str, float], say: Callable[[str], None]) -> None:
        self.names, self.expected, self.say = list(names), expected, say
        self.done: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def left(self) -> str:
        waiting = [name for name in self.names if name not in self.done]
        seconds = times.estimate_left(waiting, self.done, self.expected)
        return f", about {times.in_words(seconds)} left" if waiting and seconds is not None else ""

    def start(self, name: str, n_cells: int) -> Callable[[int], None]:
        """Returns what to call before every cell."""
        if not sys.stdout.isatty():
            return lambda position: None
        return lambda position: print(f"\r\x1b[K{self._count()} {name}: cell {position + 1} of {n_cells}", end="", flush=True)

    def _count(self) -> str:
        return f"[{min(len(self.done) + 1, len(self.names))}/{len(self.names)}]"

    def finish(self, name: str, outcome: Outcome) -> None:
        count, verdict = self._count(), "FAILED" if outcome.failure else "ok"
        self.done[name] = outcome.seconds
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")
        self.say(f"{count} {name}: {verdict}, {times.in_words(outcome.seconds)}{self.left()}")
        if outcome.failure:
            self.failed[name] = str(outcome.failure)
            self.say(f"    {outcome.failure}")

    def summary(self, out: Path) -> str:
        total = times.in_words(sum(self.done.values()))
        if not self.failed:
            return f"Every notebook ran to its end ({total} in all). Read {out / 'results.md'} or open a page in {out}."
        lines = [f"{len(self.failed)} of {len(self.names)} notebooks failed ({total}):"]
        return "\n".join(lines + [f"  {name}: {failure}" for name, failure in self.failed.items()])
