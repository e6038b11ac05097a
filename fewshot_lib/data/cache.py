"""Where computed and downloaded things are kept, so that the second start takes no time.

The directory is ``FEWSHOT_CACHE`` if set, else the user's cache directory of the operating system. Files are written
beside their final place and then renamed: a file that exists is complete. A file that cannot be read is rebuilt, with
a warning.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pooch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class CacheError(OSError):
    """The cache directory cannot be used; the message says which one and what to do."""


def cache_dir(*parts: str) -> Path:
    """The cache directory, or a folder inside it, made if needed and proved writable.

    Raises CacheError naming the directory and ``FEWSHOT_CACHE`` where it cannot be written.
    """
    root = Path(os.environ.get("FEWSHOT_CACHE") or pooch.os_cache("fewshot_lib")).expanduser()
    path = root.joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CacheError(
            f"The cache directory {path} cannot be written ({error.strerror or error}). "
            "Set FEWSHOT_CACHE to a directory that you may write to."
        ) from error
    return path


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same directory and renames it to ``path`` on success; leaves nothing on failure."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # made by the writer, with the rights of any file
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise CacheError(
            f"Could not write {path} ({error.strerror or error}). Free some space, or set FEWSHOT_CACHE to another directory."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes tensors (and a few strings) to a safetensors file, whole or not at all."""
    with atomic_write(path) as temporary:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except SafetensorError as error:  # a full disk, in safetensors' words
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and strings of a file written by :func:`save_tensors`; None, with a warning, if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        warnings.warn(f"The cache file {path} is damaged ({error}); it is made again.", stacklevel=3)
        path.unlink(missing_ok=True)
        return None


def cached_tensors(path: Path, build: Callable[[], tuple[dict[str, Tensor], dict[str, str]]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What ``path`` holds, or what ``build()`` returns, which is then kept there. Damaged files are built again."""
    if path.exists() and (kept := load_tensors(path)) is not None:
        return kept
    tensors, metadata = build()
    save_tensors(path, tensors, metadata)
    return tensors, metadata
