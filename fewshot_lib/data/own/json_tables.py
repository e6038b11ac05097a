"""Tables in JSON: one object a line, an array of objects, or an object of columns (as pandas writes).

All three give the same rows. Numbers are taken as they are written, so that a label 7 is "7" and a number of
a thousand digits does no harm; NaN and null are missing values.
"""

import json
import math
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fewshot_lib.data.own.columns import Reading, choose, shown
from fewshot_lib.data.own.encodings import Text
from fewshot_lib.data.reporting import DataError

SAMPLE = 200  # rows that decide which column is which


BROKEN = object()


class Twice(dict):
    """An object in which a name stands twice; ``json`` alone would keep the last value and say nothing."""

    names: frozenset[str] = frozenset()


def read(path: Path, source: Text, text: str | None, label: str | None) -> Reading:
    """Reads a table in JSON, of whichever form."""
    table = _opened(path, source, HOOKS)
    return (
        _of_objects(path, table, text, label)
        if isinstance(table, Iterator)
        else _of_whole(path, table, text, label)
    )


def objects(path: Path, source: Text) -> tuple[Iterator[tuple[int, dict[str, Any]]], str]:
    """All rows with all that they hold, numbers as numbers, each with its place; and what that counts.

    One object a line is read as it is asked for; a file of another form is in memory.
    """
    table = _opened(path, source, HOOKS | {"parse_int": _number, "parse_float": _number})
    if isinstance(table, Iterator):
        return _checked(path, table, "line"), "line"
    rows = table.get("data") if isinstance(table, dict) else None
    if not isinstance(rows, list):
        rows = _rows_of_columns(path, table)
    elif isinstance(names := table.get("columns"), list):
        rows = [dict(zip(names, row, strict=True)) if len(row) == len(names) else row for row in rows]
    return _checked(path, iter(enumerate(rows, start=1)), "row"), "row"


def _opened(path: Path, source: Text, hooks: dict[str, Any]) -> Any:
    """An iterator of (line, value of a row); or, where the file is one object, that."""
    numbered = ((i, line) for i, line in enumerate(source.lines(), start=1) if line.strip())
    head = next(numbered, None)
    if head is None:
        raise DataError(f"{path} is empty: it holds no rows.")
    first, second = _parsed(head[1], hooks), next(numbered, None)
    is_array = head[1].lstrip().startswith("[")
    if is_array and not (isinstance(first, list) and second and second[1].lstrip().startswith("[")):
        return _array(path, source.content(), hooks)
    if first is not BROKEN and (second is not None or not _is_whole(first)):
        lines = chain([head], [second] if second else [], numbered)
        return ((i, _value(path, i, line, hooks)) for i, line in lines)
    # An object over several lines is the whole file; else the error in the first line is the news.
    whole = head[1] if second is None else source.content()
    return _value(path, head[0], whole, hooks, head[1])


def _of_objects(
    path: Path, objects: Iterator[tuple[int, Any]], text: str | None, label: str | None, unit: str = "line"
) -> Reading:
    """Rows from objects, each with the line (the ``unit``) it stands on. The first one names the columns."""
    sample = list(islice(objects, SAMPLE))
    if not sample:
        raise DataError(f"{path} holds no rows.")
    for line, row in sample:
        _need_object(f"{path}, {unit} {line}", row)
    names = list(sample[0][1])
    values = [[row.get(name) for name in names] for _, row in sample]
    columns = choose(path, names, values, text, label)

    def rows() -> Iterator[tuple[int, object, object]]:
        for line, row in chain(sample, objects):
            _need_object(f"{path}, {unit} {line}", row)
            for name in columns.used:
                if name not in row:
                    found = f"no {shown(name)} among {', '.join(map(shown, list(row)[:8])) or 'nothing'}"
                    fix = "name the fields with text=… and label=…"
                    raise DataError(f"{path}, {unit} {line}: {found}; {fix}.")
                if isinstance(row, Twice) and name in row.names:
                    raise DataError(f"{path}, {unit} {line}: {shown(name)} stands there twice: remove one.")
            yield line, *(row[name] for name in columns.used)

    return Reading(columns, rows(), unit)


def _need_object(where: str, row: Any) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object but {_kind(row)} ({shown(row)}).")


def _of_whole(path: Path, table: Any, text: str | None, label: str | None) -> Reading:
    """Rows of one object for the whole file: columns by name, or {"data": rows}."""
    rows = table.get("data") if isinstance(table, dict) else None
    if isinstance(rows, list) and isinstance(table.get("columns"), list):
        names = [str(name) for name in table["columns"]]
        whole = all(isinstance(row, list) and len(row) == len(names) for row in rows)
        if not whole or len(set(names)) < len(names):
            raise DataError(f"{path}: its rows do not fit its {len(names)} columns, each of another name.")
        table = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    elif isinstance(rows, list):
        return _of_objects(path, iter(enumerate(rows, start=1)), text, label, unit="row")
    if not _is_columns(table):
        held = ", ".join(map(shown, list(table)[:8])) if isinstance(table, dict) else _kind(table)
        fix = 'write [{"text": …, "label": …}, …], or one such object a line'
        raise DataError(f"{path} holds one JSON value ({held or 'nothing'}) and not a table: {fix}.")
    held_in = {name: values for name, values in table.items() if isinstance(values, list | dict)}
    in_order = [list(v.values()) if isinstance(v, dict) else v for v in held_in.values()]
    if all(values and isinstance(values[0], dict) for values in in_order):
        found = f"objects under each of {', '.join(map(shown, list(held_in)[:8]))}"
        raise DataError(f"{path} holds {found}: give one list of objects, in a file of its own.")
    sample = [list(row) for row in islice(zip(*in_order, strict=False), SAMPLE)]
    columns = choose(path, list(held_in), sample, text, label)
    if isinstance(table, Twice) and (twice := table.names & set(columns.used)):
        raise DataError(f"{path}: {shown(min(twice))} stands there twice: remove one.")
    texts, labels = (_by_key(held_in[name]) for name in columns.used)
    if texts.keys() != labels.keys():
        lengths = f"{len(texts):,} texts and {len(labels):,} labels"
        raise DataError(f"{path} has {lengths}, and they are not of the same rows: give every text a label.")
    rows_of = ((i, texts[key], labels[key]) for i, key in enumerate(texts, start=1))
    return Reading(columns, rows_of, "row")


def _checked(path: Path, rows: Iterator[tuple[int, Any]], unit: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for place, row in rows:
        where = f"{path}, {unit} {place}"
        _need_object(where, row)
        if isinstance(row, Twice):
            raise DataError(f"{where}: {shown(min(row.names))} stands there twice: remove one.")
        yield place, row


def _rows_of_columns(path: Path, table: Any) -> list[dict[str, Any]]:
    """Rows of an object that holds columns, all of the same rows."""
    named = table if isinstance(table, dict) and not isinstance(table, Twice) else {}
    columns = {name: _by_key(values) for name, values in named.items() if isinstance(values, list | dict)}
    keys = next((values.keys() for values in columns.values()), {}.keys())
    if not columns or len(columns) < len(named) or any(values.keys() != keys for values in columns.values()):
        fix = 'write one object a line: {"text": …}'
        raise DataError(f"{path} holds one JSON value and not a table of equally long columns: {fix}.")
    return [{name: values[key] for name, values in columns.items()} for key in keys]


def _by_key(column: list[Any] | dict[Any, Any]) -> dict[Any, Any]:
    return column if isinstance(column, dict) else dict(enumerate(column))


def _is_whole(first: Any) -> bool:
    """Whether the only line of a file is a table, and not the only row of one."""
    return _is_columns(first) or (isinstance(first, dict) and [*map(type, first.values())] == [list])


def _is_columns(table: Any) -> bool:
    """Whether an object holds columns (two lists, or objects with a value for every row), or "data"."""
    if not isinstance(table, dict):
        return False
    return isinstance(table.get("data"), list) or sum(isinstance(v, list | dict) for v in table.values()) > 1


def _array(path: Path, content: str, hooks: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array one by one, with the line each starts on."""
    decoder = json.JSONDecoder(**hooks)
    position, line, counted = content.index("[") + 1, 1, 0
    expected = False  # a further element, after a comma
    while True:
        position = _after_blanks(content, position)
        line, counted = line + content.count("\n", counted, position), position
        where = f"{path}, line {line}"
        if position == len(content):
            raise DataError(f"{where}: the JSON array is not closed: the file is cut short.")
        if content[position] == "]" and not expected:
            break
        try:
            value, position = decoder.raw_decode(content, position)
        except (json.JSONDecodeError, RecursionError) as error:
            raise _not_json(path, line, error, whole=True) from None
        yield line, value
        position = _after_blanks(content, position)
        expected = content[position : position + 1] == ","
        position += expected
        if not expected and content[position : position + 1] not in ("]", ""):
            raise DataError(f"{where}: a comma is missing after this element.")
    if content[position + 1 :].strip():
        raise DataError(f"{where}: the JSON array ends here, but the file goes on: remove the rest.")


def _after_blanks(content: str, position: int) -> int:
    while position < len(content) and content[position] in " \t\r\n":
        position += 1
    return position


def _parsed(line: str, hooks: dict[str, Any]) -> Any:
    """What one line holds, or BROKEN if it is no JSON by itself."""
    try:
        return json.loads(line, **hooks)
    except (json.JSONDecodeError, RecursionError):
        return BROKEN


def _value(path: Path, line: int, content: str, hooks: dict[str, Any], first: str = "") -> Any:
    """The JSON of a line; or of the whole file, which is said of its first line where that was cut off."""
    try:
        return json.loads(content, **hooks)
    except (json.JSONDecodeError, RecursionError) as error:
        whole = first.rstrip().endswith(("{", "[", ",")) and content is not first
        raise _not_json(path, line, error, whole) from None


def _not_json(path: Path, line: int, error: Exception, whole: bool) -> DataError:
    if isinstance(error, RecursionError):
        return DataError(f"{path}, line {line}: brackets are nested too deep to be a text or a label.")
    assert isinstance(error, json.JSONDecodeError)
    line = error.lineno if whole else line
    return DataError(
        f"{path}, line {line}: not JSON ({error.msg.removesuffix(' at')} at character {error.colno})."
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        row = Twice(row)
        row.names = frozenset(name for name in row if names.count(name) > 1)
    return row


def _whole_number(written: str) -> str:
    """A number in JSON as the name of a class: 7.0 is 7, as programs write it that know only floats."""
    value = float(written)
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else written


def _number(written: str) -> int | float | str:
    """A number as one, unless it is none that can be written again: too large, or of too many digits."""
    value = float(written)
    return written if not math.isfinite(value) else int(written) if written.lstrip("-").isdigit() else value


def _kind(value: Any) -> str:
    return {"list": "an array", "str": "a text or number", "bool": "true or false"}.get(
        type(value).__name__, "null" if value is None else type(value).__name__
    )


HOOKS: dict[str, Any] = {
    "parse_int": str,
    "parse_float": _whole_number,
    "parse_constant": lambda name: None if name == "NaN" else name,
    "object_pairs_hook": _object,
}
