"""Which pictures a folder holds, of which class and split; nothing is lost without a word."""

import os
from pathlib import Path

import pytest
from PIL import Image

from fewshot_lib.data.own.folders import find_pictures, pictures_below, visible
from fewshot_lib.data.reporting import DataError


@pytest.fixture
def tree(tmp_path):
    """Makes files below a folder: pictures where the name ends so, else texts; returns the folder."""

    def make(*names: str):
        for name in names:
            file = tmp_path / "root" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if name.lower().endswith((".png", ".jpg")):
                Image.new("L", (4, 4), 7).save(file)
            elif not name.endswith("/"):
                file.write_text("mine", encoding="utf-8")
            else:
                file.mkdir()
        return tmp_path / "root"

    return make


def classes(found):
    return {name: [file.name for file in files] for name, files in found.classes.items()}


def test_all_pictures_below_a_class_folder_are_of_that_class_and_the_depth_is_said(tree):
    found = find_pictures(tree("a/1.png", "a/x/y/z/2.PNG", "b/in/3.png", "b/in/er/4.png"))
    assert classes(found) == {"a": ["1.png", "2.PNG"], "b": ["3.png", "4.png"]} and found.parts == {}
    assert len(found.notes) == 1 and "levels: 3), read: 3, such as" in found.notes[0]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "VALID", "Testing"), ("meta-train", "dev", "meta_test")],
)
def test_folders_of_parts_in_any_spelling_are_parts(tree, train, val, test):
    found = find_pictures(
        tree(f"{test}/c/1.png", f"{train}/a/in/1.png", f"{val}/b/1.png", f"{train}/d/2.png")
    )
    assert found.parts == {"train": ["a", "d"], "val": ["b"], "test": ["c"]}
    assert list(found.parts) == ["train", "val", "test"] and list(found.classes) == ["a", "b", "c", "d"]


def test_pictures_of_one_class_in_several_parts_are_read_together(tree):
    found = find_pictures(tree("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"))
    assert classes(found) == {"a": ["3.png", "1.png"], "b": ["4.png", "2.png"]}
    assert found.parts == {"train": ["a", "b"], "test": ["a", "b"]}


def test_a_class_may_have_the_name_of_a_part(tree):
    assert list(find_pictures(tree("train/1.png", "car/1.png", "bus/in/1.png")).classes) == [
        "bus",
        "car",
        "train",
    ]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png", "2.png"], "no sub-folders but 2 pictures, such as 1.png: put the pictures of each class"),
        (["notes.txt"], "no sub-folders and no pictures"),
        (["train/1.png", "test/2.png"], "'test', 'train' in .* hold no class folders"),
        (["train/a/1.png", "train/b/1.png", "test/2.png"], "'test' in .* hold no class folders"),
        (["train/a/1.png", "test/b/1.png", "more/c/1.png"], "look like a split, but 'more' stand beside"),
        (
            ["a/1.png", "b/", "c/notes.txt", "d/in/er/"],
            "3 folders of .* hold no pictures .*: fill or remove 'b', 'c', 'd'",
        ),
        (["a/1.png", "b/.hidden.png"], "/b holds no pictures"),
    ],
)
def test_another_layout_is_refused_by_its_name(tree, names, words):
    with pytest.raises(DataError, match=words):
        find_pictures(tree(*names))


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="There is no folder .*/no"):
        find_pictures(tmp_path / "no")
    with pytest.raises(DataError, match="/null is no folder"):
        find_pictures(type(tmp_path)("/dev/null"))


def test_a_folder_that_only_wraps_the_class_folders_is_opened(tree):
    found = find_pictures(tree("unpacked/data/a/1.png", "unpacked/data/b/1.png", "__MACOSX/unpacked/._1.png"))
    assert list(found.classes) == ["a", "b"] and "class folders are those in" in found.notes[0]


def test_files_of_the_system_are_passed_over_and_others_are_named(tree):
    files = ["a/1.png", "a/Thumbs.db", "a/.DS_Store", "a/__MACOSX/1.png", "b/.git/1.png", "b/2.png"]
    assert find_pictures(tree(*files)).notes == []
    found = find_pictures(tree("a/readme.txt", "b/in/labels.csv", "stray.png"))
    assert [note.partition(", such")[0] for note in found.notes] == [
        "files that cannot be read as pictures, left out: 2",
        "pictures beside the class folders, left out: 1",
    ]


def test_a_picture_is_known_by_its_content_where_the_ending_says_nothing(tree):
    root = tree("a/1.png", "b/1.png")
    (root / "a/1.png").rename(root / "a/one")
    (root / "b/1.png").rename(root / "b/one.txt")
    found = find_pictures(root)
    assert classes(found) == {"a": ["one"], "b": ["one.txt"]} and "by their content" in found.notes[0]


def test_links_in_a_ring_end_and_a_link_to_a_folder_is_followed(tree, tmp_path):
    root = tree("a/1.png", "b/1.png", "a/in/2.png")
    (tmp_path / "far").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "far/9.png")
    for link, target in {
        "a/up": root,
        "a/in/self": root / "a/in",
        "b/far": tmp_path / "far",
        "b/out": tmp_path,
    }.items():
        (root / link).symlink_to(target, target_is_directory=True)
    (root / "b/gone.png").symlink_to(root / "nowhere")
    (root / "b/me.png").symlink_to(root / "b/me.png")
    found = find_pictures(root)
    assert classes(found) == {"a": ["1.png", "2.png"], "b": ["1.png", "9.png"]}
    assert any("as pictures, left out: 2, such as" in note and "gone.png" in note for note in found.notes)


def test_whatever_their_class_the_same_pictures_are_found_and_what_is_none_is_said(
    tree, tmp_path, monkeypatch
):
    root = tree("a/1.png", "a/in/2.png", "b/3.png", "b/.hidden.png", "b/phone.heic")
    far = root.rename(tmp_path / "far")
    root.mkdir()
    for name in "ab":
        (root / name).symlink_to(far / name, target_is_directory=True)
    with pytest.warns(UserWarning, match="files left out, 1 that cannot be read as such, like .*phone.heic"):
        found = pictures_below(root)
    assert found == sorted(file for files in find_pictures(root).classes.values() for file in files)
    monkeypatch.chdir(root)
    with pytest.warns(UserWarning, match="files left out"):
        assert len(pictures_below(Path())) == len(found) == 3
    with pytest.raises(DataError, match="holds no pictures, but 1 that cannot be read as such, like .*other"):
        pictures_below(tree("c/other.heic") / "c")


def test_what_is_no_file_is_not_opened(tree):
    root = tree("a/1.png", "b/1.png")
    os.mkfifo(root / "a/pipe.png")
    found = find_pictures(root)
    assert classes(found)["a"] == ["1.png"] and "pipe.png" in found.notes[0]


def test_names_in_any_bytes_are_shown_and_stay_apart(tree):
    root = tree("plain/1.png")
    for raw in (b"caf\xe9", b"caf\xea", b"new\nline", b"bell\x07"):
        os.mkdir(os.path.join(os.fsencode(root), raw))
        Image.new("L", (4, 4)).save(os.path.join(os.fsencode(root), raw, b"\xff.png"), "PNG")
    found = find_pictures(root)
    assert list(found.classes) == ["bell\\x07", "caf\\xe9", "caf\\xea", "new line", "plain"]
    os.makedirs(root / "caf\\xe9")
    Image.new("L", (4, 4)).save(root / "caf\\xe9/1.png")
    with pytest.raises(DataError, match="both shown as .*caf.*rename"):
        find_pictures(root)


def test_folders_that_look_alike_are_one_class_and_case_is_pointed_out(tree):
    found = find_pictures(
        tree("caf\u00e9/1.png", "cafe\u0301/2.png", "a\u200b/3.png", "a/4.png", "Dog/1.png", "dog/1.png")
    )
    assert classes(found)["caf\u00e9"] == ["2.png", "1.png"] and classes(found)["a"] == ["4.png", "3.png"]
    assert "read as one class: 'a', 'café'" in found.notes[0]
    assert "look alike and stay different classes: 'Dog' and 'dog': rename" in found.notes[1]


def test_a_name_of_blanks_only_is_refused(tree):
    with pytest.raises(DataError, match="root has a class folder whose name cannot be seen"):
        find_pictures(tree("a/1.png", "\u200b/1.png"))


def test_what_is_shown_can_be_printed():
    assert visible("caf\udce9 \x1b[2J \u202e \ud800 日本 é") == "caf\\xe9 \\x1b[2J \\u202e \\ud800 日本 é"


def test_a_folder_that_stands_in_every_part_is_looked_through(tree):
    found = find_pictures(tree("train/images/a/1.png", "train/images/b/1.png", "test/images/c/1.png"))
    assert found.parts == {"train": ["a", "b"], "test": ["c"]} and found.notes == []


def test_base_and_novel_are_the_words_of_some_for_train_and_test(tree):
    found = find_pictures(tree("base/a/1.png", "val/b/1.png", "novel/c/1.png"))
    assert found.parts == {"train": ["a"], "val": ["b"], "test": ["c"]}
