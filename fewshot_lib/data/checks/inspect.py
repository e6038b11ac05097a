"""Looking at a data set before using it: what is in it, what is wrong with it, which episodes it can give.

It is the very data set that :func:`fewshot_lib.data.load` returns for the same source and options, under the
very same class split; what ``load`` refuses is refused here in the same words.

An N-way K-shot episode with M queries a class takes K + M examples of each of N classes *of one split*. So
the smallest class of a split limits the shots and queries, and the number of its classes limits the ways.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_lib.data import describe, load
from fewshot_lib.data.checks.duplicates import keys_of, same_groups
from fewshot_lib.data.checks.leaks import check, format_findings, split_of_class
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.labels import MISSING_WORDS
from fewshot_lib.data.own.table_files import read_table
from fewshot_lib.data.own.tables import dataset_of
from fewshot_lib.data.reporting import first_few
from fewshot_lib.data.sources import Source

WAYS = (2, 5, 10, 20)
ENOUGH = 16  # 1 shot and the usual 15 queries
SHOWN = 16  # classes of a split that are listed, unless all are asked for
READ = 256  # tokens of a text that the course's encoder reads
LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Counter = Callable[[list[str]], Sequence[int]]


@dataclass
class Report:
    """What was found in a data set, and in its file: the encoding, empty lines, what its reader noted.

    data: what ``load`` returns. lines: of the file (or rows: unit), where each example stands; () if unknown.
    count_tokens: n texts -> n numbers of tokens; without it words are counted. max_tokens: where the
    encoder cuts. findings: of ``leaks.check``. repeats, conflicts: groups of equal examples (indices) with
    some class twice, with several classes.
    """

    data: ClassDataset
    source: str
    encoding: str = ""
    empty_lines: Sequence[int] = ()
    lines: Sequence[int] = ()
    unit: str = "line"
    notes: Sequence[str] = ()
    count_tokens: Counter | None = None
    max_tokens: int = READ

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

    @cached_property
    def lengths(self) -> np.ndarray | None:
        """(n,) tokens (or words) of every text; None for pictures."""
        if not isinstance(self.data.inputs, list) or not len(self.data):
            return None
        count = self.count_tokens or (lambda texts: [len(text.split()) for text in texts])
        return np.asarray(count(self.data.inputs))

    @property
    def n_cut(self) -> int:
        """Texts of which the encoder reads only the beginning; 0 where tokens could not be counted."""
        if self.lengths is None or self.count_tokens is None:
            return 0
        return int(np.sum(self.lengths > self.max_tokens))

    @property
    def surrogates(self) -> list[int]:
        """Indices of the texts with half a character (a lone surrogate), which no tokenizer reads."""
        texts = self.data.inputs if isinstance(self.data.inputs, list) else []
        return [i for i, text in enumerate(texts) if LONE_SURROGATE.search(text)]

    def format(self, all_classes: bool = False) -> str:
        """The report as text, with every class or with the largest and smallest of each split."""
        encoding = f"\nencoding {self.encoding}" if self.encoding else ""
        header = [f"{self.source}\n{self.data!r}{encoding}", *(f"note: {note}" for note in self.notes)]
        parts = [header, self._classes(all_classes), self._lengths(), self._episodes(), self._defects()]
        texts = ["\n".join(lines) for lines in parts if lines]
        return "\n\n".join([*texts, format_findings(self.findings)])

    def _classes(self, all_classes: bool) -> list[str]:
        counts, names, splits = self.data.counts.tolist(), self.data.class_names, self.data.splits
        nowhere = np.flatnonzero(split_of_class(self.data) < 0).tolist()
        parts = {**{split: ids.tolist() for split, ids in splits.items()}, "no split": nowhere}
        lines = []
        for split, ids in parts.items():
            order = sorted(ids, key=lambda c: (-counts[c], names[c]))
            listed = [f"  {counts[c]:>7,}  {split:<8}  {names[c]}" for c in order]
            if len(listed) > SHOWN and not all_classes:
                hidden = len(listed) - SHOWN
                listed[SHOWN // 2 : -SHOWN // 2] = [f"  … {hidden} more of {split} (--classes lists all) …"]
            lines += listed
        return ["examples  split     class", *lines]

    def _lengths(self) -> list[str]:
        if self.lengths is None:
            return []
        unit = "tokens" if self.count_tokens else "words"
        median, most = np.percentile(self.lengths, [50, 95])
        lines = [
            f"lengths in {unit}: median {median:.0f}, 95 % up to {most:.0f}, longest {self.lengths.max():,}"
        ]
        if n_cut := self.n_cut:
            share = f"{n_cut:,} of {len(self.data):,} texts ({n_cut / len(self.data):.1%})"
            fix = "put first what tells the classes apart, or cut the texts into parts"
            lines.append(
                f"{share} are longer than {self.max_tokens} tokens, and the encoder reads no further: {fix}"
            )
        return lines

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
        names, counts, lines = self.data.class_names, self.data.counts.tolist(), []

        def listed(ids: Sequence[int]) -> str:
            return f"{len(ids)}: {first_few(f'{names[c]!r} ({counts[c]})' for c in ids)}"

        if small := self.small_classes():
            few = f"classes with fewer than {ENOUGH} examples (1 shot and 15 queries)"
            lines.append(f"{few}: {listed(small)} (min_examples=… leaves small ones out)")
        if unsplit := np.flatnonzero(split_of_class(self.data) < 0).tolist():
            lines.append(f"classes that stand in no split, and are not used: {listed(unsplit)}")
        if missing := [c for c, name in enumerate(names) if name.casefold() in MISSING_WORDS]:
            lines.append(f"classes whose name may stand for a missing label: {listed(missing)}")
        if empty := self.empty_lines:
            lines.append(
                f"rows left out for an empty text or label: {len(empty)}: {self.unit} {first_few(empty)}"
            )
        if broken := self.surrogates:
            where = first_few(map(self._place, broken))
            lines.append(f"texts with half a character (a lone surrogate): {len(broken)}: {where}")
        if self.repeats:
            lines.append(f"examples that repeat an earlier one of their class: {self.n_repeats:,}")
        if self.conflicts:
            group = self.conflicts[0]
            which = " and in ".join(map(repr, sorted({names[self.data.labels[i]] for i in group})))
            found = f"{len(self.conflicts):,}, such as {self._place(group[0])} in {which}"
            lines.append(f"examples that stand in several classes: {found}")
        return lines or ["no empty, repeated or contradictory examples, no class too small"]

    def _place(self, i: int) -> str:
        return f"{self.unit} {self.lines[i]}" if self.lines else f"no. {i}"


def inspect(
    source: ClassDataset | Path | str | Mapping[str, Any],
    *,
    count_tokens: Counter | None = None,
    max_tokens: int = READ,
    **options: Any,
) -> Report:
    """A report on what ``load(source, **options)`` returns, or on a data set that is loaded already.

    count_tokens: n texts -> n numbers of tokens, of the encoder that is to read them up to max_tokens.
    """
    measure: dict[str, Any] = {"count_tokens": count_tokens, "max_tokens": max_tokens}
    if isinstance(source, ClassDataset):
        if options:
            raise ValueError(f"`source` is loaded already: give `{min(options)}` to what loads it.")
        return Report(source, source.name, **measure)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asked = describe(source, **options)
        facts: dict[str, Any] = {}
        if asked.kind == "table":
            data, facts = _of_table(asked)
        else:
            data = load(source, **options)
    said = dict.fromkeys(str(warning.message) for warning in caught)
    notes = [note.removeprefix(f"{asked.path}: ") for note in said]
    return Report(data, asked.name, notes=notes, **facts, **measure)


def _of_table(asked: Source) -> tuple[ClassDataset, dict[str, Any]]:
    """What ``load`` makes of a table, and what only its file says."""
    how_read = ("text", "label", "encoding")
    table = read_table(asked.path, **{name: asked.options.get(name) for name in how_read})
    rest = {name: value for name, value in asked.options.items() if name not in how_read}
    data = dataset_of(table, asked.path, **rest)
    kept = set(data.class_names)
    lines = [
        line for (text, name), line in zip(table.rows, table.lines, strict=True) if text and name in kept
    ]
    facts = {"encoding": table.encoding, "empty_lines": table.empty_lines, "lines": lines}
    return data, facts | {"unit": table.unit}
