"""Labels that only look different are one class, and labels that a reader may confuse are reported.

"café" can be written with four or five code points, and both look the same. What cannot be seen is taken out
of a name (:func:`tidy`), always: nobody means two classes by it. Upper and lower case, full-width letters or
ligatures can be meant, so they stay, and :func:`look_alikes` finds them.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

# Zero-width blanks, marks of direction, soft hyphens, byte order marks.
INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
# Joiners belong to emoji and to scripts such as Persian: beside a plain letter they mean nothing.
JOINER = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])")
# What files and programs write for "no value": as the name of a class it is worth a question.
MISSING_WORDS = frozenset("nan na n/a #n/a <na> none null nil -".split())


def tidy(name: str) -> str:
    """The name composed (Unicode NFC), without what cannot be seen, with single blanks.

    >>> tidy(" cafe\\u0301\\u200b  noir ")
    'café noir'
    """
    if name.isascii():
        return " ".join(name.split())
    # Taking a mark out can bring an accent to its letter: compose last.
    return " ".join(unicodedata.normalize("NFC", JOINER.sub("", INVISIBLE.sub("", name))).split())


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that differ only by case or by the look of their characters, sorted."""
    groups = defaultdict(set)
    for name in names:
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        key = "".join(c for c in plain if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
        groups["".join(key.split())].add(name)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
