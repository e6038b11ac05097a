"""Archives from the network are read in memory and never unpacked to disk: no name in them can do any harm.

Whoever reads one compares the content with a published checksum. What is left to fear is a file that unpacks
to more than the memory holds (a "zip bomb"), and one that is damaged: both are a DataError.
"""

import contextlib
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fewshot_lib.data.reporting import DataError

MAX_BYTES = 1 << 28  # of a file or an archive, unpacked; the largest of the public sets has a fifth of that

# What the readers of archives raise when their bytes make no sense, found by damaging archives at random.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, LookupError, OSError, OverflowError, RuntimeError, ValueError),
)


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a zip, tar or tar.gz archive, in its order; no folders, no links."""
    is_zip = _starts_with(path, b"PK")
    with _damage_named(path):
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                packed = [entry for entry in archive.infolist() if not entry.is_dir()]
                _check_size(path, sum(entry.file_size for entry in packed))
                # zipfile stops at the declared size and checks the CRC: no false declaration can yield more.
                yield from ((entry.filename, archive.read(entry)) for entry in packed)
        else:
            with tarfile.open(fileobj=io.BytesIO(read_bytes(path)), mode="r:") as archive:
                files = [entry for entry in archive if entry.isreg()]
                _check_size(path, sum(entry.size for entry in files))  # a sparse file may be larger than all
                for entry in files:
                    if (content := archive.extractfile(entry)) is not None:
                        yield entry.name, content.read()


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped."""
    opened = gzip.open if _starts_with(path, b"\x1f\x8b") else open
    with _damage_named(path), opened(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    _check_size(path, len(content))
    return content


def unexpected(path: Path, holds: str, found: str, expected: Iterable[str]) -> DataError:
    """The error for a readable file with another content than the published one."""
    checksums = f"content {found}, expected {' or '.join(expected)}"
    return DataError(f"{path.name} {holds} ({checksums}); it is {describe(path)}.")


def describe(path: Path) -> str:
    """What a file seems to be, for an error message: "empty", "1,234 bytes long", "a web page …"."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return f"a web page (HTML) of {size:,} bytes, perhaps the log-in page of the network"
    return f"{size:,} bytes long" if size else "empty"


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(f"{path.name} unpacks to more than {MAX_BYTES:,} bytes: it is not the public file.")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _DAMAGED as error:
        found = f"{path.name} is no archive, or damaged or incomplete ({error})"
        raise DataError(f"{found}: it is {describe(path)}.") from None
