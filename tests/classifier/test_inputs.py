"""What people hand over: read as what it is, or refused with the argument, the value and the fix."""

import enum
import tracemalloc
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from sklearn.model_selection import cross_val_score

from fewshot_lib import FewShotClassifier
from fewshot_lib.classifier.inputs import recognise

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (4, 8, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_beyond_0_to_1_are_no_pixels(kind):
    with pytest.raises(ValueError, match="`X` holds floats from 0 to 255: divide by 255, or pass uint8"):
        recognise(np.linspace(0, 255, 4 * 8 * 6).reshape(4, 8, 6).astype(kind))
    with pytest.raises(ValueError, match="`X` holds floats from -0.5 to 0"):
        recognise(np.linspace(-0.5, 0, 4 * 8 * 6).reshape(4, 8, 6).astype(kind))
    ends = np.linspace(0, 1, 4 * 8 * 6).reshape(4, 1, 8, 6).astype(kind)
    np.testing.assert_array_equal(recognise(ends)[1], ends.astype(np.float32))
    assert recognise(ends[:0])[1].shape == (0, 1, 8, 6)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_signed_whole_numbers_are_the_bytes_that_they_stand_for(kind):
    np.testing.assert_array_equal(recognise(PICTURES.astype(kind))[1], recognise(PICTURES)[1])
    with pytest.raises(ValueError, match=f"`X` holds whole numbers from -1 to 254 .{np.dtype(kind)}.: bring"):
        recognise(np.where(PICTURES == 255, 254, PICTURES).astype(kind) - (PICTURES == 0).astype(kind))


def test_unsigned_whole_numbers_of_16_bits_fill_their_range():
    deep = PICTURES.astype(np.uint16) * 257
    np.testing.assert_allclose(recognise(deep)[1], recognise(PICTURES / 255)[1], atol=1e-7)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Four picture files in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(f"a {i}.png")
    return [f"a {i}.png" for i in range(4)]


@pytest.mark.parametrize("as_path", [str, Path])
@pytest.mark.parametrize("there", [0, 1, 3])
def test_mistyped_paths_of_pictures_are_named_and_are_no_texts(there, as_path, files):
    given = files[:there] + [f"b {i}.JPG" for i in range(there, 4)]
    with pytest.raises(ValueError, match=rf"`X` names paths: {4 - there} of 4 .* not there, 'b {there}.JPG'"):
        FewShotClassifier(encoder="pixels").fit([as_path(name) for name in given], [0, 0, 1, 1])


def test_of_many_missing_files_the_first_few_are_named():
    with pytest.raises(ValueError, match="`X` names paths: 9 of 9 .*'3.png', '4.png', …: mend them, or give"):
        recognise([f"{i}.png" for i in range(9)])


def test_a_missing_file_is_named_when_its_label_is_asked_for(files):
    clf = FewShotClassifier(encoder="pixels").fit(files, [0, 0, 1, 1])
    assert len(clf.predict(files[:1])) == 1
    for asked in (["b.png"], [Path("b 1.png")], [*files, "b.png"]):
        with pytest.raises(ValueError, match=f"1 of {len(asked)} picture files are not there, 'b"):
            clf.predict(asked)


@pytest.mark.parametrize(
    "texts",
    [
        ["the cat", "cat.png"],
        ["look at the attached cat.png"],
        ["a 0.png", "the cat"],
        ["x" * 999 + ".png", "a"],
    ],
)
def test_among_texts_what_ends_like_a_picture_is_a_text(texts, files):
    assert recognise(texts) == ("texts", texts)


@pytest.mark.parametrize(
    "one_by_one",
    [
        list,
        tuple,
        lambda pictures: [torch.from_numpy(picture) for picture in pictures],
        lambda pictures: [torch.from_numpy(picture / 255).movedim(-1, 0) for picture in pictures],
        lambda pictures: [Image.fromarray(picture) for picture in pictures],
        lambda pictures: pandas.Series(list(pictures), index=range(5, 9)),
    ],
)
def test_pictures_in_a_list_are_those_of_the_array(one_by_one):
    for pictures in (PICTURES, PICTURES[..., :1]):
        kind, read = recognise(one_by_one(pictures) if pictures.shape[-1] == 3 else list(pictures[..., 0]))
        scale = 1 if read.dtype == torch.uint8 else 255
        assert kind == "pictures"
        np.testing.assert_allclose(scale * read, recognise(pictures)[1], atol=1e-4)


def test_a_picture_in_a_list_of_another_shape_or_of_a_palette_is_named():
    with pytest.raises(
        ValueError, match=r"pictures of \(8, 6\) in row 2 .* and \(8, 6, 3\) before: bring all"
    ):
        recognise([*PICTURES[:2], PICTURES[2, ..., 0]])
    palette = Image.fromarray(PICTURES[1]).quantize(4)
    with pytest.raises(ValueError, match="an image of mode 'P' in row 1 .*: convert..RGB"):
        recognise([Image.fromarray(PICTURES[0]), palette])


TEXTS = ["the fee", "the wifi"]


@pytest.mark.parametrize(
    "table",
    [
        [[text] for text in TEXTS],
        [(text,) for text in TEXTS],
        np.array(TEXTS)[:, None],
        np.array(TEXTS, dtype=object)[:, None],
        pandas.DataFrame({"t": pandas.Categorical(TEXTS)}),
    ],
)
def test_a_table_of_one_column_of_texts_is_its_texts(table):
    assert recognise(table) == ("texts", TEXTS)


class Column:
    """A column of a library that is not known here: it has rows, and becomes an array."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype or object)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return Column(self.values[rows])


@pytest.mark.parametrize(
    "of", [Column, lambda texts: Column([[text] for text in texts]), "pyarrow", "polars"]
)
def test_a_column_of_texts_is_one_whoever_made_it(of):
    if isinstance(of, str):
        library = pytest.importorskip(of)
        of = library.array if of == "pyarrow" else library.Series
    assert recognise(of(TEXTS)) == ("texts", TEXTS)
    texts = [*TEXTS, "a fee", "a wifi"]
    clf = FewShotClassifier(encoder=Length(), names=None).fit(of(texts), pandas.Series(["a", "b"] * 2))
    assert [len(part.label) for part in clf.stream(of(texts), chunk=3)] == [3, 1]
    with pytest.raises(ValueError, match="`X` is None, no text in row 1"):
        clf.predict(of(["the fee", None]))


def test_a_text_of_what_cannot_be_seen_is_empty():
    with pytest.raises(ValueError, match="`X` is empty in row 1"):
        recognise(["the fee", "\u200b \ufeff"])


@pytest.mark.parametrize("name", ["letter.heic", "letter.txt"])
def test_names_of_files_that_are_there_are_no_texts_to_learn_from(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in (name, f"my {name}"):
        Path(file).write_bytes(b"words")
        assert recognise([file, "words"])[0] == "texts"
    with pytest.raises(ValueError, match=f"{name} cannot be read as a picture"):
        FewShotClassifier().fit([name, f"my {name}"], ["a", "b"])
    assert recognise([Path(name).stem] * 2)[0] == "texts"


def test_a_picture_that_lies_on_its_side_stands_upright_from_a_file_and_from_memory(tmp_path):
    turned = Image.Exif()
    turned[274] = 6  # a telephone that was held upright
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png", exif=turned)
    from_file = recognise([tmp_path / "a.png"], 6, 8, True)[1]
    np.testing.assert_array_equal(recognise([Image.open(tmp_path / "a.png")])[1], from_file)


def test_one_picture_is_asked_for_as_a_list():
    with pytest.raises(ValueError, match=r"`X` is one picture: give a list, \[X\]"):
        recognise(Image.fromarray(PICTURES[0]))


def test_features_that_torch_is_still_computing_with_are_those_numbers():
    points = torch.eye(4, requires_grad=True)
    for given in (points, points.bfloat16()):
        clf = FewShotClassifier().fit(given, [0, 0, 1, 1])
        np.testing.assert_array_equal(clf.predict_proba(given), clf.predict_proba(np.eye(4)))


def test_in_a_table_of_one_column_the_row_without_a_text_is_named():
    with pytest.raises(ValueError, match="`X` is None, no text in row 1"):
        recognise([["the fee"], [None]])


def test_texts_beside_other_columns_are_refused_by_name():
    frame = pandas.DataFrame({"n": [1, 2], "title": TEXTS, "body": TEXTS})
    with pytest.raises(
        ValueError, match=r"3 columns, with texts in 'title', 'body': .* such as X\['title'\]"
    ):
        recognise(frame)
    with pytest.raises(ValueError, match="2 columns, with texts in 'title'"):
        FewShotClassifier().fit(frame[["n", "title"]], [0, 1])
    with pytest.raises(ValueError, match="`X` has 3 columns, with texts among them: give one"):
        recognise(frame.to_numpy())


@pytest.mark.parametrize(
    "X",
    [
        iter(TEXTS),
        (text for text in TEXTS),
        set(TEXTS),
        map(str, TEXTS),
        dict.fromkeys(TEXTS),
        dict.fromkeys(TEXTS).keys(),
        dict(enumerate(TEXTS)).values(),
    ],
)
def test_what_has_no_rows_to_count_is_refused(X):
    with pytest.raises(ValueError, match=f"`X` is a {type(X).__name__}.*give a list, such as list.X."):
        recognise(X)


@pytest.mark.parametrize(
    "X",
    [
        [[1.0], [2.0]],
        [[1, 2], [3, 4]],
        [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
        np.array([[1], [2]], dtype=object),
        pandas.DataFrame({"a": [1.0, 2.0], "b": pandas.Series([1, 2], dtype=object)}),
        pandas.DataFrame({"a": [1.0, 2.0]}),
    ],
)
def test_tables_of_numbers_stay_features(X):
    kind, found = recognise(X)
    assert kind == "features" and found is X


@pytest.fixture(scope="module")
def on_points():
    """A classifier of features whose columns have names, and a table of such features."""
    frame = pandas.DataFrame(RNG.normal(size=(7, 3)), columns=["a", "b", "c"])
    return FewShotClassifier().fit(frame, [0, 0, 0, 1, 1, 1, 1]), frame


def streamed(clf, inputs):
    """Labels and probabilities of a stream of chunks of three, together."""
    label, probability, _ = zip(*clf.stream(inputs, chunk=3), strict=True)
    return np.concatenate(label), np.concatenate(probability)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("as_what", [lambda frame: frame, lambda frame: frame.set_index("a", drop=False)])
def test_a_stream_of_a_table_is_one_of_its_rows(as_what, on_points):
    clf, frame = on_points
    label, probability = streamed(clf, as_what(frame))
    np.testing.assert_array_equal(label, clf.predict(frame))
    np.testing.assert_allclose(probability, clf.predict_proba(frame).max(1))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize(
    "as_what",
    [
        np.array,
        lambda x: torch.tensor(x.values),
        lambda x: map(torch.tensor, x.values),
        lambda x: x.values.tolist(),
    ],
)
def test_a_stream_of_features_is_answered_like_the_whole(as_what, on_points):
    clf, frame = on_points
    np.testing.assert_array_equal(streamed(clf, as_what(frame))[0], clf.predict(frame))


def test_a_stream_of_pictures_may_be_a_folder_or_a_list(files):
    clf = FewShotClassifier(encoder="pixels", size="8x6", color=True).fit(files, list("abcd"))
    for inputs in (Path(), ".", files, map(Path, files), PICTURES, list(PICTURES), map(Image.open, files)):
        assert streamed(clf, inputs)[0].tolist() == list("abcd")


class MeanColor(torch.nn.Module):
    """An encoder of pictures that keeps three numbers of each."""

    def forward(self, pictures):
        return pictures.float().mean((2, 3))


@pytest.mark.parametrize("ask", ["predict", "predict_proba", "suggest", "stream"])
def test_memory_does_not_grow_with_the_pictures_of_a_folder(tmp_path, monkeypatch, ask):
    for place in ("data.own.pictures", "classifier.estimator"):
        monkeypatch.setattr(f"fewshot_lib.{place}.AT_ONCE", 8)
    given = RNG.integers(0, 256, (4, 3, 100, 100), dtype=np.uint8)
    clf = FewShotClassifier(encoder=MeanColor(), size=100, color=True).fit(given, list("aabb"))
    for i in range(160):
        folder = tmp_path / f"{40 if i < 40 else 120}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (i, 255 - i, 7)).save(folder / f"{i}.png")
    peaks = []
    for folder, n in ((tmp_path / "40", 40), (tmp_path, 160)):
        tracemalloc.start()
        found = getattr(clf, ask)(folder, **({"chunk": 8} if ask == "stream" else {}))
        assert (sum(len(part.label) for part in found) if ask == "stream" else len(found)) in (n, 20)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 120 * 100 * 100 * 3 / 2, "half of what the other pictures take"


class Length(torch.nn.Module):
    """A text encoder: the length of a text, and a constant."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, texts):
        return self.weight * torch.tensor([[len(text), 9.0] for text in texts])


def test_a_stream_of_texts_is_a_column_and_never_the_letters_of_a_string():
    texts = ["a", "be", "see", "see " * 9, "see " * 10]
    clf = FewShotClassifier(encoder=Length(), names=None).fit(texts, [0, 0, 0, 1, 1])
    for inputs in (texts, pandas.DataFrame({"t": texts}), pandas.Series(texts), [[text] for text in texts]):
        assert streamed(clf, inputs)[0].tolist() == [0, 0, 0, 1, 1]
    for table in ("hello.csv", Path("hello.csv")):
        with pytest.raises(ValueError, match="`inputs` is 'hello.csv', which is no folder .*pandas.read_csv"):
            next(clf.stream(table))


class Color(enum.Enum):
    RED, BLUE = 1, 2


def fitted_on(y):
    """A classifier of four texts, by their labels."""
    return FewShotClassifier(encoder=Length(), names=None).fit(["a", "be", "see", "four"], y)


@pytest.mark.parametrize("missing", [None, np.nan, pandas.NA, pandas.NaT, "", " ", "\u200b"])
@pytest.mark.parametrize("as_what", [list, pandas.Series, lambda y: np.array(y, dtype=object)])
def test_whatever_stands_for_no_label_is_found_in_its_row(missing, as_what):
    with pytest.raises(ValueError, match="`y` is .* in row 2 .counted from 0.: every input needs a label"):
        fitted_on(as_what(["fee", "fee", missing, "wifi"]))


@pytest.mark.parametrize("kind", ["string", "category", "Int64", "Float64", "boolean"])
def test_the_missing_label_of_any_column_of_pandas_is_found(kind):
    values = {"Int64": [1, 1, 2], "Float64": [1.0, 1.0, 2.0], "boolean": [True, True, False]}
    y = pandas.Series([*values.get(kind, ["a", "a", "b"]), pandas.NA], dtype=kind)
    with pytest.raises(ValueError, match="`y` is .* in row 3"):
        fitted_on(y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([True, 1, 0, False], "`y` mixes True or False and numbers"),
        (["a", "a", 1, 1], "`y` mixes texts and numbers"),
        (
            pandas.to_datetime(["2026-01-01"] * 2 + ["2026-02-01"] * 2),
            "`y` is .*2026-01-01.* in row 0 .*: make",
        ),
        (
            list(pandas.to_datetime(["2026-01-01"] * 2 + ["2026-02-01"] * 2)),
            "in row 0 .*: make the labels texts",
        ),
        (pandas.cut(pandas.Series([1, 2, 8, 9]), 2), "`y` is Interval.* in row 0"),
        ([Color.RED, Color.RED, Color.BLUE, Color.BLUE], "`y` is <Color.RED: 1> in row 0"),
        (["a", "a", b"b", b"b"], "`y` is b'b' in row 2"),
        ([1j, 1j, 2j, 2j], "`y` is 1j in row 0"),
        ({"a": 0, "b": 0, "c": 1, "d": 1}, "`y` is a dict: give a list"),
        ({"a", "b", "c", "d"}, "`y` is a set: give a list"),
        ("aabb", "`y` is a str: give a list"),
    ],
)
def test_labels_that_are_none_or_could_not_be_kept_are_refused_at_once(y, message):
    with pytest.raises(ValueError, match=message):
        fitted_on(y)


@pytest.mark.parametrize("kind", ["int64", "Int64", "UInt8", "Int32", "object", "category"])
@pytest.mark.parametrize("as_what", [lambda y: y, list, lambda y: y.to_frame()])
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_whole_numbers_stay_whole_numbers(kind, as_what):
    y = as_what(pandas.Series([3, 3, 5, 5], index=range(5, 9)).astype(kind))
    for clf in (fitted_on(y), FewShotClassifier().fit(np.eye(4)[[0, 0, 1, 1]], y)):  # texts, features
        assert clf.classes_.dtype.kind in "iu" and clf.classes_.tolist() == [3, 5]


@pytest.mark.parametrize(("kind", "no", "yes"), [("boolean", False, True), ("string", "n", "y")])
def test_labels_of_features_come_back_as_they_were(kind, no, yes):
    y = pandas.Series([yes, yes, no, no], dtype=kind)
    answers = FewShotClassifier().fit(np.eye(4)[[0, 0, 1, 1]], y).predict(np.eye(4)[:2]).tolist()
    assert answers == [yes, no] and type(answers[0]) is type(yes)


SPACED = ["fee", "fee ", " wifi", "wi\u200bfi", "fee", "wifi"]


@pytest.mark.filterwarnings("ignore:`y` is read without")
def test_labels_are_tidied_wherever_they_are_given():
    """As in ``fit``: to score, in cross-validation, of a class that comes or goes, of a name."""
    points = np.eye(4)[[0, 0, 1, 1, 0, 1]]
    clf = FewShotClassifier().fit(points, SPACED)
    with pytest.warns(UserWarning, match="'fee ' as 'fee'") as warned:
        assert clf.score(points, SPACED) == 1
    assert warned[0].filename == __file__
    assert clf.score(points, [*SPACED[:5], "fee"], sample_weight=[1, 1, 1, 1, 1, 5]) == 0.5
    folds = [([0, 2, 4, 5], [1, 3]), ([1, 3, 4, 5], [0, 2])]
    assert cross_val_score(FewShotClassifier(), points, SPACED, cv=folds).tolist() == [1, 1]
    with pytest.raises(ValueError, match="`label` is 'fee', which is a class already"):
        clf.add_class("fee ", points[:1])
    clf.add_class("net ", np.eye(4)[2:])
    assert clf.remove_class(" fee").classes_.tolist() == ["net", "wifi"]
    named = FewShotClassifier(encoder=Length(), names={"fee ": "money", "wi\u200bfi": "network"})
    assert named.fit(["a", "be", "see", "four", "fives", "six"], SPACED).names_ == ["money", "network"]


@pytest.mark.parametrize("as_what", [list, np.array, lambda y: pandas.Series(y, dtype="string")])
def test_labels_that_differ_in_blanks_are_one_class_and_which_is_said(as_what):
    with pytest.warns(
        UserWarning, match="`y` is read without .* sees: 'fee ' as 'fee', ' wifi' as 'wifi'"
    ) as w:
        clf = fitted_on(as_what(["fee", "fee ", " wifi", "wifi"]))
    assert clf.classes_.tolist() == ["fee", "wifi"] and clf.n_examples_.tolist() == [2, 2]
    assert w[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("y", [["late fee", "Fee", "fee", "fee"], [1, 2, 3, 3], [True, True, False, False]])
def test_tidy_labels_stay_and_nothing_is_said(y):
    assert fitted_on(y).classes_.tolist() == sorted(set(y))


def test_a_classifier_of_texts_answers_a_text_that_ends_like_a_picture(tmp_path):
    clf = FewShotClassifier(names=None).fit(["a crash", "it crashed", "the bill", "a bill"], [0, 0, 1, 1])
    assert len(clf.predict(["screenshot.png"])) == 1 and len(clf.predict(["bill.png", "crash.jpg"])) == 2
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="`X` holds pictures, and this classifier was fitted on texts"):
        clf.predict([str(tmp_path / "a.png")])
