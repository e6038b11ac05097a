"""The pages of `fewshot grade`: one table for the teacher, feedback for a student. Each needs nothing else.

Names and messages come from what was handed in, so all of it is escaped, and the pages run no script.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222;
background:#fff}table{border-collapse:collapse}th,td{padding:.3em .7em;text-align:left;
border-bottom:1px solid #ccc;vertical-align:top}.ok{color:#00563f}.look{color:#7a4b00}
.wrong{color:#9a2c00}p.note{border-left:4px solid #9a2c00;padding-left:1em}
.ok,.look,.wrong{white-space:nowrap}.wide{overflow-x:auto}tbody th{position:sticky;left:0;background:#fff}"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# verdict -> a sign beside the colour, and what it means to the one who wrote the code
MEANINGS = {
    "ok": ("✓", "Right."),
    "look": ("!", "Your teacher will look at this one."),
    "value": ("✗", "The form is right, a value is not."),
    "shape": ("✗", "What comes back has another form than asked for."),
    "error": ("✗", "Your code raises an error."),
    "todo": ("–", "Not written yet."),
    "missing": ("–", "The function is not in the notebook: was it renamed, or its cell deleted?"),
    "stopped": ("✗", "Your code was stopped."),
    "not graded": ("?", "This could not be judged; it is not your fault."),
}


def _class(verdict: str) -> str:
    return verdict if verdict in ("ok", "look") else "wrong"


def _page(title: str, body: str) -> str:
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    view = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head>{head}{view}<title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def student_page(
    student: str,
    verdicts: Mapping[str, Mapping[str, tuple[str, str]]],
    titles: Mapping[str, Mapping[str, str]],
    problems: Sequence[str],
) -> str:
    """Feedback: each exercise with its verdict, and what ``check`` would say."""
    parts = [f"<p class='note'>{escape(problem)}</p>" for problem in problems]
    for chapter, found in verdicts.items():
        solved = sum(verdict == "ok" for verdict, _ in found.values())
        parts.append(f"<h2>{escape(chapter)}: {solved} of {len(found)}</h2><table><thead><tr>")
        parts.append("<th>exercise</th><th>verdict</th><th>what was found</th></tr></thead><tbody>")
        for name, (verdict, message) in found.items():
            sign, meaning = MEANINGS.get(verdict, MEANINGS["not graded"])
            title = titles.get(chapter, {}).get(name, name)
            what = meaning if verdict in ("ok", "todo", "missing", "look") else f"{meaning} {message}"
            parts.append(
                f"<tr><td>{escape(title)}</td><td class='{_class(verdict)}'>{sign} {escape(verdict)}</td>"
                f"<td>{escape(what)}</td></tr>"
            )
        parts.append("</tbody></table>")
    return _page(f"Feedback for {student}", "".join(parts))


def class_page(rows: Sequence[Mapping[str, Any]], pages: Mapping[str, str], note: str) -> str:
    """The table of the class; a student's name opens the feedback."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in rows[0])
    body = []
    for row in rows:
        student = row["student"]
        cells = [f"<th scope='row'><a href='feedback/{escape(pages[student])}'>{escape(student)}</a></th>"]
        for name, value in list(row.items())[1:]:
            sign = MEANINGS[value][0] + " " if value in MEANINGS else ""
            kind = f" class='{_class(value)}'" if value in MEANINGS else ""
            cells.append(f"<td{kind if name not in ('solved', 'of') else ''}>{sign}{escape(str(value))}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    warning = f"<p class='note'>{escape(note)}</p>" if note else ""
    meanings = "".join(
        f"<li>{sign} {escape(name)}: {escape(text)}</li>" for name, (sign, text) in MEANINGS.items()
    )
    meanings += "<li>(empty): nothing was handed in.</li>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    wide = f"<div class='wide' tabindex='0' role='region' aria-label='Grades'>{table}</div>"
    return _page("Grades", f"{warning}{wide}<h2>What students read</h2><ul>{meanings}</ul>")
