"""Reading (text, label) rows from files that people made: CSV and JSON Lines, with errors that name the line.

Nothing is guessed that could go wrong silently. The encoding is UTF-8 (with or without the mark that Excel
puts in front) unless it is named; the separator is the one that makes the two columns appear in the header.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fewshot_lib.data.reporting import DataError

SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class Table:
    """(text, label) rows of a file, without outer white space; the line each starts on; the encoding."""

    rows: list[tuple[str, str]]
    lines: list[int]
    encoding: str

    @property
    def empty_lines(self) -> list[int]:
        """Lines of the rows whose text or label is empty."""
        return [line for row, line in zip(self.rows, self.lines, strict=True) if not all(row)]


def read_csv(
    path: Path | str, text: str = "text", label: str = "label", encoding: str | None = None
) -> Table:
    """Rows of a CSV file whose first line names the columns, separated by comma, semicolon, tab or "|"."""
    path = Path(path)
    content, used = decode(path, encoding)
    separator = _separator(path, content, text, label)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    rows: dict[int, list[str]] = {}  # by the line each starts on
    start = 1
    try:
        for row in reader:
            if row:
                rows[start] = row
            start = reader.line_num + 1
    except csv.Error as error:
        fix = "A text that holds quotation marks or line breaks must be quoted whole"
        raise DataError(f"{path}, line {start}: {error}. {fix}.") from None
    first, *lines = rows
    header = [name.strip() for name in rows[first]]
    for line, row in rows.items():
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} fields, but the header names {len(header)} "
                f"({', '.join(header)}). A text that holds {separator!r} must stand in quotation marks."
            )
    texts, labels = ([rows[line][header.index(name)].strip() for line in lines] for name in (text, label))
    return Table(list(zip(texts, labels, strict=True)), lines, used)


def read_jsonl(
    path: Path | str, text: str = "text", label: str = "label", encoding: str | None = None
) -> Table:
    """Rows of a JSON Lines file: one object a line, with a string (or number) under both names."""
    path = Path(path)
    content, used = decode(path, encoding)
    if content.lstrip().startswith("["):
        line = f"{{{json.dumps(text)}: …, {json.dumps(label)}: …}}"
        raise DataError(f"{path} holds one JSON array; write one object a line: {line}.")
    # Only \n ends a line here: JSON strings may hold other characters that str.splitlines takes for one.
    numbered = [(i, line) for i, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not numbered:
        raise DataError(f"{path} holds no rows.")
    rows = [_json_row(f"{path}, line {i}", line, text, label) for i, line in numbered]
    return Table(rows, [i for i, _ in numbered], used)


READERS: dict[str, Callable[..., Table]] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), read_csv),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), read_jsonl),
}


def reader_for(path: Path) -> Callable[..., Table]:
    """The reader for a file name, by its ending."""
    if path.suffix.lower() not in READERS:
        readable = f"{', '.join(READERS)} files, and folders of images"
        raise DataError(f"{path} ends in {path.suffix!r}; what can be read are {readable}.")
    return READERS[path.suffix.lower()]


def decode(path: Path, encoding: str | None = None) -> tuple[str, str]:
    """The text of a file and its encoding: the one given, else UTF-8 with or without a byte order mark."""
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    raw = path.read_bytes()
    if encoding is None and (raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:200]):
        fix = "pass encoding='utf-16', or save it as UTF-8"
        raise DataError(f'{path} looks like UTF-16 (Excel\'s "Unicode text"): {fix}.')
    try:
        return raw.decode(encoding or "utf-8-sig"), encoding or "utf-8"
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} (number {error.start + 1} of the file) is "
            f"not {encoding or 'UTF-8'}. Pass encoding='cp1252' if it comes from Excel or an old Windows "
            "program, or save it as UTF-8."
        ) from None
    except LookupError:
        known = "'utf-8', 'utf-16', 'cp1252', 'latin-1'"
        raise ValueError(f"`encoding` is {encoding!r}, which Python does not know; try {known}.") from None


def _separator(path: Path, content: str, text: str, label: str) -> str:
    first = next((line for line in content.splitlines() if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty.")
    columns = {
        separator: [name.strip() for name in next(csv.reader([first], delimiter=separator))]
        for separator in SEPARATORS
    }
    for separator, names in columns.items():
        if {text, label} <= set(names):
            return separator
    likely = columns[max(SEPARATORS, key=first.count)]
    raise DataError(
        f"{path} has the columns {', '.join(map(repr, likely))}, but {text!r} and {label!r} are asked for: "
        "name the two columns with text=… and label=…; the first line of the file must name them."
    )


def _json_row(where: str, line: str, *names: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at character {error.colno}).") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object but {type(row).__name__}.")
    for name in names:
        if name not in row:
            found = f"no {name!r} among {', '.join(map(repr, row))}"
            raise DataError(f"{where}: {found}; name the fields with text=… and label=….")
        if not isinstance(row[name], str | int | float):
            raise DataError(f"{where}: {name!r} is {row[name]!r}, which is neither a string nor a number.")
    text, label = (str(row[name]).strip() for name in names)
    return text, label
