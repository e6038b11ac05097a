"""The command ``fewshot``: run the notebooks, read their results, check the machine and the data.

Exit status: 0 if all went well, 1 if a notebook failed, 2 for arguments that cannot work, 130 for Ctrl-C.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewshot_lib import data
from fewshot_lib.core import positive
from fewshot_lib.course import machine, records
from fewshot_lib.course.authoring import recorder
from fewshot_lib.course.classroom import command as classroom
from fewshot_lib.course.labelling import command as labelling
from fewshot_lib.course.lesson import PROFILES
from fewshot_lib.course.results.publishing import publish
from fewshot_lib.course.running import execution, output, parameters, runner
from fewshot_lib.course.sweeps import command as sweeping
from fewshot_lib.course.sweeps import results as sweep_results
from fewshot_lib.course.sweeps import students
from fewshot_lib.course.sweeps.grid import parse_seeds
from fewshot_lib.data.sources import OPTIONS

OUT, CELLS, SITE = Path("build/course"), Path("build/field"), Path("build/site")
NAMES = "notebooks: paths, directories, or the beginning of a name such as 02 or extra/vmap (default: all)"
DATA = f"a table of texts, a folder with one folder of pictures per class, or {', '.join(data.LOADERS)}"
SPLIT = "which classes are for what: shares (0.6/0.2/0.2), a .json or .csv file, or a split family"
DATA_OPTIONS: dict[str, dict[str, Any]] = {
    "--text": {"metavar": "COLUMN", "help": "of a table, the column with the texts"},
    "--label": {"metavar": "COLUMN", "help": "of a table, the column with the classes"},
    "--encoding": {"help": "of a table (default: found out)"},
    "--drop-empty": {"action": "store_true", "default": None, "help": "leave out rows without text or label"},
    "--size": {"help": "of pictures: N or HxW pixels, such as 32x48"},
    "--color": {"action": "store_true", "default": None, "help": "keep the colours of pictures"},
    "--split": {"help": SPLIT},
    "--seed": {"type": int, "metavar": "N", "help": "of the split by shares (that of the course: -p seed=N)"},
    "--min-examples": {"type": int, "metavar": "N", "help": "leave out classes with fewer"},
}


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    purpose = "The few-shot learning course: run it, read its results."
    top = argparse.ArgumentParser(prog="fewshot", description=purpose)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_run(commands)
    sweeping.add_commands(commands, NAMES, PROFILES)
    labelling.add_commands(commands, DATA_OPTIONS)
    classroom.add_commands(commands, NAMES)

    results = commands.add_parser("results", help="collect and print the results of runs and sweeps")
    results.set_defaults(function=_results)
    where = f"of `run` or `sweep`; the first gets the tables (default: {OUT})"
    results.add_argument("directories", nargs="*", type=Path, default=[OUT], metavar="directory", help=where)
    purpose = "write RESULTS.md and results/*.csv, with the cells of benchmarks/field.py in a folder"
    results.add_argument("--publish", type=Path, nargs="?", const=CELLS, metavar="CELLS", help=purpose)

    check = commands.add_parser("check", help="look whether this machine is ready for the course")
    check.set_defaults(function=lambda arguments: machine.report(detailed=True))

    record = commands.add_parser("record", help="run notebooks in place and store their outputs")
    record.set_defaults(function=_record)
    record.add_argument("notebooks", nargs="*", help=NAMES)
    record.add_argument("--check", action="store_true", help="run nothing: only say which rules they break")

    site = commands.add_parser("site", help="build the course as a web site that needs no network")
    site.set_defaults(function=_site)
    site.add_argument("--out", type=Path, default=SITE, help=f"directory for it (default: {SITE})")

    _add_data(commands)
    return top


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="run notebooks and collect their results")
    run.set_defaults(function=_run)
    option = run.add_argument
    option("notebooks", nargs="*", help=NAMES)
    option("--profile", choices=PROFILES, help="how large everything is (else FEWSHOT_PROFILE, else laptop)")
    option("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set a parameter")
    option("--out", type=Path, default=OUT, help=f"directory for what comes of it (default: {OUT})")
    option("--timeout", type=float, metavar="SECONDS", help="of a cell (default: by profile)")
    option("--threads", type=int, help="of a notebook (default: all; with --seeds 1, and one run per core)")
    option("--solutions", action="store_true", help="fill in the solutions of the exercises first")
    option("--seeds", metavar="0..4", help="once per training seed, and the results over the seeds")
    option("--student", metavar="ID", help="with the seed, and so the numbers, of one student")
    option("--salt", default="", help=f"of --student: {students.SALT}")
    _add_data_options(run, "how to read the data set of -p dataset=…")


def _add_data(commands: Any) -> None:
    purpose = "What is in a data set, what is wrong with it, and which episodes it can give."
    look = commands.add_parser("data", help="look at a data set, your own or a known one")
    actions = look.add_subparsers(required=True, metavar="inspect SOURCE")
    inspect = actions.add_parser("inspect", description=purpose)
    inspect.set_defaults(function=_inspect)
    option = inspect.add_argument
    option("source", help=DATA)
    option("--classes", action="store_true", help="list every class, and not only the largest and smallest")
    option("--write-split", type=Path, metavar="FILE", help="keep the class split in a .json or .csv file")
    _add_data_options(inspect, "how to read it")


def _add_data_options(command: argparse.ArgumentParser, title: str) -> None:
    """The options of a data set, which `run` and `data inspect` take in the same words."""
    group = command.add_argument_group(title)
    for name, settings in DATA_OPTIONS.items():
        group.add_argument(name, **settings)


def _given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """How to read the data set, of what was said."""
    return {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}


def _run(arguments: argparse.Namespace) -> bool:
    options = {name: getattr(arguments, name) for name in ("threads", "timeout", "solutions")}
    execution.check_timeout(options["timeout"])
    if options["threads"] is None:
        options["threads"] = 1 if arguments.seeds else execution.cores()
    positive(threads=options["threads"])
    values = parameters.parse_assignments(arguments.parameter)
    profile = arguments.profile or values.get("profile")
    if values.get("profile") not in (None, profile):
        other = values["profile"]
        raise ValueError(f"`--profile {profile}` contradicts `-p profile={other}`: give one of them.")
    if profile is not None:
        values["profile"] = profile
    if values.get("dataset") is not None:
        described = data.describe_parameter(values["dataset"], **_given_options(arguments))
        values["dataset"] = described.absolute()
    elif given := _given_options(arguments):
        flag = f"--{next(iter(given)).replace('_', '-')}"
        raise ValueError(f"`{flag}` says how to read a data set: say which, -p dataset=my.csv.")
    seeds = _seeds(arguments, values)
    paths, out = execution.find_notebooks(arguments.notebooks), arguments.out.expanduser()
    if arguments.seeds:
        return sweeping.run_seeds(paths, values, seeds, out, say=_say, **options)
    return runner.run(paths, values | ({"seed": seeds[0]} if seeds else {}), out, say=_say, **options)


def _seeds(arguments: argparse.Namespace, values: dict[str, Any]) -> list[int]:
    """The seeds that --seeds, or --student, stands for."""
    given = {"--seeds": arguments.seeds, "--student": arguments.student, "-p seed": values.get("seed")}
    named = [f"`{name}`" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} all set the seed: give one of them.")
    if arguments.student is not None:
        return [students.seed_of(arguments.student, arguments.salt)]
    return [] if arguments.seeds is None else parse_seeds(arguments.seeds)


def _results(arguments: argparse.Namespace) -> bool:
    if arguments.publish is not None:
        return publish(arguments.publish, _say)
    directory = arguments.directories[0]
    if len(arguments.directories) > 1 or sweep_results.is_sweep(directory):
        _say(sweep_results.join(arguments.directories, directory))
        return True
    advice = "run `fewshot run` first, or name another directory."
    paths = sorted(directory.glob("*.ipynb"))
    if not paths:
        raise ValueError(f"There are no executed notebooks in {directory}: {advice}")
    rows, left_out = output.collect(paths)
    for name, reason in left_out.items():
        print(f"left out: {name}, {reason}", file=sys.stderr)
    if len(left_out) == len(paths):
        raise ValueError(f"No run executed a notebook in {directory}: {advice}")
    output.check_tables(directory)
    output.write_results(directory, rows)
    _say(records.markdown_table(rows) if rows else f"The notebooks in {directory} recorded nothing.")
    return True


def _record(arguments: argparse.Namespace) -> bool:
    paths = execution.find_notebooks(arguments.notebooks)
    return recorder.report_problems(paths, _say) if arguments.check else recorder.record(paths, _say)


def _site(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.course.site.build import build

    return build(arguments.out, _say)


def _inspect(arguments: argparse.Namespace) -> bool:
    from fewshot_lib.course.inspection import inspected, report

    file = arguments.write_split
    try:
        found = inspected(data.describe(arguments.source, **_given_options(arguments)).absolute())
        _say(report(found, all_classes=arguments.classes))
        if file is not None:
            data.write_split(file, found.data)
            _say(f"\nThe split is in {file}: use it with --split {file}.")
    except BrokenPipeError:
        raise
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
    except BrokenPipeError:  # who reads has read enough, as in `fewshot results | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be written
        return 1
    except OSError as error:
        what = f"{error.strerror}: {error.filename or 'no file named'}" if error.strerror else error
        print(f"fewshot: {what}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'Stopped.'}", file=sys.stderr)
        return 130
