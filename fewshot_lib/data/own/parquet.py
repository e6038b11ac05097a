"""Tables in the parquet format, by pyarrow where it is installed; of labelled ones, two columns are read."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fewshot_lib.data.own.columns import Columns, Reading, choose
from fewshot_lib.data.reporting import DataError

SAMPLE = 200


def read(path: Path, raw: bytes, text: str | None, label: str | None) -> Reading:
    """Reads a parquet table."""
    pa, pq = modules(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        names = file.schema_arrow.names
        # Of several columns with one name none can be told: choose() refuses them.
        plain = [name for name in names if names.count(name) == 1]
        start = next(file.iter_batches(SAMPLE, columns=plain), None)
        values = {name: start.column(name).to_pylist() for name in plain} if start is not None else {}
        length = start.num_rows if start is not None else 0
        sample = [[values[name][i] if name in values else None for name in names] for i in range(length)]
        columns = choose(path, names, sample, text, label)
        table = file.read(columns=list(columns.used))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise DataError(f"{path} is no whole parquet file ({error}).") from None
    return Reading(columns, _rows(path, table, columns, _class_names(file, columns.used[1])), "row")


def modules(path: Path) -> tuple[Any, Any]:
    """pyarrow and its parquet; DataError where they are not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        fix = "pip install 'fewshot-lib[parquet]' (pyarrow), or take .csv or .jsonl"
        raise DataError(f"{path} is a parquet table, which needs a package: {fix}.") from None
    return pa, pq


def opened(path: Path, raw: bytes | None) -> tuple[Any, Callable[[], Iterator[tuple[int, list[Any]]]]]:
    """The schema of all columns, and a function that gives all rows, in the memory of a few, anew each time.

    raw: what the file unpacks to, where it is compressed as a whole.
    """
    pa, pq = modules(path)

    def file() -> Any:
        return pq.ParquetFile(path if raw is None else pa.BufferReader(raw))

    def rows() -> Iterator[tuple[int, list[Any]]]:
        done = 0
        try:
            for batch in file().iter_batches(SAMPLE):
                columns = [column.to_pylist() for column in batch.columns]
                yield from enumerate(map(list, zip(*columns, strict=True)), start=done + 1)
                done += batch.num_rows
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{path}, after row {done}: it cannot be read further ({error}).") from None

    try:
        return file().schema_arrow, rows
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise DataError(f"{path} is no whole parquet file ({error}).") from None


def _rows(
    path: Path, table: Any, columns: Columns, class_names: list[str] | None
) -> Iterator[tuple[int, object, object]]:
    done = 0
    for batch in table.select(list(columns.used)).to_batches():
        try:
            texts, labels = (column.to_pylist() for column in batch.columns)
        except (UnicodeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}, after row {done}: a value cannot be read ({error}).") from None
        for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=done + 1):
            if class_names is not None and isinstance(label, int) and -1 <= label < len(class_names):
                label = class_names[label] if label >= 0 else None  # -1: the example has no label
            yield number, text, label
        done += len(texts)


def _class_names(file: Any, label: str) -> list[str] | None:
    """The names behind the numbers of a label column, where the package "datasets" wrote them beside it."""
    try:
        features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
