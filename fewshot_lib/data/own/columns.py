"""Which column of a table holds the texts, and which the labels: by name, or guessed where it is plain.

A name that is asked for is found in any case. Without one, "text" and "label" are looked for, then the words
that people use for them; of two candidates neither is taken. A choice that nobody made is said in a note.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fewshot_lib.data.own.labels import tidy
from fewshot_lib.data.reporting import DataError

NAMES = {
    "text": (
        "text texts sentence sentences review headline utterance content title body question query message "
        "description document comment tweet post phrase abstract summary input"
    ).split(),
    "label": (
        "label labels class class_name category topic intent target tag genre sentiment subject group "
        "label_name label_text y"
    ).split(),
}
MOST_COLUMNS = 10_000
LONGEST = 60  # characters of a name in a message


@dataclass(frozen=True)
class Columns:
    """All names of a table, the positions of the two that are used, and what was guessed."""

    names: list[str]
    text: int
    label: int
    notes: list[str] = field(default_factory=list)

    @property
    def used(self) -> tuple[str, str]:
        """The names of the column of texts and of that of labels."""
        return self.names[self.text], self.names[self.label]


class Reading(NamedTuple):
    """What the reader of a format gives: the columns, and row by row where it stands, its text, its label.

    The two values are as they stand in the file. unit: what the place counts, "line", or "row" from 1.
    """

    columns: Columns
    rows: Iterator[tuple[int, object, object]]
    unit: str = "line"


def choose(
    path: Path, names: Sequence[str], sample: Sequence[Sequence[object]], text: str | None, label: str | None
) -> Columns:
    """The two columns of a table.

    names: of all columns. sample: some of its rows, which tell texts from labels where the names do not.
    text, label: the names asked for; None where the table decides. DataError with the columns and the fix.
    """
    asked = {"text": text, "label": label}
    for role, wanted in asked.items():
        if not isinstance(wanted, str | None):
            raise ValueError(f"`{role}` is {wanted!r}: give the name of a column.")
    found = {role: _named(path, names, wanted) for role, wanted in asked.items() if wanted is not None}
    missing = [role for role in asked if role not in found]
    for role in missing:
        by_name = _usual(path, names, role, set(found.values()))
        if by_name is not None:
            found[role] = by_name
    if len(names) == 2 and len(found) == 1:
        found |= {role: 1 - next(iter(found.values())) for role in asked if role not in found}
    if len(names) == 2 and not found:
        found = _by_content(sample)
    if lost := [role for role in asked if role not in found]:
        raise _unknown(path, names, f"which of them holds the {lost[0]}s is not clear")
    if found["text"] == found["label"]:
        raise DataError(f"{path}: text and label are both the column {names[found['text']]!r}: name two.")
    notes = [
        f"the column {names[found[role]]!r} is read as the {role}"
        for role in missing
        if tidy(names[found[role]]) != role
    ]
    return Columns(list(names), found["text"], found["label"], notes)


def text_column(path: Path, names: Sequence[str], text: str | None) -> tuple[int, list[str]]:
    """Of a table without labels, the place of the texts, and a note where nobody named it.

    text: the name asked for; None takes a column that is called like texts, or the only one.
    """
    if text is not None:
        return _named(path, names, text), []
    place = _usual(path, names, "text", set())
    if place is None and len(names) == 1 and re.fullmatch(r"\w+", tidy(names[0])):  # a sentence is no name
        place = 0
    if place is None:
        raise _unknown(path, names, "which of them holds the texts is not clear")
    return place, [f"the column {names[place]!r} is read as the text"] if tidy(names[place]) != "text" else []


def shown(value: object, form: Callable[[object], str] = repr) -> str:
    """A name or value for a message, in quotes, cut to a length that can be read."""
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{form(value[:LONGEST])[:-1]}…' ({len(value):,} characters)"
    text = form(value)
    return text if len(text) <= 2 * LONGEST else f"{text[: 2 * LONGEST]}…"


def _named(path: Path, names: Sequence[str], wanted: str) -> int:
    """The column of this name: to the letter, else but for case, blanks and Unicode form."""
    for form in (str, str.strip, lambda name: tidy(name).casefold()):
        places = [i for i, name in enumerate(names) if form(name) == form(wanted)]
        if places:
            return _only(path, names, places)
    close = difflib.get_close_matches(wanted, [name for name in names if len(name) < 100], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise _unknown(path, names, f"{wanted!r} is asked for{hint}")


def _usual(path: Path, names: Sequence[str], role: str, taken: set[int]) -> int | None:
    """The column whose name is the word for its role, or the only one with one of the other words."""
    folded = {i: tidy(name).casefold() for i, name in enumerate(names) if i not in taken}
    exact = [i for i, name in folded.items() if names[i] == role] or [
        i for i, name in folded.items() if name == role
    ]
    if exact:
        return _only(path, names, exact)
    others = [i for i, name in folded.items() if name.replace(" ", "_").replace("-", "_") in NAMES[role]]
    if len(others) > 1:
        which = " or ".join(shown(names[i]) for i in others)
        raise _unknown(path, names, f"the {role} may be {which}")
    return others[0] if others else None


def _only(path: Path, names: Sequence[str], places: Sequence[int]) -> int:
    if len(places) > 1:
        which = ", ".join(f"no. {i + 1}" for i in places)
        name = shown(names[places[0]])
        raise DataError(f"{path} names several columns {name} ({which}): give each a name of its own.")
    return places[0]


def _by_content(sample: Sequence[Sequence[object]]) -> dict[str, int]:
    """Of two columns: the one whose values repeat holds the labels, if the other's are longer and do not."""
    values = [[str(row[i]) for row in sample if len(row) == 2] for i in (0, 1)]
    if len(values[0]) < 4:
        return {}
    distinct = [len(set(column)) / len(column) for column in values]
    length = [sum(map(len, column)) / len(column) for column in values]
    for label in (0, 1):
        text = 1 - label
        if distinct[label] <= 0.5 and distinct[text] >= 0.9 and length[text] > length[label]:
            return {"text": text, "label": label}
    return {}


def _unknown(path: Path, names: Sequence[str], why: str) -> DataError:
    listed = ", ".join(map(shown, names[:12])) + (f", … ({len(names):,} in all)" if len(names) > 12 else "")
    listed = listed or "(none)"
    fix = "name the columns with text=… and label=… (--text NAME; --label NAME where labels are read)"
    return DataError(
        f"{path} has the columns {listed}, and {why}: {fix}; the first line of the file must name them."
    )
