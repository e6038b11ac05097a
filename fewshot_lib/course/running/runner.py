"""``fewshot run``: every notebook in order, with what it recorded in one table at the end.

Names and values of parameters are checked before the first notebook starts. A notebook that fails is named
with its cell and its error, and the others still run.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course import records
from fewshot_lib.course.lesson import resolve_profile
from fewshot_lib.course.running import parameters as parameter_cells
from fewshot_lib.course.running import times
from fewshot_lib.course.running.execution import execute, kernel_environment, read_notebook, write_whole
from fewshot_lib.course.running.solutions import fill_solutions

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

    out: gets each executed notebook, its HTML page, and ``results.md`` and ``.csv`` of all those there.
    solutions: the exercises are filled in first. Ctrl-C ends the run; what had finished is in the results.
    """
    profile = resolve_profile(values.get("profile"))
    notebooks = {path: read_notebook(path) for path in paths}
    parameter_cells.check_all({path.stem: notebook for path, notebook in notebooks.items()}, values)
    prepared = {path: _prepared(path, notebook, values, solutions) for path, notebook in notebooks.items()}
    expected = times.load_times(paths[0].parent).get(profile, {})
    environment, limit = kernel_environment(threads), timeout or CELL_SECONDS[profile]
    done: dict[str, float] = {}  # notebook -> seconds
    failed: dict[str, str] = {}  # notebook -> where and why

    def left() -> str:
        waiting = [path.stem for path in paths if path.stem not in done]
        seconds = times.estimate_left(waiting, done, expected)
        return f", about {times.in_words(seconds)} left" if waiting and seconds is not None else ""

    out.mkdir(parents=True, exist_ok=True)
    setting = f"profile {profile}, threads: {threads}{left()}"
    say(f"Notebooks: {len(paths)}, {setting}. Results go to {out}.")
    facts = {"parameters": dict(values), "profile": profile, "threads": threads}
    try:
        for number, (path, notebook) in enumerate(prepared.items(), start=1):
            count = f"[{number}/{len(paths)}] {path.stem}"
            on_cell = _shows_cells(f"{CLEAR_LINE}{count}: cell", len(notebook.cells))
            outcome = execute(notebook, path.parent, environment=environment, timeout=limit, on_cell=on_cell)
            outcome.notebook.metadata["fewshot_run"] = facts
            write_whole(out / path.name, nbformat.writes(outcome.notebook) + "\n")
            write_whole(out / f"{path.stem}.html", html_page(outcome.notebook, path))
            done[path.stem] = outcome.seconds
            _to_terminal(CLEAR_LINE)
            verdict = "FAILED" if outcome.failure else "ok"
            say(f"{count}: {verdict}, {times.in_words(outcome.seconds)}{left()}")
            if outcome.failure:
                failed[path.stem] = outcome.failure
                say(f"    {outcome.failure}")
    except KeyboardInterrupt:
        write_results(out)
        so_far = f"{len(done)} of {len(paths)} notebooks"
        raise KeyboardInterrupt(f"Stopped after {so_far}; their results are in {out}.") from None
    write_results(out)
    total = times.in_words(sum(done.values()))
    lines = [f"Every notebook ran to its end ({total} in all). Read {out / 'results.md'} or a page in {out}."]
    if failed:
        lines = [f"{len(failed)} of {len(paths)} notebooks failed ({total}):"]
    say("\n".join(lines + [f"  {name}: {failure}" for name, failure in failed.items()]))
    return not failed


def _to_terminal(text: str) -> None:
    if sys.stdout.isatty():
        print(text, end="", flush=True)


def _shows_cells(line: str, n_cells: int) -> Callable[[int], None]:
    """What to call before every cell: on a terminal it says which one runs."""
    return lambda position: _to_terminal(f"{line} {position + 1} of {n_cells}")


def _prepared(path: Path, notebook: NotebookNode, values: Mapping[str, Any], solutions: bool) -> NotebookNode:
    try:
        return parameter_cells.inject(fill_solutions(notebook) if solutions else notebook, values)
    except ValueError as error:
        raise ValueError(f"{path.stem}, {error}") from None


def html_page(notebook: NotebookNode, path: Path) -> str:
    """The notebook as one HTML file with its pictures inside; formulas need MathJax, from the network."""
    from nbconvert import HTMLExporter  # slow to import, and only needed here

    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    return HTMLExporter(embed_images=True).from_notebook_node(notebook, resources=resources)[0]


def write_results(directory: Path) -> list[dict[str, Any]]:
    """Writes results.md and results.csv beside the executed notebooks; returns their rows."""
    rows = records.collect(read_notebook(path) for path in sorted(directory.glob("*.ipynb")))
    text = records.markdown_table(rows) if rows else "Nothing was recorded."
    note = "In brackets: the 95 % confidence interval. Differences are paired, on the same episodes."
    write_whole(directory / "results.md", f"# Results\n\n{text}\n\n{note}\n")
    write_whole(directory / "results.csv", records.csv_table(rows))
    return rows
