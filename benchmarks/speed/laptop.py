"""Peak memory of every notebook in the profile ``laptop``, and the seconds that its recording took.

The seconds are those of ``fewshot record``, which made the outputs that the notebooks come with, on 2 quiet
cores (``notebooks/times.json``): memory can be measured on a busy machine, and time cannot.
"""

from __future__ import annotations

import json

from speed.notebooks import ROOT, all_notebooks, name_of, run

HEAD = ["notebook", "laptop, s (recorded)", "laptop, peak MiB"]


def measure(tiny: bool) -> list[list[str]]:
    """Name and peak memory of each; tiny: of the first."""
    notebooks = all_notebooks()[: 1 if tiny else None]
    return [[name_of(each), f"{run(each, 'laptop', '--threads', '1')[1]:,.0f}"] for each in notebooks]


def with_seconds(rows: list[list[str]]) -> list[list[str]]:
    """The same, and what the recordings took, as it stands now."""
    recorded = json.loads((ROOT / "notebooks" / "times.json").read_text(encoding="utf-8"))["laptop"]
    return [[name, str(recorded.get(name.split("/")[-1], "–")), peak] for name, peak in rows]
