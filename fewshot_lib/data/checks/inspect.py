"""Looking at a data set before using it: what is in it, what is wrong with it, which episodes it can give.

An N-way K-shot episode with M queries a class takes K + M examples of each of N classes *of one split*. So
the smallest class of a split limits the shots and queries, and the number of its classes limits the ways.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_lib.data import LOADERS, load
from fewshot_lib.data.checks.duplicates import keys_of, same_groups
from fewshot_lib.data.checks.leaks import check, format_findings
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.class_splits import Split
from fewshot_lib.data.own.files import from_folder, from_table
from fewshot_lib.data.own.tables import reader_for
from fewshot_lib.data.reporting import first_few

WAYS = (2, 5, 10, 20)
ENOUGH = 16  # 1 shot and the usual 15 queries


@dataclass
class Report:
    """What was found in a data set, and in its file: the encoding, empty lines, warnings of the reader.

    data: without the rows that are empty. findings: of ``leaks.check``.
    repeats, conflicts: groups of equal examples (indices) with some class twice, with several classes.
    """

    data: ClassDataset
    source: str
    encoding: str = ""
    empty_lines: Sequence[int] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        labels = self.data.labels.tolist()
        groups = [(group, {labels[i] for i in group}) for group in same_groups(keys_of(self.data.inputs))]
        self.repeats = [group for group, classes in groups if len(classes) < len(group)]
        self.conflicts = [group for group, classes in groups if len(classes) > 1]
        self.n_repeats = sum(len(group) - len(classes) for group, classes in groups)
        self.findings = check(self.data)

    def small_classes(self) -> list[int]:
        """Ids of the classes of all splits with fewer than ``ENOUGH`` examples."""
        counts = self.data.counts
        return sorted(c for ids in self.data.splits.values() for c in ids.tolist() if counts[c] < ENOUGH)

    def largest(self, split: str) -> int:
        """The largest n_shot + n_query of episodes on all classes of a split; 0 for a split without any."""
        return min(self.data.counts[self.data.classes(split)].tolist(), default=0)

    def format(self) -> str:
        """The report as text."""
        encoding = f"\nencoding {self.encoding}" if self.encoding else ""
        header = [f"{self.source}\n{self.data!r}{encoding}", *(f"note: {note}" for note in self.notes)]
        parts = [header, self._classes(), self._episodes(), self._defects()]
        return "\n\n".join(["\n".join(lines) for lines in parts] + [format_findings(self.findings)])

    def _classes(self) -> list[str]:
        counts, names = self.data.counts.tolist(), self.data.class_names
        split_of = {c: split for split, classes in self.data.splits.items() for c in classes.tolist()}
        order = sorted(range(self.data.n_classes), key=lambda c: (-counts[c], names[c]))
        lines = [f"  {counts[c]:>7,}  {split_of.get(c, 'no split'):<8}  {names[c]}" for c in order]
        if len(lines) > 40:
            lines[20:-20] = [f"  … {len(lines) - 40} more …"]
        return ["examples  split     class", *lines]

    def _episodes(self) -> list[str]:
        lines = [
            "possible episodes: at most so many ways, and so many examples (n_shot + n_query) of every class",
            f"{'split':<10}{'n_way':>6}{'n_shot + n_query':>19}{'n_query at 1 shot':>20}{'at 5 shots':>13}",
        ]
        for split, classes in self.data.splits.items():
            most = self.largest(split)
            queries = [f"{most - shots:,}" if most > shots else "-" for shots in (1, 5)]
            lines.append(f"{split:<10}{len(classes):>6,}{most:>19,}{queries[0]:>20}{queries[1]:>13}")
            counts = sorted(self.data.counts[classes].tolist(), reverse=True)
            for n_way in (n for n in WAYS if n <= len(counts) and most < ENOUGH <= counts[n - 1]):
                smaller = "if the smaller classes are left out"
                lines.append(f"{'':<10}{n_way:>6}{counts[n_way - 1]:>19,}  {smaller}")
        return lines

    def _defects(self) -> list[str]:
        names, lines = self.data.class_names, []
        if small := self.small_classes():
            few = f"classes with fewer than {ENOUGH} examples (1 shot and 15 queries): {len(small)}"
            lines.append(f"{few}: {first_few(f'{names[c]!r} ({int(self.data.counts[c])})' for c in small)}")
        if empty := self.empty_lines:
            lines.append(f"rows with an empty text or label: {len(empty)}: line {first_few(empty)}")
        if self.repeats:
            lines.append(f"examples that repeat an earlier one of their class: {self.n_repeats:,}")
        if self.conflicts:
            group = self.conflicts[0]
            which = " and in ".join(map(repr, sorted({names[self.data.labels[i]] for i in group})))
            found = f"{len(self.conflicts):,}, such as no. {group[0]} in {which}"
            lines.append(f"examples that stand in several classes: {found}")
        return lines or ["no empty, repeated or contradictory examples, no class too small"]


def inspect(
    source: ClassDataset | Path | str,
    split: Split = None,
    text: str = "text",
    label: str = "label",
    encoding: str | None = None,
) -> Report:
    """A report on a data set or a path; options as in ``data.from_csv``, but no split is one split "all"."""
    if isinstance(source, ClassDataset):
        return Report(source, source.name)
    path = Path(source)
    split = {"all": 1.0} if split is None else split
    if not path.is_dir():
        table = reader_for(path)(path, text, label, encoding)
        data = from_table(table, path, split, drop_empty=True)
        return Report(data, str(path), table.encoding, table.empty_lines)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = from_folder(path, split)
    return Report(data, str(path), notes=[str(warning.message) for warning in caught])


def inspect_dataset(source: str, split: str | None = None, **options: Any) -> str:
    """The report as text, on a path or (unless a file has that name) on a set of ``data.load``.

    split: of a path, a split file; of a set, its split family. options: as in :func:`inspect`.
    """
    if source in LOADERS and not Path(source).exists():
        return inspect(load(source, split)).format()
    return inspect(source, split, **options).format()
