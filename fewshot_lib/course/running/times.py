"""How long notebooks take: kept beside them, and used to estimate the time that is left.

``times.json`` holds seconds per profile and notebook, the optional ones included, on the machine that
recorded them. Another machine is faster or slower by a factor that the first finished notebook shows.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from fewshot_lib.course.running.execution import EXTRA
from fewshot_lib.data.cache import write_whole

FILE = "times.json"
WORTH_CHANGING = 0.25  # smaller differences are noise, and would change a committed file at every recording


def load_times(directory: Path) -> dict[str, dict[str, float]]:
    """profile -> notebook -> seconds; empty where nothing was kept."""
    path = _file(directory)
    advice = "delete it, `fewshot record` makes it anew"
    try:
        times = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {advice}.") from None
    if not isinstance(times, dict) or not all(isinstance(kept, dict) for kept in times.values()):
        raise ValueError(f"{path} does not map profiles to the seconds of notebooks: {advice}.")
    return times


def keep_time(directory: Path, profile: str, name: str, seconds: float) -> None:
    """Writes the seconds of a notebook, if they differ by more than a quarter from what was kept."""
    times = load_times(directory)
    kept = times.setdefault(profile, {})
    if name not in kept or abs(seconds - kept[name]) > max(WORTH_CHANGING * kept[name], 1):
        kept[name] = max(1, round(seconds))
        write_whole(_file(directory), json.dumps(times, indent=1, sort_keys=True) + "\n")


def _file(directory: Path) -> Path:
    """One file for the chapters and for the optional notebooks, which lie in a folder of their own."""
    return (directory.parent if directory.resolve().name == EXTRA else directory) / FILE


def estimate_left(
    waiting: Iterable[str], done: Mapping[str, float], expected: Mapping[str, float]
) -> float | None:
    """Seconds that the waiting notebooks will take, from those here (done) and elsewhere; None: who knows."""
    both = done.keys() & expected.keys()
    factor = sum(done[name] for name in both) / sum(expected[name] for name in both) if both else 1.0
    here = {name: seconds * factor for name, seconds in expected.items()} | dict(done)
    if not here:
        return None
    average = sum(here.values()) / len(here)
    return sum(here.get(name, average) for name in waiting)


def in_words(seconds: float) -> str:
    """8 -> "8 s"; 200 -> "3 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
