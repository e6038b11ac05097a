"""Archives from the network are read, never unpacked: no member can land outside a directory if none is written.

An archive may lie about everything. A member called ``../../.bashrc`` ("zip slip"), a link, or a few kilobytes that
unpack to terabytes ("zip bomb") are refused by name and by size before their content is used.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .reporting import DataError

MAX_BYTES = 1 << 30
MAX_MEMBERS = 500_000
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def members(path: Path, max_bytes: int = MAX_BYTES, max_members: int = MAX_MEMBERS) -> Iterator[tuple[str, bytes]]:
    """The files in a zip, tar or tar.gz archive, as (name, content), in the archive's order, one at a time.

    max_bytes, max_members: what all files together may hold, unpacked.

    Raises DataError for anything that is not such an archive (a web page, a truncated download), that is damaged, or
    that has a member outside its own folder, a link, a name twice, or more content than allowed.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(4)
    try:
        if head[:2] == b"PK":
            yield from _zip_members(path, max_bytes, max_members)
        elif head[:2] == b"\x1f\x8b" or tarfile.is_tarfile(path):
            yield from _tar_members(path, max_bytes, max_members)
        else:
            raise DataError(f"{path.name} is not a zip or tar archive: it is {describe(path)}.")
    except _DAMAGED as error:
        raise DataError(f"{path.name} is damaged or incomplete ({error}); it is {describe(path)}. Get it again.") from None


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file, unpacked if it is gzipped. Raises DataError if it is damaged or unpacks to too much."""
    path = Path(path)
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return _Bounded(file, path.name, max_bytes).read()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path.name} is damaged or incomplete ({error}); it is {describe(path)}. Get it again.") from None


def describe(path: Path) -> str:
    """What a file seems to be, for an error message: "a web page (HTML) of 1,234 bytes", "empty", "9,464,212 bytes long"."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return "empty"
    if head.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return f"a web page (HTML) of {size:,} bytes, perhaps the log-in page of the network"
    return f"{size:,} bytes long"


def _zip_members(path: Path, max_bytes: int, max_members: int) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > max_members:
            raise DataError(f"{path.name} holds {len(entries):,} members; at most {max_members:,} are allowed.")
        _check_size(path.name, sum(entry.file_size for entry in entries), max_bytes)
        _check_names(path.name, [entry.filename for entry in entries])
        for entry in entries:
            # The upper half of external_attr holds the Unix mode: 0o120000 marks a symbolic link.
            if entry.external_attr >> 16 & 0o170000 == 0o120000:
                raise DataError(f"{path.name} holds a link, {entry.filename!r}: links are refused.")
            if not entry.is_dir():
                # zipfile stops at the declared size and checks the CRC, so a false declaration cannot yield more.
                yield entry.filename, archive.read(entry)


def _tar_members(path: Path, max_bytes: int, max_members: int) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    size = 0
    with _unpacked(path) as stream:
        bounded = _Bounded(stream, path.name, max_bytes)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for entry in archive:
                size += entry.size
                _check_size(path.name, size, max_bytes)
                if len(seen) >= max_members:
                    raise DataError(f"{path.name} holds more than {max_members:,} members.")
                _check_names(path.name, [entry.name], seen)
                if not entry.isreg() and not entry.isdir():
                    raise DataError(f"{path.name} holds a link or a device, {entry.name!r}: these are refused.")
                if entry.isreg():
                    yield entry.name, archive.extractfile(entry).read()
        # A tar archive ends before its gzip stream does, and the checksum of the whole stands at the very end.
        while bounded.read(1 << 20):
            pass


def _unpacked(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def _check_size(archive: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DataError(f"{archive} would unpack to {size:,} bytes; at most {max_bytes:,} are allowed.")


def _check_names(archive: str, names: list[str], seen: set[str] | None = None) -> None:
    seen = set() if seen is None else seen
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if not name or parts.is_absolute() or ".." in parts.parts or re.match("[A-Za-z]:", name):
            raise DataError(f"{archive} holds {name!r}, which points outside the archive: the whole archive is refused.")
        if str(parts) in seen:
            raise DataError(f"{archive} holds {name!r} twice: it cannot be told which one is meant.")
        seen.add(str(parts))


class _Bounded(io.RawIOBase):
    """A stream that refuses to yield more than ``max_bytes``: what a compressed file declares cannot be trusted."""

    def __init__(self, stream: BinaryIO, name: str, max_bytes: int) -> None:
        self.stream, self.name, self.left, self.max_bytes = stream, name, max_bytes, max_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self.left + 1 if size < 0 else min(size, self.left + 1)
        chunk = self.stream.read(wanted)
        self.left -= len(chunk)
        if self.left < 0:
            raise DataError(f"{self.name} unpacks to more than {self.max_bytes:,} bytes.")
        return chunk
