"""What notebooks take: kept beside them, and used to estimate the time that is left.

``times.json`` holds seconds, and the most memory that a notebook's processes had at one time (0 where nobody
could tell), per profile and notebook, the optional ones included, on the machine that recorded them. Another
machine is faster or slower by a factor that the first finished notebook shows.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from fewshot_lib.course.running.execution import EXTRA
from fewshot_lib.data.cache import write_whole

FILE = "times.json"
WORTH_CHANGING = 0.25  # smaller differences are noise, and would change a committed file at every recording


def load_costs(directory: Path) -> dict[str, dict[str, dict[str, float]]]:
    """profile -> notebook -> {"seconds", "peak_mib"}; empty where nothing was kept."""
    path = _file(directory)
    advice = "delete it, `fewshot record` makes it anew"
    try:
        costs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for kept in costs.values():
            for cost in kept.values():
                _ = cost["seconds"] + cost["peak_mib"]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {advice}.") from None
    except (AttributeError, TypeError, KeyError):
        raise ValueError(f"{path} does not map profiles to the costs of notebooks: {advice}.") from None
    return costs


def load_times(directory: Path) -> dict[str, dict[str, float]]:
    """profile -> notebook -> seconds."""
    costs = load_costs(directory)
    return {
        profile: {name: cost["seconds"] for name, cost in kept.items()} for profile, kept in costs.items()
    }


def keep_costs(directory: Path, profile: str, name: str, seconds: float, peak_memory: int = 0) -> None:
    """Writes what a notebook took, if it differs by more than a quarter from what was kept (in bytes)."""
    costs = load_costs(directory)
    kept = costs.setdefault(profile, {})
    found: dict[str, float] = {"seconds": max(1, round(seconds)), "peak_mib": round(peak_memory / 2**20)}
    known = kept.get(name, {"seconds": -math.inf, "peak_mib": -math.inf})
    if any(abs(found[cost] - known[cost]) > max(WORTH_CHANGING * known[cost], 1) for cost in found):
        kept[name] = found
        write_whole(_file(directory), json.dumps(costs, indent=1, sort_keys=True) + "\n")


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
