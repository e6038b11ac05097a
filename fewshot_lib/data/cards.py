"""What is known of each public data set without its data: addresses, checksums, class names, and class splits.

These are the machine-readable halves of the data cards, kept as ``splits/<name>.json`` inside the package so that they
are found wherever the library is installed. They hold no text and no image.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from .download import RemoteFile


def card(name: str) -> dict[str, Any]:
    """The facts of a public data set ("omniglot", "huffpost", …), as its JSON file has them."""
    return json.loads((resources.files(__package__) / "splits" / f"{name}.json").read_text(encoding="utf-8"))


def remote_file(entry: dict[str, Any]) -> RemoteFile:
    """One entry of a card's list of files."""
    return RemoteFile(entry["path"], entry["url"], entry["checksum"], tuple(entry.get("also", ())))


def chosen_family(name: str, families: list[str], split_family: str | None) -> str:
    """The split family asked for, or the first one, which is the default. Raises ValueError for one that does not exist."""
    if split_family is None:
        return families[0]
    if split_family not in families:
        raise ValueError(f"`split_family` is {split_family!r}; {name} has {', '.join(map(repr, families))}.")
    return split_family


def class_ids(ids: list[int]) -> Tensor:
    """Class ids, (c,) int64."""
    return torch.tensor(ids, dtype=torch.int64)
