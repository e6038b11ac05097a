"""Names as examples on sets that no choice was made on: the tables that ``outside.py`` writes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from own_data_parts import compare

from fewshot_lib.encoders import TextEncoder
from fewshot_lib.prototypes import names_as_examples

ROWS: compare.Rows = (
    compare.ROWS[0],
    (names_as_examples, True),
    *(row for row in compare.ROWS[1:] if row[0] is not names_as_examples),
)
INTRODUCTION = """## Sets that had no part in anything
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of one set."""
    yield from compare.table(name, options, encoder, ROWS)
