"""A class split as a file: {"train": [names], "val": […], "test": […]}, or a table with a class a line.

It keeps a choice, so that everybody who uses the data compares the same thing. Other people's words for the
three parts (validation, dev, …) are understood; a file that somebody wrote is never written over.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_lib.data.cache import atomic_write
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.encodings import decode
from fewshot_lib.data.own.table_files import read_table
from fewshot_lib.data.reporting import DataError

PARTS = ("train", "val", "test")
WORDS = {
    **dict.fromkeys(("train", "training", "base"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "novel"), "test"),
}


def read_split(path: Path) -> dict[str, list[str]]:
    """The lists of class names that a file holds: one JSON object, or a table with a class a line."""
    if not path.is_file():
        raise DataError(
            f"There is no file {path} to take the split from, and these are no shares (0.6/0.2/0.2)."
        )
    content, _ = decode(path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _from_table(path, content)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _once(path, pairs)

    try:  # numbers stay what was written: a class may be called 1.50
        names = json.loads(content, parse_int=str, parse_float=str, object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is neither .csv nor JSON ({error}).") from None
    if not isinstance(names, dict) or not all(isinstance(part, list) for part in names.values()):
        shape = '{"train": [class names], "val": […], "test": […]}'
        raise DataError(f"{path}: a split file holds one object, {shape}.")
    if not any(names.values()):
        raise DataError(f"{path} names no class: put some into 'train', 'val' or 'test'.")
    return by_part(names)


def write_split(path: Path | str, data: ClassDataset) -> None:
    """Writes which class is in which split, .json or .csv by the ending; whole or not at all.

    A file that holds the same split already is left alone, and any other is refused: it is somebody's.
    """
    path = Path(path).expanduser()
    parts = {part: [data.class_names[c] for c in ids.tolist()] for part, ids in data.splits.items()}
    if path.suffix.lower() not in (".json", ".csv"):
        raise ValueError(f"The split file {path} must end in .json or .csv: name it so.")
    content = _as_csv(parts) if path.suffix.lower() == ".csv" else _as_json(parts)
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} for the split {path.name}: make it first.")
    if path.exists():
        if not path.is_file() or path.read_bytes() != content:
            fix = "give another name, or remove it"
            raise ValueError(f"{path} exists, and it is not this split: {fix}. Nothing was written.")
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def part_name(name: str) -> str:
    """The course's word for a part of a split: "train", "val" or "test" under their other names.

    >>> part_name("Validation"), part_name("meta-train"), part_name("more")
    ('val', 'train', 'more')
    """
    word = re.sub("[-_ ]", "", name.casefold()).removeprefix("meta")
    return WORDS.get(word, name.strip())


def by_part(split: Mapping[Any, Any]) -> dict[str, Any]:
    """The same with the course's names of the parts. Two names of one part are refused."""
    named: dict[str, Any] = {}
    for name, value in split.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"`split` names a part {name!r}: call it 'train', 'val' or 'test'.")
        if part_name(name) in named:
            raise ValueError(f"`split` names {part_name(name)!r} twice, also as {name!r}: join the two.")
        named[part_name(name)] = value
    return named


def _from_table(path: Path, content: str) -> dict[str, list[str]]:
    """A class a line, with any separator and order of the columns; other columns are left alone."""
    lines = (line for line in content.splitlines() if line.strip() and not line.startswith("sep="))
    columns = {word.lower(): word for word in re.findall(r"\w+", next(lines, ""))}
    if not {"class", "split"} <= columns.keys():
        raise DataError(f"{path}: a split file has two columns, and its first line is: class,split")
    table = read_table(path, columns["class"], columns["split"])
    if empty := table.empty_lines:
        raise DataError(f"{path}, line {empty[0]}: a class or its split is missing: fill it in.")
    names: dict[str, list[str]] = {}
    for name, part in table.rows:
        names.setdefault(part_name(part), []).append(name)
    return names


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json itself would keep the last of two equal names and say nothing."""
    times = Counter(name for name, _ in pairs)
    if twice := [name for name, n in times.items() if n > 1]:
        raise DataError(f"{path} names {twice[0]!r} twice: join the two.")
    return dict(pairs)


def _as_json(parts: Mapping[str, list[str]]) -> bytes:
    return (json.dumps(parts, indent=1, ensure_ascii=False) + "\n").encode()


def _as_csv(parts: Mapping[str, list[str]]) -> bytes:
    file = io.StringIO(newline="")
    rows = [(name, part) for part, names in parts.items() for name in names]
    csv.writer(file, lineterminator="\n").writerows([("class", "split"), *rows])
    return file.getvalue().encode()
