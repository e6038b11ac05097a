"""How far a sweep is: one page of HTML that needs nothing else, and reads itself again while points wait."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fewshot_lib.course.running import times
from fewshot_lib.course.sweeps.grid import swept, typed
from fewshot_lib.course.sweeps.points import POINTS

SECONDS = 10  # between two looks
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:80em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}th,td{padding:.2em .7em;text-align:left;border-bottom:1px solid #ddd}
.bar{display:flex;height:1.2em;background:#ddd}.done{background:#009e73}.failed{background:#d55e00}
td.done,td.failed,td.lost{color:#000}.lost{background:#cc79a7}td.waiting{background:#ddd}small{color:#555}"""
STATES = ("done", "failed", "lost", "waiting")


def sweep_page(
    finished: Mapping[str, Mapping[str, Any]],
    waiting: Sequence[tuple[str, Mapping[str, Any]]],
    lost: Sequence[tuple[str, Mapping[str, Any], str]],
    left: str = "",
) -> str:
    """The page. finished: key -> facts; waiting: notebook and parameters; lost: these and the reason."""
    rows = list(_rows(finished, waiting, lost))
    counts = {state: sum(row[0] == state for row in rows) for state in STATES}
    names = swept([parameters for _, _, parameters, *_ in rows])
    words = ", ".join(f"{n} {state}" for state, n in counts.items() if n or state in ("done", "waiting"))
    shares = "".join(
        f'<div class="{state}" style="width:{100 * n / max(len(rows), 1):.2f}%"></div>'
        for state, n in counts.items()
        if state != "waiting"
    )
    refresh = f'<meta http-equiv="refresh" content="{SECONDS}">' if waiting else ""
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("state", "notebook", *names, "took", "what happened")
    )
    body = "".join(_row(row, names) for row in rows)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sweep: {escape(words)}</title>'
        f"{refresh}<style>{STYLE}</style></head><body><h1>Sweep</h1><p>{escape(words)}{escape(left)}.</p>"
        f'<div class="bar" role="img" aria-label="{escape(words)}">{shares}</div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></body></html>\n"
    )


def _rows(
    finished: Mapping[str, Mapping[str, Any]],
    waiting: Sequence[tuple[str, Mapping[str, Any]]],
    lost: Sequence[tuple[str, Mapping[str, Any], str]],
) -> Iterator[tuple[str, str, Mapping[str, Any], str, str]]:
    """State, notebook as HTML, parameters, what it took, what happened; trouble first."""
    for name, parameters, reason in lost:
        yield "lost", escape(name), parameters, "", reason
    for key, facts in sorted(
        finished.items(), key=lambda item: (not item[1]["failure"], item[1]["notebook"])
    ):
        link = f'<a href="{POINTS}/{key}/{escape(facts["notebook"])}.html">{escape(facts["notebook"])}</a>'
        took = f"{times.in_words(facts['seconds'])}, {facts['peak_memory'] / 1e6:,.0f} MB"
        yield "failed" if facts["failure"] else "done", link, facts["parameters"], took, facts["failure"]
    for name, parameters in waiting:
        yield "waiting", escape(name), parameters, "", ""


def _row(row: tuple[str, str, Mapping[str, Any], str, str], names: Sequence[str]) -> str:
    state, notebook, parameters, took, happened = row
    values = [escape(typed("", parameters[n]).lstrip("=")) if n in parameters else "" for n in names]
    cells = "".join(f"<td>{cell}</td>" for cell in (notebook, *values, escape(took), escape(happened)))
    return f'<tr><td class="{state}">{state}</td>{cells}</tr>'
