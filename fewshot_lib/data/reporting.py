"""How the data modules speak to their user: one kind of error, one kind of progress bar."""

import os
from collections.abc import Iterable

from tqdm import tqdm


class DataError(ValueError):
    """A data file is missing, damaged or not what it should be; the message names the file and what to do."""


def first_few(items: Iterable[object]) -> str:
    """The first five of many, for a message: "a, b, c, d, e, …"."""
    items = list(items)
    return ", ".join(map(str, items[:5])) + (", …" if len(items) > 5 else "")


def shows_progress() -> bool:
    """Whether progress bars are wanted: always, except in headless runs (``FEWSHOT_STATIC=1``)."""
    return os.environ.get("FEWSHOT_STATIC") != "1"


def progress(items: Iterable, description: str, unit: str, total: int | None = None) -> tqdm:
    """Iterates over ``items`` with a bar on the standard error stream, without one in headless runs."""
    return tqdm(items, desc=description, unit=unit, total=total, disable=not shows_progress())
