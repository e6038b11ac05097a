"""A file of labelled rows that grows a chunk at a time, and is gone on with after the process was killed."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from fewshot_lib.course.labelling_formats import Format
from fewshot_lib.data.cache import atomic_write


def belonging(model: Path, read: list) -> str:
    """What a partly written file belongs to: the model, every byte of the input, the options."""
    digest = hashlib.sha256((model / "classifier.json").read_bytes())
    digest.update(json.dumps(read).encode())
    return digest.hexdigest()


class Journal:
    """A file of labelled rows that grows, and survives being killed at any moment.

    Rows go to ``NAME.part``; then ``NAME.part.json`` notes how many there are and how long the file is. What
    stands behind that length was being written when the process died, and is cut off.
    """

    def __init__(self, path: Path, key: str, form: Format) -> None:
        self.path, self.key, self.form = path, key, form
        self.part, self.note = (path.with_name(path.name + ending) for ending in (".part", ".part.json"))
        self.rows = 0

    def resume(self) -> int:
        """How many rows are written already; begins the file where there are none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
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
            self._write(self.form.start())
        return self.rows

    def append(self, rows: list[list[Any]]) -> None:
        """Adds rows, on the disk before this returns."""
        self.rows += len(rows)
        self._write(self.form.rows(rows))

    def finish(self) -> None:
        """Makes the file under its own name."""
        self.form.finish(self.part, self.path)
        self.note.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        with self.part.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        with atomic_write(self.note) as temporary:
            temporary.write_text(json.dumps({"key": self.key, "rows": self.rows, "bytes": size}))
