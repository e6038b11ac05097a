"""The text sets from small made-up files with made-up cards, and from the real ones where FEWSHOT_DATA has them."""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from fewshot_lib.data import text_sets
from fewshot_lib.data.cards import card
from fewshot_lib.data.reporting import DataError
from fewshot_lib.data.text_sets import from_subject, load_20news, load_amazon, load_huffpost, load_hwu64, load_reuters

REAL = Path(os.environ.get("FEWSHOT_DATA") or ".") / "text"
NAMES = ["huffpost", "amazon", "reuters", "20news", "hwu64"]
FAMILIES = ["bao", "metaprompting", "metaprompter"]


def needs_real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (REAL / name).is_file(), reason=f"FEWSHOT_DATA names no directory with text/{name}")


def lines(rows: list[tuple[str, int]]) -> bytes:
    return b"".join(json.dumps({"raw": text, "label": label}, ensure_ascii=False).encode() + b"\n" for text, label in rows)


ROWS = [("a headline \u2028 with an odd line end", 0), ("Été", 2), ("third", 1), ("fourth", 3), ("fifth", 0)]
PART = [row for row in ROWS if row[1] != 3]
POSTS = {
    ("sci.space", "2"): b"From: a@b\r\nSubject: orbits\r\n\r\nHow   high?\xe9\r\n",
    ("sci.space", "10"): b"Subject: again\nFrom: c@d\n\nHigher.",
    ("rec.autos", "1"): b"From: e@f\nno subject here",
}


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """An empty mirror, and a card for a set of 4 classes whose public file is ``ROWS`` and whose partial copy is ``PART``."""
    (tmp_path / "text").mkdir()
    accepted = ["sha256:" + hashlib.sha256(lines(rows)).hexdigest() for rows in (ROWS, PART)]
    posts = hashlib.sha256()
    for group, number in sorted(POSTS):
        posts.update(f"{group}/{number}\0".encode() + hashlib.sha256(b"".join(POSTS[group, number].split())).digest())
    labels = ["rec.autos", "sci.space", "talk.guns", "misc.forsale"]
    facts = {
        "name": "small",
        "file": {"path": "text/small.json", "url": "http://127.0.0.1:9/small.json", "checksum": "", "also": ["text/part.json.gz"]},
        "content": [*accepted, "posts:" + posts.hexdigest()],
        "classes": [{"id": c, "label": label, "name": f"name {c}", "domain": "d"} for c, label in enumerate(labels)],
        "splits": {"bao": {"train": [0], "val": [1], "test": [2, 3]}, "metaprompting": {"train": [0], "val": [1], "test": [2]}},
    }
    monkeypatch.setattr(text_sets, "card", lambda name: facts)
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "text"


def pack_posts(path: Path, posts: dict[tuple[str, str], bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for (group, number), content in posts.items():
            entry = tarfile.TarInfo(f"20news-18828/{group}/{number}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_texts_labels_and_names_belong_together(mirror):
    (mirror / "small.json").write_bytes(lines(ROWS))
    data = load_huffpost()
    assert list(zip(data.inputs, data.labels.tolist(), strict=True)) == ROWS
    assert data.class_names[2] == "name 2" and data.domains == ["d"] * 4
    assert (data.name, data.split_family) == ("huffpost", "bao")
    assert {split: classes.tolist() for split, classes in data.splits.items()} == {"train": [0], "val": [1], "test": [2, 3]}


def test_a_family_is_chosen_by_name_and_an_unknown_one_refused_before_reading(mirror):
    with pytest.raises(ValueError, match="'bao', 'metaprompting'"):
        load_huffpost("contrastnet")
    (mirror / "small.json").write_bytes(lines(ROWS))
    data = load_huffpost("metaprompting")
    assert data.split_family == "metaprompting" and data.classes("test").tolist() == [2]
    assert 3 in data.labels.tolist(), "a class of no split keeps its texts and its id"


def test_a_copy_with_some_of_the_classes_says_so_wherever_it_is_named(mirror):
    (mirror / "part.json.gz").write_bytes(gzip.compress(lines(PART)))
    data = load_amazon()
    assert data.split_family == "bao (1 of 2 test classes)"
    assert data.classes("test").tolist() == [2] and data.counts.tolist() == [2, 1, 1, 0]
    assert load_amazon("metaprompting").split_family == "metaprompting", "here nothing is missing"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lines(ROWS)[:-3], "does not hold the expected small texts"),
        (lines(ROWS[::-1]), "does not hold the expected small texts"),
        (lines(ROWS).decode().encode("utf-16"), "does not hold the expected small texts"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (gzip.compress(lines(ROWS))[:-9], "damaged or incomplete"),
        (b"", "empty"),
    ],
    ids=["truncated", "other order", "wrong encoding", "web page", "truncated gzip", "empty"],
)
def test_other_content_is_refused(mirror, content, words):
    (mirror / "small.json").write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_reuters()
    assert (mirror / "small.json").read_bytes() == content


def test_posts_start_at_the_subject_in_order_of_group_and_number(mirror):
    pack_posts(mirror / "small.json", POSTS)
    data = load_20news()
    assert data.inputs == ["From: e@f no subject here", "Subject: orbits How high?é", "Subject: again From: c@d Higher."]
    assert data.labels.tolist() == [0, 1, 1]


def test_posts_whose_line_ends_were_converted_are_the_same_posts(mirror):
    pack_posts(mirror / "small.json", POSTS)
    first = load_20news().fingerprint()
    pack_posts(mirror / "small.json", {post: content.replace(b"\r", b"") for post, content in reversed(POSTS.items())})
    assert load_20news().fingerprint() == first
    pack_posts(mirror / "small.json", POSTS | {("sci.space", "2"): POSTS["sci.space", "2"].replace(b"high", b"hugh")})
    with pytest.raises(DataError, match="3 files, but not the expected newsgroup posts"):
        load_20news()
    pack_posts(mirror / "small.json", POSTS | {("..", "evil"): b"evil"})
    with pytest.raises(DataError, match="outside"):
        load_20news()


def test_from_subject_keeps_everything_if_there_is_no_subject():
    assert from_subject(" two\n\n lines ") == "two lines"
    assert from_subject("From: x\nSubject: y\nSubject: z") == "Subject: y Subject: z"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_consistent(name):
    facts = card(name)
    classes = facts["classes"]
    assert [entry["id"] for entry in classes] == list(range(len(classes)))
    assert len({entry["name"] for entry in classes}) == len(classes)
    assert all(re.fullmatch("[a-z ,]+", entry["name"]) for entry in classes), "class names are plain English"
    for splits in facts["splits"].values():
        used = [c for ids in splits.values() for c in ids]
        assert list(splits) == ["train", "val", "test"] and len(used) == len(set(used)) and set(used) <= set(range(len(classes)))
    assert facts["file"]["url"].startswith("http") and facts["file"]["path"].startswith("text/")
    assert all(re.fullmatch("(sha256|posts):[0-9a-f]{64}|git:[0-9a-f]{40}", checksum) for checksum in facts["content"])


@pytest.mark.parametrize("name", NAMES)
def test_the_readable_card_says_the_same(name):
    facts = card(name)
    text = (Path(__file__).parents[2] / "data" / f"{name}.md").read_text(encoding="utf-8")
    for fact in (facts["file"]["path"], facts["file"]["url"], facts["file"]["checksum"], *facts["content"], *facts["splits"]):
        assert fact in text


def test_the_families_differ_where_the_papers_differ():
    sizes = {name: {family: [len(ids) for ids in splits.values()] for family, splits in card(name)["splits"].items()} for name in NAMES}
    assert sizes["huffpost"] == {"bao": [20, 5, 16], "metaprompting": [20, 5, 15], "metaprompter": [20, 5, 16]}
    assert sizes["amazon"] == dict.fromkeys(FAMILIES, [10, 5, 9])
    assert sizes["reuters"] == dict.fromkeys(FAMILIES, [15, 5, 11])
    assert sizes["20news"] == dict.fromkeys(FAMILIES, [8, 5, 7])
    assert sizes["hwu64"] == {"metaprompter": [23, 16, 25]}
    huffpost, news, amazon, reuters = (card(name)["splits"] for name in ("huffpost", "20news", "amazon", "reuters"))
    assert set(huffpost["bao"]["test"]) - set(huffpost["metaprompting"]["test"]) == {39}
    assert news["bao"] == news["metaprompting"] != news["metaprompter"]
    assert amazon["bao"] == amazon["metaprompting"] != amazon["metaprompter"]
    assert reuters["bao"] == reuters["metaprompting"] == reuters["metaprompter"]


@pytest.mark.skipif(not (REAL / "splits.json").is_file(), reason="FEWSHOT_DATA names no directory with text/splits.json")
@pytest.mark.parametrize("name", NAMES)
def test_the_cards_agree_with_the_splits_beside_the_data(name):
    there = json.loads((REAL / "splits.json").read_text())["20newsgroups" if name == "20news" else name]
    facts = card(name)
    assert {str(entry["id"]): entry["label"] for entry in facts["classes"]} == there["labels"]
    for family, splits in facts["splits"].items():
        known = there["bao2020" if family == "bao" else family]
        assert {split: sorted(ids) for split, ids in splits.items()} == {split: sorted(known[split]) for split in splits}


@needs_real("huffpost.json")
def test_the_real_huffpost():
    data = load_huffpost()
    assert data.counts.tolist() == [900] * 41
    repeats = Counter(zip(data.inputs, data.labels.tolist(), strict=True))
    assert sum(count - 1 for count in repeats.values()) == 193
    assert len(load_huffpost("metaprompting").classes("test")) == 15


@needs_real("reuters.json")
def test_the_real_reuters():
    data = load_reuters()
    assert data.counts.tolist() == [20] * 31 and len(data) == 620


@needs_real("hwu64.json")
def test_the_real_hwu64():
    data = load_hwu64()
    assert len(data) == 11_036 and (int(data.counts.min()), int(data.counts.max())) == (38, 194)
    assert data.split_family == "metaprompter" and len(set(data.domains)) == 18


@needs_real("20news-18828.tar.gz")
def test_the_real_20news():
    data = load_20news()
    assert len(data) == 18_828 and (int(data.counts.min()), int(data.counts.max())) == (628, 999)
    assert all(text.startswith("Subject:") for text in data.inputs)
    assert data.class_names[int(data.counts.argmin())] == "religion"


@needs_real("amazon_16of24.json.gz")
@pytest.mark.skipif((REAL / "amazon.json").is_file(), reason="FEWSHOT_DATA has all 24 Amazon classes")
def test_the_real_amazon_has_16_of_24_classes_and_says_so():
    data = load_amazon()
    assert data.split_family == "bao (7 of 9 test classes)"
    assert {split: len(classes) for split, classes in data.splits.items()} == {"train": 7, "val": 2, "test": 7}
    assert sorted(data.counts.tolist()) == [0] * 8 + [1000] * 16
