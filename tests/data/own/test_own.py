"""Tables, folders and arrays become data sets; what is wrong with them is said before anything is built."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib.data.own.files import from_arrays, from_csv, from_folder, from_jsonl
from fewshot_lib.data.reporting import DataError

NAMES = ["Zoo", "art", "sport", "tech", "œuvre"]
ROWS = [(f"text {name} {i}", name) for name in NAMES for i in range(3)]
SPLIT = {"train": ["art", "sport", "tech"], "val": ["Zoo"], "test": ["œuvre"]}


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """3 classes, 4 pictures each: a bright square whose place tells the class."""
    for c, name in enumerate(["bottom", "left", "right"]):
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for i in range(4):
            picture = np.zeros((50, 60, 3), np.uint8)
            picture[10 * c : 10 * c + 10, 10 * i : 10 * i + 10] = (255, 128, 0)
            ending = ["png", "bmp", "gif", "PNG"][i]
            Image.fromarray(picture).save(tmp_path / "shapes" / name / f"{i}.{ending}")
    return tmp_path / "shapes"


def test_a_csv_file_becomes_a_data_set(csv_file):
    data = from_csv(csv_file, split=SPLIT)
    labels = [data.class_names[c] for c in data.labels.tolist()]
    assert list(zip(data.inputs, labels, strict=True)) == ROWS
    assert {part: [data.class_names[c] for c in data.classes(part)] for part in SPLIT} == SPLIT
    assert (data.name, data.split_family) == ("mine", "by list")
    assert data.counts.tolist() == [3] * 5


def test_a_json_lines_file_gives_the_same_data_set(csv_file, tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps({"body": text, "topic": label}) for text, label in ROWS]
    path.write_text("\n".join(lines), encoding="utf-8")
    a, b = from_csv(csv_file, seed=3), from_jsonl(path, text="body", label="topic", seed=3)
    assert a.inputs == b.inputs and a.class_names == b.class_names and torch.equal(a.labels, b.labels)
    assert repr(a) == repr(b) and "shares 0.6/0.2/0.2, seed 3" in repr(a)


def test_empty_texts_are_refused_by_line_or_dropped_on_request_and_some_rows_must_be_left(csv_file):
    with csv_file.open("a", encoding="utf-8") as file:
        file.write("  ,art\nno label,\n")
    with pytest.raises(DataError, match=r"2 rows .* empty .*\(line 17, 18\).*drop_empty=True"):
        from_csv(csv_file, split=SPLIT)
    assert len(from_csv(csv_file, split=SPLIT, drop_empty=True)) == len(ROWS)
    csv_file.write_text("text,label\n", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        from_csv(csv_file)


def test_a_folder_becomes_a_data_set(folder):
    data = from_folder(folder, split={"train": ["left"], "test": ["bottom", "right"]})
    assert data.inputs.shape == (12, 1, 28, 28) and data.inputs.dtype == torch.uint8
    assert data.class_names == ["bottom", "left", "right"] and data.counts.tolist() == [4, 4, 4]
    assert data.name == "shapes"
    for c in range(3):
        ink_rows = data.inputs[data.labels == c].float().mean((0, 1, 3))
        assert int(ink_rows.argmax()) // 6 == c, "the square of class c stands in rows 10c to 10c+10 of 50"


def test_size_and_colour_can_be_chosen(folder):
    data = from_folder(folder, split={"all": 1.0}, size=(25, 30), grayscale=False)
    assert data.inputs.shape == (12, 3, 25, 30)
    red, green, blue = data.inputs[data.labels == 0][0].float().amax((1, 2)).tolist()
    assert red > green > 100 and blue < 30
    with pytest.raises(ValueError, match="`size` is 0"):
        from_folder(folder, size=0)


def test_transparent_parts_become_paper_and_photographs_stand_upright(tmp_path):
    (tmp_path / "only").mkdir()
    Image.fromarray(np.zeros((10, 10, 4), np.uint8)).save(tmp_path / "only/a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to show"
    lying = np.repeat([[0], [255]], 20, axis=0).repeat(40, axis=1)  # black above white
    Image.fromarray(lying.astype(np.uint8)).save(tmp_path / "only/b.png", exif=exif)
    data = from_folder(tmp_path, split={"all": 1.0}, size=10)
    assert data.inputs[0].min() == 255
    assert data.inputs[1, 0, :, 0].min() > 200 and data.inputs[1, 0, :, -1].max() < 55


def test_a_picture_that_cannot_be_read_is_named(folder):
    picture = folder / "left" / "2.gif"
    for content in ((folder / "left" / "0.png").read_bytes()[:60], b"<html>"):
        picture.write_bytes(content)
        with pytest.raises(DataError, match=r"2\.gif cannot be read as a picture"):
            from_folder(folder, split={"all": 1.0})


def test_other_files_are_left_out_with_a_warning(folder):
    (folder / "left" / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "left" / ".DS_Store").write_bytes(b"\0")
    with pytest.warns(UserWarning, match=r"1 files .* left out, such as .*notes\.txt"):
        assert len(from_folder(folder, split={"all": 1.0})) == 12


def test_a_folder_of_another_shape_is_refused(folder, tmp_path):
    (folder / "empty").mkdir()
    wrong = {
        folder / "left": "no sub-folders",
        tmp_path / "no": "There is no folder",
        folder: "empty holds no",
    }
    for path, words in wrong.items():
        with pytest.raises(DataError, match=words):
            from_folder(path)


def test_a_split_that_does_not_fit_is_refused_before_a_picture_is_opened(folder, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ValueError, match="no such class"):
        from_folder(folder, split={"train": ["up"]})


def test_arrays_and_names_become_a_data_set():
    images = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
    data = from_arrays(images, np.array([7, 3, 7, 3]), split={"all": 1.0})
    assert data.inputs.shape == (4, 1, 6, 6) and torch.equal(data.inputs[:, 0], torch.from_numpy(images))
    assert data.class_names == ["3", "7"] and data.labels.tolist() == [1, 0, 1, 0]
    named = from_arrays(["x", "y", "z"], torch.tensor([1, 0, 1]), ["no", "yes"], split={"all": 1.0})
    assert named.class_names == ["no", "yes"] and named.labels.tolist() == [1, 0, 1]
    by_name = from_arrays(["x", "y"], ["yes", "no"], ["no", "yes"], split={"all": 1.0})
    assert by_name.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("inputs", "labels", "names", "words"),
    [
        (["a", "b"], [0], None, "2 examples but `labels` has 1"),
        ([], [], None, "empty"),
        (["a", 3], ["x", "y"], None, "among the texts is 3"),
        (["a", "b"], [0, 2], ["x", "y"], "holds 2, which is none of the 2"),
        (["a", "b"], [0, -1], ["x", "y"], "holds -1"),
        (["a", "b"], ["x", "z"], ["x", "y"], "holds 'z'"),
        (["a", "b"], ["x", 1], None, "all class names"),
        (["a", "b"], [0.5, 1.0], None, "all class names"),
        (np.zeros((2, 5)), [0, 1], None, r"shape \(2, 5\)"),
        (np.zeros((2, 5, 5), np.int64), [0, 1], None, "int64"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(inputs, labels, names, words):
    with pytest.raises(ValueError, match=words):
        from_arrays(inputs, labels, names, split={"all": 1.0})
