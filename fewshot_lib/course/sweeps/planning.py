"""From notebooks and a grid of parameters to points: all is checked here, before anything has started."""

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from fewshot_lib import data
from fewshot_lib.core import data_facts, whole_number
from fewshot_lib.course.lesson import resolve_profile
from fewshot_lib.course.machine import PACKAGE_ROOT
from fewshot_lib.course.running import output, parameters
from fewshot_lib.course.running.execution import check_loopback, check_timeout, read_notebook
from fewshot_lib.course.running.runner import CELL_SECONDS, load_noting, prepare, problems_of
from fewshot_lib.course.sweeps.grid import combinations, in_words, swept, typed
from fewshot_lib.course.sweeps.points import FACTS, POINTS, Point, key_of, versions
from fewshot_lib.data.cache import write_whole
from fewshot_lib.data.reporting import first_few

Values = dict[str, Any]


def plan(
    paths: Sequence[Path],
    grid: Mapping[str, Sequence[Any]],
    out: Path,
    *,
    threads: int = 1,
    timeout: float | None = None,
    solutions: bool = False,
    say: Callable[[str], None] = print,
) -> list[Point]:
    """The points of every notebook with every combination of the values, each once.

    grid: parameter -> its values. out: the directory of the state; sweeps that name the same one share
    points. threads: of each point, 1 by default: their number changes results in the third digit. timeout:
    seconds of a cell. ValueError, before anything has run, for what the parameters cell of a notebook does
    not declare, and for a data set that does not suffice for a point.
    """
    whole_number(threads=threads)
    check_timeout(timeout)
    output.check_names(paths)
    notebooks = {path: read_notebook(path) for path in paths}
    chosen = [_resolved(values) for values in combinations(grid)]
    for values in chosen:
        parameters.check_all({path.stem: notebook for path, notebook in notebooks.items()}, values)
    sets = _data_sets(notebooks, chosen, say)
    check_loopback()
    _check_place(out)
    common: dict[str, Any] = {"versions": versions(), "revision": _revision(), "threads": threads}
    points: dict[str, Point] = {}
    for path, notebook in notebooks.items():
        filled = prepare(path, notebook, {}, solutions)
        own, cells = parameters.declared(notebook), output.fingerprint(filled)
        profile = {"profile": resolve_profile(own["profile"])} if "profile" in own else {}
        for values in chosen:
            given = profile | values
            facts = {"given": given, "parameters": own | given, "data": sets[_name(values)], **common}
            key = key_of(path.stem, cells, facts["parameters"], facts["versions"], facts["data"])
            points[key] = Point(
                folder=str(out.absolute() / POINTS / key),
                notebook=path.stem,
                source=nbformat.writes(parameters.inject(filled, given)),
                place=str(path.parent.absolute()),
                timeout=timeout or CELL_SECONDS[resolve_profile(given.get("profile"))],
                **facts,
            )
    return list(points.values())


def _resolved(values: Values) -> Values:
    """The same for a process that works in another directory."""
    if (dataset := values.get("dataset")) is None:
        return values
    return values | {"dataset": data.describe_parameter(dataset).absolute()}


def _name(values: Values) -> str:
    return json.dumps(values.get("dataset"), default=repr)


def _data_sets(
    notebooks: Mapping[Path, NotebookNode], chosen: Sequence[Values], say: Callable[[str], None]
) -> dict[str, dict[str, str]]:
    """Name and version of each data set; ValueError where one cannot be read or does not suffice for a point.

    What a notebook loads by itself follows from the library and the packages, whose versions are known.
    """
    found: dict[str, dict[str, str]] = {_name({}): {}}
    problems = []
    for name in dict.fromkeys(map(_name, chosen)):
        with_it = [values for values in chosen if _name(values) == name]
        if name in found:
            continue
        dataset = load_noting(with_it[0]["dataset"], say)
        found[name] = {"name": dataset.name, "family": dataset.split_family, "version": _version(dataset)}
        problems += [
            f"  {path.stem} with {in_words(values, swept(chosen) or values)}: {problem}"
            for path, notebook in notebooks.items()
            for values in with_it
            for problem in problems_of(path, notebook, values, dataset)
        ]
    if problems:
        more = [f"  and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise ValueError("\n".join(["Nothing was run, for these reasons:", *problems[:10], *more]))
    return found


def _version(dataset: data.ClassDataset) -> str:
    """A hash of all that episodes are made from."""
    return key_of(data_facts(dataset))


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _check_place(out: Path) -> None:
    """Refuses, in one sentence, a directory in which no state can be kept; makes nothing."""
    try:
        with tempfile.TemporaryFile(dir=existing(out)) as file:
            file.write(b"x")
    except OSError as error:
        fix = "name a directory that you may write to"
        raise ValueError(f"`--out {out}` cannot be written ({error.strerror or error}): {fix}.") from None


def _revision() -> str:
    """The commit of the library, where it is a clone; with a plus where files differ from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = [
            "git",
            "-C",
            str(PACKAGE_ROOT),
            "describe",
            "--always",
            "--abbrev=12",
            "--exclude=*",
            "--dirty=+",
        ]
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    return ""


def disk_needed(points: Sequence[Point], finished: Mapping[str, Values]) -> int:
    """Bytes that the points will take: as others of their notebook did, or twice the notebook as it is."""
    page = 300_000  # of HTML, before anything is in it
    taken: dict[str, list[int]] = {}
    if points:
        out = Path(points[0].folder).parent
        for key, facts in finished.items():
            size = sum(file.stat().st_size for file in (out / key).glob("*"))
            taken.setdefault(facts["notebook"], []).append(size)
    known = {name: sum(sizes) // len(sizes) for name, sizes in taken.items()}
    return sum(known.get(point.notebook, 2 * _size(point) + page) for point in points)


def _size(point: Point) -> int:
    with contextlib.suppress(OSError):
        return (Path(point.place) / f"{point.notebook}.ipynb").stat().st_size
    return len(point.source)


def check_disk(out: Path, needed: int) -> int:
    """Bytes that are free; OSError where the points would not fit."""
    free = shutil.disk_usage(existing(out)).free
    if needed > free:
        found = f"The sweep needs about {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free at {out}"
        raise OSError(f"{found}. Nothing was run: free some space, or name another directory (--out).")
    return free


def write_snakefile(points: Sequence[Point], out: Path) -> Path:
    """A Snakefile whose rule runs one point with ``fewshot sweep``; the folders are its state as well.

    Returns its path. Each of its jobs is a sweep of one point, so whatever Snakemake runs on will do.
    """
    commands = {}
    for point in points:
        path = Path(point.place) / f"{point.notebook}.ipynb"
        given = [part for name, value in point.given.items() for part in ("-p", typed(name, value))]
        size = ["--threads", str(point.threads), "--timeout", f"{point.timeout:g}"]
        commands[point.key] = shlex.join([str(path), *given, *size])
    text = f"""# Written by `fewshot sweep --export snakemake`, as which the folders of the points are made.
POINTS = {json.dumps(commands, indent=4)}

rule all:
    input: expand("{POINTS}/{{key}}/{FACTS}", key=POINTS)

rule point:
    output: "{POINTS}/{{key}}/{FACTS}"
    threads: {max(point.threads for point in points)}
    params: what=lambda wildcards: POINTS[wildcards.key]
    shell: "{shlex.quote(sys.executable)} -m fewshot_lib sweep {{params.what}} --jobs 1 --out . --retry"
"""
    write_whole(out / "Snakefile", text)
    return out / "Snakefile"


def describe(points: Sequence[Point]) -> str:
    """How many, of what: "12 points: 1 notebook × n_shot 1, 5 × seed 0, 1, …"."""
    names = list(dict.fromkeys(point.notebook for point in points))
    parts = [names[0] if len(names) == 1 else f"{len(names)} notebooks"]
    for name in swept([point.given for point in points]):
        values = dict.fromkeys(repr(point.given[name]) for point in points if name in point.given)
        parts.append(f"{name} {first_few(values)}")
    return f"{len(points)} point{'s' if len(points) > 1 else ''}: {' × '.join(parts)}"
