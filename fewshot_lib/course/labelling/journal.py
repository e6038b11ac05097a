"""A file of labelled rows that grows a chunk at a time, and is gone on with after the process was killed."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fewshot_lib.course.labelling.formats import Format
from fewshot_lib.data.cache import atomic_write

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _release(file: IO[bytes], path: Path) -> None:
        file.close()
        with contextlib.suppress(OSError):  # an open file cannot be removed: it is another process's by now
            path.unlink()
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(file: IO[bytes], path: Path) -> None:
        path.unlink(missing_ok=True)  # while it is locked: afterwards it may be another process's
        file.close()


def refuse_existing(path: Path) -> None:
    """ValueError where the file to be written is there already, or none can be."""
    need_place("--out", path)
    if path.exists():
        raise ValueError(f"`--out {path}` exists: name another file, or remove it. Nothing is overwritten.")


def need_place(option: str, path: Path) -> None:
    """ValueError where no file or folder of this name can be made: before hours of work, not after them."""
    try:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(f"{path.name}.part.lock").lstat()  # its name may be too long, or a file above it
        above = next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        why = f"{path.parent}: {error.strerror}"
        raise ValueError(f"`{option} {path}` cannot be written ({why}): name another place.") from None


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Inside, no other command writes this file or folder. ValueError where one is writing it.

    The system locks ``NAME.part.lock`` for this process, and frees it when the process dies, however it dies.
    """
    lock = path.with_name(f"{path.name}.part.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        if not _holds(file, lock):
            fix = "wait until it has ended, or name another place"
            raise ValueError(f"Another command is writing `--out {path}`: {fix}.")
        try:
            yield
        finally:
            _release(file, lock)


def _holds(file: IO[bytes], path: Path) -> bool:
    """Whether the lock was free; what was locked must still be the file of this name."""
    try:
        _lock(file)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, PermissionError, FileNotFoundError):
        return False
    except OSError as error:
        why = f"{path.parent} cannot lock files ({error.strerror})"
        print(f"note: {why}: let no other command write to the same `--out`.", file=sys.stderr)
        return True


def belonging(model: Path, read: list) -> str:
    """What a partly written file belongs to: the model, every byte of the input, the options."""
    digest = hashlib.sha256((model / "classifier.json").read_bytes())
    digest.update(json.dumps(read).encode())
    return digest.hexdigest()


class Journal:
    """A file of labelled rows that grows, and survives being killed at any moment.

    Rows go to ``NAME.part``; then ``NAME.part.json`` notes how many there are and how long the file is. What
    stands behind that length was being written when the process died, and is cut off. For one process at a
    time: see :func:`alone`.
    """

    def __init__(self, path: Path, key: str, form: Format) -> None:
        self.path, self.key, self.form = path, key, form
        self.part, self.note = (path.with_name(path.name + ending) for ending in (".part", ".part.json"))
        self.rows = 0

    def resume(self) -> int:
        """How many rows are written already; begins the file where there are none."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            fits = note["key"] == self.key and self.part.stat().st_size >= note["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            note, fits = {}, False
        if note and not fits:
            print(f"{self.part} belongs to another model, input or option: begun anew.", file=sys.stderr)
        if fits:
            os.truncate(self.part, note["bytes"])
            self.rows = note["rows"]
        else:
            self.part.write_bytes(b"")
            self._write(self.form.start(), 0)
        return self.rows

    def append(self, rows: list[list[Any]]) -> None:
        """Adds rows, on the disk before this returns."""
        self._write(self.form.rows(rows), self.rows + len(rows))

    def finish(self) -> None:
        """Makes the file under its own name; DataError, and the rows stay, where that is taken by now."""
        self.form.finish(self.part, self.path)
        self.note.unlink(missing_ok=True)

    def _write(self, content: bytes, rows: int) -> None:
        """Adds what makes the file one of so many rows."""
        try:
            with self.part.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
        except OSError as error:  # a full disk does not say which file was written
            kept = f"{self.rows:,} rows are kept, and the same command goes on after them"
            raise OSError(error.errno, f"{error.strerror} ({kept})", str(self.part)) from None
        with atomic_write(self.note) as temporary:
            temporary.write_text(json.dumps({"key": self.key, "rows": rows, "bytes": size}))
        self.rows = rows
