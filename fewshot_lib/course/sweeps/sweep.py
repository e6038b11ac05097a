"""Running the points of a sweep on an executor, with a report after each.

Nothing is kept in memory that matters: a point counts when its folder is there. Ctrl-C, a dead worker or
kill -9 leave the finished ones, and the same sweep goes on with the others.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_lib.course.running import times
from fewshot_lib.course.sweeps.grid import in_words, swept
from fewshot_lib.course.sweeps.page import sweep_page
from fewshot_lib.course.sweeps.points import Ended, Point, read, read_all, run_point, set_aside
from fewshot_lib.data.cache import write_whole

POLL = 0.2  # seconds between two looks at what is running
PAGE = "sweep.html"


def out_of(points: Sequence[Point]) -> Path:
    """The directory of the state."""
    return Path(points[0].folder).parents[1]


def to_run(points: Sequence[Point], finished: Mapping[str, Any], retry: bool) -> list[Point]:
    """The points that are not finished; with retry, those too that failed."""
    return [p for p in points if p.key not in finished or (retry and finished[p.key]["failure"])]


def seconds_of(points: Sequence[Point], finished: Mapping[str, Any]) -> float | None:
    """Seconds of computing that the points will take, after those finished and times.json; None: unknown."""
    done: dict[str, list[float]] = {}
    for facts in finished.values():
        done.setdefault(facts["notebook"], []).append(facts["seconds"])
    means = {name: sum(values) / len(values) for name, values in done.items()}
    if not points:
        return 0.0
    profile = str(points[0].given.get("profile"))
    expected = times.load_times(Path(points[0].place)).get(profile, {})
    return times.estimate_left([point.notebook for point in points], means, expected)


class Report:
    """What is finished, lost and waiting, in lines and on a page.

    finished: key -> facts, of all points in the directory; lost: key -> why its worker brought nothing back.
    """

    def __init__(self, points: Sequence[Point], waiting: Sequence[Point], say: Callable[[str], None]) -> None:
        self.points, self.say, self.begin = points, say, time.monotonic()
        self.out = out_of(points)
        self.finished = {
            key: facts for key, facts in read_all(self.out).items() if key not in {p.key for p in waiting}
        }
        self.waiting = {point.key: point for point in waiting}
        self.lost: dict[str, str] = {}
        self.names = swept([point.parameters for point in points])
        self.computed = 0.0  # seconds of computing, by all workers, since the beginning

    def ended(self, point: Point, facts: dict[str, Any] | None, loss: str = "") -> None:
        """Says what came of a point: its facts, or why it was lost."""
        del self.waiting[point.key]
        if facts is None:
            self.lost[point.key] = loss
            verdict, failure = "LOST, nothing came back", loss
        else:
            self.finished[point.key] = facts
            self.computed += facts["seconds"]
            failure = facts["failure"]
            verdict = f"{'FAILED' if failure else 'ok'}, {times.in_words(facts['seconds'])}"
        count = f"[{len(self.points) - len(self.waiting)}/{len(self.points)}]"
        self.say(f"{count} {self.label(point)}: {verdict}{self.left()}")
        if failure:
            self.say(f"    {failure}")
        self.write_page()

    def label(self, point: Point) -> str:
        return f"{point.notebook} {in_words(point.parameters, self.names)}".rstrip()

    def left(self) -> str:
        """The time until the end at the pace so far, as part of a sentence."""
        rest = seconds_of(list(self.waiting.values()), self.finished)
        if not (self.waiting and rest and self.computed):
            return ""
        pace = (time.monotonic() - self.begin) / self.computed
        return f", about {times.in_words(rest * pace)} left"

    def write_page(self) -> None:
        waiting = [(point.notebook, point.parameters) for point in self.waiting.values()]
        lost = [
            (point.notebook, point.parameters, self.lost[point.key])
            for point in self.points
            if point.key in self.lost
        ]
        write_whole(self.out / PAGE, sweep_page(self.finished, waiting, lost, self.left()))

    def close(self) -> bool:
        """Says how it ended; True where all points are finished and none failed."""
        mine = {p.key: self.finished[p.key] for p in self.points if p.key in self.finished}
        failed = {key: facts["failure"] for key, facts in mine.items() if facts["failure"]}
        where = f"Read {self.out / PAGE}, and join the results with `fewshot results {self.out}`."
        self.say(f"{len(mine) - len(failed)} of {len(self.points)} points are done. {where}")
        for what, found, fix in (
            ("failed", failed, "`--retry` runs them again"),
            ("were lost", self.lost, "the same command runs them again"),
        ):
            if found:
                self.say(f"{len(found)} {what}; {fix}:")
            for point in self.points:
                if point.key in found:
                    self.say(f"  {self.label(point)}: {found[point.key]}")
        return not (failed or self.lost or self.waiting)


def run(
    points: Sequence[Point], executor: Any, *, retry: bool = False, say: Callable[[str], None] = print
) -> bool:
    """Runs what is not finished; True where every point ends without an error.

    executor: a ``concurrent.futures.Executor``, or one of submitit. retry: failed points run again, too. What
    holds for every point (a full disk, a worker without the library) stops the sweep, as an OSError. Ctrl-C
    cancels what has not begun, and is passed on.
    """
    waiting = to_run(points, read_all(out_of(points)), retry)
    for point in waiting:  # another sweep may have been here since
        set_aside(Path(point.folder), unless=lambda folder: (facts := read(folder)) and not facts["failure"])
    report = Report(points, waiting, say)
    report.write_page()
    try:
        futures = _submitted(executor, waiting)
        try:
            while futures:
                for future in [future for future in futures if future.done()]:
                    _take(report, futures.pop(future), future)
                time.sleep(POLL if futures else 0)
        finally:
            for future in futures:  # Ctrl-C, or nothing can run
                with contextlib.suppress(Exception):  # an engine that is gone cannot cancel either
                    future.cancel()
    except KeyboardInterrupt:
        done = f"{len(report.finished.keys() & {p.key for p in points})} of {len(points)} points"
        raise KeyboardInterrupt(f"Stopped after {done}; the same command goes on with the others.") from None
    finally:
        with contextlib.suppress(OSError):  # a full disk has been named already
            report.write_page()
    return report.close()


def _submitted(executor: Any, points: Sequence[Point]) -> dict[Any, Point]:
    """Future -> point. An engine that has batches (submitit: an array of jobs) gets all in one."""
    try:
        with executor.batch() if points and hasattr(executor, "batch") else contextlib.nullcontext():
            submitted = [executor.submit(run_point, point) for point in points]
    except RuntimeError as error:  # of sbatch, or of an executor that is closed
        raise OSError(f"The engine took no points ({' '.join(str(error).split())}).") from None
    return dict(zip(submitted, points, strict=True))


def _take(report: Report, point: Point, future: Any) -> None:
    """Reports on what a worker brought back."""
    try:
        ended: Ended = future.result()
    except Exception as error:  # of the engine: whatever the notebook raises is among the facts
        if "No module named 'fewshot_lib" in f"{error!r} {error}":
            fix = "install it where the workers run, the same version as here"
            raise OSError(f"The workers have no package fewshot_lib: {fix}. Nothing is lost.") from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        report.ended(point, None, reason if len(reason) < 400 else f"{reason[:200]} … {reason[-200:]}")
        return
    if ended.stop:
        raise OSError(f"{ended.stop} The same command goes on with the {len(report.waiting)} points left.")
    report.ended(point, ended.facts)


def lines(points: Sequence[Point], finished: Mapping[str, Any], retry: bool) -> Iterator[str]:
    """Every point with its state, for ``--dry-run``."""
    names = swept([point.parameters for point in points])
    open_keys = {point.key for point in to_run(points, finished, retry)}
    for point in points:
        state = "to run" if point.key in open_keys else "failed" if finished[point.key]["failure"] else "done"
        yield f"  {point.key}  {state:7}{point.notebook} {in_words(point.parameters, names)}".rstrip()
