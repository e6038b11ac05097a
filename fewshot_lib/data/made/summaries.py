"""From a docstring to one plain English text: its first paragraph, without markup, formulas and code.

Docstrings are written for Sphinx in three dialects, with roles, literals, links and formulas. What survives
here reads like a sentence of a manual; what cannot be made readable is left out.
"""

import inspect
import re
from collections import Counter

MIN_WORDS, MAX_WORDS = 5, 60

_SECTION = (
    r"(args|arguments|parameters?|returns?|yields?|raises|examples?|notes?|attributes|usage|inputs?|outputs?|shape|"
    r"references|see also|todo)"
)
# A line that starts anything but prose ends the paragraph: list, option, example, directive, section, table.
_NOT_PROSE = re.compile(
    r"\s*([-*+•#>|]\s|\d+[.)]\s|\(?[a-z0-9]\)\s|:\w[\w ]*:(?!`)|\.\. |>>>|```|@\w|\\|\$|[=~^\-_+*]{3,}|"
    rf"{_SECTION}\s*(:|$)|\w+ : )",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(r"[\w.]+\s*\(.*\)(\s*->.*)?")
_MARKUP = [
    (re.compile(r":[\w:+.-]+:`[~!]?([^`<]*?)\s*(<[^`>]*>)?`"), r"\1"),  # :func:`~a.b`, :ref:`text <target>`
    (re.compile(r"`+([^`<]+?)\s*<[^`>]*>`+_*"), r"\1"),  # `text <address>`_
    (re.compile(r"\s*\[\w+\]_"), ""),  # footnote [1]_
    (re.compile(r"!?\[([^\]]+)\]\([^)]*\)"), r"\1"),  # [text](address)
    (re.compile(r"(?<!\w)\[(`*\w[^\],]*)\]"), r"\1"),  # [text]
    (re.compile(r"`+[~!]?([^`]*)`+_*"), r"\1"),  # `text`, ``code``
    (re.compile(r"\*+(\w[^*]*?)\*+"), r"\1"),  # *text*, **text**
    (re.compile(r"\|(\w[^|]*)\|"), r"\1"),  # |text|
    (re.compile(r"\b(?:\w+\.)+(\w*[A-Za-z]\w+)\b"), r"\1"),  # a.b.name -> name
    (re.compile(r"(?<![\w.])\.(?=[A-Za-z_])"), ""),  # .name, as matplotlib writes it
    (re.compile(r"\b(\w+)\(\)"), r"\1"),  # name() -> name
    (re.compile(r"`"), ""),
    (re.compile(r"\s+"), " "),
]
_SENTENCE_END = re.compile(
    r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bvs\.)(?<!\betc\.)(?<!\bal\.)(?<=[.!?])\s+(?=[A-Z\"'(])"
)
_CODE = re.compile(
    r"[=\\{}<>$^~@|_/]\s*\S*[=\\{}<>$^~@|]|[\\{}<>$^=|@]|https?:|::|:\w+:\w|\w\[|(\b\w+_\w+\b.*){3}|\.\.\."
)

# Sentences that say nothing without what follows them or stands elsewhere.
_DANGLING = re.compile(
    r"(?i)see\b|.*(:|\b(see|such that|defined by|given by|the|and|or|with|from)\.?|\bfollow(s|ing)\.?|"
    r"\bfor (more|further) (information|details?|explanations?)\b.*)$"
)

_BOILERPLATE = re.compile(
    r"(?i)(deprecated|alias (for|of|to)|same as|refer to|internal|todo|for internal|do not|not implemented|"
    r"base class for|dummy|placeholder|no-op|do nothing|copied from|adapted from|"
    r"this (method|function|class) is deprecated)\b"
)


def summary(docstring: str) -> str | None:
    """The first paragraph of a docstring as plain text of 5 to 60 words; None if it has no readable one.

    >>> summary("Compute the :math:`n`-th *discrete* difference, see :func:`~numpy.diff` [1]_.")
    'Compute the n-th discrete difference, see diff.'
    """
    kept: list[str] = []
    paragraph = _first_paragraph(docstring)
    for pattern, replacement in _MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    for sentence in _SENTENCE_END.split(paragraph.strip()):
        if _CODE.search(sentence) or _DANGLING.match(sentence) or not _reads_well(sentence):
            break
        if sum(len(s.split()) for s in [*kept, sentence]) > MAX_WORDS:
            break
        kept.append(sentence)
    text = " ".join(kept)
    if len(text.split()) < MIN_WORDS or _BOILERPLATE.match(text) or not text[0].isalnum():
        return None
    text = text[0].upper() + text[1:].rstrip(" :;,.")
    return text if text.endswith(("!", "?")) else text + "."


def _first_paragraph(docstring: str) -> str:
    """The lines of prose up to the first blank one, without a leading signature ("sum(a, axis)") or title."""
    lines: list[str] = []
    for line in [*inspect.cleandoc(docstring).splitlines(), ""]:
        if line.strip() and not _NOT_PROSE.match(line):
            lines.append(line.strip())
        elif _SIGNATURE.fullmatch(" ".join(lines)) or (lines and re.fullmatch("[=~-]+", line.strip())):
            lines = []
        elif lines or line.strip():
            break
    return " ".join(lines)


def _reads_well(sentence: str) -> bool:
    """Mostly letters, and what is opened is closed."""
    n = Counter(sentence)
    is_closed = n["("] + n["["] == n[")"] + n["]"] and n['"'] % 2 == 0  # together, for there is [0, 1)
    return is_closed and sum(c.isalpha() or c == " " for c in sentence) >= 0.88 * len(sentence)
