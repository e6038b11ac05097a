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
INTRODUCTION = """## Sets that had no part in a choice

`outside`: texts from two packages of the index, which [outside.py](outside.py) writes as tables: what people
say to a chat bot, by topic; negative and positive sentences of tweets, film reviews, product reviews and
newspaper editorials; and which of these four a sentence is from. 20 texts of each topic, 200 of each other
class. Read as in the first section; *w = 3* is the default as it was before names of fewer than five classes
counted for more. *That* was decided after all six sets had been measured with w = 3, and how much more on
*tweets* and *editorials* ([below](#names-of-few-classes)); *movies* and *products* then said whether it holds
elsewhere: it does, by 1.5 to 2.6 points. Of the four *sources* it costs 0.2 to 0.3 from two examples on.

**What it shows**, at 95 %: ahead of logistic regression, with and without the words, of prototypes and of the
nearest neighbour on all six sets at all numbers of examples. Beside names + prototypes ahead or not told
apart, but on *chat* at 1 and 2, where they are ahead by 0.7 if they have the words, too. Beside names alone
far ahead where classes differ in topic or source. Of two classes that differ in tone it is ahead from 2
(*tweets*), 4 (*products*, *editorials*) or 8 examples on (*movies*), and behind with one, by 0.8 to 1.5,
but not told apart on *products*; on *movies* at 2 and 4, too. There `FewShotClassifier(method=zero_shot)` is
as good, until there are more examples. The words cost 0.5 points on *tweets*.
"""


def table(name: str, options: argparse.Namespace, encoder: TextEncoder) -> Iterator[str]:
    """The table of one set."""
    yield from compare.table(name, options, encoder, ROWS)
