"""``fewshot sweep``, a grid of parameters from the command line; ``fewshot run --seeds``, one of seeds."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_lib.course.running import execution, times
from fewshot_lib.course.running.parameters import parse_assignments
from fewshot_lib.course.sweeps import engines, planning, results, students, sweep
from fewshot_lib.course.sweeps.grid import parse_grid
from fewshot_lib.course.sweeps.points import read_all

OUT = Path("build/sweep")
WHERE = "local (default), dask://HOST:PORT (a scheduler), or slurm; the last two share this disk"


def add_commands(commands: Any, names: str, profiles: Sequence[str]) -> None:
    """Adds ``sweep`` and ``class`` to the subparsers of ``fewshot``. names: help on naming notebooks."""
    purpose = "Run notebooks at every point of a grid; the same command goes on where it stopped."
    command = commands.add_parser(
        "sweep", help="run notebooks over seeds and parameters", description=purpose
    )
    command.set_defaults(function=_sweep)
    option = command.add_argument
    option("notebooks", nargs="*", help=names)
    grid = "values of a parameter: n_shot=1,5 or seed=0..4"
    option("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE,…", help=grid)
    option("--profile", choices=profiles, help="how large everything is (else FEWSHOT_PROFILE, else laptop)")
    option("--where", default="local", help=WHERE)
    option(
        "--jobs", type=int, metavar="N", help="points at a time, here (default: as many as there are cores)"
    )
    option(
        "--threads", type=int, default=1, metavar="N", help="of a point (default: 1; changes third digits)"
    )
    option("--timeout", type=float, metavar="SECONDS", help="of a cell (default: by profile)")
    option("--out", type=Path, default=OUT, help=f"directory of the state, shared by sweeps (default: {OUT})")
    option("--retry", action="store_true", help="also run again what failed")
    option("--dry-run", action="store_true", help="check everything, say what would run, and stop")
    option("--export", choices=["snakemake"], help="run nothing: write a Snakefile into --out")
    ask = "what to ask SLURM for, as submitit names it: partition=gpu, time=60 (minutes)"
    option("--slurm", action="append", default=[], metavar="NAME=VALUE", help=ask)
    students.add_command(commands)


def _sweep(arguments: argparse.Namespace) -> bool:
    grid = parse_grid(arguments.parameter)
    if arguments.profile is not None:
        if "profile" in grid:
            raise ValueError("`--profile` and `-p profile=` are given: give one of them.")
        grid["profile"] = [arguments.profile]
    slurm = parse_assignments(arguments.slurm)
    engines.check_where(arguments.where, arguments.jobs, arguments.threads, slurm)
    sizes = {"threads": arguments.threads, "timeout": arguments.timeout}
    out = arguments.out.expanduser()
    points = planning.plan(execution.find_notebooks(arguments.notebooks), grid, out, **sizes, say=_say)
    if arguments.export:
        path = planning.write_snakefile(points, out)
        _say(f"{planning.describe(points)}: snakemake --snakefile {path} --directory {out} --cores all")
        return True
    with engines.engine(
        arguments.where, jobs=arguments.jobs, threads=arguments.threads, folder=out / "slurm", slurm=slurm
    ) as (executor, at_a_time):
        _announce(points, arguments.retry, at_a_time)
        if arguments.dry_run:
            for line in sweep.lines(points, read_all(out), arguments.retry):
                _say(line)
            return True
        return sweep.run(points, executor, retry=arguments.retry, say=_say)


def _announce(points: Sequence[planning.Point], retry: bool, at_a_time: int | None) -> None:
    """Says, before anything starts, how much it will be; OSError where the disk does not hold it."""
    out = sweep.out_of(points)
    finished = read_all(out)
    waiting = sweep.to_run(points, finished, retry)
    seconds = sweep.seconds_of(waiting, finished)
    disk = planning.disk_needed(waiting, finished)
    free = planning.check_disk(out, disk)
    takes = "time unknown until one has run" if seconds is None else f"about {times.in_words(seconds)}"
    if seconds and at_a_time:
        takes = f"about {times.in_words(seconds / min(at_a_time, len(waiting)))}, {at_a_time} at a time"
    elif seconds:
        takes += " of computing"
    _say(
        f"{planning.describe(points)}; {len(points) - len(waiting)} finished already, {len(waiting)} to run."
    )
    if waiting:
        _say(f"It takes {takes}, and {disk / 1e6:,.0f} of {free / 1e6:,.0f} MB free. State: {out}")


def run_seeds(
    paths: Sequence[Path],
    values: Mapping[str, Any],
    seeds: Sequence[int],
    out: Path,
    *,
    threads: int,
    say: Callable[[str], None] = print,
    **options: Any,
) -> bool:
    """``fewshot run --seeds``: the notebooks once per training seed, here, and their results over the seeds.

    Every seed also draws its own test episodes, so the interval over seeds covers both. options: of ``plan``.
    """
    grid = {name: [value] for name, value in values.items()} | {"seed": list(seeds)}
    points = planning.plan(paths, grid, out, threads=threads, say=say, **options)
    jobs = max(1, execution.cores() // threads)
    _announce(points, True, jobs)
    with engines.LocalKernels(jobs) as executor:
        good = sweep.run(points, executor, retry=True, say=say)
    say(results.join([out], out))
    return good


def _say(text: str) -> None:
    print(text, flush=True)
