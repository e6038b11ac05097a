"""A folder of pictures becomes a data set; what is wrong with it is said before anything is computed."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_lib.data.own.pictures import PictureFiles, from_folder, read_pictures, sides
from fewshot_lib.data.reporting import DataError

ALL = {"test": 1.0}


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


@pytest.fixture
def parts(tmp_path):
    """Makes folders train, val, test with one picture in each of the classes named."""

    def make(**classes: str):
        for part, names in classes.items():
            for name in names:
                (tmp_path / "parts" / part / name).mkdir(parents=True, exist_ok=True)
                grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
                Image.fromarray(grey).save(tmp_path / "parts" / part / name / "1.png")
        return tmp_path / "parts"

    return make


def names(data):
    return {part: [data.class_names[c] for c in data.classes(part)] for part in data.splits}


def test_a_folder_becomes_a_data_set(folder):
    data = from_folder(folder, split={"train": ["left"], "test": ["bottom", "right"]})
    assert data.inputs.shape == (12, 1, 28, 28) and data.inputs.dtype == torch.uint8
    assert data.class_names == ["bottom", "left", "right"] and data.counts.tolist() == [4, 4, 4]
    assert data.name == "shapes"
    for c in range(3):
        ink_rows = data.inputs[data.labels == c].float().mean((0, 1, 3))
        assert int(ink_rows.argmax()) // 6 == c, "the square of class c stands in rows 10c to 10c+10 of 50"


def test_size_and_colour_can_be_chosen(folder):
    data = from_folder(folder, split=ALL, size=(25, 30), color=True)
    assert data.inputs.shape == (12, 3, 25, 30)
    red, green, blue = data.inputs[data.labels == 0][0].float().amax((1, 2)).tolist()
    assert red > green > 100 and blue < 30
    with pytest.raises(ValueError, match="`color` is 'no': use True"):
        from_folder(folder, color="no")


@pytest.mark.parametrize("size", [(25, 30), [25, 30], "25x30", " 25 × 30 ", "(25, 30)", np.array([25, 30])])
def test_a_size_is_height_and_width(size):
    assert sides(size) == (25, 30)


@pytest.mark.parametrize("size", [9, "9", np.int64(9), [9]])
def test_a_size_may_be_one_side(size):
    assert sides(size) == (9, 9)


@pytest.mark.parametrize(
    "size", [0, -1, True, None, 2.5, "", "a", "9x", (1, 2, 3), "1x2x3", [], [4.5, 3], 10**9]
)
def test_another_size_is_refused(size, folder):
    with pytest.raises(ValueError, match="`size` is .*, such as 32x48"):
        from_folder(folder, size=size)


def test_every_picture_that_cannot_be_read_is_named(folder):
    for name in ("left/2.gif", "right/0.png"):
        (folder / name).write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"left/2\.gif cannot be read as a picture.*right/0\.png.*remove all 2"
    ):
        from_folder(folder, split=ALL)


def test_a_split_that_does_not_fit_is_refused_before_a_picture_is_opened(folder, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ValueError, match="no such class"):
        from_folder(folder, split={"train": ["up"]})


def test_small_classes_are_left_out_before_a_picture_is_opened(folder):
    for i in range(3):
        (folder / f"left/{i}.{['png', 'bmp', 'gif'][i]}").write_bytes(b"damaged")
    (folder / "left/0.png").unlink()
    with pytest.warns(
        UserWarning, match=r"shapes: 1 of 3 classes have fewer than 4 examples and are left out: 'left' \(3\)"
    ):
        data = from_folder(folder, split=ALL, min_examples=4)
    assert data.class_names == ["bottom", "right"] and data.labels.tolist() == [0] * 4 + [1] * 4
    with pytest.raises(DataError, match="shapes: 3 of 3 classes have fewer than 5 examples, all there are"):
        from_folder(folder, split=ALL, min_examples=5)
    with pytest.raises(ValueError, match="`min_examples` is 0"):
        from_folder(folder, min_examples=0)


def test_class_folders_that_differ_between_parts_are_the_split(parts):
    data = from_folder(parts(train="ab", val="c", Testing="d"))
    assert (
        names(data) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]} and data.split_family == "folders"
    )
    with pytest.warns(UserWarning, match="a class split of their own, which is not used"):
        data = from_folder(parts(), split={"train": ["d"], "test": ["a"]})
    assert names(data) == {"train": ["d"], "test": ["a"]}


def test_the_same_classes_in_several_parts_are_joined_with_a_word_on_what_that_means(parts):
    with pytest.warns(
        UserWarning, match="Few-shot learning splits classes: the pictures of a class are read tog"
    ):
        data = from_folder(parts(train="abcdefghij", test="abcdefghij"))
    assert data.counts.tolist() == [2] * 10 and data.split_family == "shares 0.6/0.2/0.2, seed 0"


def test_a_class_that_strayed_into_a_second_part_is_named(parts):
    with pytest.raises(DataError, match="parts has classes that stand in several of the folders .*: 'c'"):
        from_folder(parts(train="abc", test="cdefg"))


def test_pictures_of_16_bits_are_scaled_by_the_range_of_the_folder_said_once(tmp_path):
    raw = {
        "dark": np.full((2, 2), 1000),
        "light": np.full((2, 2), 3000),
        "both": np.array([[1000, 3000]] * 2),
    }
    for name, array in raw.items():
        (tmp_path / name).mkdir()
        Image.fromarray(array.astype(np.uint16)).save(tmp_path / name / "1.png")
    with pytest.warns(UserWarning, match="16-bit") as caught:
        data = from_folder(tmp_path, split=ALL, size=2)
    shown = {
        data.class_names[c]: data.inputs[i].unique().tolist() for i, c in enumerate(data.labels.tolist())
    }
    assert shown == {"dark": [0], "light": [255], "both": [0, 255]}, (
        "a range per picture would lose the difference"
    )
    assert str(caught[0].message).endswith(
        "pixels run from 1000 to 3000 in 3 16-bit files: scaled to 0..255, by this one range for all of them."
    )


def test_what_pillow_says_is_said_once_with_the_first_file(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_folder(folder, split=ALL)
    assert len(caught) == 1 and "bottom/0.png (files like it: 12): Image size" in str(caught[0].message)


def test_a_path_that_the_system_refuses_is_refused_by_its_name():
    with pytest.raises(DataError, match="xxx cannot be read .*too long"):
        from_folder("x" * 5000)


def test_pictures_come_in_the_order_of_their_files(folder):
    files = [folder / "right/1.bmp", folder / "bottom/0.png"]
    images, notes = read_pictures(files, 5, 6)
    assert images.shape == (2, 1, 5, 6) and notes == []
    assert images[0, 0].float().mean(1).argmax() == 2 and images[1, 0].float().mean(1).argmax() == 0


def test_many_files_are_read_a_few_at_a_time_and_shown_like_all_at_once(tmp_path, monkeypatch):
    """Of any depth, also where the paper under transparent ones is chosen by all of them."""
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
        grey = rng.integers(300, 4000, (8, 8)) + 1000 * i
        Image.fromarray(grey.astype(np.uint16)).save(tmp_path / f"deep{i}.png")
        white = np.full((6, 6, 4), 255, np.uint8)
        white[..., 3] = rng.integers(0, 2, (6, 6)) * 255
        Image.fromarray(white).save(tmp_path / f"white{i}.png")
    Image.new("L", (3, 3), 0).save(tmp_path / "blank.png")
    files = sorted(tmp_path.iterdir())
    for color in (False, True):
        expected, notes = read_pictures(files, 6, 5, color)
        lazily = PictureFiles(files, 6, 5, color)
        assert lazily.notes == notes and len(notes) == 4 and lazily.shape == expected.shape
        assert len(lazily) == len(files) and len(lazily[:0]) == 0
        monkeypatch.setattr("fewshot_lib.data.own.pictures.AT_ONCE", 3)
        assert torch.equal(torch.cat([*lazily.parts()]), expected)
        assert torch.equal(torch.cat([*lazily.parts(4)]), expected[4:])
        assert [len(part) for part in lazily.parts()] == [3, 3, 3, 3, 3, 1]
    (tmp_path / "0.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"0\.png cannot be read as a picture"):
        next(lazily.parts())
    with pytest.raises(DataError, match=r"0\.png cannot be read as a picture .*: repair or remove it"):
        PictureFiles(files, 6, 5)
