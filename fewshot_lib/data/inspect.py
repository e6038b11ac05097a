"""Looking at a data set before using it: what is in it, what is wrong with it, and which episodes it can give.

An N-way K-shot episode with M queries a class takes K + M examples of each of N classes *of one split*. So the smallest
class of a split limits the shots and queries, and the number of its classes limits the ways.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import LOADERS, load
from .class_splits import Split
from .dataset import ClassDataset
from .duplicates import image_keys, same_groups, text_keys
from .leaks import Finding, check, format_findings
from .own import from_arrays, from_folder
from .reporting import DataError
from .tables import reader_for

WAYS = (2, 5, 10, 20)
ENOUGH = 16  # 1 shot and the usual 15 queries


@dataclass(frozen=True)
class Report:
    """What was found in a data set; ``format()`` prints it.

    data: the data set itself (without the empty rows).
    source: where it came from; encoding: of the file, "" where there is none.
    empty_lines: lines of the file with an empty text or label.
    repeats: groups of equal examples (indices) with some class twice; conflicts: with several classes.
    findings: what ``leaks.check`` found.
    notes: warnings of the reader.
    """

    data: ClassDataset
    source: str
    encoding: str = ""
    empty_lines: list[int] = field(default_factory=list)
    repeats: list[list[int]] = field(default_factory=list)
    conflicts: list[list[int]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_repeats(self) -> int:
        """How many examples say again what an earlier one of the same class says."""
        labels = self.data.labels.tolist()
        return sum(len(group) - len({labels[i] for i in group}) for group in self.repeats)

    def small_classes(self, enough: int = ENOUGH) -> list[int]:
        """Ids of the classes of all splits with fewer than ``enough`` examples."""
        return sorted(c for classes in self.data.splits.values() for c in classes.tolist() if self.data.counts[c] < enough)

    def largest(self, split: str, n_way: int) -> int:
        """The largest n_shot + n_query that n_way-way episodes on all classes of a split can have; 0 if there are none."""
        counts = self.data.counts[self.data.classes(split)]
        return int(counts.min()) if len(counts) >= n_way else 0

    def format(self) -> str:
        """The report as text."""
        parts = [self._header(), self._classes(), self._episodes(), self._defects(), [format_findings(self.findings)]]
        return "\n\n".join("\n".join(lines) for lines in parts)

    def _header(self) -> list[str]:
        encoding = f"\nencoding {self.encoding}" if self.encoding else ""
        return [f"{self.source}\n{self.data!r}{encoding}", *(f"note: {note}" for note in self.notes)]

    def _classes(self) -> list[str]:
        counts = self.data.counts
        split_of = {c: split for split, classes in self.data.splits.items() for c in classes.tolist()}
        order = sorted(range(self.data.n_classes), key=lambda c: (-int(counts[c]), self.data.class_names[c]))
        shown = order if len(order) <= 40 else order[:20] + order[-20:]
        lines = [f"  {int(counts[c]):>7,}  {split_of.get(c, 'no split'):<8}  {self.data.class_names[c]}" for c in shown]
        if len(shown) < len(order):
            lines.insert(20, f"  … {len(order) - 40} more …")
        return ["examples  split     class", *lines]

    def _episodes(self) -> list[str]:
        lines = [
            "possible episodes: at most so many ways, and so many examples (n_shot + n_query) of every class",
            f"{'split':<10}{'n_way':>6}{'n_shot + n_query':>19}{'n_query at 1 shot':>20}{'at 5 shots':>13}",
        ]
        for split, classes in self.data.splits.items():
            most = self.largest(split, n_way=1)
            queries = [f"{most - shots:,}" if most > shots else "-" for shots in (1, 5)]
            lines.append(f"{split:<10}{len(classes):>6,}{most:>19,}{queries[0]:>20}{queries[1]:>13}")
            counts = sorted(self.data.counts[classes].tolist(), reverse=True)
            for n_way in (n for n in WAYS if n <= len(counts) and most < ENOUGH <= counts[n - 1]):
                lines.append(f"{'':<10}{n_way:>6}{counts[n_way - 1]:>19,}  if the smaller classes are left out")
        return lines

    def _defects(self) -> list[str]:
        names = self.data.class_names
        lines = []
        if small := self.small_classes():
            some = ", ".join(f"{names[c]!r} ({int(self.data.counts[c])})" for c in small[:5]) + (", …" if len(small) > 5 else "")
            lines.append(f"classes with fewer than {ENOUGH} examples (1 shot and 15 queries): {len(small)}: {some}")
        if self.empty_lines:
            some = ", ".join(map(str, self.empty_lines[:5])) + (", …" if len(self.empty_lines) > 5 else "")
            lines.append(f"rows with an empty text or label: {len(self.empty_lines)}: line {some}")
        if self.repeats:
            lines.append(f"examples that repeat an earlier one of their class: {self.n_repeats:,}")
        if self.conflicts:
            classes = sorted({names[self.data.labels[i]] for i in self.conflicts[0]})
            which = " and in ".join(map(repr, classes))
            lines.append(f"examples that stand in several classes: {len(self.conflicts):,}, such as no. {self.conflicts[0][0]} in {which}")
        return lines or ["no empty, repeated or contradictory examples, no class too small"]


def inspect(
    source: ClassDataset | Path | str,
    split: Split = None,
    seed: int = 0,
    text: str = "text",
    label: str = "label",
    encoding: str | None = None,
) -> Report:
    """A report on a data set, a CSV or JSON Lines file, or a folder of images with one sub-folder per class.

    split, seed, text, label, encoding: how to read a path, as in ``data.from_csv``; without ``split``, all classes are
        looked at together, as one split "all".

    Raises DataError for a path that cannot be read at all.
    """
    if isinstance(source, ClassDataset):
        return _report(source, source.name)
    path = Path(source)
    split = {"all": 1.0} if split is None else split
    if not path.is_dir():
        table = reader_for(path)(path, text, label, encoding)
        rows = list(zip(table.texts, table.labels, table.lines, strict=True))
        filled = [(one, name) for one, name, _ in rows if one and name]
        if not filled:
            raise DataError(f"{path} holds no rows with text and label.")
        texts, labels = zip(*filled, strict=True)
        data = from_arrays(texts, labels, split=split, seed=seed, name=path.stem)
        return _report(data, str(path), table.encoding, [line for one, name, line in rows if not one or not name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = from_folder(path, split, seed)
    return _report(data, str(path), notes=[str(warning.message) for warning in caught])


def main(argv: Sequence[str] | None = None) -> int:
    """``fewshot data inspect PATH``: prints the report; returns 1 if the data cannot be read, else 0."""
    purpose = "What is in a data set, what is wrong with it, and which episodes it can give."
    parser = argparse.ArgumentParser(prog="fewshot data inspect", description=purpose)
    parser.add_argument("path", help=f"a .csv or .jsonl file, a folder with one sub-folder of images per class, or {', '.join(LOADERS)}")
    parser.add_argument("--text", default="text", help="name of the column with the texts (default: text)")
    parser.add_argument("--label", default="label", help="name of the column with the class names (default: label)")
    parser.add_argument("--split", help="a .json file {split: [class names]}, a .csv file with the columns class,split, or a split family")
    parser.add_argument("--encoding", help="of the file; without it UTF-8 is expected")
    options = parser.parse_args(argv)
    try:
        if options.path in LOADERS and not Path(options.path).exists():
            report = inspect(load(options.path, options.split))
        else:
            report = inspect(options.path, options.split, text=options.text, label=options.label, encoding=options.encoding)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report.format())
    return 0


def _report(data: ClassDataset, source: str, encoding: str = "", empty_lines: Sequence[int] = (), notes: Sequence[str] = ()) -> Report:
    groups = same_groups(text_keys(data.inputs) if data.is_text else image_keys(data.inputs))
    labels = data.labels.tolist()
    repeats = [group for group in groups if len({labels[i] for i in group}) < len(group)]
    conflicts = [group for group in groups if len({labels[i] for i in group}) > 1]
    return Report(data, source, encoding, list(empty_lines), repeats, conflicts, check(data), list(notes))
