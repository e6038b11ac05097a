"""Time and peak memory of every notebook, by ``fewshot run`` in the small profile, one after the other.

The clock of the wall, and the largest resident memory of one process of the run, which is the notebook's
kernel. Features that notebooks keep were in the cache already.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = ["notebook", "smoke, s", "smoke, peak MiB"]
# a process of its own, whose largest descendant is the notebook's kernel
PROGRAM = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
command = [sys.executable, "-m", "fewshot_lib", "run", *sys.argv[1:]]
subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
print(json.dumps([time.perf_counter() - start, peak]))
"""


def all_notebooks() -> list[Path]:
    """The chapters, then the optional ones."""
    folder = ROOT / "notebooks"
    return [*sorted(folder.glob("*.ipynb")), *sorted((folder / "extra").glob("*.ipynb"))]


def name_of(notebook: Path) -> str:
    """As ``fewshot run`` takes it."""
    return notebook.relative_to(ROOT / "notebooks").with_suffix("").as_posix()


def run(notebook: Path, profile: str, *options: str) -> tuple[float, float]:
    """Seconds, and the largest resident memory in MiB, of one run; options: those of ``fewshot run``."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", PROGRAM, str(notebook), "--profile", profile, "--out", out, *options]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def measure(tiny: bool) -> list[list[str]]:
    """A row for each; tiny: for the first."""
    rows = []
    for notebook in all_notebooks()[: 1 if tiny else None]:
        seconds, peak = run(notebook, "smoke")
        rows.append([name_of(notebook), f"{seconds:.0f}", f"{peak:,.0f}"])
    return rows
