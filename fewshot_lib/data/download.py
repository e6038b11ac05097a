"""Public data files: from the local mirror, else from the cache, else from the network, and never unverified.

What counts is the content, not its packing: the same images in another zip are the same data. So whoever asks for a
file brings the function that reads it, and that function refuses what is not the expected content. A download is read
before it is given its name; a file that has its place in the cache is therefore whole and right, and a bad download
never replaces a good file.

``FEWSHOT_DATA`` names a directory that holds the files already (a classroom without a network).
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pooch
import requests

from .cache import atomic_write, cache_dir
from .reporting import DataError, shows_progress

T = TypeVar("T")
RETRIES = 2
CONNECT_SECONDS, SILENCE_SECONDS = 15, 60


@dataclass(frozen=True)
class RemoteFile:
    """A public file.

    path: its place below the mirror and below the cache, with "/" ("text/huffpost.json").
    url: its public address.
    checksum: "sha256:…", "md5:…" or "git:…" (the id of a git blob) of the file at that address, to be quoted.
    also: other names below the mirror under which the same data may lie, in another packing.
    """

    path: str
    url: str
    checksum: str
    also: tuple[str, ...] = ()


def fetch(file: RemoteFile, read: Callable[[Path], T]) -> T:
    """``read(path)`` of the file, from ``FEWSHOT_DATA``, else from the cache, else downloaded into the cache.

    read: turns the file into what is wanted and raises DataError if the content is not the expected one.

    Raises DataError naming the file, its address, its checksum and the places to put it, where there is neither a copy
    nor a network; and where the copy in ``FEWSHOT_DATA`` is wrong (it was put there on purpose: it is not skipped).
    """
    if (copy := _mirrored(file)) is not None:
        try:
            return read(copy)
        except (DataError, OSError) as error:
            raise DataError(f"{copy}, found through FEWSHOT_DATA, cannot be used: {error}\n{_where_to_get(file)}") from None
    kept = _cache_path(file)
    if kept.exists():
        try:
            return read(kept)
        except DataError as error:
            warnings.warn(f"The downloaded file {kept} cannot be used ({error}); it is downloaded again.", stacklevel=2)
    return _download(file, kept, read)


def checksums(content: bytes) -> set[str]:
    """All names that the same bytes go by: "sha256:…", "md5:…" and "git:…" (the id that git gives to a file)."""
    blob = b"blob %d\0" % len(content) + content
    return {
        "sha256:" + hashlib.sha256(content).hexdigest(),
        "md5:" + hashlib.md5(content, usedforsecurity=False).hexdigest(),
        "git:" + hashlib.sha1(blob, usedforsecurity=False).hexdigest(),
    }


def _download(file: RemoteFile, target: Path, read: Callable[[Path], T]) -> T:
    """Downloads to a temporary name, reads, and only then gives the file its name."""
    with atomic_write(target) as temporary:
        _transfer(file, temporary)
        try:
            return read(temporary)
        except DataError as error:
            complaint = str(error).replace(temporary.name, target.name)
            raise DataError(f"{target.name}, as downloaded, cannot be used: {complaint}\n{_where_to_get(file)}") from None


def _transfer(file: RemoteFile, target: Path) -> None:
    """Fills ``target`` from the network; a broken transfer is tried again, a refusal by the server ("404") is not."""
    http = pooch.HTTPDownloader(shows_progress(), chunk_size=1 << 16, timeout=(CONNECT_SECONDS, SILENCE_SECONDS))
    for attempt in range(RETRIES + 1):
        time.sleep(attempt)
        try:
            return http(file.url, target, None)
        except requests.RequestException as error:
            reason = _reason(error, file.url)
            if error.response is not None and error.response.status_code in (401, 403, 404, 410, 451):
                break
    raise DataError(f"{file.path} could not be had from the network: {reason}\n{_where_to_get(file)}")


def _reason(error: requests.RequestException, url: str) -> str:
    """One line about what went wrong, in the words of a person at the keyboard."""
    host = urlsplit(url).netloc
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{host} answers {error.response.status_code} ({error.response.reason})."
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"{host} broke off the transfer {RETRIES + 1} times."
    if isinstance(error, requests.Timeout):
        return f"{host} does not answer."
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} is not trusted by this machine."
    if isinstance(error, requests.ConnectionError):
        return f"no connection to {host}."
    return f"{error}."


def _where_to_get(file: RemoteFile) -> str:
    root = os.environ.get("FEWSHOT_DATA")
    mirror = str(Path(root, file.path)) if root else f"DIRECTORY/{file.path}, with FEWSHOT_DATA=DIRECTORY in the environment"
    return (
        f"  address:  {file.url}\n"
        f"  checksum: {file.checksum or 'none is published; the content is checked file by file'}\n"
        f"  Get it where there is a network and put it at\n"
        f"    {mirror}\n"
        f"  or {_cache_path(file)}"
    )


def _mirrored(file: RemoteFile) -> Path | None:
    """The copy below ``FEWSHOT_DATA``, if there is one. Raises DataError if that is not a directory."""
    if not (setting := os.environ.get("FEWSHOT_DATA")):
        return None
    root = Path(setting).expanduser()
    if not root.is_dir():
        raise DataError(f"FEWSHOT_DATA is {setting!r}, which is not a directory: set it to the directory of the local copies, or unset it.")
    return next((path for name in (file.path, *file.also) if (path := root / name).is_file()), None)


def _cache_path(file: RemoteFile) -> Path:
    folder, _, name = file.path.rpartition("/")
    return cache_dir("downloads", *folder.split("/")) / name
