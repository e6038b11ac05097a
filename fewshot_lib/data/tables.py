"""Reading (text, label) rows from files that people made: CSV and JSON Lines, with errors that name the line.

Nothing is guessed that could go wrong silently. The encoding is UTF-8 (with or without the mark that Excel puts in
front) unless it is named; the separator is the one that makes the two columns appear in the header.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .reporting import DataError

SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class Table:
    """Rows of a file: texts and labels without outer white space, the line each row starts on, and the encoding used."""

    texts: list[str]
    labels: list[str]
    lines: list[int]
    encoding: str


def read_csv(path: Path | str, text: str = "text", label: str = "label", encoding: str | None = None) -> Table:
    """The rows of a CSV file whose first line names the columns; separated by comma, semicolon, tab or "|".

    Raises DataError naming file and line: wrong encoding, no such column, a row with too few or too many fields,
    an unclosed quotation mark.
    """
    path = Path(path)
    content, used = decode(path, encoding)
    separator = _separator(path, content, text, label)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    rows, lines, start = [], [], 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: {error}. A text that holds quotation marks or line breaks must be quoted whole.") from None
    header = [name.strip() for name in rows[0]]
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} fields, but the header names {len(header)} ({', '.join(header)}). "
                f"A text that holds {separator!r} must stand in quotation marks."
            )
    column = {name: [row[header.index(name)].strip() for row in rows[1:]] for name in (text, label)}
    return Table(column[text], column[label], lines[1:], used)


def read_jsonl(path: Path | str, text: str = "text", label: str = "label", encoding: str | None = None) -> Table:
    """The rows of a JSON Lines file: one object a line, with a string (or number) under both names.

    Raises DataError naming file and line: wrong encoding, a line that is not an object, a missing name or value.
    """
    path = Path(path)
    content, used = decode(path, encoding)
    if content.lstrip().startswith("["):
        raise DataError(f"{path} holds one JSON array; write one object a line: {{{json.dumps(text)}: …, {json.dumps(label)}: …}}.")
    table = Table([], [], [], used)
    # Only \n ends a line here: JSON strings may hold the other characters that str.splitlines takes for line ends.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            row = _json_row(path, number, line)
            table.texts.append(_json_value(path, number, row, text))
            table.labels.append(_json_value(path, number, row, label))
            table.lines.append(number)
    if not table.lines:
        raise DataError(f"{path} holds no rows.")
    return table


def reader_for(path: Path) -> Callable[..., Table]:
    """The reader for a file name: ``read_csv`` (.csv, .tsv, .txt) or ``read_jsonl`` (.jsonl, .ndjson, .json)."""
    readers = {".csv": read_csv, ".tsv": read_csv, ".txt": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_jsonl}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} ends in {path.suffix!r}; what can be read are {', '.join(readers)} files, and folders of images.")
    return readers[path.suffix.lower()]


def decode(path: Path, encoding: str | None = None) -> tuple[str, str]:
    """The text of a file and the name of its encoding: the one given, else UTF-8 with or without a byte order mark.

    Raises DataError naming the first byte that does not fit, its line, and what to try.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    raw = path.read_bytes()
    if encoding is None and (raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:200]):
        raise DataError(f"{path} looks like UTF-16 (Excel's \"Unicode text\"): pass encoding='utf-16', or save it as UTF-8.")
    try:
        return raw.decode(encoding or "utf-8-sig"), encoding or "utf-8"
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} (number {error.start + 1} of the file) is not {encoding or 'UTF-8'}. "
            "Pass encoding='cp1252' if it comes from Excel or an old Windows program, or save it as UTF-8."
        ) from None
    except LookupError:
        raise ValueError(f"`encoding` is {encoding!r}, which Python does not know; try 'utf-8', 'utf-16', 'cp1252', 'latin-1'.") from None


def _separator(path: Path, content: str, text: str, label: str) -> str:
    first = next((line for line in content.splitlines() if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty.")
    for separator in SEPARATORS:
        if {text, label} <= {name.strip() for name in next(csv.reader([first], delimiter=separator))}:
            return separator
    likely = max(SEPARATORS, key=first.count)
    columns = [name.strip() for name in next(csv.reader([first], delimiter=likely))]
    raise DataError(
        f"{path} has the columns {', '.join(map(repr, columns))}, but {text!r} and {label!r} are asked for: "
        "name the two columns with text=… and label=…; the first line of the file must name them."
    )


def _json_row(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error.msg} at character {error.colno}).") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: not a JSON object but {type(row).__name__}.")
    return row


def _json_value(path: Path, number: int, row: dict, name: str) -> str:
    if name not in row:
        raise DataError(f"{path}, line {number}: no {name!r} among {', '.join(map(repr, row))}; name the fields with text=… and label=….")
    if not isinstance(row[name], str | int | float):
        raise DataError(f"{path}, line {number}: {name!r} is {row[name]!r}, which is neither a string nor a number.")
    return str(row[name]).strip()
