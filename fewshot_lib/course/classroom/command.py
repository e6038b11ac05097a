"""The commands ``students``, ``grade`` and ``slides`` of ``fewshot``."""

import argparse
from pathlib import Path
from typing import Any

from fewshot_lib.core import positive
from fewshot_lib.course.running.execution import find_notebooks

EDITION, GRADES, SLIDES = Path("build/students"), Path("build/grades"), Path("build/slides")


def add_commands(commands: Any, names: str) -> None:
    """Adds them to the subparsers of ``fewshot``. names: how notebooks are given, in words."""
    purpose = "The notebooks without solutions and outputs; with --zip, all for a room without network."
    students = commands.add_parser("students", help="make the students' edition", description=purpose)
    students.set_defaults(function=_students)
    option = students.add_argument
    option("notebooks", nargs="*", help=names)
    option("--out", type=Path, default=EDITION, help=f"folder for it, made anew (default: {EDITION})")
    option(
        "--colab", default="", metavar="URL", help="a first cell that sets the course up on Colab, from URL"
    )
    option("--zip", action="store_true", help="also OUT.zip: library, encoders, pins, data and features")
    option("--wheels", action="store_true", help="in the zip, every package for this system and Python")
    option("--cache", type=Path, help="in the zip, this cache (FEWSHOT_CACHE of a run) and not a small one")
    option("--word", default="", help="lock the answers in the zip: who has no FEWSHOT_WORD cannot start")

    purpose = "Judge the exercises of submitted notebooks in isolation; one table, a page per student."
    grade = commands.add_parser("grade", help="judge what students handed in", description=purpose)
    grade.set_defaults(function=_grade)
    option = grade.add_argument
    option("folder", type=Path, help="a folder per student, or a notebook per student and chapter")
    option("--out", type=Path, default=GRADES, help=f"folder for table and pages (default: {GRADES})")
    option("--seconds", type=float, default=60, help="for one student's one exercise (default: 60)")
    option("--gigabytes", type=float, default=2, help="of memory, likewise (default: 2)")

    slides = commands.add_parser("slides", help="make slides of notebooks, one file each, for no network")
    slides.set_defaults(function=_slides)
    slides.add_argument("notebooks", nargs="*", help=names)
    slides.add_argument("--out", type=Path, default=SLIDES, help=f"folder for them (default: {SLIDES})")


def _students(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.course.classroom import edition

    in_zip = {"--wheels": arguments.wheels, "--cache": arguments.cache, "--word": arguments.word}
    if not arguments.zip and (given := [name for name, value in in_zip.items() if value]):
        raise ValueError(f"`{given[0]}` is about the zip: give `--zip`, too.")
    if arguments.cache is not None and not arguments.cache.is_dir():
        raise ValueError(f"`--cache {arguments.cache}` is no folder: name the FEWSHOT_CACHE of a run.")
    paths, out = find_notebooks(arguments.notebooks), arguments.out.expanduser()
    edition.write_edition(paths, out, arguments.colab)
    print(f"{len(paths)} notebooks without solutions in {out / 'notebooks'}.", flush=True)
    if arguments.zip:
        options = edition.Zip(arguments.word, arguments.wheels, arguments.cache)
        edition.write_zip(out, options, lambda text: print(text, flush=True))
    return True


def _grade(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.course.classroom import grading

    limits = {"seconds": arguments.seconds, "gigabytes": arguments.gigabytes}
    positive(**limits)
    grading.grade(arguments.folder.expanduser(), find_notebooks(), arguments.out.expanduser(), limits=limits)
    return True


def _slides(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.course.classroom.slides import write_slides

    made = write_slides(find_notebooks(arguments.notebooks), arguments.out.expanduser())
    print(f"{len(made)} files of slides in {arguments.out}: open one in a browser.")
    return True
