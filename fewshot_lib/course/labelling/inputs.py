"""What ``predict`` and ``suggest`` read: the rows of a table, or the pictures of a folder, without labels.

A table is read as ``fewshot data inspect`` reads one (format, separator, encoding, column of texts), but row
by row, and all its fields are kept: any number of rows in the memory of a few.
"""

import codecs
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from fewshot_lib.data.own import delimited, json_tables, parquet
from fewshot_lib.data.own.columns import MOST_COLUMNS, text_column
from fewshot_lib.data.own.encodings import Text, as_text, opened, unpacked
from fewshot_lib.data.own.folders import pictures_below, visible
from fewshot_lib.data.own.pictures import AT_ONCE, PictureFiles
from fewshot_lib.data.own.table_files import filled, is_json, is_parquet, text_of
from fewshot_lib.data.reporting import DataError

LARGE = 1 << 24  # bytes: a larger file is read from the disk, and its encoding told by its start


class Row(NamedTuple):
    """place: in words. fields: as they stand. given: what a classifier takes; None where there is nothing."""

    place: str
    fields: list[Any]
    given: Any


class Unlabelled(Protocol):
    """Rows without labels, as often as they are asked for.

    header: names of the columns. notes: what was guessed, in sentences. key: what they hold, and how it is
    read, in a form for JSON. schema: of the columns, by pyarrow; None where all are texts. separator: of
    fields, "" where there is none. mark: what a spreadsheet asks for at the beginning of a file, if one wrote
    this. chunk: how many rows to have in memory.
    """

    chunk: ClassVar[int]

    @property
    def schema(self) -> Any: ...

    @property
    def separator(self) -> str: ...

    @property
    def mark(self) -> bytes: ...

    @property
    def header(self) -> list[str]: ...

    @property
    def key(self) -> list[Any]: ...

    @property
    def notes(self) -> list[str]: ...

    def count(self) -> tuple[int, int]:
        """Of how many rows there is something to label, and of how many not. DataError for a bad one."""
        ...

    def rows(self, start: int = 0) -> Iterator[Row]:
        """All rows from this one on, counted from 0."""
        ...


@dataclass(frozen=True)
class Texts:
    """The rows of a table with all their fields; column: the place of the texts.

    records: gives (place, fields) of every row, anew each time. codec: "" for a format that has none.
    schema: of the fields, where the table is parquet.
    """

    path: Path
    header: list[str]
    column: int
    notes: list[str]
    records: Callable[[], Iterator[tuple[int, list[Any]]]]
    unit: str = "line"
    codec: str = ""
    schema: Any = None
    separator: str = ""
    mark: bytes = b""
    chunk: ClassVar[int] = 1024

    @classmethod
    def of(cls, path: Path, text: str | None, encoding: str | None) -> "Texts":
        """Reads the first rows (of JSON all, for their names). DataError where the texts are not found."""
        start = _start(path)
        if is_parquet(path, start):
            with path.open("rb") as file:
                packed = file.read(4) != start[:4]
            schema, records = parquet.opened(path, unpacked(path) if packed else None)
            column, guessed = text_column(path, schema.names, text)
            return cls(path, schema.names, column, guessed, records, "row", schema=schema)
        source = _source(path, start, encoding)
        notes = [*filter(None, [source.note])]
        if is_json(path, source):
            header, unit = _names(path, source)
            column, guessed = text_column(path, header, text)
            is_array = next(filter(str.strip, source.lines())).lstrip().startswith("[")
            if isinstance(source, OnDisk) and (is_array or unit == "row"):
                notes.append("all of it is read at once: one object a line (.jsonl) takes less memory")
            return cls(
                path,
                header,
                column,
                notes + guessed,
                partial(_fields, path, source, header),
                unit,
                source.codec,
            )
        with delimited.fields_of_any_length():
            header, sample, records, separator = delimited.opened(path, source)
            if text is None:
                delimited.need_names(path, header, sample)
        column, guessed = text_column(path, header, text)
        plain = source.codec == "utf-8" and not start.startswith(codecs.BOM_UTF8)
        mark = b"" if plain else codecs.BOM_UTF8  # without it a spreadsheet would not know UTF-8
        notes += guessed
        return cls(path, header, column, notes, records, codec=source.codec, separator=separator, mark=mark)

    @property
    def key(self) -> list[Any]:
        with self.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return [self.column, self.codec, content]

    def count(self) -> tuple[int, int]:
        filled = Counter(row.given is not None for row in self.rows())
        return filled[True], filled[False]

    def rows(self, start: int = 0) -> Iterator[Row]:
        name = self.header[self.column]
        with delimited.fields_of_any_length():
            for place, fields in islice(self.records(), start, None):
                where = f"{self.unit} {place}"
                text = text_of(f"{self.path}, {where}", name, fields[self.column])
                yield Row(where, fields, filled(text) or None)


@dataclass(frozen=True)
class OnDisk(Text):
    """A text file of which ``raw`` is only the start: the lines are decoded as they are read, anew each time.

    begins: number of the byte after the byte order mark.
    """

    path: Path = Path()
    begins: int = 0

    def lines(self, newline: str | None = None) -> Iterator[str]:
        n = 0
        try:
            with opened(self.path) as file:
                file.read(self.begins)
                for line in io.TextIOWrapper(file, self.codec, newline=newline):
                    n += 1
                    yield line
        except UnicodeDecodeError as error:
            what = f"after line {n} are bytes that are not {self.codec.upper()}"
            fix = "name the encoding with --encoding, or save the file as UTF-8"
            raise DataError(f"{self.path}: {what} ({error.reason}): {fix}.") from None

    def content(self) -> str:
        return "".join(self.lines(newline=""))


def _start(path: Path) -> bytes:
    """All bytes of a file, unpacked; of a large one the first."""
    with opened(path) as file:
        return file.read(LARGE + 1)


def _source(path: Path, start: bytes, encoding: str | None) -> Text:
    """A file as text; on the disk if it is large, unless it is of wide characters or has no lines."""
    end = start.rfind(b"\n") + 1
    if len(start) <= LARGE or b"\0" in start or not end:
        return as_text(path, start if len(start) <= LARGE else unpacked(path), encoding)
    source = as_text(path, start[:end], encoding)
    return OnDisk(b"", source.codec, source.note, path, end - len(source.raw))


def _names(path: Path, source: Text) -> tuple[list[str], str]:
    """The names of all fields of a JSON table, in order of appearance; and the unit of its places."""
    rows, unit = json_tables.objects(path, source)
    names = dict.fromkeys(chain.from_iterable(row for _, row in rows))
    if not names:
        raise DataError(f'{path} holds no rows with names: write one object a line, such as {{"text": …}}.')
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path}: {len(names):,} names of fields: this is no table of texts.")
    return list(names), unit


def _fields(path: Path, source: Text, names: list[str]) -> Iterator[tuple[int, list[Any]]]:
    return ((place, [row.get(name) for name in names]) for place, row in json_tables.objects(path, source)[0])


@dataclass(frozen=True)
class Pictures:
    """The pictures below a folder, however deep, sorted: a row is the name of a file."""

    names: list[str]
    images: PictureFiles
    notes: list[str]
    header: ClassVar[list[str]] = ["file"]
    schema: ClassVar[None] = None
    separator: ClassVar[str] = ""
    mark: ClassVar[bytes] = b""
    chunk: ClassVar[int] = AT_ONCE

    @classmethod
    def of(cls, folder: Path, shape: tuple[int, ...]) -> "Pictures":
        """In this shape (1 or 3, height, width). All are looked at; DataError for what is no picture."""
        found = pictures_below(folder)
        images = PictureFiles(found, shape[1], shape[2], shape[0] == 3)
        names = [visible(file.relative_to(folder).as_posix()) for file in found]
        return cls(names, images, [f"{visible(folder)}: {note}" for note in images.notes])

    @property
    def key(self) -> list[Any]:
        content = hashlib.sha256()
        for path in self.images.files:
            with path.open("rb") as file:
                content.update(hashlib.file_digest(file, "sha256").digest())
        return [self.names, self.images.shape, content.hexdigest()]

    def count(self) -> tuple[int, int]:
        return len(self.names), 0

    def rows(self, start: int = 0) -> Iterator[Row]:
        pictures = chain.from_iterable(self.images.parts(start))
        return (Row(name, [name], image) for name, image in zip(self.names[start:], pictures, strict=True))
