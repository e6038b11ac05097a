"""One task per student: the same notebook with a seed, and so with numbers, of one's own.

    seed = the first 32 bits of sha256(salt, id)

``fewshot run 02 --student ID`` runs it. ``fewshot class HANDED_IN --roster FILE`` finds out whose each
notebook is, computes it again (a sweep over the seeds, so it goes on where it stopped), compares every
number, and joins the class into one table, with intervals over the students. The salt (a word per term)
keeps last year's numbers from being this year's; who does not know it cannot tell an id from a seed.
"""

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_lib.course import records
from fewshot_lib.course.running import execution, output
from fewshot_lib.course.running.execution import find_notebooks, read_notebook
from fewshot_lib.course.sweeps import planning, results, sweep
from fewshot_lib.course.sweeps.engines import LocalKernels
from fewshot_lib.course.sweeps.points import read_all
from fewshot_lib.data.reporting import first_few

OUT = Path("build/class")
SAME = 0.002  # in accuracy: what another machine and its threads may change in the third digit
SAME_NUMBERS = "the same"
SALT = "one word per term, the same for all"


def add_command(commands: Any) -> None:
    """Adds ``class`` to the subparsers of ``fewshot``."""
    purpose = "Compute again what the students of a class handed in, and join it into one table."
    command = commands.add_parser("class", help="check and join what students handed in", description=purpose)
    command.set_defaults(function=_class)
    command.add_argument(
        "handed_in", type=Path, help="folder with executed notebooks, also in folders inside"
    )
    command.add_argument("--roster", type=Path, required=True, help="text file with an id in each line")
    command.add_argument("--salt", default="", help=SALT)
    command.add_argument("--out", type=Path, default=OUT, help=f"directory of the results (default: {OUT})")


def seed_of(student: str, salt: str = "") -> int:
    """The seed of a student, below 2**32; spaces around an id and its case do not count."""
    name = student.strip().casefold()
    if not name:
        raise ValueError(f"`--student` is {student!r}: give an id, such as a matriculation number.")
    return int(hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()[:8], 16)


def read_roster(path: Path, salt: str) -> dict[int, str]:
    """Seed -> student of each line of a text file."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`--roster {path}` cannot be read ({error}): give a text file in UTF-8.") from None
    found: dict[int, str] = {}
    for name in names:
        if (other := found.setdefault(seed_of(name, salt), name)) is not name:
            raise ValueError(
                f"`--roster {path}` has {name!r} and {other!r}, one seed: take one out, or a --salt."
            )
    if not found:
        raise ValueError(f"`--roster {path}` is empty: write an id in each line.")
    return found


def _class(arguments: argparse.Namespace) -> bool:
    roster, out = read_roster(arguments.roster, arguments.salt), arguments.out.expanduser()
    works, problems = read_works(arguments.handed_in, roster)
    planned = []
    for work in works:
        try:
            planned.append((work, _point(work, out)))
        except ValueError as error:  # a notebook that is not the course's, or data that are not here
            problems.append(f"{work['notebook']} of {work['student']}: {error}")
    if not planned:
        reasons = "; ".join(problems) or "there is no notebook that `fewshot run --student` executed"
        raise ValueError(f"Nothing to check in {arguments.handed_in}: {reasons}.")
    points = {point.key: point for _, point in planned}
    with LocalKernels(max(1, execution.cores() // max(p.threads for p in points.values()))) as executor:
        sweep.run(list(points.values()), executor)
    finished = read_all(out)
    verdicts = [(work, judge(work["rows"], finished.get(point.key))) for work, point in planned]
    rows = [(work["student"], work["notebook"], verdict) for work, verdict in verdicts]
    lines = [records.markdown(("student", "notebook", "numbers computed again"), rows)]
    lines += [f"not used: {problem}" for problem in problems]
    missing = sorted(set(roster.values()) - {work["student"] for work in works})
    lines.append(f"Nothing from {len(missing)}: {first_few(missing)}" if missing else "All handed in.")
    print("\n".join(lines), results.join([out], out), sep="\n\n", flush=True)
    return not problems and all(verdict.startswith(SAME_NUMBERS) for _, verdict in verdicts)


def read_works(folder: Path, roster: Mapping[int, str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What was handed in: student, notebook, parameters, threads, rows; and what cannot be used, and why."""
    works, problems = [], []
    for path in sorted(folder.rglob("*.ipynb")):
        try:
            notebook = read_notebook(path)
            rows = output.complete_rows(notebook)
        except (ValueError, OSError) as error:
            problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        stamp = notebook.metadata.get(records.STAMP, {})
        seed = stamp.get("parameters", {}).get("seed")
        if seed not in roster:
            problems.append(
                f"{path}: its seed is {seed}, which is of nobody on the roster (is it the same --salt?)"
            )
        elif stamp.get("cells") != output.fingerprint(notebook):
            problems.append(f"{path} ({roster[seed]}): its cells were changed after it ran")
        else:
            facts = {"student": roster[seed], "notebook": path.stem, "rows": rows}
            works.append(facts | {name: stamp[name] for name in ("parameters", "threads", "profile")})
    return works, problems


def _point(work: Mapping[str, Any], out: Path) -> planning.Point:
    """The point that computes a work again, from the notebook of the course."""
    grid = {name: [value] for name, value in {"profile": work["profile"], **work["parameters"]}.items()}
    threads = min(work["threads"], execution.cores())
    (point,) = planning.plan(find_notebooks([work["notebook"]]), grid, out, threads=threads)
    return point


def judge(handed_in: Sequence[Mapping[str, Any]], again: Mapping[str, Any] | None) -> str:
    """Whether what was handed in says the same as the point that was computed again, in words."""
    if again is None or again["failure"]:
        return f"could not be computed again: {again['failure'] if again else 'its worker was lost'}"
    given, computed = ({_identity(row): row["mean"] for row in rows} for rows in (handed_in, again["rows"]))
    return "; ".join(_findings(given, computed)) or f"{SAME_NUMBERS}, {len(given)} numbers"


def _findings(given: Mapping[tuple, float], computed: Mapping[tuple, float]) -> Iterator[str]:
    if lacking := computed.keys() - given.keys():
        yield f"{len(lacking)} numbers are missing"
    if strange := given.keys() - computed.keys():
        yield f"{len(strange)} numbers are not the notebook's"
    differ = [key for key in given.keys() & computed.keys() if abs(given[key] - computed[key]) > SAME]
    if differ:
        worst = max(differ, key=lambda key: abs(given[key] - computed[key]))
        points = 100 * (given[worst] - computed[worst])
        yield f"{len(differ)} of {len(computed)} numbers differ, most: {worst[1]}, by {points:+.1f} points"


def _identity(row: Mapping[str, Any]) -> tuple:
    return tuple(row[name] for name in records.IDENTITY)
