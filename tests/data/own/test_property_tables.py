"""Whatever a file holds: a data set, or a DataError that names it. What was written well comes back.

FEWSHOT_EXAMPLES is the number of files that each test tries; 20,000 take most of an hour.
"""

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import os
import re
import tempfile
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewshot_lib.course.labelling.formats import format_of
from fewshot_lib.course.labelling.inputs import Texts
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.labels import tidy
from fewshot_lib.data.own.table_files import read_table
from fewshot_lib.data.own.tables import from_table
from fewshot_lib.data.reporting import DataError

EXAMPLES = int(os.environ.get("FEWSHOT_EXAMPLES", "100"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}

# Signs that are special somewhere: separators, quotes, ends of lines, accents, invisible and wide characters.
special = st.sampled_from(",;\t|\"'\n\r{}[]:\\= é\u0301\u200b\u2028\x85日😀ß")
words = st.text(st.one_of(special, st.characters(exclude_categories=["Cs", "Cc"])), max_size=25)
well_formed = words.filter(lambda text: tidy(text) and "\0" not in text)
label_names = st.lists(well_formed, min_size=1, max_size=6)
tables = label_names.flatmap(
    lambda names: st.lists(st.tuples(well_formed, st.sampled_from(names)), min_size=1, max_size=15)
)
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030"])


def read(content, name, **options):
    """The rows of a file of this content, the data set that it is, and the texts that ``predict`` finds."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, name)
        path.write_bytes(content)
        split = {"split": {"test": 1.0}}
        to_label = [row.given for row in Texts.of(path, "text", options.get("encoding")).rows()]
        return read_table(path, **options), from_table(path, **options, **split), to_label


def expected(rows):
    return [(text.strip(), tidy(label)) for text, label in rows]


def check_against(rows, read_back):
    table, data, to_label = read_back
    assert table.rows == expected(rows)
    assert to_label == [text for text, _ in expected(rows)]
    assert isinstance(data, ClassDataset)
    assert data.inputs == [text for text, _ in expected(rows)]
    assert [data.class_names[c] for c in data.labels.tolist()] == [label for _, label in expected(rows)]


@many
@given(
    rows=tables,
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=encodings,
    packer=st.sampled_from(sorted(PACKERS)),
    name=st.sampled_from(["x.csv", "x.tsv", "x.txt", "x"]),
)
def test_a_separated_table_comes_back(rows, separator, end, encoding, packer, name):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *rows])
    content = PACKERS[packer](file.getvalue().encode(encoding))
    named = {"encoding": encoding} if encoding == "gb18030" else {}
    check_against(rows, read(content, name + packer, **named))


fields = words.filter(lambda text: "\0" not in text) | st.sampled_from(["", " ", ' "', ' "a"', "  a", "a "])


@many
@given(
    rows=st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(fields, min_size=n, max_size=n), min_size=1)),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_every_field_of_every_row_stays_as_it_stands(rows, separator, quoting, encoding):
    """Where ``predict`` reads it, and where it is read again from what ``predict`` writes."""
    names = ["text", " b", "c"][: len(rows[0])]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, quoting=quoting).writerows([names, *rows])
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder, "x.csv"), Path(folder, "again.csv")
        path.write_bytes(file.getvalue().encode(encoding))
        given = Texts.of(path, None, None)
        assert (given.header, [row.fields for row in given.rows()]) == (names, rows)
        form = format_of(again, names, [], given)
        again.write_bytes(form.start() + form.rows([row.fields for row in given.rows()]))
        assert [row.fields for row in Texts.of(again, None, None).rows()] == rows


@many
@given(
    rows=tables,
    form=st.sampled_from("lines array columns pandas data".split()),
    encoding=encodings,
    plain=st.booleans(),
)
def test_a_table_in_json_comes_back(rows, form, encoding, plain):
    objects = [{"text": text, "n": None, "label": label} for text, label in rows]
    columns = {name: [row[name] for row in objects] for name in ("text", "n", "label")}
    keyed = {name: {str(i): value for i, value in enumerate(values)} for name, values in columns.items()}
    whole = {"array": objects, "columns": columns, "pandas": keyed, "data": {"version": 1, "data": objects}}
    if form == "lines":
        content = "\n".join(json.dumps(row, ensure_ascii=plain) for row in objects)
    else:
        content = json.dumps(whole[form], ensure_ascii=plain, indent=1 if plain else None)
    named = {"encoding": encoding} if encoding == "gb18030" else {}
    check_against(rows, read(content.encode(encoding), "x.json", **named))


def can_be_labelled_or_is_refused(path, encoding):
    """What ``predict`` does with a file: every row is read, and written in every format."""
    with contextlib.suppress(DataError):
        given = Texts.of(path, None, encoding)
        rows = [row.fields for row in given.rows()]
        assert {len(fields) for fields in rows} <= {len(given.header)}
        for ending in (".csv", ".jsonl", ".parquet"):
            form = format_of(path.with_suffix(ending), given.header, [], given)
            part = path.with_name("part")
            part.write_bytes(form.start() + form.rows(rows[:2]) + form.rows(rows[2:]))
            form.finish(part, path.with_name(f"out{ending}"))
        found = [json.loads(line) for line in path.with_name("out.jsonl").read_bytes().splitlines()]
        assert len(found) == len(rows) == pq.read_table(path.with_name("out.parquet")).num_rows


def accepted_or_refused(content, name, **options):
    """Nothing but a data set or a DataError; what is refused is refused by both, in the same words."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, name)
        path.write_bytes(content)
        can_be_labelled_or_is_refused(path, options.get("encoding"))
        try:
            table = read_table(path, **options)
        except DataError as error:
            refusal = str(error)
        else:
            refusal = None
        if refusal is not None:
            assert str(path) in refusal and len(refusal) < 5000
            with pytest.raises(DataError, match=f"^{re.escape(refusal)}$"):
                from_table(path, **options, split={"test": 1.0})
            return
        if table.empty_lines:
            with pytest.raises(DataError, match=f"{table.unit} {table.empty_lines[0]}"):
                from_table(path, **options, split={"test": 1.0})
        data = from_table(path, **options, split={"test": 1.0}, drop_empty=True)
        assert len(data) == len(table.rows) - len(table.empty_lines) > 0
        assert all(text and text == text.strip() for text in data.inputs)
        assert all(name and name == tidy(name) for name in data.class_names)
        assert len(set(data.class_names)) == data.n_classes


cells = st.one_of(
    words, st.sampled_from(["", " ", "text", "label", '"', '""', "\0", "\ud800", "sep=;", "NaN"])
)
names = st.sampled_from("x.csv x.tsv x.txt x.json x.jsonl x.ndjson x.parquet x x.csv.gz x.xlsx x.Dat".split())


@st.composite
def damaged(draw):
    """The bytes of a table, with a header of any kind, rows of any length, and some bytes changed."""
    header = draw(st.one_of(st.just(["text", "label"]), st.lists(cells, max_size=4)))
    rows = [header, *draw(st.lists(st.lists(cells, max_size=4), max_size=10))]
    separator, end = draw(st.sampled_from(",;\t|~")), draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    content = draw(st.sampled_from(["", "sep=;\n", "\ufeff"])) + end.join(separator.join(row) for row in rows)
    encoding = draw(
        st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32-be", "cp1252", "shift_jis", "koi8-r"])
    )
    raw = bytearray(content.encode(encoding, "ignore"))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)):
        if raw:
            raw[place % len(raw)] = byte
    packed = PACKERS[draw(st.sampled_from(sorted(PACKERS)))](bytes(raw))
    return packed[: draw(st.one_of(st.none(), st.integers(0, len(packed))))]


@many
@given(
    content=damaged(),
    name=names,
    encoding=st.sampled_from([None, None, "utf-8", "utf-16", "cp1252", "latin-1"]),
)
def test_a_damaged_table_is_read_or_refused(content, name, encoding):
    accepted_or_refused(content, name, encoding=encoding)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), cells),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from("text label data columns x".split()), inner)
    ),
    max_leaves=12,
)
objects = st.fixed_dictionaries({"text": cells | values, "label": cells | values})


@many
@given(
    rows=st.lists(objects | values, max_size=8),
    form=st.sampled_from(["lines", "array", "indented", "first"]),
    cut=st.none() | st.integers(0, 400),
    name=names,
)
def test_odd_json_is_read_or_refused(rows, form, cut, name):
    if form == "lines":
        content = "\n".join(map(json.dumps, rows))
    else:
        content = json.dumps(
            rows[:1][0] if form == "first" and rows else rows, indent=1 if form == "indented" else None
        )
    accepted_or_refused(content[:cut].encode(), name)


@many
@given(content=st.binary(max_size=300), name=names)
def test_any_bytes_are_read_or_refused(content, name):
    accepted_or_refused(content, name)


@many
@given(rows=tables, place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_parquet_file_is_read_or_refused(rows, place, byte, cut):
    file = io.BytesIO()
    pq.write_table(
        pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), file
    )
    content = bytearray(file.getvalue())
    check_against(rows, read(bytes(content), "x.parquet"))
    content[place % len(content)] = byte
    accepted_or_refused(bytes(content[: place % len(content)] if cut else content), "x.parquet")
