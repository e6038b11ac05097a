"""Where computed and downloaded things are kept, so that the second start takes no time.

The directory is ``FEWSHOT_CACHE`` if set, else the user's cache directory of the operating system. A file
that exists is complete (written beside its place and renamed); a damaged one is made again. Reading writes
nothing, so a cache that is complete may lie on a read-only disk; and files get the rights of any file (the
umask), so several people may share one.
"""

import contextlib
import hashlib
import os
import platform
import re
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Contents = tuple[dict[str, Tensor], dict[str, str]]  # named tensors, and a few strings


def _process_space() -> str:
    """Where a process id means one process: this machine since its start, or this container."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux alone has these
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:8]


_HERE = _process_space()
_START = Path(os.path.abspath(os.curdir)) if os.path.exists(os.curdir) else Path.home()
_PART = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{32}\.part")  # space, process, and a name of its own
_DAY = 86_400


class CacheError(OSError):
    """A file or the cache directory cannot be read or written; the message says which one and what to do."""


def cache_dir(*parts: str) -> Path:
    """The cache directory, or a folder inside it, made if needed; whether it can be written is not asked.

    A relative ``FEWSHOT_CACHE`` counts from the directory in which Python was started.
    """
    import pooch  # here: slow to import

    path = from_start(os.environ.get("FEWSHOT_CACHE") or pooch.os_cache("fewshot_lib")).joinpath(*parts)
    with _unwritable_named(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def from_start(setting: str | Path) -> Path:
    """A path from the environment, relative to where Python was started: not to where it is by now."""
    return _START / Path(setting).expanduser()


def prove_writable(folder: Path) -> None:
    """Makes a folder of the cache if needed, and raises CacheError unless files can be written there."""
    with _unwritable_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextlib.contextmanager
def _unwritable_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"The cache directory {folder} cannot be written ({error.strerror or error})"
        raise CacheError(f"{found}. Set FEWSHOT_CACHE to a directory that you may write to.") from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which becomes ``path`` on success; leaves nothing on failure.

    The folder is made here, and the file gets the rights of any file, whoever writes it. What a killed
    process left beside it is removed. A full disk is a CacheError.
    """
    temporary = path.with_name(f".{path.name}.{_HERE}-{os.getpid()}-{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent.iterdir())
        temporary.touch(exist_ok=False)
        rights = temporary.stat().st_mode
        yield temporary
        temporary.chmod(rights)  # some writers make private files
        temporary.replace(path)
    except OSError as error:
        fix = "Free some space, or write to another directory (that of the cache is named by FEWSHOT_CACHE)"
        raise CacheError(f"Could not write {path} ({error.strerror or error}). {fix}.") from error
    finally:
        with contextlib.suppress(OSError):  # it has been renamed, or never came to be
            temporary.unlink()


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all.

    A file name may hold bytes that are no text; they stand in the file as JSON writes them, "\\udce4".
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes, of some paths, the temporary files of writers that were killed; nothing else."""
    for path in paths:
        if (named := _PART.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(OSError):  # another process was quicker, or it is not ours to remove
            old = time.time() - path.stat().st_mtime > _DAY
            if old or (named[1] == _HERE and not _is_alive(int(named[2]))):
                path.unlink()


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere the question would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # alive, and another user's
        pass
    return True


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes tensors (and a few strings) to a safetensors file, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata)
        except SafetensorError as error:  # a full disk, in safetensors' words
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> Contents:
    """Tensors and strings of a file by :func:`save_tensors`; ValueError if it is damaged."""
    with path.open("rb"):  # safetensors has its own words for a file that is not there or may not be read
        pass
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def load_tensors(path: Path) -> Contents | None:
    """Tensors and strings of a file of the cache; None if it is not there or, with a warning, damaged."""
    if not is_kept(path):
        return None
    try:
        return read_tensors(path)
    except ValueError as error:
        _discard(path, f"is damaged ({error})")
        return None


def is_kept(path: Path) -> bool:
    """Whether the cache has this file. One that may not be read is no damaged one: it stays, a CacheError."""
    try:
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        found = f"The cache file {path} cannot be read ({error.strerror or error})"
        fix = f"Ask its owner for `chmod a+r {path}`, or set FEWSHOT_CACHE to a directory of your own"
        raise CacheError(f"{found}. {fix}.") from error
    return True


def _discard(path: Path, reason: str) -> None:
    warnings.warn(f"The cache file {path} {reason}; it is made again.", stacklevel=4)
    with contextlib.suppress(OSError):  # on a read-only disk it stays, and what is made again cannot be kept
        path.unlink()


def cached_tensors(
    path: Path, build: Callable[[], Contents], check: Callable[[Contents], None] | None = None
) -> Contents:
    """What ``path`` holds, or what ``build()`` returns, which is then kept there: on the CPU, in both cases.

    check: raises ValueError for contents that are whole, but not what was asked for: they are made again.
    """
    if (kept := load_tensors(path)) is not None:
        try:
            if check is not None:
                check(kept)
            return kept
        except ValueError as error:
            _discard(path, str(error))
    prove_writable(path.parent)  # before any work
    if path.is_relative_to(cache_dir()):  # who was killed here may never come back to the same folder
        remove_leftovers(cache_dir().rglob(".*.part"))
    tensors, metadata = build()
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    save_tensors(path, tensors, metadata)
    return tensors, metadata
