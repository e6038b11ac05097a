"""Peak memory of every notebook in the profile ``laptop``, and the seconds that its recording took.

The seconds are those of ``fewshot record``, which made the outputs that the notebooks come with, on 2 quiet
cores (``notebooks/times.json``): memory can be measured on a busy machine, and time cannot.
"""

from __future__ import annotations

import json

from speed.notebooks import ROOT, all_notebooks, name_of, run

HEAD = ["notebook", "laptop, s (recorded)", "laptop, peak MiB"]


def measure(tiny: bool) -> list[list[str]]:
    """A row for each; tiny: for the first."""
    recorded = json.loads((ROOT / "notebooks" / "times.json").read_text(encoding="utf-8"))["laptop"]
    rows = []
    for notebook in all_notebooks()[: 1 if tiny else None]:
        _, peak = run(notebook, "laptop", "--threads", "1")
        rows.append([name_of(notebook), str(recorded.get(notebook.stem, "–")), f"{peak:,.0f}"])
    return rows
