"""One point of a sweep: a notebook with one set of parameters, and the folder that says that it is done.

    OUT/points/KEY/   NAME.ipynb (executed)   NAME.html   point.json (how it was run, and what it recorded)

KEY is a hash of all that decides the numbers: the cells, the parameters, the library with what it computes
by, and the data. The folder is written beside its place and renamed: it is whole or not there, whoever was
killed. Where two workers run the same point, the first one counts.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

import fewshot_lib
from fewshot_lib.course.machine import ENCODER_PACKAGE
from fewshot_lib.course.running import output
from fewshot_lib.course.running.execution import Outcome, execute, kernel_environment
from fewshot_lib.course.running.runner import html_page
from fewshot_lib.data.made.docstrings import PACKAGES

POINTS, FACTS = "points", "point.json"
# What numbers depend on besides the library itself; the texts of "docstrings" come out of most of them.
DISTRIBUTIONS = sorted(
    {name for name, _ in PACKAGES.values()} | {"pillow", "peft", "torchjd", ENCODER_PACKAGE}
)


@dataclass(frozen=True)
class Point:
    """What a worker needs to run one point; a few strings and numbers, so that any engine can send it.

    source: the notebook as JSON, with its parameters filled in. place: the folder in which its cells run.
    given: the parameters that differ from the notebook's own; parameters: all of them. data: name and version
    of the data set, where one is given. threads: of its kernel. timeout: seconds for each cell.
    """

    folder: str
    notebook: str
    source: str
    place: str
    given: Mapping[str, Any]
    parameters: Mapping[str, Any]
    data: Mapping[str, str]
    versions: Mapping[str, str]
    revision: str
    threads: int
    timeout: float

    @property
    def key(self) -> str:
        return Path(self.folder).name


class Ended(NamedTuple):
    """What came of a point: its facts, or why no point at all can be run there."""

    facts: dict[str, Any]
    stop: str = ""


def versions() -> dict[str, str]:
    """What computes the numbers of this machine: the library (with a hash of its files), and its packages."""
    digest, root = hashlib.sha256(), Path(fewshot_lib.__file__).parent
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".json")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    found = {"fewshot_lib": f"{fewshot_lib.__version__}+{digest.hexdigest()[:12]}"}
    found["Python"] = ".".join(platform.python_version_tuple()[:2])
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def key_of(*parts: Any) -> str:
    """A short hash of what is named, the same in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def read(folder: Path) -> dict[str, Any] | None:
    """The facts of a finished point; None where its folder is not there, or not whole."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        whole = facts["key"] == folder.name and (folder / f"{facts['notebook']}.ipynb").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if whole else None


def read_all(out: Path) -> dict[str, dict[str, Any]]:
    """The facts of all finished points below ``out/points``, by key."""
    found = (read(folder) for folder in sorted((out / POINTS).glob("[!.]*")))
    return {facts["key"]: facts for facts in found if facts}


def run_point(point: Point, stopped: Callable[[], bool] = lambda: False) -> Ended:
    """Runs a point, unless another worker has done so meanwhile, and leaves its folder.

    An error of the notebook is a fact of the point. stopped: whether to stop as by Ctrl-C, with nothing
    written.
    """
    folder, host = Path(point.folder), platform.node() or "this machine"
    try:
        if facts := read(folder):
            return Ended(facts)
        if problem := _unfit(point):
            return Ended({}, f"The worker on {host} cannot run this sweep: {problem}.")
        with _new_folder(folder) as part:
            notebook = nbformat.reads(point.source, as_version=4)
            environment = kernel_environment(point.threads)
            started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            outcome = execute(
                notebook, Path(point.place), environment=environment, timeout=point.timeout, stopped=stopped
            )
            facts = _write(part, point, outcome, started)
        return Ended(read(folder) or facts)
    except OSError as error:  # about the disk: what a notebook raises is in the outcome
        if facts := read(folder):  # somebody else was quicker, and has tidied up
            return Ended(facts)
        problem = f"{host} could not write {folder} ({error.strerror or error})"
        return Ended({}, f"{problem}. Free some space, or use a directory that you may write to (--out).")


def _unfit(point: Point) -> str:
    """Why this process would not compute the same as the one that planned the sweep."""
    if not Path(point.place).is_dir():
        return f"it does not see {point.place}; all workers must share that disk"
    here = versions()
    for name in {**point.versions, **here}:
        there, own = (found.get(name, "missing") for found in (point.versions, here))
        if there != own:
            return f"{name} is {own} there, and was {there} when the sweep was planned; install the same"
    return ""


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder beside its place, which gets its name in the end; nothing is left of it on failure."""
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    part.mkdir(parents=True)
    try:
        yield part
        set_aside(folder, unless=read)  # half a folder, as an engine or the end of all current may leave it
        part.rename(folder)
        for left in folder.parent.glob(f".{folder.name}.*.part"):  # by workers that were killed
            shutil.rmtree(left, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def set_aside(folder: Path, unless: Callable[[Path], Any] = lambda folder: False) -> None:
    """Removes the folder of a point, at one stroke, so that it counts as not run."""
    if folder.exists() and not unless(folder):
        away = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)


def _write(part: Path, point: Point, outcome: Outcome, started: str) -> dict[str, Any]:
    """Fills the new folder; returns the facts of the point."""
    facts = {
        "key": point.key,
        "notebook": point.notebook,
        "started": started,
        "failure": outcome.failure,
        "seconds": round(outcome.seconds, 1),
        "peak_memory": outcome.peak_memory,
        **{name: getattr(point, name) for name in "parameters data threads versions revision".split()},
    }
    output.stamp(outcome.notebook, facts | {"profile": point.parameters.get("profile")})
    try:
        facts["rows"] = output.complete_rows(outcome.notebook)
    except ValueError as error:
        facts |= {"rows": [], "failure": facts["failure"] or f"its results cannot be read: {error}"}
    page = html_page(outcome.notebook, Path(point.place) / f"{point.notebook}.ipynb")
    files = {
        f"{point.notebook}.ipynb": nbformat.writes(outcome.notebook) + "\n",
        f"{point.notebook}.html": page,
    }
    files[FACTS] = json.dumps(facts, indent=1, default=repr) + "\n"  # last
    for name, text in files.items():
        (part / name).write_bytes(text.encode("utf-8", errors="backslashreplace"))
    return facts
