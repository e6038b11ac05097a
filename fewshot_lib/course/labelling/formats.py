"""The files of rows that the commands write: separated values, JSON lines or parquet, by the end of the name.

A format turns rows into bytes that stand for themselves: a file is the bytes of its start and of any number
of rows after each other, so that it can grow, and be cut where it was whole. Only parquet cannot: what is in
it is said at its end. There the bytes are Arrow's, and ``finish`` makes the file of them.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fewshot_lib.course.labelling.inputs import Unlabelled
from fewshot_lib.data.cache import atomic_write
from fewshot_lib.data.own import parquet
from fewshot_lib.data.own.columns import shown
from fewshot_lib.data.own.table_files import PARQUET
from fewshot_lib.data.reporting import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
ROW_GROUP = 1 << 24  # bytes of Arrow that become one group of rows of a parquet file


class Format(Protocol):
    """A kind of file with columns of these names."""

    def start(self) -> bytes: ...

    def rows(self, rows: Sequence[Sequence[Any]]) -> bytes: ...

    def finish(self, part: Path, path: Path) -> None: ...


def format_of(path: Path, names: Sequence[str], kinds: Sequence[str | None], given: Unlabelled) -> Format:
    """The format that the end of a name asks for. DataError for another end, and for columns it cannot hold.

    names: of all columns; the first ones are those of ``given``. kinds: the types of the others, in pyarrow's
    words; only parquet asks for types. A spreadsheet opens what is cut and marked as its own files are, so a
    .csv has the semicolons of the one that was read, and a byte order mark unless that was plain UTF-8.
    """
    ending = path.suffix.lower()
    if ending in SEPARATORS:
        own = given.separator if given.separator == ";" and ending == ".csv" else SEPARATORS[ending]
        return Separated(names, own, given.mark)
    if ending not in JSON_LINES + PARQUET:
        fix = f"let the name end in {', '.join([*SEPARATORS, *JSON_LINES, *PARQUET])}"
        raise DataError(f"`--out {path}` says no format that can be written: {fix}.")
    if twice := [name for name in names if list(names).count(name) > 1]:
        fix = "give each a name of its own, or write .csv"
        raise DataError(f"Several columns are called {shown(twice[0])}, and {path} can have one: {fix}.")
    return JsonLines(names) if ending in JSON_LINES else Parquet(path, names, kinds, given.schema)


class Separated:
    """Separated values: what is no text is written as JSON has it, and what is missing as nothing."""

    def __init__(self, names: Sequence[str], separator: str, mark: bytes = b"") -> None:
        self.names, self.separator, self.mark = names, separator, mark

    def start(self) -> bytes:
        """The line of the names, after the byte order mark."""
        return self.mark + self.rows([self.names])

    def rows(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """A line each, or several where a text has some."""
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=self.separator).writerows([*map(written, row)] for row in rows)
        return file.getvalue().encode("utf-8", "surrogatepass")

    def finish(self, part: Path, path: Path) -> None:
        """Gives the file its name."""
        _need_free(path, part)
        part.replace(path)


class JsonLines(Separated):
    """One object a line, every row with all names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names, "")

    def start(self) -> bytes:
        """Nothing."""
        return b""

    def rows(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """A line each."""
        objects = (dict(zip(self.names, map(_finite, row), strict=True)) for row in rows)
        lines = (json.dumps(row, ensure_ascii=False, default=str) for row in objects)
        # of a half of a character, what Python's "backslashreplace" writes is what JSON calls it
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


class Parquet:
    """Parquet: columns of a parquet table keep their types, those of others are texts."""

    def __init__(self, path: Path, names: Sequence[str], kinds: Sequence[str | None], schema: Any) -> None:
        self.pa, self.pq = parquet.modules(path)
        n = len(names) - len(kinds)
        self.n_texts = n if schema is None else 0
        given = [self.pa.field(name, "string") for name in names[:n]] if schema is None else list(schema)
        added = [self.pa.field(name, kind) for name, kind in zip(names[n:], kinds, strict=True)]
        self.schema = self.pa.schema([*given, *added], None if schema is None else schema.metadata)

    def start(self) -> bytes:
        """Nothing."""
        return b""

    def rows(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """An Arrow stream of its own: schema, rows, end."""
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in self.schema]
        for i in range(self.n_texts):
            columns[i] = [None if value is None else written(value) for value in columns[i]]
        arrays = [self._array(*each) for each in zip(columns, self.schema, strict=True)]
        sink = self.pa.BufferOutputStream()
        with self.pa.ipc.new_stream(sink, self.schema) as stream:
            stream.write_batch(self.pa.record_batch(arrays, schema=self.schema))
        return sink.getvalue().to_pybytes()

    def _array(self, column: list[Any], field: Any) -> Any:
        try:
            return self.pa.array(column, field.type)
        except UnicodeEncodeError as error:
            found = f"the column {shown(field.name)} holds half a character ({error.object[error.start]!a})"
            raise DataError(f"{found}, and parquet can hold none: write .csv or .jsonl.") from None

    def finish(self, part: Path, path: Path) -> None:
        """Writes the file from the streams, a group of rows at a time."""
        size, tables, held = part.stat().st_size, [], 0
        with (
            atomic_write(path) as temporary,
            self.pq.ParquetWriter(temporary, self.schema) as writer,
            self.pa.OSFile(str(part)) as file,
        ):
            while file.tell() < size:
                tables.append(self.pa.ipc.open_stream(file).read_all())
                held += tables[-1].nbytes
                if held > ROW_GROUP or file.tell() == size:
                    writer.write_table(self.pa.concat_tables(tables))
                    tables, held = [], 0
            _need_free(path, part)
        part.unlink()


def _need_free(path: Path, part: Path) -> None:
    """DataError where the name of the file was given to another one while its rows were computed."""
    if path.exists():
        fix = "move it away, and run the same command again"
        raise DataError(f"{path} has appeared meanwhile, and is not overwritten: {fix}. {part} has all rows.")


def written(value: Any) -> str:
    """A value in a table of texts."""
    if isinstance(value := _finite(value), bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)


def _finite(value: Any) -> Any:
    """NaN is a value that is missing; JSON knows neither it nor infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
