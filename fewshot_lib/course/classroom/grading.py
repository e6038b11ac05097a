"""``fewshot grade FOLDER``: judges the exercises of submitted notebooks; a table, a page for each student.

Nothing that was handed in runs in this process, and nothing that a submission *says* is believed: its stored
outputs are not read, and its verdict is found from the values that its function returns (:mod:`.exam`), on
the cases of the notebook and on others. The rest of a submitted notebook is not run at all.
"""

import concurrent.futures
import csv
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_lib.course import answers
from fewshot_lib.course.classroom import cells as cutting
from fewshot_lib.course.classroom import exam, sandbox
from fewshot_lib.course.classroom.grades_page import MEANINGS, class_page, student_page
from fewshot_lib.course.classroom.submissions import Chapter, Submission, read_chapter, read_folder, readable
from fewshot_lib.course.running.execution import cores, kernel_environment

START_SECONDS = 600  # for the course's own cells of a chapter
INHERITED = ("PATH", "PYTHONPATH", "FEWSHOT_CACHE", "FEWSHOT_DATA", "HOME", "LANG", "SYSTEMROOT")
ANSWERS = Path(answers.__file__).parent
WEAK = (
    "Submissions have no world of their own here ({reason}). A hook stops accidents and pranks, not an "
    "attack: for submissions that you do not trust, grade on Linux with user namespaces."
)
Verdicts = dict[str, dict[str, tuple[str, str]]]  # chapter -> exercise -> verdict and message


def grade(
    folder: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    limits: Mapping[str, float],
    say: Callable[[str], None] = print,
) -> dict[str, Verdicts]:
    """Judges all that is in the folder and writes ``grades.csv``, ``index.html`` and ``feedback/``.

    paths: the notebooks of the course, with their solutions. Returns the verdicts of each student.
    """
    if os.name != "posix":
        raise ValueError("`grade` needs Linux or macOS: on Windows, use WSL.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: name the one with what was handed in.")
    chapters = [chapter for chapter in map(read_chapter, paths) if chapter.asking]
    submissions = list(read_folder(folder, chapters))
    if not submissions:
        raise ValueError(f"There is no notebook in {folder}: one folder per student, or one file.")
    if weak := sandbox.strength():
        say(WEAK.format(reason=weak))
    verdicts: dict[str, Verdicts] = {submission.student: {} for submission in submissions}
    busy = [c for c in chapters if any(s.chapter == c.path.stem for s in submissions)]
    say(f"Students: {len(verdicts)}, notebooks: {len(submissions)}, chapters: {len(busy)}.")
    hidden = [folder.resolve(), out.resolve(), *(path.parent.resolve() for path in paths)]
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        jobs = {
            chapter.path.stem: pool.submit(
                _examined, chapter, submissions, hidden=hidden, limits=dict(limits), strong=not weak
            )
            for chapter in busy
        }
        for name, job in jobs.items():
            for student, found in job.result().items():
                verdicts[student].setdefault(name, {}).update(found)
            say(f"{name}: done")
    write_pages(out, verdicts, submissions, chapters, weak)
    say(f"{out / 'grades.csv'}, {out / 'index.html'}, and a page for each student in {out / 'feedback'}.")
    return verdicts


def _examined(
    chapter: Chapter, submissions: Sequence[Submission], *, hidden: list[Path], limits: dict, strong: bool
) -> dict[str, dict[str, tuple[str, str]]]:
    """Student -> exercise -> verdict, from a room of its own. Of two notebooks the better answer counts."""
    mine = [submission for submission in submissions if submission.chapter == chapter.path.stem]
    with tempfile.TemporaryDirectory(prefix="fewshot-exam-") as place:
        room, key = Path(place), Path(place) / "key.json"
        sources = {f.stem: f.read_text(encoding="utf-8") for f in ANSWERS.glob("[!_]*.py")}
        if not sources:
            raise ValueError("`grade` needs the answers of the course: this is the students' edition.")
        makers = cutting.factories(chapter.cells)
        key.write_text(json.dumps({"answers": sources, "solutions": chapter.solutions}), encoding="utf-8")
        for number, submission in enumerate(mine):
            (room / str(number)).mkdir()
            (room / str(number) / "cells.json").write_text(json.dumps(submission.cells), encoding="utf-8")
        job = {
            "cells": chapter.cells,
            "asking": chapter.asking,
            "answers": {name: cutting.hollow(source, makers) for name, source in sources.items()},
            "students": [str(number) for number in range(len(mine))],
            "hidden": [str(path) for path in (*hidden, room)],
            "limits": limits,
            "strong": strong,
            "seed": secrets.randbelow(2**32),
            "key": str(key),
        }
        (room / "job.json").write_text(json.dumps(job), encoding="utf-8")
        seconds = START_SECONDS + limits["seconds"] * len(mine) * len(chapter.asking)
        _run_room(chapter.path.parent, room, seconds)
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for number, submission in enumerate(mine):
            theirs = found.setdefault(submission.student, {})
            for name in chapter.asking:
                verdict = _verdict(room / str(number) / f"{name}.verdict")
                theirs[name] = min(theirs.get(name, verdict), verdict, key=_rank)
        return found


def _run_room(directory: Path, room: Path, seconds: float) -> None:
    """The exam room as a process group of its own, which leaves nothing behind."""
    everything = kernel_environment(1, FEWSHOT_PROFILE="smoke", FEWSHOT_STRICT=None)
    own = {"FEWSHOT_PROFILE", "FEWSHOT_STATIC", "OMP_NUM_THREADS", "MKL_NUM_THREADS", *INHERITED}
    environment = {name: value for name, value in everything.items() if name in own}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", exam.__name__, str(room)]
    with (room / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _rank(verdict: tuple[str, str]) -> int:
    return list(MEANINGS).index(verdict[0])


def _verdict(file: Path) -> tuple[str, str]:
    try:
        verdict, message = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "not graded", "the exam room of this chapter stopped early"
    return verdict, message


def write_pages(
    out: Path,
    verdicts: Mapping[str, Verdicts],
    submissions: Sequence[Submission],
    chapters: Sequence[Chapter],
    weak: str,
) -> None:
    """The table as CSV and as a page, and a page of feedback for each student."""
    (out / "feedback").mkdir(parents=True, exist_ok=True)
    titles = {c.path.stem: c.titles for c in chapters if any(c.path.stem in v for v in verdicts.values())}
    columns = [(chapter, name) for chapter, found in titles.items() for name in found]
    pages: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for number, (student, theirs) in enumerate(verdicts.items(), start=1):
        pages[student] = f"{number:03d}-{re.sub(r'[^A-Za-z0-9-]+', '-', student)[:60]}.html"
        problems = [
            f"{readable(s.file.name)}: {s.problem}" for s in submissions if s.student == student and s.problem
        ]
        text = student_page(student, theirs, titles, problems)
        (out / "feedback" / pages[student]).write_text(text, encoding="utf-8")
        marks = {
            f"{_number(chapter)}: {name}": theirs.get(chapter, {}).get(name, ("", ""))[0]
            for chapter, name in columns
        }
        solved = sum(verdict == "ok" for verdict in marks.values())
        rows.append(
            {
                "student": student,
                "solved": solved,
                "of": len(columns),
                **marks,
                "problems": "; ".join(problems),
            }
        )
    with (out / "grades.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _for_a_sheet(value) for name, value in row.items()} for row in rows)
    (out / "index.html").write_text(
        class_page(rows, pages, WEAK.format(reason=weak) if weak else ""), encoding="utf-8"
    )


def _number(chapter: str) -> str:
    """The number of a chapter; an optional notebook keeps its whole name."""
    return chapter[:2] if chapter[:2].isdigit() else chapter


def _for_a_sheet(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t") else value
