"""Where computed and downloaded things are kept, so that the second start takes no time.

The directory is ``FEWSHOT_CACHE`` if set, else the user's cache directory of the operating system. A file
that exists is complete (written beside its place and renamed); one that cannot be read is made again.
"""

import contextlib
import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Contents = tuple[dict[str, Tensor], dict[str, str]]  # named tensors, and a few strings


class CacheError(OSError):
    """A file or the cache directory cannot be written; the message says which one and what to do."""


def cache_dir(*parts: str) -> Path:
    """The cache directory, or a folder inside it, made if needed and proved writable; else a CacheError."""
    import pooch  # here: slow to import

    root = Path(os.environ.get("FEWSHOT_CACHE") or pooch.os_cache("fewshot_lib")).expanduser()
    path = root.joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        found = f"The cache directory {path} cannot be written ({error.strerror or error})"
        raise CacheError(f"{found}. Set FEWSHOT_CACHE to a directory that you may write to.") from error
    return path


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which becomes ``path`` on success; leaves nothing on failure.

    The folder is made here, the file by its writer, with the rights of any file. A full disk is a CacheError.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        fix = "Free some space, or write to another directory (that of the cache is named by FEWSHOT_CACHE)"
        raise CacheError(f"Could not write {path} ({error.strerror or error}). {fix}.") from error
    finally:
        with contextlib.suppress(OSError):  # it has been renamed, or never came to be
            temporary.unlink()


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes tensors (and a few strings) to a safetensors file, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata)
        except SafetensorError as error:  # a full disk, in safetensors' words
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> Contents | None:
    """Tensors and strings of a file by :func:`save_tensors`; None, with a warning, if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        warnings.warn(f"The cache file {path} is damaged ({error}); it is made again.", stacklevel=3)
        path.unlink(missing_ok=True)
        return None


def cached_tensors(path: Path, build: Callable[[], Contents]) -> Contents:
    """What ``path`` holds, or what ``build()`` returns, which is then kept there."""
    if path.exists() and (kept := load_tensors(path)) is not None:
        return kept
    tensors, metadata = build()
    save_tensors(path, tensors, metadata)
    return tensors, metadata
