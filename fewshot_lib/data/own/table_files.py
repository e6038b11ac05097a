"""The rows of a table file: one reader for every format, and errors that name the line.

A file is told by its end (.csv, .jsonl, .parquet, …, also compressed) and, where that says nothing or is
wrong, by its content. Whatever the reader mends or guesses it says in the table's notes; what it could only
get wrong silently it refuses.
"""

import math
import os
import re
import unicodedata
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from fewshot_lib.data.own import delimited, json_tables, parquet
from fewshot_lib.data.own.columns import Columns, Reading, shown
from fewshot_lib.data.own.encodings import Text, as_text, unpacked
from fewshot_lib.data.own.labels import MISSING_WORDS, look_alikes, tidy
from fewshot_lib.data.reporting import DataError

PACKED = (".gz", ".bz2", ".xz")
SEPARATED = (".csv", ".tsv", ".tab", ".txt")
JSON = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
LOOKS_LIKE_JSON = re.compile(r"\s*(\[\s*)?[{\]]\s*(\"|\}|\[|$)")
NO_CHARACTER = re.compile("[\0\ud800-\udfff]")  # no tokenizer reads these
# What is no table, by its first bytes, and what to do with it.
OTHERS = {
    b"PK\x03\x04": "a zip archive or an Excel or LibreOffice file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"%PDF": "a PDF file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"SQLite format 3": "a data base",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"ARROW1": "an Arrow file",
}
# What came instead of a file that was to be downloaded.
PAGES = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|\?xml)", re.IGNORECASE)
POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Table:
    """What a file holds.

    rows: (text, label), each without outer white space, labels as :func:`labels.tidy` makes them; "" is
    missing. lines: where each row starts, counted in ``unit`` ("line", or "row" where a format has no lines).
    encoding: "" for formats that have none. columns: the names of all, and which two are used.
    notes: what was guessed or mended, and labels that look alike; one sentence each, without a full stop.
    """

    rows: list[tuple[str, str]]
    lines: list[int]
    encoding: str
    columns: Columns
    unit: str = "line"
    notes: list[str] = field(default_factory=list)

    @property
    def empty_lines(self) -> list[int]:
        """Lines of the rows whose text or label is missing."""
        return [line for row, line in zip(self.rows, self.lines, strict=True) if not all(row)]


def read_table(
    path: Path | str, text: str | None = None, label: str | None = None, encoding: str | None = None
) -> Table:
    """The rows of a table file, and what a report needs to know of it. DataError names file, line and fix."""
    path = Path(path)
    raw = unpacked(path)
    used, notes = "", []
    with delimited.fields_of_any_length():
        if is_parquet(path, raw):
            reading = parquet.read(path, raw, text, label)
        else:
            source = as_text(path, raw, encoding)
            used, notes = source.codec, [source.note] if source.note else []
            reading = (json_tables if is_json(path, source) else delimited).read(path, source, text, label)
        rows, lines, mended = _tidied(path, reading)
    if not any(all(row) for row in rows):
        raise DataError(f"{path} holds no rows with text and label.")
    notes += reading.columns.notes + _label_notes([row[1] for row in rows], mended)
    return Table(rows, lines, used, reading.columns, reading.unit, notes)


def name_of(path: Path) -> str:
    """The name of a file without the ends that say how it is packed and written.

    >>> name_of(Path("data/news.csv.gz"))
    'news'
    """
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")  # a name may be any bytes
    for ends in (PACKED, SEPARATED + JSON + PARQUET):
        if Path(name).suffix.lower() in ends:
            name = Path(name).stem
    return name


def is_parquet(path: Path, raw: bytes) -> bool:
    """Whether it is parquet, by its content, and else text. DataError for what is neither."""
    if raw.startswith(b"PAR1"):
        return True
    if _ending(path) in PARQUET:
        raise DataError(f"{path} is no parquet file by its content: it is damaged, or has another format.")
    for magic, what in OTHERS.items():
        if raw.startswith(magic):
            fix = "save the table as .csv (UTF-8), .jsonl or .parquet and give that file"
            raise DataError(f"{path} is {what}: {fix}.")
    if raw.startswith(POINTER):
        raise DataError(f"{path} only says where the data lie (Git LFS): fetch them with `git lfs pull`.")
    if PAGES.match(raw):
        raise DataError(
            f"{path} is a web page or XML: download the file itself, or save it as .csv or .jsonl."
        )
    return False


def is_json(path: Path, source: Text) -> bool:
    """Whether a text is JSON: by the end of its name, unless its first line says otherwise, else by that."""
    first = next((line for line in source.lines() if line.strip()), "")[:1000]
    if _ending(path) in JSON:
        return first.lstrip()[:1] in '{["' or not any(map(first.count, delimited.SEPARATORS))
    return bool(LOOKS_LIKE_JSON.match(first))


def _ending(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()


def _tidied(path: Path, reading: Reading) -> tuple[list[tuple[str, str]], list[int], dict[str, str]]:
    """The rows as texts, their lines, and the labels that had to be mended: as written -> as kept."""
    rows, lines = [], []
    kept: dict[str, str] = {}  # labels repeat: one object for each keeps a large table small
    names = reading.columns.used
    for line, *values in reading.rows:
        where = f"{path}, {reading.unit} {line}"
        text, label = (text_of(where, name, value) for name, value in zip(names, values, strict=True))
        if label not in kept:
            kept[label] = _class_name(where, names[1], label)
        rows.append((filled(text), kept[label]))
        lines.append(line)
    return rows, lines, {written: name for written, name in kept.items() if written != name}


def _class_name(where: str, column: str, label: str) -> str:
    """A label as the name of a class. DataError for one that cannot be printed."""
    name = tidy(label)
    if odd := [letter for letter in name if unicodedata.category(letter) == "Cc"]:
        found = f"{shown(column)} is {shown(name)}, with the control character U+{ord(odd[0]):04X}"
        raise DataError(f"{where}: {found}: remove it.")
    return name


def filled(text: str) -> str:
    """A text without outer white space; one of characters that cannot be seen is as empty as none."""
    return text.strip() if len(text) > 40 or tidy(text) else ""


def text_of(where: str, name: str, value: object) -> str:
    """A value as text; "" for a missing one. DataError for what can be neither a text nor a class name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return ""
        value = float(value)
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        return str(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {shown(name)} is {shown(value)}, which is neither a string nor a number.")
    if bad := NO_CHARACTER.search(value):
        code, what = f"U+{ord(bad[0]):04X}", "no character" if bad[0] == "\0" else "half of a character"
        fix = "remove it, or write the file again from its source"
        raise DataError(f"{where}: {shown(name)} holds {code}, which is {what} ({shown(value)}): {fix}.")
    return value


def _label_notes(labels: list[str], mended: dict[str, str]) -> list[str]:
    """What a reader should know of the class names: those mended, those that look alike, odd ones."""
    names = set(labels) - {""}
    notes = []
    if same := {written: name for written, name in mended.items() if name}:
        what = "blanks, invisible characters or the Unicode form are not part of a class name"
        example = ", ".join(
            f"{shown(written, ascii)} is {shown(name)}" for written, name in list(same.items())[:3]
        )
        spellings = f"{len(same)} spelling{'s' if len(same) > 1 else ''}"
        notes.append(f"{spellings} of labels tidied ({what}): {example}")
    if alike := look_alikes(names):
        shown_groups = "; ".join(" and ".join(map(shown, group[:4])) for group in alike[:3])
        what = f"{len(alike)} groups of class names" if len(alike) > 1 else "class names"
        fix = "write them alike in the file if one class is meant"
        notes.append(
            f"{what} differ only by case or look and stay classes of their own ({shown_groups}): {fix}"
        )
    if odd := sorted(name for name in names if name.casefold() in MISSING_WORDS):
        count = sum(label in odd for label in labels)
        fix = "empty these cells if the label is missing there"
        notes.append(f"{count} rows are of a class called {', '.join(map(repr, odd))}: {fix}")
    if len(names) == len(labels) > 4:
        notes.append("every row has a class of its own: is this the column of labels?")
    return notes
