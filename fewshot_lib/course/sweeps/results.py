"""What the points of sweeps recorded, in one table, over the seeds, and drawn against what was swept.

A *quantity* is what one ``record`` of a notebook measures. Of n seeds its value is the mean of n runs, with
the 95 % t-interval over them; each seed trains anew and draws its own episodes, so it covers both. With one
seed the interval over the episodes stays. Two values of a parameter are compared pair by pair where their
runs saw the same episodes: what makes those hard is common to both, and cancels.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fewshot_lib.core import mean_interval
from fewshot_lib.course import records
from fewshot_lib.course.running import output
from fewshot_lib.course.running.execution import read_notebook
from fewshot_lib.course.running.parameters import declared
from fewshot_lib.course.sweeps.grid import in_words, swept
from fewshot_lib.course.sweeps.points import POINTS, read_all
from fewshot_lib.data.cache import atomic_write, write_whole

Row = dict[str, Any]
FOLLOWING = ("n_way", "n_shot", "n_query", "profile")  # columns that have the name of a parameter
MOST_PANELS = 24


def is_sweep(directory: Path) -> bool:
    """Whether a sweep keeps its state there."""
    return (directory / POINTS).is_dir()


def join(directories: Sequence[Path], out: Path) -> str:
    """Writes results.md, .csv, .parquet, and a picture per notebook and parameter; returns the table.

    directories: of sweeps, ``fewshot run`` or papermill. What failed is left out and named. ValueError
    where there is nothing.
    """
    points, left_out = load(directories)
    if not points:
        reasons = "; ".join(left_out) or "run `fewshot sweep` first"
        raise ValueError(f"No point is finished in {', '.join(map(str, directories))}: {reasons}.")
    out.mkdir(parents=True, exist_ok=True)
    output.check_tables(out)
    rows, names = table(points), swept([point["parameters"] for point in points])
    summary, differences = over_seeds(points), list(paired(points))
    parts = [records.markdown_table(summary) if summary else "Nothing was recorded."]
    if differences:
        parts += ["Paired differences, on the same episodes:", records.markdown_table(differences)]
    if left_out:
        parts.append("\n".join(["Left out:", *(f"- {reason}" for reason in left_out)]))
    parts.append(f"{len(points)} points, {len(rows)} rows; what differs: {', '.join(names) or 'nothing'}.")
    text = "\n\n".join(parts)
    write_whole(out / "results.md", f"{output.TITLE}\n{text}\n\n{output.NOTE}\n")
    columns = list(dict.fromkeys([*records.TABLE_COLUMNS, *(name for row in rows for name in row)]))
    write_whole(out / "results.csv", records.csv_table(rows, columns))
    _write_parquet(out / "results.parquet", [{name: row.get(name) for name in columns} for row in rows])
    pictures = draw(summary, names, out)
    return "\n\n".join(
        [text, f"Written to {out}: results.md, .csv, .parquet{''.join(', ' + p for p in pictures)}"]
    )


def load(directories: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """The facts of finished points, the newest of each notebook and parameters; and what was left out."""
    newest: dict[tuple, Row] = {}
    left_out, older = [], 0
    found = sorted(_facts(directories), key=lambda facts: facts["started"])
    names = swept([facts["parameters"] for facts in found])
    for facts in found:
        if facts["failure"]:
            where = in_words(facts["parameters"], names)
            left_out.append(f"{facts['notebook']} {where}: {facts['failure']}")
            continue
        key = facts["notebook"], json.dumps(facts["parameters"], sort_keys=True, default=repr)
        older += key in newest
        newest[key] = facts
    if older:
        left_out.append(
            f"{older} older runs of the same points, by another version of a notebook or the library"
        )
    return sorted(newest.values(), key=_place), left_out


def _place(facts: Row) -> list[tuple]:
    """Where a point stands: by notebook, then by its parameters, numbers before texts."""
    numbers = ((name, value) for name, value in facts["parameters"].items() if name != "seed")
    ordered = [*numbers, ("seed", facts["parameters"].get("seed"))]
    known = [
        (0, value, "") if isinstance(value, int | float) else (1, 0, _key(value)) for _, value in ordered
    ]
    return [(1, 0, facts["notebook"]), *known]


def _facts(directories: Sequence[Path]) -> Iterator[Row]:
    """Of the points of sweeps, and of the notebooks that ``fewshot run`` or papermill executed."""
    for directory in directories:
        yield from read_all(directory).values()
        for path in sorted(directory.glob("*.ipynb")):
            try:
                notebook = read_notebook(path)
                rows, own = output.complete_rows(notebook), declared(notebook)
            except (ValueError, OSError):
                continue
            stamp, papermill = (notebook.metadata.get(name, {}) for name in (records.STAMP, "papermill"))
            if papermill.get("start_time") and rows:  # it came after ours, if there are both: see run_of
                run = records.run_of(notebook) or {}
                given = {"profile": rows[0]["profile"]} | papermill.get("parameters", {})
                parameters = own | {name: given[name] for name in given if name in own}  # others are typos
                yield {
                    "notebook": Path(papermill.get("input_path") or path).stem,
                    "started": run["run"],
                    "failure": "it stopped before its end" if run["stopped"] else "",
                    "seconds": papermill.get("duration"),
                    "key": "",
                    "parameters": parameters,
                    "rows": rows,
                }
            elif stamp:
                parameters = own | stamp["parameters"] | {"profile": stamp["profile"]}
                yield {**stamp, "notebook": path.stem, "key": "", "parameters": parameters, "rows": rows}


def table(points: Sequence[Row]) -> list[Row]:
    """A row per result of every point: as recorded, with its point's parameters (p_NAME), and its cost."""
    rows = []
    for facts in points:
        plain = {f"p_{name}": _plain(value) for name, value in facts["parameters"].items()}
        plain |= {name: facts.get(name) for name in "key seconds peak_memory threads revision".split()}
        rows += [{**row, **plain} for row in facts["rows"]]
    return rows


def over_seeds(points: Sequence[Row]) -> list[Row]:
    """A row per quantity and setting, over its seeds; a setting is all parameters but the seed."""
    names = [name for name in swept([facts["parameters"] for facts in points]) if name != "seed"]
    groups: dict[tuple, list[tuple[Row, Row]]] = {}
    for facts in points:
        setting = _key({name: facts["parameters"].get(name) for name in names})
        for row in facts["rows"]:
            groups.setdefault((_quantity(row, facts), setting), []).append((row, facts))
    return [_summarised(group, names) for group in groups.values()]


def _summarised(group: Sequence[tuple[Row, Row]], names: Sequence[str]) -> Row:
    row, facts = group[0]
    parameters = facts["parameters"]
    note = _note(row, facts, names)
    setting = {"setting": {name: parameters.get(name) for name in names}, "quantity": _quantity(row, facts)}
    rows = [row for row, _ in group]
    over = _over([r["mean"] for r in rows], [r["seeds"] for r in rows]) if len(rows) > 1 else {}
    return {**row, **setting, **over, "note": note}


def _note(row: Row, facts: Row, names: Sequence[str]) -> str:
    """The note of a row, and the swept parameters that no column shows."""
    hidden = [name for name in names if name not in (*FOLLOWING, "dataset")]
    return "; ".join(filter(None, [row["note"], in_words(facts["parameters"], hidden)]))


def _over(means: Sequence[float], seeds: Sequence[int]) -> Row:
    """Mean and interval of the results of several seeds."""
    values = torch.tensor(means, dtype=torch.float64)
    low, high = mean_interval(values)
    known = math.isfinite(low)
    ends = {"ci_low": low if known else None, "ci_high": high if known else None}
    return {"mean": values.mean().item(), "seeds": sum(seeds), **ends}


def paired(points: Sequence[Row]) -> Iterator[Row]:
    """Each value of a parameter against its first, seed by seed, where both runs saw the same episodes."""
    names = [name for name in swept([facts["parameters"] for facts in points]) if name != "seed"]
    for name in names:
        groups: dict[tuple, dict[str, list[tuple[Row, Row]]]] = {}
        for facts in points:
            parameters = facts["parameters"]
            setting = _key({n: parameters.get(n) for n in names if n != name})
            for row in facts["rows"]:
                values = groups.setdefault((_quantity(row, facts), setting), {})
                values.setdefault(_key(parameters.get(name)), []).append((row, facts))
        for values in groups.values():
            first, *others = values.values()
            for other in others:
                yield from _difference(name, other, first, [n for n in names if n != name])


def _difference(
    name: str, a: Sequence[tuple[Row, Row]], b: Sequence[tuple[Row, Row]], rest: Sequence[str]
) -> Iterator[Row]:
    """a minus b over the seeds that both have; nothing where a pair saw other episodes, or there is none."""

    def by_seed(group: Sequence[tuple[Row, Row]]) -> dict[Any, Row]:
        return {facts["parameters"].get("seed"): row for row, facts in group}

    left, right = by_seed(a), by_seed(b)
    pairs = [(left[seed], right[seed]) for seed in left if seed in right]
    ids = [(x.get("episodes_id"), y.get("episodes_id")) for x, y in pairs]
    if not ids or not all(one and one == other for one, other in ids):
        return
    (row, facts), (_, other) = a[0], b[0]
    which = " − ".join(in_words(each["parameters"], [name]) for each in (facts, other))
    over = _over([x["mean"] - y["mean"] for x, y in pairs], [x["seeds"] for x, _ in pairs])
    what = {"kind": "difference", "method": f"{row['method']}: {which}", "note": _note(row, facts, rest)}
    yield {**row, **over, **what}


def _quantity(row: Row, facts: Row) -> tuple:
    """What is measured: the same at every setting, so a column that follows a parameter is left out.

    "5-shot" is part of it where the notebook measures that beside the shots that it was asked for.
    """
    parameters = facts["parameters"]
    fixed = [row[name] for name in "kind notebook method transductive note".split()]
    fixed += ["" if row[name] == parameters.get(name) else f"{name}={row[name]}" for name in FOLLOWING]
    data = facts.get("data") or {}
    own = f"{row['dataset']}/{row['split_family']}"
    return (*fixed, "" if own == f"{data.get('name')}/{data.get('family')}" else own)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _plain(value: Any) -> Any:
    """A value that fits into a cell of a table."""
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    for name, values in columns.items():
        if len({type(value) for value in values if value is not None} - {int, float}) > 1:
            columns[name] = [None if value is None else str(value) for value in values]
    with atomic_write(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)


def draw(summary: Sequence[Row], names: Sequence[str], out: Path) -> list[str]:
    """A picture per notebook and swept parameter: a panel per quantity, a line per setting of the others."""
    written = []
    for notebook in dict.fromkeys(row["notebook"] for row in summary):
        for name in names:
            panels: dict[tuple, list[Row]] = {}
            for row in summary:
                if row["notebook"] == notebook and name in row["setting"]:
                    panels.setdefault(row["quantity"], []).append(row)
            several = [rows for rows in panels.values() if len({_key(r["setting"][name]) for r in rows}) > 1]
            if several:
                file = f"results_{notebook}_{name}.png"
                _picture(several[:MOST_PANELS], name, out / file)
                unseen = len(several) - MOST_PANELS
                written.append(file if unseen <= 0 else f"{file} ({unseen} quantities do not fit)")
    return written


def _picture(panels: Sequence[Sequence[Row]], name: str, path: Path) -> None:
    from matplotlib.figure import Figure  # without a screen, and without pyplot's state

    from fewshot_lib.course.plots import COLOURS, MARKERS

    wide = min(4, len(panels))
    high = math.ceil(len(panels) / wide)
    figure = Figure(figsize=(3.4 * wide, 2.7 * high + 0.3), layout="constrained")
    for ax, rows in zip(figure.subplots(high, wide, squeeze=False).flat, panels, strict=False):
        lines: dict[str, list[Row]] = {}
        for row in rows:
            others = {n: v for n, v in row["setting"].items() if n != name}
            lines.setdefault(in_words(others, swept([r["setting"] for r in rows])), []).append(row)
        values = list(dict.fromkeys(_plain(row["setting"][name]) for row in rows))
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        for number, (label, line) in enumerate(lines.items()):
            at = [_plain(row["setting"][name]) for row in line]
            x = at if numeric else [values.index(value) for value in at]
            y = [100 * row["mean"] for row in line]
            ends = [
                [100 * abs(row["mean"] - (row[end] if row[end] is not None else row["mean"])) for row in line]
                for end in ("ci_low", "ci_high")
            ]
            style = {"marker": MARKERS[number % 8], "color": COLOURS[number % 8], "capsize": 3}
            ax.errorbar(x, y, yerr=ends, label=label, **style)
        ax.set_xticks(values if numeric else range(len(values)), [str(value) for value in values])
        ax.set_title(_title(rows[0]), fontsize=8)
        ax.set_xlabel(name)
        ax.set_ylabel("points" if rows[0]["kind"] == "difference" else "accuracy in %")
        ax.grid(alpha=0.3)
        if len(lines) > 1:
            ax.legend(fontsize=7)
    for ax in figure.axes[len(panels) :]:
        ax.remove()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _title(row: Row) -> str:
    """The method, and what of the setting does not follow the parameters."""
    texts = [part for part in row["quantity"][4:] if part]
    return "\n".join([row["method"][:60], ", ".join(texts)[:60]]).strip()
