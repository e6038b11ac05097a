"""The command ``fewshot`` (or ``python -m fewshot_lib``): run the notebooks, read their results, check the machine and the data.

Exit status: 0 where all went well, 1 where a notebook failed, 2 for arguments that cannot work, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fewshot_lib.course import execution, machine, parameters, recorder, records, runner
from fewshot_lib.course.lesson import PROFILES

OUT = Path("build/course")
NAMES = "notebooks: paths, directories, or the beginning of a name such as 02 (default: all)"


def parser() -> argparse.ArgumentParser:
    """The arguments of every subcommand."""
    top = argparse.ArgumentParser(prog="fewshot", description="The few-shot learning course: run it, read its results.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run notebooks and collect their results")
    run.add_argument("notebooks", nargs="*", help=NAMES)
    run.add_argument("--profile", choices=PROFILES, help="how large everything is (default: FEWSHOT_PROFILE, else laptop)")
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set a parameter of every notebook")
    run.add_argument("--out", type=Path, default=OUT, help=f"directory for notebooks, pages and results (default: {OUT})")
    run.add_argument("--timeout", type=_positive(float), metavar="SECONDS", help="time limit of a cell (default: by profile)")
    run.add_argument("--threads", type=_positive(int), default=execution.cores(), help="threads per notebook (default: all cores)")
    run.add_argument("--solutions", action="store_true", help="fill in the solutions of the exercises first")
    run.add_argument("--keep-times", action="store_true", help="remember the seconds, for the estimates of later runs")
    run.set_defaults(function=_run)

    results = commands.add_parser("results", help="collect and print the results of executed notebooks")
    results.add_argument("directory", nargs="?", type=Path, default=OUT, help=f"where they are (default: {OUT})")
    results.set_defaults(function=_results)

    check = commands.add_parser("check", help="look whether this machine is ready for the course")
    check.set_defaults(function=_check)

    record = commands.add_parser("record", help="run notebooks in place and store their outputs, as committed")
    record.add_argument("notebooks", nargs="*", help=NAMES)
    record.add_argument("--check", action="store_true", help="run nothing: only say which rules the notebooks break")
    record.set_defaults(function=_record)

    data = commands.add_parser("data", help="look at a data set, your own or a known one: fewshot data inspect PATH", add_help=False)
    data.add_argument("rest", nargs=argparse.REMAINDER)
    data.set_defaults(function=_data)
    return top


def _positive(kind: type) -> type:
    def convert(text: str) -> int | float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    convert.__name__ = f"positive {kind.__name__}"
    return convert


def _run(arguments: argparse.Namespace) -> bool:
    values = parameters.parse_assignments(arguments.parameter)
    if arguments.profile is not None:
        if values.get("profile", arguments.profile) != arguments.profile:
            raise ValueError(f"`--profile {arguments.profile}` contradicts `-p profile={values['profile']}`: give one of them.")
        values["profile"] = arguments.profile
    if isinstance(values.get("dataset"), str) and Path(values["dataset"]).exists():
        values["dataset"] = str(Path(values["dataset"]).resolve())  # your own file: the notebook runs in another directory
    return runner.run(
        execution.find_notebooks(arguments.notebooks),
        values,
        arguments.out,
        threads=arguments.threads,
        timeout=arguments.timeout,
        solutions=arguments.solutions,
        keep_times=arguments.keep_times,
        say=_say,
    )


def _results(arguments: argparse.Namespace) -> bool:
    if not any(arguments.directory.glob("*.ipynb")):
        raise ValueError(f"There are no executed notebooks in {arguments.directory}: run `fewshot run` first, or name another directory.")
    rows = runner.write_results(arguments.directory)
    _say(records.markdown_table(rows) if rows else f"The notebooks in {arguments.directory} recorded nothing.")
    return True


def _check(arguments: argparse.Namespace) -> bool:
    return machine.report(detailed=True)


def _record(arguments: argparse.Namespace) -> bool:
    paths = execution.find_notebooks(arguments.notebooks)
    return recorder.report_problems(paths, _say) if arguments.check else recorder.record(paths, _say)


def _data(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.data import inspect  # scikit-learn takes a second to import

    if arguments.rest[:1] != ["inspect"]:
        raise ValueError("`data` has one action: fewshot data inspect PATH (--help says what else it takes).")
    return inspect.main(arguments.rest[1:]) == 0


def _say(text: str) -> None:
    print(text, flush=True)  # at once, also into a file or a pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream that was replaced
            stream.reconfigure(errors="replace")  # a terminal without ✓ must not stop a run
    arguments = parser().parse_args(argv)
    try:
        return 0 if arguments.function(arguments) else 1
    except ValueError as error:
        print(f"fewshot: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fewshot: {error.strerror or error}: {error.filename or 'no file named'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'Stopped.'}", file=sys.stderr)
        return 130
