"""How long notebooks take: kept beside them, and used to estimate the time that is left.

``times.json`` holds seconds per profile and notebook, on the machine that recorded them. Another machine is faster or
slower by a factor that the first finished notebook shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from fewshot_lib.course.execution import write_whole

FILE = "times.json"
WORTH_CHANGING = 0.25  # smaller differences are noise, and would change a committed file at every recording


def load_times(directory: Path) -> dict[str, dict[str, float]]:
    """profile -> notebook -> seconds; empty where nothing was kept. Raises ValueError for a file that is not JSON."""
    path = directory / FILE
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it, it is written again by `fewshot record`.") from None


def keep_times(directory: Path, profile: str, seconds: Mapping[str, float]) -> None:
    """Writes the seconds of these notebooks, where they differ by more than a quarter from what was kept."""
    times = load_times(directory)
    kept = times.setdefault(profile, {})
    changed = {
        name: max(1, round(value))
        for name, value in seconds.items()
        if name not in kept or abs(value - kept[name]) > max(WORTH_CHANGING * kept[name], 1)
    }
    if changed:
        kept.update(changed)
        write_whole(directory / FILE, json.dumps(times, indent=1, sort_keys=True) + "\n")


def estimate_left(waiting: Iterable[str], done: Mapping[str, float], expected: Mapping[str, float]) -> float | None:
    """Seconds that the waiting notebooks will take; None as long as nothing is known.

    done: notebook -> seconds it took here. expected: notebook -> seconds it took elsewhere.
    """
    both = done.keys() & expected.keys()
    factor = sum(done[name] for name in both) / sum(expected[name] for name in both) if both else 1.0
    here = {name: seconds * factor for name, seconds in expected.items()} | dict(done)
    if not here:
        return None
    average = sum(here.values()) / len(here)
    return sum(here.get(name, average) for name in waiting)


def in_words(seconds: float) -> str:
    """ "8 s", "about 3 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
