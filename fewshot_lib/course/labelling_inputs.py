"""What ``predict`` and ``suggest`` read: the rows of a table, or the pictures of a folder, without labels.

A table is read as ``fewshot data inspect`` reads one (separator, encoding, column of texts), but row by row,
and all its fields are kept: any number of rows in the memory of a few.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from fewshot_lib.data.own import delimited
from fewshot_lib.data.own.arrays import NO_CHARACTER
from fewshot_lib.data.own.columns import text_column
from fewshot_lib.data.own.encodings import COMPRESSED, Text, as_text, unpacked
from fewshot_lib.data.own.folders import OF_THE_SYSTEM, visible
from fewshot_lib.data.own.picture_files import is_picture
from fewshot_lib.data.own.pictures import read_pictures
from fewshot_lib.data.own.table_files import filled, is_json, is_parquet
from fewshot_lib.data.reporting import DataError

LARGE = 1 << 24  # bytes: a larger file is read from the disk, and its encoding told by its start


class Row(NamedTuple):
    """place: in words. fields: as they stand. given: what a classifier takes; None where there is nothing."""

    place: str
    fields: list[str]
    given: Any


class Unlabelled(Protocol):
    """Rows without labels, as often as they are asked for.

    header: names of the columns. notes: what was guessed, in sentences. key: what they hold, and how it is
    read, in a form for JSON.
    """

    @property
    def header(self) -> list[str]: ...

    @property
    def key(self) -> list[Any]: ...

    @property
    def notes(self) -> list[str]: ...

    def __iter__(self) -> Iterator[Row]: ...


@dataclass(frozen=True)
class Texts:
    """The rows of a table of separated values; column: the place of the texts."""

    path: Path
    source: Text
    header: list[str]
    column: int
    notes: list[str]

    @classmethod
    def of(cls, path: Path, text: str | None, encoding: str | None) -> "Texts":
        """Reads the first rows. DataError for another format, or where the column of texts is not clear."""
        source = _source(path, encoding)
        with delimited.fields_of_any_length():
            names, sample, _ = delimited.opened(path, source)
            if text is None:
                delimited.need_names(path, names, sample)
        column, guessed = text_column(path, names, text)
        return cls(path, source, names, column, [*filter(None, [source.note]), *guessed])

    @property
    def key(self) -> list[Any]:
        with self.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return [self.column, self.source.codec, content]

    def __iter__(self) -> Iterator[Row]:
        with delimited.fields_of_any_length():
            line = 1
            try:
                for line, fields in delimited.opened(self.path, self.source)[2]:
                    text = fields[self.column]
                    if NO_CHARACTER.search(text):
                        fix = "remove it, or write the file again from its source"
                        raise DataError(f"{self.path}, line {line}: the text holds NUL, no character: {fix}.")
                    yield Row(f"line {line}", fields, filled(text) or None)
            except UnicodeDecodeError as error:
                what = f"after line {line} are bytes that are not {self.source.codec.upper()}"
                fix = "name the encoding with --encoding, or save the file as UTF-8"
                raise DataError(f"{self.path}: {what} ({error.reason}): {fix}.") from None


@dataclass(frozen=True)
class OnDisk(Text):
    """A text file of which ``raw`` is only the start: the lines are decoded as they are read, anew each time.

    begins: number of the byte after the byte order mark.
    """

    path: Path = Path()
    begins: int = 0

    def lines(self, newline: str | None = None) -> Iterator[str]:
        with self.path.open("rb") as file:
            file.seek(self.begins)
            yield from io.TextIOWrapper(file, self.codec, newline=newline)


def _source(path: Path, encoding: str | None) -> Text:
    """A file as text; on the disk if it is large and neither compressed nor of wide characters."""
    if path.is_file() and path.stat().st_size > LARGE:
        with path.open("rb") as file:
            raw = file.read(LARGE)
        in_memory = raw.startswith(tuple(COMPRESSED)) or b"\0" in raw
        raw = unpacked(path) if in_memory else raw[: raw.rfind(b"\n") + 1]
    else:
        raw, in_memory = unpacked(path), True
    parquet = is_parquet(path, raw)
    source = Text(b"", "") if parquet else as_text(path, raw, encoding)
    if parquet or is_json(path, source):
        fix = "save it as .csv, as pandas does with DataFrame.to_csv(…, index=False)"
        what = "parquet" if parquet else "JSON"
        raise DataError(f"{path} is {what}, and rows to label are read as .csv or .tsv: {fix}.")
    if in_memory:
        return source
    return OnDisk(b"", source.codec, source.note, path, len(raw) - len(source.raw))


@dataclass(frozen=True)
class Pictures:
    """The pictures below a folder, however deep, sorted: a row is the name of a file."""

    files: list[str]
    images: Any
    notes: list[str]
    header: ClassVar[list[str]] = ["file"]

    @classmethod
    def of(cls, folder: Path, shape: tuple[int, ...]) -> "Pictures":
        """All of them at once, in this shape (1 or 3, height, width)."""
        found = [file for file in sorted(folder.rglob("*")) if _is_meant(file.relative_to(folder))]
        found = [file for file in found if is_picture(file)]
        if not found:
            raise DataError(f"{visible(folder)} holds no pictures: name the folder that they are in.")
        images, notes = read_pictures(found, shape[1], shape[2], shape[0] == 3)
        names = [visible(file.relative_to(folder).as_posix()) for file in found]
        return cls(names, images.numpy(), [f"{visible(folder)}: {note}" for note in notes])

    @property
    def key(self) -> list[Any]:
        return [self.files, self.images.shape, hashlib.sha256(self.images).hexdigest()]

    def __iter__(self) -> Iterator[Row]:
        return (Row(name, [name], image) for name, image in zip(self.files, self.images, strict=True))


def _is_meant(file: Path) -> bool:
    return not any(part[0] == "." or part.casefold() in OF_THE_SYSTEM for part in file.parts)
