"""Seconds and peak memory of every notebook in the profile ``laptop``, as they were recorded.

``fewshot record``, which made the outputs that the notebooks come with, kept both (``notebooks/times.json``),
on 2 quiet cores. Memory is what all processes of a notebook had at one time.
"""

from __future__ import annotations

from speed.notebooks import ROOT, all_notebooks, name_of

from fewshot_lib.course.running.times import load_costs

HEAD = ["notebook", "laptop, s", "laptop, peak MiB"]


def measure() -> list[list[str]]:
    """A row for each."""
    costs = load_costs(ROOT / "notebooks")["laptop"]
    return [
        [name_of(each), f"{costs[each.stem]['seconds']}", f"{costs[each.stem]['peak_mib']:,}"]
        for each in all_notebooks()
        if each.stem in costs
    ]
