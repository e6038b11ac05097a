"""Data sets by name, ``load("glyphs")``, and your own by path, ``load("letters.csv")``.

A data set is a :class:`ClassDataset`: examples, their classes, and which *classes* are for training. The name
does not say which; the split family does, and belongs beside every number. Rooms: ``made`` from what is
installed, ``published`` (downloaded once), ``own`` (yours), ``checks`` (what is wrong with a set).
"""

import difflib
import importlib
from pathlib import Path
from typing import Any

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.files import from_arrays, from_csv, from_folder, from_jsonl
from fewshot_lib.data.reporting import DataError

# name -> "module:function(split_family, **options)"; the module is imported when its set is first asked for
LOADERS = {
    "glyphs": "made.glyphs:load_glyphs",
    "docstrings": "made.docstrings:load_docstrings",
    "omniglot": "published.omniglot:load_omniglot",
    "huffpost": "published.text_sets:load_huffpost",
    "amazon": "published.text_sets:load_amazon",
    "reuters": "published.text_sets:load_reuters",
    "20news": "published.text_sets:load_20news",
    "hwu64": "published.text_sets:load_hwu64",
}
OWN_FILES = {".csv": from_csv, ".jsonl": from_jsonl}


def load(name: str | Path, split_family: str | None = None, **options: Any) -> ClassDataset:
    """The data set of this name, or your own at this path. Each loader documents its options.

    name: one of LOADERS, perhaps with its split family ("huffpost/metaprompting"; each has a default), or a
    .csv or .jsonl file of texts, or a folder with one sub-folder of images per class.

    >>> load("glyphs", drawings=20)
    ClassDataset(glyphs/script: 21,480 images 1x28x28, 1074 classes: train 744, val 107, test 223)
    """
    check_name(name)
    known, slash, family = str(name).partition("/")
    if known in LOADERS:
        if slash and split_family not in (None, family):
            both = f"`name` is {name!r} but `split_family` is {split_family!r}"
            raise ValueError(f"{both}: name one split family.")
        module, function = LOADERS[known].split(":")
        loader = getattr(importlib.import_module(f".{module}", __package__), function)
        return loader(family if slash else split_family, **options)
    if split_family is not None:
        found = f"`split_family` is {split_family!r}, but {name} is your own data"
        raise ValueError(f"{found}: pass split=... instead.")
    path = Path(name).expanduser()
    return (from_folder if path.is_dir() else OWN_FILES[path.suffix.lower()])(path, **options)


def check_name(name: str | Path) -> None:
    """Raises ValueError for what :func:`load` could not load by its name alone; reads no data."""
    known = str(name).partition("/")[0]
    if known in LOADERS:
        return
    path = Path(name).expanduser()
    if not name or not path.exists():
        close = difflib.get_close_matches(known.lower(), LOADERS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        found = f"`name` is {name!r}, which is no data set and no file"
        raise ValueError(f"{found}.{hint} Known: {', '.join(map(repr, LOADERS))}.")
    if path.is_file() and path.suffix.lower() not in OWN_FILES:
        fix = "give a .csv or .jsonl file, or a folder with one sub-folder of images per class"
        raise ValueError(f"`name` is the file {name}: {fix}.")
