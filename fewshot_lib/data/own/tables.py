"""Your own table of texts and labels as a data set.

Which formats, encodings and column names are read, and how, is said in ``table_files``; here rows become a
:class:`ClassDataset`: empty ones are refused or dropped, small classes left out, the classes split. To look
at a table before using it: ``fewshot data inspect FILE``.
"""

import warnings
from pathlib import Path

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.arrays import from_arrays
from fewshot_lib.data.own.class_splits import Split
from fewshot_lib.data.own.table_files import Table, name_of, read_table
from fewshot_lib.data.reporting import DataError, first_few


def from_table(
    path: Path | str,
    *,
    text: str | None = None,
    label: str | None = None,
    encoding: str | None = None,
    split: Split = None,
    seed: int = 0,
    drop_empty: bool = False,
    min_examples: int = 1,
) -> ClassDataset:
    """Texts from a table: .csv, .tsv, .txt, .jsonl, .json or .parquet, also .gz, .bz2, .xz of these.

    text, label: names of the two columns; None takes them where only one choice is possible.
    encoding: of the file; None finds it. What is guessed is said in a warning.
    split, seed: which classes are for training, validation and testing; see ``class_splits.split_classes``.
    drop_empty: leave out rows whose text or label is missing, instead of refusing the file.
    min_examples: leave out classes with fewer.
    """
    table = read_table(path, text, label, encoding)
    return dataset_of(table, Path(path), split, seed, drop_empty, min_examples)


def dataset_of(
    table: Table,
    path: Path,
    split: Split = None,
    seed: int = 0,
    drop_empty: bool = False,
    min_examples: int = 1,
) -> ClassDataset:
    """The same of a table that was read already, from the file ``path``."""
    if (empty := table.empty_lines) and not drop_empty:
        found = f"{len(empty):,} rows have an empty text or label ({table.unit} {first_few(empty)})"
        raise DataError(f"{path}: {found}: fill them in, or pass drop_empty=True (--drop-empty).")
    if table.notes:
        warnings.warn(f"{path}: {'; '.join(table.notes)}.", stacklevel=3)
    texts, labels = zip(*(row for row in table.rows if all(row)), strict=True)
    return from_arrays(texts, labels, split=split, seed=seed, name=name_of(path), min_examples=min_examples)


from_csv = from_jsonl = from_table  # the names that people look for
