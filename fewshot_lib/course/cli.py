"""The command ``fewshot``: run the notebooks, read their results, check the machine and the data.

Exit status: 0 if all went well, 1 if a notebook failed, 2 for arguments that cannot work, 130 for Ctrl-C.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from fewshot_lib.core import positive
from fewshot_lib.course import machine, records
from fewshot_lib.course.authoring import recorder
from fewshot_lib.course.lesson import PROFILES
from fewshot_lib.course.running import execution, parameters, runner
from fewshot_lib.data import LOADERS

OUT = Path("build/course")
NAMES = "notebooks: paths, directories, or the beginning of a name such as 02 (default: all)"
DATA = f"a .csv or .jsonl file, a folder with one folder of images per class, or {', '.join(LOADERS)}"
SPLIT = "a .json file {split: [class names]}, a .csv file with the columns class,split, or a split family"


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    purpose = "The few-shot learning course: run it, read its results."
    top = argparse.ArgumentParser(prog="fewshot", description=purpose)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run notebooks and collect their results")
    run.set_defaults(function=_run)
    option = run.add_argument
    option("notebooks", nargs="*", help=NAMES)
    option("--profile", choices=PROFILES, help="how large everything is (else FEWSHOT_PROFILE, else laptop)")
    option("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set a parameter")
    option("--out", type=Path, default=OUT, help=f"directory for what comes of it (default: {OUT})")
    option("--timeout", type=float, metavar="SECONDS", help="of a cell (default: by profile)")
    option("--threads", type=int, default=execution.cores(), help="of a notebook (default: all)")
    option("--solutions", action="store_true", help="fill in the solutions of the exercises first")

    results = commands.add_parser("results", help="collect and print the results of executed notebooks")
    results.set_defaults(function=_results)
    results.add_argument("directory", nargs="?", type=Path, default=OUT, help=f"(default: {OUT})")

    check = commands.add_parser("check", help="look whether this machine is ready for the course")
    check.set_defaults(function=lambda arguments: machine.report(detailed=True))

    record = commands.add_parser("record", help="run notebooks in place and store their outputs")
    record.set_defaults(function=_record)
    record.add_argument("notebooks", nargs="*", help=NAMES)
    record.add_argument("--check", action="store_true", help="run nothing: only say which rules they break")

    purpose = "What is in a data set, what is wrong with it, and which episodes it can give."
    data = commands.add_parser("data", help="look at a data set, your own or a known one")
    actions = data.add_subparsers(required=True, metavar="inspect PATH")
    inspect = actions.add_parser("inspect", description=purpose)
    inspect.set_defaults(function=_inspect)
    option = inspect.add_argument
    option("path", help=DATA)
    option("--text", default="text", help="name of the column with the texts (default: text)")
    option("--label", default="label", help="name of the column with the classes (default: label)")
    option("--split", help=SPLIT)
    option("--encoding", help="of the file; without it UTF-8 is expected")
    return top


def _run(arguments: argparse.Namespace) -> bool:
    options = {name: getattr(arguments, name) for name in ("threads", "timeout", "solutions")}
    positive(**{name: value for name, value in options.items() if name != "solutions" and value is not None})
    values = parameters.parse_assignments(arguments.parameter)
    profile = arguments.profile or values.get("profile")
    if values.get("profile", profile) != profile:
        other = values["profile"]
        raise ValueError(f"`--profile {profile}` contradicts `-p profile={other}`: give one of them.")
    if profile is not None:
        values["profile"] = profile
    dataset = values.get("dataset")
    if isinstance(dataset, str) and Path(dataset).exists():
        values["dataset"] = str(Path(dataset).resolve())  # the notebook runs in another directory
    paths = execution.find_notebooks(arguments.notebooks)
    return runner.run(paths, values, arguments.out, say=_say, **options)


def _results(arguments: argparse.Namespace) -> bool:
    directory = arguments.directory
    if not any(directory.glob("*.ipynb")):
        advice = "run `fewshot run` first, or name another directory."
        raise ValueError(f"There are no executed notebooks in {directory}: {advice}")
    rows = runner.write_results(directory)
    _say(records.markdown_table(rows) if rows else f"The notebooks in {directory} recorded nothing.")
    return True


def _record(arguments: argparse.Namespace) -> bool:
    paths = execution.find_notebooks(arguments.notebooks)
    return recorder.report_problems(paths, _say) if arguments.check else recorder.record(paths, _say)


def _inspect(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.data.checks.inspect import inspect_dataset

    options = {name: getattr(arguments, name) for name in ("text", "label", "split", "encoding")}
    try:
        _say(inspect_dataset(arguments.path, **options))
    except (ValueError, OSError) as error:  # about the data, and not about how the command was called
        print(error, file=sys.stderr)
        return False
    return True


def _say(text: str) -> None:
    print(text, flush=True)  # at once, also into a file or a pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # and was not replaced
            stream.reconfigure(errors="replace")  # a terminal without ✓ must not stop a run
    arguments = parser().parse_args(argv)
    try:
        return 0 if arguments.function(arguments) else 1
    except ValueError as error:
        print(f"fewshot: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        what = f"{error.strerror}: {error.filename or 'no file named'}" if error.strerror else error
        print(f"fewshot: {what}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'Stopped.'}", file=sys.stderr)
        return 130
