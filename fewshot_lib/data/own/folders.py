"""The pictures of a folder: which files they are, of which class, and of which split if the folder says so.

A class is a folder below the root, with every picture below it however deep: ``letters/a/1.png`` and
``letters/a/batch2/7.png`` are of class "a". Folders named train, val and test that hold *different* classes
are a class split. With the *same* classes in each they split examples, which few-shot learning does not.
"""

import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fewshot_lib.data.own.labels import look_alikes, tidy
from fewshot_lib.data.own.picture_files import is_picture, picture_endings
from fewshot_lib.data.own.split_files import PARTS, part_name
from fewshot_lib.data.reporting import DataError, first_few

OF_THE_SYSTEM = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}
Files = dict[Path, list[Path]]
FIX = "put the pictures of each class into a folder named after the class"


@dataclass
class Found:
    """What a folder holds.

    classes: class name -> its picture files, both sorted. notes: what a user should know of.
    parts: "train", "val", "test" -> names of the classes in the folder of that name; {} where there is none.
    """

    classes: dict[str, list[Path]]
    parts: dict[str, list[str]]
    notes: list[str]


def find_pictures(root: Path) -> Found:
    """All pictures below a folder, by class. Raises DataError for another layout; reads no picture."""
    if not root.is_dir():
        there = f"{visible(root)} is no folder" if root.exists() else f"There is no folder {visible(root)}"
        raise DataError(f"{there}: give a folder with one sub-folder of pictures per class.")
    top = _unwrapped(root)
    parts = _part_folders(top)
    places = [(folder, part) for place, part in (parts or {top: ""}).items() for folder in _folders(place)]
    files = {folder: _files(folder, top) for folder, _ in places}
    pictures = {folder: [file for file in found if is_picture(file)] for folder, found in files.items()}
    beside = [file for place in dict.fromkeys([root, top, *parts]) for file in _pictures_in(place)]
    _refuse_empty(top, pictures, beside)
    of_class: dict[str, list[Path]] = defaultdict(list)
    for folder, _ in places:
        of_class[tidy(folder.name)].append(folder)
    names = _names(top, of_class)
    classes = {
        name: [file for folder in of_class[key] for file in pictures[folder]] for key, name in names.items()
    }
    in_part = {
        part: sorted({names[tidy(folder.name)] for folder, where in places if where == part})
        for part in PARTS
        if part in parts.values()
    }
    wrapped = [f"the class folders are those in {visible(top)}"] if top != root else []
    notes = wrapped + _notes(pictures, files, beside) + _alike(of_class, names)
    return Found(dict(sorted(classes.items())), in_part, notes)


def pictures_below(root: Path) -> list[Path]:
    """All pictures below a folder, however deep, sorted, whatever their class. DataError: there are none.

    Links are followed as within a class. Warns of files that are none.
    """
    found: list[Path] = []
    others: list[Path] = []
    for file in _files(root, root.resolve().parent):
        (found if is_picture(file) else others).append(file)
    left_out = f"{len(others):,} that cannot be read as such, like {visible(others[0])}" if others else ""
    if not found:
        what = f"but {left_out}: convert them" if others else "at all: name the folder that they are in"
        raise DataError(f"{visible(root)} holds no pictures, {what}.")
    if others:
        warnings.warn(f"{visible(root)}: beside the pictures are files left out, {left_out}.", stacklevel=2)
    return found


def visible(name: Path | str) -> str:
    """A name as it can be printed: bytes that are no text, and control characters, as "\\xe9"."""
    return "".join(letter if _is_printed(letter) else _escaped(ord(letter)) for letter in str(name))


def _is_printed(letter: str) -> bool:
    joins = letter in "\u200c\u200d"  # a family of emoji, a word of Persian
    return joins or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(code: int) -> str:
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # how Python keeps a byte that is no text
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _look(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files right in a folder, sorted, without hidden ones and those of the system."""
    folders: list[Path] = []
    files: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name[0] != "." and entry.name.casefold() not in OF_THE_SYSTEM:
            (folders if entry.is_dir() else files).append(entry)
    return folders, files


def _folders(folder: Path) -> list[Path]:
    return _look(folder)[0]


def _pictures_in(folder: Path) -> list[Path]:
    return [file for file in _look(folder)[1] if is_picture(file)]


def _files(folder: Path, top: Path) -> list[Path]:
    """All files below a class folder, sorted. Links are followed, but to no folder twice and not upwards."""
    seen = {_identity(place) for path in (folder, top) for place in path.resolve().parents} | {_identity(top)}
    files: list[Path] = []
    left = [folder]
    while left:
        place = left.pop()
        if (identity := _identity(place)) not in seen:
            seen.add(identity)
            inside, found = _look(place)
            left, files = left + inside, files + found
    return sorted(files)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _unwrapped(root: Path) -> Path:
    """The folder that holds the class folders: an archive often unpacks to one folder in another."""
    folders, above = _folders(root), {root.resolve()}
    while len(folders) == 1 and folders[0].resolve() not in above:
        inside = _folders(folders[0])
        if not inside or _pictures_in(folders[0]):
            break
        root, folders = folders[0], inside
        above.add(root.resolve())
    return root


def _part_folders(top: Path) -> dict[Path, str]:
    """The folders train, val, test, where these are what a folder holds -> their parts."""
    folders = _folders(top)
    parts = {folder: part for folder in folders if (part := part_name(folder.name)) in PARTS}
    nested = [folder for folder in parts if _folders(folder)]
    others = [folder for folder in folders if folder not in parts]
    if len(parts) < 2 or (others and len(nested) < 2):
        return {}  # classes that happen to have such a name
    if others:
        found = f"{_listed(nested)} look like a split, but {_listed(others)} stand beside them"
        raise DataError(f"{visible(top)}: {found}: keep either the split or the other folders.")
    if flat := [folder for folder in parts if folder not in nested]:
        found = f"{_listed(flat)} in {visible(top)} hold no class folders"
        raise DataError(f"{found}: {FIX} ({visible(flat[0])}/cat/1.png), or remove what has no classes.")
    inside = {_unwrapped(folder).relative_to(folder) for folder in parts}  # train/images, test/images
    common = inside.pop() if len(inside) == 1 else Path()
    return {folder / common: part for folder, part in parts.items()}


def _refuse_empty(top: Path, pictures: Files, beside: list[Path]) -> None:
    if not pictures:
        holds = (
            f"but {len(beside)} pictures, such as {visible(beside[0].name)}" if beside else "and no pictures"
        )
        raise DataError(f"{visible(top)} has no sub-folders {holds}: {FIX} ({visible(top)}/cat/1.png).")
    empty = [folder for folder, files in pictures.items() if not files]
    usual = "png, jpg, tif, bmp, gif, webp, …"
    if len(empty) == 1:
        raise DataError(f"{visible(empty[0])} holds no pictures ({usual}): fill it or remove it.")
    if empty:
        found = f"{len(empty)} folders of {visible(top)} hold no pictures ({usual})"
        raise DataError(f"{found}: fill or remove {_listed(empty, every=True)}.")


def _names(top: Path, of_class: Iterable[str]) -> dict[str, str]:
    """Tidy folder name -> class name, which can be printed."""
    names = {key: visible(key) for key in of_class}
    holder: dict[str, str] = {}
    for key, name in names.items():
        if not name:
            raise DataError(f"{visible(top)} has a class folder whose name cannot be seen: rename it.")
        if holder.setdefault(name, key) != key:
            found = f"two class folders that are both shown as {name!r}, one of them in bytes"
            raise DataError(f"{visible(top)} has {found}: rename it.")
    return names


def _notes(pictures: Files, files: Files, beside: list[Path]) -> list[str]:
    """Files that are left out, and pictures where one would not have looked for them."""
    left_out = [file for folder in files for file in sorted({*files[folder]} - {*pictures[folder]})]
    below = [(file, folder) for folder in pictures for file in pictures[folder] if file.parent != folder]
    levels = max((len(file.relative_to(folder).parts) - 1 for file, folder in below), default=0)
    odd = [
        file for found in pictures.values() for file in found if file.suffix.lower() not in picture_endings()
    ]
    inside = "pictures in folders inside class folders"
    kinds = (
        ("files that cannot be read as pictures, left out", left_out),
        ("pictures beside the class folders, left out", beside),
        (f"{inside}, whose class they are of (levels: {levels}), read", [file for file, _ in below]),
        ("pictures by their content and not by their ending, read", odd),
    )
    return [f"{what}: {len(found):,}, such as {visible(found[0])}" for what, found in kinds if found]


def _alike(of_class: dict[str, list[Path]], names: dict[str, str]) -> list[str]:
    """Class folders of what looks like one name: said, whether they are taken for one class or not."""
    notes = []
    spelt = {names[key]: sorted({folder.name for folder in folders}) for key, folders in of_class.items()}
    if same := [name for name, spellings in spelt.items() if len(spellings) > 1]:
        what = "class folders whose names differ only by what cannot be seen"
        notes.append(f"{what}, read as one class: {_quoted(same)}")
    if alike := [" and ".join(f"'{name}'" for name in group) for group in look_alikes(spelt)]:
        fix = "rename one if they are the same"
        notes.append(f"class folders that look alike and stay different classes: {first_few(alike)}: {fix}")
    return notes


def _listed(folders: list[Path], every: bool = False) -> str:
    names = [f"'{visible(folder.name)}'" for folder in folders]
    return ", ".join(names) if every else first_few(names)


def _quoted(names: Iterable[str]) -> str:
    return first_few(f"'{name}'" for name in names)
