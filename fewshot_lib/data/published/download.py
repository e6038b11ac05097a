"""Public data files: from the local mirror, else from the cache, else from the network, and never unverified.

What counts is the content, not its packing: the same images in another zip are the same data. So whoever asks
for a file brings the function that reads it, and that function refuses what is not the expected content. A
download is read before it is given its name, so a bad one never replaces a good file.

``FEWSHOT_DATA`` names a directory that holds the files already (a classroom without a network).
"""

import json
import os
import time
import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from fewshot_lib.data.cache import atomic_write, cache_dir, from_start, is_kept, prove_writable
from fewshot_lib.data.reporting import DataError, shows_progress

T = TypeVar("T")
RemoteFile = dict[str, Any]

RETRIES = 2
TIMEOUTS = 15, 60  # seconds: until the server answers, and of silence


def card(name: str) -> dict[str, Any]:
    """What is known of a set without its data: files, content checksums, class names and class splits.

    A file: ``path`` below the mirror and the cache, ``url``, the ``checksum`` published for it there
    ("sha256:…", "md5:…", "git:…" or ""), and ``also``, other names under which the mirror may have it.
    """
    return json.loads((resources.files(__package__) / "splits" / f"{name}.json").read_text(encoding="utf-8"))


def fetch(file: RemoteFile, read: Callable[[Path], T]) -> T:
    """``read(path)`` of a card's file, from ``FEWSHOT_DATA``, else from the cache, else downloaded into it.

    read: turns the file into what is wanted and raises DataError if the content is not the expected one.

    Where all fails, the DataError says what to put where. A wrong copy in ``FEWSHOT_DATA`` is not skipped: it
    was put there on purpose.
    """
    if (copy := _mirrored(file)) is not None:
        try:
            return read(copy)
        except (DataError, OSError) as error:
            raise _unusable(file, f"{copy}, found through FEWSHOT_DATA, cannot be used: {error}") from None
    kept = _cache_path(file)
    if is_kept(kept):
        try:
            return read(kept)
        except DataError as error:
            warnings.warn(f"{kept} cannot be used ({error}); it is downloaded again.", stacklevel=2)
    prove_writable(kept.parent)  # before any waiting
    with atomic_write(kept) as temporary:
        _download(file, temporary)
        try:
            return read(temporary)
        except DataError as error:
            complaint = str(error).replace(temporary.name, kept.name)
            raise _unusable(file, f"{kept}, as downloaded, cannot be used: {complaint}") from None


def _download(file: RemoteFile, target: Path) -> None:
    """Fills ``target`` from the network. A broken transfer is tried again, a refusal ("404") is not."""
    import pooch  # here: slow to import, and most data sets need no network
    import requests

    http = pooch.HTTPDownloader(shows_progress(), chunk_size=1 << 16, timeout=TIMEOUTS)
    for attempt in range(RETRIES + 1):
        time.sleep(attempt)
        try:
            return http(file["url"], target, None)
        except requests.RequestException as error:
            reason = str(error)
            if error.response is not None and error.response.status_code < 500:
                break
    raise _unusable(file, f"{file['path']} could not be had from the network: {reason}")


def _unusable(file: RemoteFile, reason: str) -> DataError:
    """What went wrong, and how to get the file by hand."""
    root = os.environ.get("FEWSHOT_DATA")
    setting = "" if root else ", with FEWSHOT_DATA=DIRECTORY in the environment"
    return DataError(
        f"{reason}\n"
        f"  address:  {file['url']}\n"
        f"  checksum: {file['checksum'] or 'none is published; the content is checked file by file'}\n"
        f"  Get it where there is a network and put it at\n"
        f"    {Path(root or 'DIRECTORY', file['path'])}{setting}\n"
        f"  or {_cache_path(file)}"
    )


def _mirrored(file: RemoteFile) -> Path | None:
    """The copy below ``FEWSHOT_DATA``, if there is one."""
    if not (setting := os.environ.get("FEWSHOT_DATA")):
        return None
    root = from_start(setting)
    if not root.is_dir():
        fix = "set it to the directory of the local copies, or unset it"
        raise DataError(f"FEWSHOT_DATA is {setting!r}, which is not a directory: {fix}.")
    places = [file["path"], *file.get("also", ())]
    return next((path for place in places if (path := root / place).is_file()), None)


def _cache_path(file: RemoteFile) -> Path:
    *folders, name = file["path"].split("/")
    return cache_dir("downloads", *folders) / name
