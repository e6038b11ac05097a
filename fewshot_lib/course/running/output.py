"""The directory that a run writes to: what no run wrote is never replaced, and what is collected, a run made.

A run stamps every notebook that it executes: when it was started, with which parameters, whether it stopped,
and the cells as they were (:func:`stamp`), so that one in which a person wrote since is known as theirs.
"""

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbformat import NotebookNode

from fewshot_lib.course import records
from fewshot_lib.course.running.execution import read_notebook
from fewshot_lib.data.cache import write_whole
from fewshot_lib.data.reporting import first_few

TITLE = "# Results\n"
NOTE = "In brackets: the 95 % confidence interval. Differences are paired, on the same episodes."
BEGINNINGS = {"results.md": TITLE, "results.csv": "kind,notebook,"}  # of the tables that a run writes


class Collected(NamedTuple):
    """Rows of the notebooks that a run executed; and the others, with the reason why they were left out."""

    rows: list[dict[str, Any]]
    left_out: dict[str, str]


def stamp(notebook: NotebookNode, facts: Mapping[str, Any]) -> None:
    """Writes into the metadata what identifies the run."""
    notebook.metadata[records.STAMP] = dict(facts) | {"cells": fingerprint(notebook)}


def fingerprint(notebook: Mapping[str, Any]) -> str:
    """A hash of what people write in a notebook; outputs are not part of it."""
    cells = [(cell["cell_type"], cell["source"].rstrip("\n")) for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def check_names(paths: Sequence[Path]) -> None:
    """Refuses two notebooks of one name, of which one would replace the other's results."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem.casefold(), path)
        if other is not path:
            both = f"{other} and {path} would both be written as {path.stem}.ipynb"
            raise ValueError(f"{both}: run them one after the other, each with its own --out.")


def check_place(out: Path, paths: Sequence[Path]) -> None:
    """Refuses a directory in which the run would replace, or mix with its own, what it did not write."""
    if os.path.lexists(out) and not out.is_dir():  # a file, or a link that leads nowhere
        raise ValueError(f"`--out {out}` is no directory: name one, or a path at which there is nothing yet.")
    sources = [path.name for path in paths if path.resolve().parent == out.resolve()]
    if sources:
        found = f"`--out {out}` is the directory of {first_few(sources)}, which is to be run"
        raise ValueError(f"{found}: name another directory.")
    names = {path.stem for path in paths}
    if theirs := sorted({path.name for path in _not_ours(out, names)}):
        found = (
            f"`--out {out}` holds {first_few(theirs)}, which no run wrote, or in which someone wrote since"
        )
        raise ValueError(f"{found}. Nothing was run: name another directory, or move them away.")


def _not_ours(out: Path, names: set[str]) -> Iterable[Path]:
    """Files of people. names: of the notebooks that will be written; any other that is broken stays."""
    for path in sorted(out.glob("*.ipynb")):
        try:
            notebook = read_notebook(path)
        except (ValueError, OSError):
            if path.stem in names:
                yield path
            continue
        ours = notebook.metadata.get(records.STAMP, {}).get("cells") == fingerprint(notebook)
        if records.run_of(notebook) is None or (path.stem in names and not ours):
            yield path
    for name in names:
        if (page := out / f"{name}.html").exists() and not (out / f"{name}.ipynb").exists():
            yield page
    for name, beginning in BEGINNINGS.items():
        path = out / name
        if path.exists() and not path.read_bytes().startswith(beginning.encode()):
            yield path


def remove_earlier(out: Path, paths: Sequence[Path]) -> None:
    """Takes away what an earlier run left of these notebooks: nothing stale, should this one be stopped."""
    for path in paths:
        for ending in ("html", "ipynb"):  # a page without its notebook would be somebody's
            file = out / f"{path.stem}.{ending}"
            file.unlink(missing_ok=True)
            for half_written in out.glob(f".{glob.escape(file.name)}.*.part"):  # by a run that was killed
                half_written.unlink(missing_ok=True)


def collect(paths: Iterable[Path]) -> Collected:
    """The rows of executed notebooks. One that is broken or was not executed costs the others nothing."""
    rows: list[dict[str, Any]] = []
    left_out = {}
    for path in paths:
        try:
            notebook = read_notebook(path)
            found = complete_rows(notebook)
        except OSError as error:
            left_out[path.name] = f"it cannot be read ({error.strerror or error})"
        except ValueError as error:
            left_out[path.name] = str(error)
        else:
            if records.run_of(notebook) is None:
                left_out[path.name] = "no run executed it: what it shows, its authors stored"
            else:
                rows += found
    return Collected(rows, left_out)


def complete_rows(notebook: NotebookNode) -> list[dict[str, Any]]:
    """The rows of a notebook; ValueError where one was made by hand, and made wrong."""
    try:
        rows = records.rows_of(notebook)
        records.markdown_table(rows)
        return rows
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ValueError("a row in it is incomplete") from None


def write_results(directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes results.md and results.csv, of these rows, into the directory."""
    text = records.markdown_table(rows) if rows else "Nothing was recorded."
    write_whole(directory / "results.md", f"{TITLE}\n{text}\n\n{NOTE}\n")
    write_whole(directory / "results.csv", records.csv_table(rows))


def check_tables(directory: Path) -> None:
    """Refuses to replace a results.md or results.csv that somebody else wrote."""
    if theirs := [path.name for path in _not_ours(directory, set()) if path.suffix != ".ipynb"]:
        found = f"{directory} holds {first_few(theirs)}, which the course did not write"
        raise ValueError(f"{found}: move it away, or name another directory.")
