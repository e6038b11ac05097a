"""``FewShotClassifier.fit`` beside SetFit, from the draws that ``setfit_peer.py`` has recorded.

A fit of SetFit takes minutes to hours, so it isn't part of this run: both were timed on the same draws, each
with its encoding from the raw texts, in processor seconds of their process, which a busy machine doesn't
stretch as it does the clock.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

HEAD = ["data set", "shots", "draws", "fewshot_lib, s", "SetFit, s", "SetFit's precision", "SetFit / ours"]


def measure(recorded: Path) -> list[list[str]]:
    """A row per data set, shots and precision of SetFit: medians over the draws that both have.

    SetFit's fits on a GPU, whose precision names it, were on another machine and have no row.
    """
    fits: dict[tuple, dict[int, float]] = defaultdict(dict)
    for line in recorded.read_text(encoding="utf-8").splitlines():
        fit = json.loads(line)
        if "cpu_seconds" not in fit:  # only its accuracy was measured
            continue
        precision = fit["precision"] if fit["method"] == "setfit" else ""
        fits[fit["method"], fit["dataset"], fit["shots"], precision][fit["draw"]] = fit["cpu_seconds"]
    rows = []
    for (method, dataset, shots, precision), theirs in sorted(fits.items()):
        ours = fits.get(("default", dataset, shots, ""), {})
        draws = theirs.keys() & ours.keys()
        if method != "setfit" or precision not in ("float32", "bfloat16") or not draws:
            continue
        ratio = statistics.median(theirs[d] / ours[d] for d in draws)
        mine, other = (statistics.median(times[d] for d in draws) for times in (ours, theirs))
        rows.append(
            [
                dataset,
                str(shots),
                str(len(draws)),
                f"{mine:.2f}",
                f"{other:.1f}",
                precision,
                f"**{ratio:.3g}**",
            ]
        )
    return rows
