"""Time and peak memory of every notebook, by ``fewshot run`` in the small profile, one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = ["notebook", "smoke, s", "smoke, peak MiB", "laptop, s (recorded)"]
# a process of its own, whose largest descendant is the notebook's kernel
PROGRAM = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
command = [sys.executable, "-m", "fewshot_lib", "run", *sys.argv[1:]]
subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
print(json.dumps([time.perf_counter() - start, peak]))
"""


def measure(tiny: bool) -> list[list[str]]:
    """A row for each; tiny: for the first."""
    recorded = json.loads((ROOT / "notebooks" / "times.json").read_text(encoding="utf-8"))["laptop"]
    rows = []
    for notebook in sorted((ROOT / "notebooks").glob("0*.ipynb"))[: 1 if tiny else None]:
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-c", PROGRAM, str(notebook), "--profile", "smoke", "--out", out]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        seconds, peak = json.loads(done.stdout.splitlines()[-1])
        rows.append([notebook.stem, f"{seconds:.0f}", f"{peak:,.0f}", str(recorded.get(notebook.stem, "–"))])
    return rows
