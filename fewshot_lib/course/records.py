"""Results that travel inside a notebook: one row each, collected into one table.

``Lesson.record`` stores a row, unseen, as an output of its own type in the notebook. Whatever ran it
(JupyterLab, ``fewshot run``, papermill on a cluster), :func:`rows_of` finds the row again. It carries
everything a number must be quoted with: data set, split family, profile, ways, shots, queries, episodes,
seeds, inductive or transductive. Its accuracies are fractions, not percent. A notebook that a run executed
carries a stamp, :func:`run_of`; one without holds what its authors once stored.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from IPython.display import display

STAMP = "fewshot_run"  # in the metadata of a notebook that `fewshot run` executed
MIME = "application/vnd.fewshot.result+json"
IDENTITY = tuple("kind method dataset split_family n_way n_shot n_query note".split())  # of a measurement
COLUMNS = tuple(
    "kind notebook method dataset split_family profile n_way n_shot n_query episodes seeds transductive "
    "mean ci_low ci_high note episodes_id".split()
)
TABLE_COLUMNS = (*COLUMNS, "run")  # of rows that were collected: when their notebook was started
SHORT_COLUMNS = ("method", "dataset", "setting", "measured on", "result", "note")
REPORT_COLUMNS = ("notebook", "method", "dataset", "profile", "setting", "measured on", "result", "note")


def make_row(
    method: str, results: Any, *, dataset: Any, notebook: str, profile: str, note: str = ""
) -> dict[str, Any]:
    """The row of one result of ``evaluate`` or ``compare_paired``, measured on a ClassDataset.

    TypeError where one of the two lacks what every reported number must carry.
    """
    for name in "n_way n_shot n_query n_episodes n_seeds transductive mean interval".split():
        if not hasattr(results, name):
            kind = type(results).__name__
            what = "what evaluate or compare_paired returned"
            raise TypeError(f"`results` is a {kind} without .{name}: give {what}.")
    if not (hasattr(dataset, "name") and hasattr(dataset, "split_family")):
        raise TypeError(f"`dataset` is {dataset!r}: give the ClassDataset itself, which has a name.")
    mean, (low, high) = float(results.mean), map(float, results.interval)
    if not math.isfinite(mean):
        raise ValueError(f"`results` has the mean {mean}: no episode, or an accuracy that is no number.")
    return {
        "kind": getattr(results, "kind", "accuracy"),
        "notebook": notebook,
        "method": method,
        "dataset": dataset.name,
        "split_family": dataset.split_family,
        "profile": profile,
        "n_way": int(results.n_way),
        "n_shot": int(results.n_shot),
        "n_query": int(results.n_query),
        "episodes": int(results.n_episodes),
        "seeds": int(results.n_seeds),
        "transductive": bool(results.transductive),
        "mean": round(mean, 6),
        "ci_low": round(low, 6) if math.isfinite(low) else None,
        "ci_high": round(high, 6) if math.isfinite(high) else None,
        "note": note,
        "episodes_id": getattr(results, "episodes_fingerprint", "")[:16],  # whether two rows can be paired
    }


def store_row(row: Mapping[str, Any]) -> None:
    """Stores the row in the output; a reader sees nothing of it."""
    display({"text/html": "", "text/plain": "", MIME: dict(row)}, raw=True)


def run_of(notebook: Mapping[str, Any]) -> dict[str, Any] | None:
    """When the run that executed the notebook started it, and whether it stopped before its end.

    None where neither ``fewshot run`` nor papermill did: what papermill only prepared has no time. Where
    there are both stamps, papermill came later, since ``fewshot run`` takes papermill's away.
    """
    papermill, ours = (notebook["metadata"].get(name) or {} for name in ("papermill", STAMP))
    if started := papermill.get("start_time"):
        return {"run": started, "stopped": bool(papermill.get("exception")) or not papermill.get("end_time")}
    return {"run": ours.get("started", ""), "stopped": bool(ours.get("failure"))} if ours else None


def rows_of(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows recorded in one executed notebook (nbformat), in order; of one measurement the last counts.

    Each says which run it is of, and in its note whether the notebook stopped with an error.
    """
    run = run_of(notebook) or {"run": "", "stopped": False}
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    stopped = run["stopped"] or any(output["output_type"] == "error" for output in outputs)
    rows = {}
    for output in outputs:
        if MIME in output.get("data", {}):
            row = {name: output["data"][MIME].get(name) for name in COLUMNS} | {"run": run["run"]}
            if stopped:
                row["note"] = "; ".join(filter(None, [row["note"], "the notebook stopped with an error"]))
            rows[tuple(row[name] for name in IDENTITY)] = row
    return list(rows.values())


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A row in words, as people quote it."""
    mean = f"{100 * row['mean']:+.1f} points" if row["kind"] == "difference" else f"{100 * row['mean']:.1f} %"
    low, high = ("–" if row[end] is None else f"{100 * row[end]:.1f}" for end in ("ci_low", "ci_high"))
    seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']} seeds"
    information = "transductive" if row["transductive"] else "inductive"
    return {
        "notebook": str(row["notebook"]),
        "method": str(row["method"]),
        "dataset": f"{row['dataset']}/{row['split_family']}",
        "profile": str(row["profile"]),
        "setting": f"{row['n_way']}-way {row['n_shot']}-shot, {row['n_query']} queries, {information}",
        "measured on": f"{row['episodes']:,} episodes, {seeds}",
        "result": f"{mean} [{low}, {high}]",
        "note": str(row["note"] or ""),
    }


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of texts: the names of its columns, and lines of as many cells."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = REPORT_COLUMNS) -> str:
    """A table for people: percent, with the 95 % interval in brackets."""
    return markdown(columns, ([_cells(row)[name].replace("|", "\\|") for name in columns] for row in rows))


def csv_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = TABLE_COLUMNS) -> str:
    """A table for programs: every column of the rows that were collected."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
