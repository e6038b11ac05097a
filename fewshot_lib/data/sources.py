"""One description of a data set, in the same words for Python, the command line and a notebook's parameters.

A *source* is the name of one of the course's sets ("glyphs", "huffpost/bao") or the path of your own table or
folder of pictures. *Options* say how to read it. ``load("my.csv", text="Title")`` is
``load({"source": "my.csv", "text": "Title"})`` is ``fewshot data inspect my.csv --text Title``.
"""

import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_lib.data.own.class_splits import shares_in

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
KINDS = {"set": "a data set of the course", "table": "a table of texts", "folder": "a folder of pictures"}
# Every option, and the kinds of source that have it. A set of the course may have its own ("drawings") too.
OPTIONS = {
    "text": ("table",),
    "label": ("table",),
    "encoding": ("table",),
    "drop_empty": ("table",),
    "size": ("folder",),
    "color": ("folder",),
    "seed": ("table", "folder"),
    "split": ("set", "table", "folder"),
    "min_examples": ("set", "table", "folder"),
}


@dataclass(frozen=True)
class Source:
    """What :func:`describe` made of a source and its options.

    kind: "set", "table" or "folder". name: of a set, without its family; else the path, as it was given.
    family: the split family of a set; None is its default. options: those that were given.
    """

    kind: str
    name: str
    family: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return Path(self.name).expanduser()

    def loader(self) -> Callable[..., Any]:
        """The function that loads this set of the course."""
        module, function = LOADERS[self.name].split(":")
        return getattr(importlib.import_module(f".{module}", __package__), function)

    def own_options(self) -> list[str]:
        """The options that only this set of the course has."""
        return [name for name in inspect.signature(self.loader()).parameters if name != "split_family"]

    def absolute(self) -> str | dict[str, Any]:
        """The same description for a process that works in another directory: what ``load`` takes."""
        options = dict(self.options)
        split = options.get("split")
        if isinstance(split, str | Path) and not (isinstance(split, str) and shares_in(split)):
            options["split"] = os.path.abspath(Path(split).expanduser())
        if self.kind == "set":
            source = f"{self.name}/{self.family}" if self.family else self.name
        else:
            source = os.path.abspath(self.path)
        return {"source": source, **options} if options else source


def describe(source: Any, split_family: str | None = None, **options: Any) -> Source:
    """Reads a source and its options, and refuses, in a sentence, all that can be seen without reading data.

    source: a name, a path, or a mapping of "source" and options. Of a name that is also a folder's, the
    course's set is meant; "./glyphs" (or a ``Path``) means the folder. Options that are None were not given.
    """
    if isinstance(source, Mapping):
        source, options = _unfold(source, options | {"split_family": split_family})
        split_family = options.pop("split_family", None)
    options = {name: value for name, value in options.items() if value is not None}
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        what = "the name of a data set, a path, or {'source': …} with options (or use from_arrays)"
        found = repr(source) if isinstance(source, str | int | float | None) else type(source).__name__
        raise ValueError(f"`source` is {found}: give {what}.")
    known, slash, family = str(source).partition("/")
    if known in LOADERS and not _is_meant_as_path(source):
        return _set(str(source), known, family if slash else None, split_family, options)
    if split_family is not None:
        found = f"`split_family` is {split_family!r}, but {source} is your own data"
        raise ValueError(f"{found}: pass split=... instead.")
    kind = _kind_of_path(source)
    _check_options(str(source), kind, options)
    return Source(kind, os.fspath(source), None, options)


def shadowed(source: Any) -> str | None:
    """A warning where the name of one of the course's sets is also that of a file or folder here."""
    source = source.get("source") if isinstance(source, Mapping) else source
    if (
        str(source).partition("/")[0] not in LOADERS
        or _is_meant_as_path(source)
        or not os.path.exists(source)
    ):
        return None
    return f"{source!r} is the data set of the course; to mean the folder of that name, write './{source}'."


def _is_meant_as_path(source: str | os.PathLike) -> bool:
    """Whether a source that may begin like a name is a path: a ``Path``, or "glyphs/", that exists."""
    return (isinstance(source, os.PathLike) or source.endswith("/")) and os.path.exists(source)


def _unfold(mapping: Mapping[str, Any], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The source and all options of a mapping and of keyword arguments that may not contradict it."""
    within = dict(mapping)
    if "source" not in within:
        raise ValueError(f"`source` is {within!r}, which names no data: add 'source' with a name or a path.")
    source = within.pop("source")
    if isinstance(source, Mapping):
        raise ValueError(f"`source` is {dict(mapping)!r}: the 'source' inside must be a name or a path.")
    for name in within.keys() & {name for name, value in options.items() if value is not None}:
        if within[name] != options[name]:
            both = f"{within[name]!r} in the description and {options[name]!r} beside it"
            raise ValueError(f"`{name}` is {both}: give it once.")
    return source, within | {name: value for name, value in options.items() if value is not None}


def _set(source: str, name: str, family: str | None, split_family: str | None, options: dict) -> Source:
    """A set of the course. Its family may be named in three ways, but only once."""
    options = dict(options)
    split = options.get("split")
    if isinstance(split, str) and not shares_in(split) and not Path(split).suffix:
        options.pop("split")
    else:
        split = None
    named = {"`source`": family, "`split_family`": split_family, "`split`": split}
    named = {argument: value for argument, value in named.items() if value is not None}
    if len(set(named.values())) > 1:
        both = " but ".join(f"{argument} says {value!r}" for argument, value in named.items())
        raise ValueError(f"{both}: name one split family of {name!r}.")
    found = Source("set", name, next(iter(named.values()), None), options)
    _check_options(source, "set", options, found.own_options)
    return found


def _kind_of_path(source: Any) -> str:
    try:
        path = Path(source).expanduser()
        exists, is_folder, is_file = path.exists(), path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no such user, a folder locked
        raise ValueError(f"`source` is {str(source)!r}, which cannot be looked at ({error}).") from None
    if not exists:
        raise ValueError(_unknown(os.fspath(source), path))
    if not is_folder and not is_file:
        raise ValueError(f"`source` is {str(source)!r}, which is neither a file nor a folder: name one.")
    return "folder" if is_folder else "table"


def _unknown(source: str, path: Path) -> str:
    """What to say of a source that is nothing: a name misspelt, a file misspelt, an address."""
    known = source.partition("/")[0]
    near = difflib.get_close_matches(known.lower(), LOADERS, n=1)
    if not near and path.parent.is_dir() and os.access(path.parent, os.R_OK):
        beside = difflib.get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=1)
        near = [str(Path(source).with_name(name)) for name in beside]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    hint = " Download it first." if "://" in source else hint
    known = ", ".join(map(repr, LOADERS))
    return f"`source` is {source!r}, which is no data set and no file.{hint} Known: {known}."


def _check_options(
    source: str, kind: str, options: Mapping[str, Any], own: Callable[[], list[str]] = list
) -> None:
    """Refuses an option that no source has, that this kind does not have, or that has a value of no use."""
    allowed = [name for name, kinds in OPTIONS.items() if kind in kinds]
    for name in allowed:
        if name in options:
            _check_value(name, options[name])
    unknown = options.keys() - set(allowed)
    if not unknown or not (unknown := unknown - set(own())):
        return
    name, allowed = min(unknown, key=str), allowed + own()
    if name in OPTIONS:
        meant = " or ".join(KINDS[other] for other in OPTIONS[name])
        raise ValueError(f"`{name}` is an option of {meant}, and {source!r} is {KINDS[kind]}: leave it out.")
    close = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    known = ", ".join(f"`{option}`" for option in allowed)
    raise ValueError(f"`{name}` is no option: {hint}{source!r} is {KINDS[kind]}, which has {known}.")


def _check_value(name: str, value: Any) -> None:
    lowest = {"seed": 0, "min_examples": 1}
    if name in lowest:
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < lowest[name]:
            raise ValueError(f"`{name}` is {value!r}: give a whole number, {lowest[name]} or more.")
    elif name in ("drop_empty", "color"):
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` is {value!r}: give True or False.")
    elif name in ("text", "label", "encoding") and not (isinstance(value, str) and value):
        raise ValueError(f"`{name}` is {value!r}: give a text, such as {name}='{name}'.")
