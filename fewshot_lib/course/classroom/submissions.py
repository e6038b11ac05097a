"""What a class handed in: whose each file is, of which chapter, and the code in it. Nothing is run here."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_lib.course.classroom import cells as cutting
from fewshot_lib.course.running.execution import read_notebook
from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import EXERCISE, solution_of

MOST_BYTES = 20_000_000
_NAME = re.compile(r"""^NOTEBOOK\s*=\s*["']([\w-]+)["']""", re.MULTILINE)
_TITLE = re.compile(r"^#+ +(Exercise\b.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    """A notebook of the course. cells: its code. asking: position of each exercise, by its name."""

    path: Path
    cells: list[str]
    asking: dict[str, int]
    titles: dict[str, str]
    solutions: dict[str, str]


@dataclass(frozen=True)
class Submission:
    """Code cells of one student's notebook of a chapter, without the course's own; or why there are none."""

    student: str
    file: Path
    chapter: str = ""
    cells: tuple[str, ...] = ()
    problem: str = ""


def read_chapter(path: Path) -> Chapter:
    """The notebook as the grader needs it."""
    notebook = read_notebook(path)
    chapter = Chapter(path, [], {}, {}, {})
    prose = ""
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            prose = cell.source
        if cell.cell_type != "code":
            continue
        if EXERCISE in tags(cell):
            name = cutting.exercise_name(cell.source)
            chapter.asking[name] = len(chapter.cells)
            chapter.titles[name] = next(iter(_TITLE.findall(prose)), name)
            chapter.solutions[name] = solution_of(notebook, position)
        chapter.cells.append(cell.source)
    return chapter


def read_folder(folder: Path, chapters: Sequence[Chapter]) -> Iterator[Submission]:
    """Every notebook in the folder: a student is a folder in it, or a file by name. No link is followed."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or entry.name.startswith("."):
            continue
        if entry.is_dir():
            files = [f for f in sorted(entry.rglob("*.ipynb")) if not _has_link(f, entry)]
            files = [f for f in files if ".ipynb_checkpoints" not in f.parts]
            yield from (_read(file, readable(entry.name), chapters) for file in files)
            if not files:
                yield Submission(readable(entry.name), entry, problem="there is no notebook in this folder")
        elif entry.suffix == ".ipynb":
            name = readable(entry.stem)
            for chapter in chapters:
                name = name.replace(chapter.path.stem, "")
            yield _read(entry, name.strip(" _-.") or readable(entry.stem), chapters)


def readable(name: str) -> str:
    """A name that can be written: bytes that are no text are replaced."""
    return name.encode("utf-8", errors="replace").decode()


def _has_link(file: Path, top: Path) -> bool:
    return any(part.is_symlink() for part in (file, *file.parents) if part.is_relative_to(top))


def _read(file: Path, student: str, chapters: Sequence[Chapter]) -> Submission:
    if not file.is_file():  # a pipe, say, on which reading would wait for ever
        return Submission(student, file, problem="this is no file")
    if (size := file.stat().st_size) > MOST_BYTES:
        return Submission(student, file, problem=f"the file has {size / 1e6:,.0f} MB and was not read")
    try:
        sources = list(_sources(json.loads(file.read_bytes())))
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError, OSError):
        return Submission(student, file, problem="the file is not a notebook that can be read")
    found = next((match for match in map(_NAME.search, sources) if match), None)
    for chapter in chapters:
        if (found and found[1] == chapter.path.stem) or (not found and chapter.path.stem in file.stem):
            ours = {cell for i, cell in enumerate(chapter.cells) if i not in chapter.asking.values()}
            own = tuple(source for source in sources if source not in ours)
            return Submission(student, file, chapter.path.stem, own)
    return Submission(student, file, problem="it does not say which notebook of the course it is")


def _sources(notebook: Any) -> Iterator[str]:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = cell["source"]
            yield source if isinstance(source, str) else "".join(source)
