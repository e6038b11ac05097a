"""Data sets by name, ``load("glyphs")``, and your own by path, ``load("letters.csv")``.

A data set is a :class:`ClassDataset`: examples, their classes, and which *classes* are for training. The name
does not say which; the split family does, and belongs beside every number. Rooms: ``made`` from what is
installed, ``published`` (downloaded once), ``own`` (yours), ``checks`` (what is wrong with a set).
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.arrays import from_arrays
from fewshot_lib.data.own.class_splits import split_classes
from fewshot_lib.data.own.pictures import from_folder
from fewshot_lib.data.own.split_files import write_split
from fewshot_lib.data.own.tables import from_csv, from_jsonl, from_table
from fewshot_lib.data.reporting import DataError
from fewshot_lib.data.sources import LOADERS, Source, describe, shadowed


def load(
    source: str | Path | Mapping[str, Any], split_family: str | None = None, **options: Any
) -> ClassDataset:
    """The data set of this name, or your own at this path. Each loader documents its options.

    source: a name in LOADERS, perhaps with its split family ("huffpost/metaprompting"; each has a default); a
    table of texts; a folder with one sub-folder of images per class; or a mapping {"source": one of these}
    that holds the options too. See ``sources``.

    >>> load("glyphs", drawings=20)
    ClassDataset(glyphs/script: 21,480 images 1x28x28, 1074 classes: train 744, val 107, test 223)
    """
    asked = describe(source, split_family, **options)
    if warning := shadowed(source):
        warnings.warn(warning, stacklevel=2)
    if asked.kind == "set":
        return _load_set(asked)
    return (from_folder if asked.kind == "folder" else from_table)(asked.path, **asked.options)


def describe_parameter(dataset: str | Path | Mapping[str, Any], **options: Any) -> Source:
    """:func:`describe` for the parameter ``dataset`` of a notebook, which its errors then name."""
    try:
        return describe(dataset, **options)
    except ValueError as error:
        raise ValueError(str(error).replace("`source`", "`dataset`", 1)) from None


def _load_set(asked: Source) -> ClassDataset:
    """A set of the course, perhaps without its small classes, perhaps under a split of the caller's own."""
    options = dict(asked.options)
    split, min_examples = options.pop("split", None), options.pop("min_examples", 1)
    whole = asked.loader()(asked.family, **options)
    dataset = whole.without_small_classes(min_examples)
    if split is None:
        return dataset
    small = set(whole.class_names) - set(dataset.class_names)
    splits, family = split_classes(split, dataset.class_names, left_out=small)
    return replace(dataset, splits=splits, split_family=family)
