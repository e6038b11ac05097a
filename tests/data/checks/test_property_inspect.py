"""`inspect`, `load` and the check before a run agree: the same data set and split, or the same refusal."""

import csv
import os
import tempfile
import warnings
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_lib.course.running.runner import check_dataset
from fewshot_lib.data import ClassDataset, DataError, describe, load, write_split
from fewshot_lib.data.checks.inspect import inspect

EXAMPLES = int(os.environ.get("FEWSHOT_EXAMPLES", "100"))
LABELS = st.sampled_from(
    ["a", "b", "A", "c ", "é", "e\u0301", "7", "07", "NA", "", "x y", 'q"', "d", "e", "f", "g"]
)
TEXTS = st.text(st.sampled_from("abc é,;\n\"'\t😀 "), max_size=12)
ROWS = st.lists(st.tuples(TEXTS, LABELS), max_size=30)
HEADERS = st.sampled_from(
    [("text", "label"), ("text", "label"), ("Text", "LABEL"), ("a", "b"), ("text", "text")]
)
SPLITS = ["0.8/0.2", "1", "0.6/0.2/0.2", "bao", "80/20", {"train": ["a"], "test": ["b"]}, {"test": 1.0}, {}]
VALUES = {
    "text": ["text", "a", "b"],
    "label": ["label", "b"],
    "encoding": ["utf-8", "utf-16", "no"],
    "split": SPLITS,
    "seed": [-1, 0, 3],
    "min_examples": [0, 1, 2, 3],
    "color": [False],
}
ONE_OPTION = st.sampled_from([(name, value) for name, values in VALUES.items() for value in values])
OPTIONS = st.builds(dict, st.one_of(st.just([]), st.lists(ONE_OPTION, max_size=2)))
FILES = st.tuples(st.sampled_from([",", ";", "\t"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))


def outcome(function, path, options):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(path, **options)
    except ValueError as error:
        # a run knows a split file by its whole path
        return type(error), str(error).replace(f"{Path.cwd()}/", "")


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(ROWS, HEADERS, FILES, OPTIONS, st.booleans())
def test_inspect_and_load_agree(rows, header, file, options, drop_empty):
    options = options | {"drop_empty": drop_empty}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.csv"
        with path.open("w", encoding=file[1], newline="") as table:
            csv.writer(table, delimiter=file[0]).writerows([header, *rows])
        loaded, report = outcome(load, path, options), outcome(inspect, path, options)
        notes = outcome(notes_of_a_run, path, options)
        if not isinstance(loaded, ClassDataset):
            assert loaded == report == notes
            assert issubclass(loaded[0], DataError) or "`" in loaded[1], "a file is named, or an argument"
            return
        assert report.data.inputs == loaded.inputs and report.data.class_names == loaded.class_names
        assert listed(report.data) == listed(loaded) and report.data.split_family == loaded.split_family
        assert [note.removeprefix(f"{path}: ") for note in notes] == report.notes
        assert all(f"  {name}" in report.format(all_classes=True) for name in loaded.class_names)
        write_split(path.with_suffix(".json"), loaded)
        again = outcome(load, path, options | {"split": path.with_suffix(".json")})
        assert listed(again) == listed(loaded)


def notes_of_a_run(path, **options):
    """What `fewshot run` says of a data set before a kernel starts."""
    notes = []
    check_dataset({}, {"dataset": describe(path, **options).absolute()}, notes.append)
    return [note.removeprefix("note: ") for note in notes]


def listed(dataset):
    return {part: ids.tolist() for part, ids in dataset.splits.items()}
