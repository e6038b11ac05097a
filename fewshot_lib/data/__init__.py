"""Data sets by name, ``load("glyphs")``, and your own by path, ``load("letters.csv")``.

Two sets are made from what is installed, the others are downloaded once. A data set is a :class:`ClassDataset`: examples,
their classes, and which *classes* are for training. A name alone does not say which; the split family does, and belongs
beside every number. ``from_folder``, ``from_csv``, ``from_jsonl`` and ``from_arrays`` have all options for your own data.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

from .dataset import ClassDataset
from .own import from_arrays, from_csv, from_folder, from_jsonl
from .reporting import DataError

__all__ = ["LOADERS", "ClassDataset", "DataError", "from_arrays", "from_csv", "from_folder", "from_jsonl", "load"]

# name -> "module:function(split_family, **options)"; a module is imported when its data set is first asked for
LOADERS = {
    "glyphs": "glyphs:load_glyphs",
    "docstrings": "docstrings:load_docstrings",
    "omniglot": "omniglot:load_omniglot",
    "huffpost": "text_sets:load_huffpost",
    "amazon": "text_sets:load_amazon",
    "reuters": "text_sets:load_reuters",
    "20news": "text_sets:load_20news",
    "hwu64": "text_sets:load_hwu64",
}
OWN_FILES = {".csv": from_csv, ".jsonl": from_jsonl}


def load(name: str, split_family: str | None = None, **options: Any) -> ClassDataset:
    """The data set of this name, or your own at this path. Each loader documents its options.

    name: one of LOADERS, perhaps with its split family ("huffpost/metaprompting"), or a .csv or .jsonl file of texts, or
    a folder with one sub-folder of images per class. split_family: None takes the set's default.

    >>> load("glyphs", drawings=20)
    ClassDataset(glyphs/script: 21,480 images 1x28x28, 1074 classes: train 744, val 107, test 223)

    Raises ValueError for an unknown name or split family, TypeError for an option that the set does not have.
    """
    check_name(name)
    known, slash, family = str(name).partition("/")
    if known in LOADERS:
        if slash and split_family not in (None, family):
            raise ValueError(f"`name` is {name!r} but `split_family` is {split_family!r}: name one split family.")
        module, function = LOADERS[known].split(":")
        return getattr(importlib.import_module(f".{module}", __package__), function)(family if slash else split_family, **options)
    if split_family is not None:
        raise ValueError(f"`split_family` is {split_family!r}, but {name} is your own data: pass split=... instead.")
    path = Path(name).expanduser()
    return (from_folder if path.is_dir() else OWN_FILES[path.suffix.lower()])(path, **options)


def check_name(name: str) -> None:
    """Raises ValueError for what :func:`load` could not load by its name alone; reads no data."""
    known = str(name).partition("/")[0]
    if known in LOADERS:
        return
    path = Path(name).expanduser()
    if not name or not path.exists():
        close = difflib.get_close_matches(known.lower(), LOADERS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"`name` is {name!r}, which is no data set and no file.{hint} Known: {', '.join(map(repr, LOADERS))}.")
    if path.is_file() and path.suffix.lower() not in OWN_FILES:
        raise ValueError(f"`name` is the file {name}: give a .csv or .jsonl file, or a folder with one sub-folder of images per class.")
