"""Tables of separated values: comma, semicolon, tab or "|", as spreadsheets and programs write them.

The separator is the one that cuts most lines into as many fields as the first. Excel's habits are known: a
first line "sep=;", lines of nothing but separators, any line end. A text may hold separators and line breaks
where it stands in quotation marks, and may be of any length. Blanks around a field belong to it, unless
quotation marks come after them (a, "b, c") and are right so in all of the file. Where one column is named,
nothing separates: a row is a line, an empty one too.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fewshot_lib.data.own.columns import MOST_COLUMNS, NAMES, Reading, choose, shown
from fewshot_lib.data.own.encodings import Text
from fewshot_lib.data.own.labels import tidy
from fewshot_lib.data.reporting import DataError

SEPARATORS = ",;\t|"
NONE = "\uffff"  # the separator of one column: by Unicode's word no character
SAMPLE = 200  # lines that decide on the separator, and on which column is which
MARK_BEHIND_BLANKS = re.compile(' +"')
SEP_LINE = re.compile(r'"?sep=([^\s\w"]|\t)"?\s*', re.IGNORECASE)


class Layout(NamedTuple):
    """Where the table begins: the number of its first line, and how its fields are cut.

    trims: whether blanks after a separator are not part of the field.
    """

    first_line: int
    separator: str
    quoted: bool = True
    trims: bool = False

    def reader(self, lines: Iterable[str], strict: bool = True) -> Any:
        """Rows of fields."""
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return csv.reader(
            lines, delimiter=self.separator, quoting=quoting, strict=strict, skipinitialspace=self.trims
        )

    def sample(self, lines: Iterable[str]) -> list[list[str]]:
        """The rows of the first lines; the last may be cut off, so nothing is wrong with them yet."""
        return [row for row in self.reader(lines, strict=False) if any(row)] or [[""]]


def read(path: Path, source: Text, text: str | None, label: str | None) -> Reading:
    """Reads a table of separated values; within :func:`fields_of_any_length`."""
    names, sample, rows_of_file, _ = opened(path, source)
    if len(names) == 1:
        found = f"its first line names one column, {shown(names[0])}, and texts and labels take two"
        fix = "names and fields are cut by ',' ';' '|' or a tab, or as a line such as sep=~ above says"
        raise DataError(f"{path}: {found}: {fix}.")
    if text is None or label is None:
        need_names(path, names, sample)
    columns = choose(path, names, sample, text, label)
    filled = ((line, row) for line, row in rows_of_file() if any(map(str.strip, row)))
    return Reading(columns, ((line, row[columns.text], row[columns.label]) for line, row in filled))


def opened(
    path: Path, source: Text
) -> tuple[list[str], list[list[str]], Callable[[], Iterator[tuple[int, list[str]]]], str]:
    """The names of the columns, some rows, a function that gives all rows, anew each time; the separator.

    Each row has its line, and a field for every name; all as they stand. Rows are read as they are asked for;
    within :func:`fields_of_any_length`.
    """
    layout, sample = _layout(path, source)
    names = sample[0] + _unnamed(sample)
    return names, sample[1:], partial(_rows, path, source, layout, names), layout.separator


def _unnamed(sample: list[list[str]]) -> list[str]:
    """Empty names for what separators at the end of every line but the first add: columns of nothing."""
    width, rows = len(sample[0]), sample[1:-1] or sample[1:]  # the last may be cut off
    surplus = {tuple(map(str.strip, row[width:])) for row in rows}
    return list(surplus.pop()) if len(surplus) == 1 and not any(chain(*surplus)) else []


def need_names(path: Path, names: list[str], sample: list[list[str]]) -> None:
    """DataError where the first line seems to be data: one of its values stands in further lines.

    A line that names a column "text" or "label" is none, whatever stands below.
    """
    if {"text", "label"} & {tidy(name).casefold() for name in names}:
        return
    for i, name in enumerate(names):
        below = {tidy(row[i]) for row in sample if len(row) == len(names)}
        if (name := tidy(name)) in below - {""} and name.casefold() not in NAMES["text"] + NAMES["label"]:
            found = f"its first line is data already ({shown(name)} is a value of further lines)"
            fix = "put a line such as text,label above it, or name the columns with text=… and label=…"
            raise DataError(f"{path} has no line that names its columns: {found}: {fix}.")


def _rows(path: Path, source: Text, layout: Layout, names: list[str]) -> Iterator[tuple[int, list[str]]]:
    fields = _fields(path, source, layout)
    header = next(row for _, row in fields if any(map(str.strip, row)))
    for line, row in fields:
        if len(row) == len(names) and not any(map(str.strip, row[len(header) :])):
            if row == header:
                again = "names the columns again: remove it (were files joined?)"
                raise DataError(f"{path}, line {line} {again}.")
            yield line, row
        elif any(map(str.strip, row)):
            raise DataError(f"{path}, line {line}: {_wrong_width(row, header, layout.separator)}.")
        elif len(row) > 1 or len(names) == 1:  # nothing but separators, as spreadsheets write
            yield line, [""] * len(names)


def _wrong_width(row: list[str], names: list[str], separator: str) -> str:
    listed = ", ".join(map(shown, names[:8])) + (", …" if len(names) > 8 else "")
    found = f"{len(row)} field{'s' if len(row) > 1 else ''}, but the header names {len(names)} ({listed})"
    holds, other = repr(separator), "every column needs a name"
    if len(row) < len(names):
        holds, other = "a line break", "separators stand around an empty field, too"
    return f"{found}. A text that holds {holds} must stand in quotation marks, and {other}"


def _fields(path: Path, source: Text, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """All fields of every row, none of an empty line, with the line it starts on; the names come first."""
    before = layout.first_line - 1
    reader = layout.reader(islice(source.lines(newline=""), before, None))
    start = 1
    try:
        for row in reader:
            yield before + start, row
            start = reader.line_num + 1
    except csv.Error as error:
        fix = "A text that holds quotation marks or line breaks must be quoted whole"
        raise DataError(f"{path}, line {before + start}: {error}. {fix}.") from None


def _layout(path: Path, source: Text) -> tuple[Layout, list[list[str]]]:
    """How the table is cut, and the first rows of it, names included."""
    lines = list(islice(source.lines(newline=""), SAMPLE))
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if not filled:
        raise DataError(f"{path} is empty: it holds no table.")
    first, separators = filled[0], SEPARATORS
    if (named := SEP_LINE.fullmatch(lines[first])) and len(filled) > 1:
        first, separators = filled[1], named[1]
    if (most := max(map(lines[first].count, separators))) > MOST_COLUMNS:
        raise DataError(
            f"{path}, line {first + 1}: {most + 1:,} fields: this is no table of texts and labels."
        )
    layouts = [Layout(first + 1, separator, trims=True) for separator in separators]
    samples = {layout: layout.sample(lines[first:]) for layout in layouts}
    layout = max(layouts, key=lambda layout: _merit(samples[layout]))
    if len(samples[layout][0]) == 1 and separators == SEPARATORS:
        layout = layout._replace(separator=NONE)
    layout = _marked(source, layout._replace(trims=False), lines[first:])
    return layout, layout.sample(lines[first:])


def _merit(rows: list[list[str]]) -> tuple[bool, float, int]:
    """How well a separator cuts: into several fields, as many in every row as there are names."""
    width = len(rows[0])
    return width > 1, sum(len(row) == width for row in rows) / len(rows), width


def _marked(source: Text, layout: Layout, lines: list[str]) -> Layout:
    """The layout with what all of the file says about quotation marks; lines: the first ones.

    They may stand behind blanks, which then are no part of a field. Tools that write tabs often do not quote
    at all: a mark at the start of a text is part of it.
    """
    fits, n = _marks_fit(source, layout, lines)
    trimmed = layout._replace(trims=True)
    fits_trimmed, n_trimmed = _marks_fit(source, trimmed, lines)
    if fits_trimmed and (n > n_trimmed or not fits):
        return trimmed
    return layout if fits or layout.separator != "\t" else layout._replace(quoted=False)


def _marks_fit(source: Text, layout: Layout, lines: list[str]) -> tuple[bool, int]:
    """Whether marks that open a field close it, in all rows; and how many fields begin " \\"", read so."""
    sample = layout.sample(lines)
    width, n = len(sample[0] + _unnamed(sample)), 0
    try:
        for row in layout.reader(islice(source.lines(newline=""), layout.first_line - 1, None)):
            if len(row) != width and any(map(str.strip, row)) and row != sample[0]:
                return False, n
            n += sum(MARK_BEHIND_BLANKS.match(field) is not None for field in row)
    except csv.Error:
        return False, n
    return True, n


@contextmanager
def fields_of_any_length() -> Iterator[None]:
    """Around all reading: the csv module refuses fields above 128 KB, for the whole process, until told."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
