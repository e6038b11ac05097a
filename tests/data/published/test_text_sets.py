"""The text sets from small made-up files and cards, and from the real ones where FEWSHOT_DATA has them."""

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

from fewshot_lib.data.published import text_sets
from fewshot_lib.data.published.download import card
from fewshot_lib.data.published.text_sets import (
    load_20news,
    load_amazon,
    load_huffpost,
    load_hwu64,
    load_reuters,
)
from fewshot_lib.data.reporting import DataError

REAL = Path(os.environ.get("FEWSHOT_DATA") or ".") / "text"
NAMES = ["huffpost", "amazon", "reuters", "20news", "hwu64"]
FAMILIES = ["bao", "metaprompting", "metaprompter"]


def needs_real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (REAL / name).is_file(), reason=f"FEWSHOT_DATA has no text/{name}")


def lines(rows: list[tuple[str, int]]) -> bytes:
    objects = [{"raw": text, "label": label} for text, label in rows]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects).encode()


ROWS = [("a headline \u2028 with an odd line end", 0), ("Été", 2), ("third", 1), ("fourth", 3), ("fifth", 0)]
PART = [row for row in ROWS if row[1] != 3]
POSTS = {
    ("sci.space", "2"): b"From: a@b\r\nSubject: orbits\r\n\r\nHow   high?\xe9\r\n",
    ("sci.space", "10"): b"Subject: again\nFrom: c@d\n\nHigher.",
    ("rec.autos", "1"): b"From: e@f\nno subject here",
}


def content_of(posts: dict[tuple[str, str], bytes]) -> str:
    digest = hashlib.sha256()
    for group, number in sorted(posts):
        words = b"".join(posts[group, number].split())
        digest.update(f"{group}/{number}\0".encode() + hashlib.sha256(words).digest())
    return "posts:" + digest.hexdigest()


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """An empty mirror, and a card of 4 classes whose file is ``ROWS`` and whose partial copy is ``PART``."""
    (tmp_path / "text").mkdir()
    accepted = ["sha256:" + hashlib.sha256(lines(rows)).hexdigest() for rows in (ROWS, PART)]
    labels = ["rec.autos", "sci.space", "talk.guns", "misc.forsale"]
    families = {"bao": [2, 3], "metaprompting": [2]}
    place = {"path": "text/small.json", "url": "http://127.0.0.1:9/small.json", "checksum": ""}
    facts = {
        "name": "small",
        "file": place | {"also": ["text/part.json.gz"]},
        "content": [*accepted, content_of(POSTS)],
        "classes": [{"id": c, "label": labels[c], "name": f"name {c}", "domain": "d"} for c in range(4)],
        "splits": {family: {"train": [0], "val": [1], "test": t} for family, t in families.items()},
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


def test_texts_labels_and_names_belong_together_in_the_family_that_is_named(mirror):
    (mirror / "small.json").write_bytes(lines(ROWS))
    data = load_huffpost()
    assert list(zip(data.inputs, data.labels.tolist(), strict=True)) == ROWS
    assert data.class_names[2] == "name 2" and data.domains == ["d"] * 4
    assert (data.name, data.split_family) == ("huffpost", "bao")
    assert {split: c.tolist() for split, c in data.splits.items()} == {
        "train": [0],
        "val": [1],
        "test": [2, 3],
    }
    other = load_huffpost("metaprompting")
    assert other.split_family == "metaprompting" and other.classes("test").tolist() == [2]
    assert 3 in other.labels.tolist(), "a class of no split keeps its texts and its id"


def test_a_copy_with_some_of_the_classes_says_so_wherever_it_is_named(mirror):
    (mirror / "part.json.gz").write_bytes(gzip.compress(lines(PART)))
    data = load_amazon()
    assert data.split_family == "bao (1 of 2 test classes)"
    assert data.classes("test").tolist() == [2] and data.counts.tolist() == [2, 1, 1, 0]
    assert load_amazon("metaprompting").split_family == "metaprompting", "here nothing is missing"


EXPECTED = "does not hold the expected small texts"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(lines(ROWS)[:-3], EXPECTED, id="truncated"),
        pytest.param(lines(ROWS[::-1]), EXPECTED, id="other order"),
        pytest.param(lines(ROWS).decode().encode("utf-16"), EXPECTED, id="wrong encoding"),
        pytest.param(b"<!DOCTYPE html><title>404</title>", "web page", id="web page"),
        pytest.param(gzip.compress(lines(ROWS))[:-9], "damaged or incomplete", id="truncated gzip"),
        pytest.param(b"", "empty", id="empty"),
    ],
)
def test_other_content_is_refused(mirror, content, words):
    (mirror / "small.json").write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_reuters()
    assert (mirror / "small.json").read_bytes() == content


def test_posts_start_at_the_subject_in_order_of_group_and_number_whatever_their_line_ends(mirror):
    pack_posts(mirror / "small.json", POSTS)
    data = load_20news()
    texts = ["From: e@f no subject here", "Subject: orbits How high?é", "Subject: again From: c@d Higher."]
    assert data.inputs == texts and data.labels.tolist() == [0, 1, 1]
    converted = {post: content.replace(b"\r", b"") for post, content in reversed(POSTS.items())}
    pack_posts(mirror / "small.json", converted)
    assert load_20news().inputs == texts


@pytest.mark.parametrize("post", [("sci.space", "2"), ("..", "evil")])
def test_other_posts_are_refused(mirror, post):
    pack_posts(mirror / "small.json", POSTS | {post: b"Subject: orbits\n\nHow hugh?"})
    with pytest.raises(DataError, match="[34] files, but not the expected newsgroup posts"):
        load_20news()


def test_from_subject_keeps_everything_if_there_is_no_subject():
    assert text_sets.from_subject(" two\n\n lines ") == "two lines"
    assert text_sets.from_subject("From: x\nSubject: y\nSubject: z") == "Subject: y Subject: z"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_consistent(name):
    facts = card(name)
    classes, n = facts["classes"], len(facts["classes"])
    assert [entry["id"] for entry in classes] == list(range(n))
    assert len({entry["name"] for entry in classes}) == n
    assert all(re.fullmatch("[a-z ,]+", entry["name"]) for entry in classes), "class names are plain English"
    for splits in facts["splits"].values():
        used = [c for ids in splits.values() for c in ids]
        assert list(splits) == ["train", "val", "test"]
        assert len(used) == len(set(used)) and set(used) <= set(range(n))
    assert facts["file"]["url"].startswith("http") and facts["file"]["path"].startswith("text/")
    kinds = "(sha256|posts):[0-9a-f]{64}|git:[0-9a-f]{40}"
    assert all(re.fullmatch(kinds, checksum) for checksum in facts["content"])


@pytest.mark.parametrize("name", [*NAMES, "omniglot"])
def test_the_readable_card_says_the_same(name):
    facts = card(name)
    text = (Path(__file__).parents[3] / "data" / f"{name}.md").read_text(encoding="utf-8")
    files = facts.get("files") or [facts["file"] | {"content": " ".join(facts["content"])}]
    for file in files:
        said = [file["path"], file["url"], file["checksum"], *file["content"].split()]
        assert all(fact in text for fact in said)
    assert all(
        f"`{family}`" in text for family in [*facts["splits"], *(["mamlpp"] if name == "omniglot" else [])]
    )


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("huffpost", [20, 5, 16]), ("amazon", [10, 5, 9]), ("reuters", [15, 5, 11]), ("20news", [8, 5, 7])],
)
def test_the_families_are_as_large_as_published(name, sizes):
    assert list(card(name)["splits"]) == FAMILIES
    for family, splits in card(name)["splits"].items():
        without_twin = [0, 0, 1] if (name, family) == ("huffpost", "metaprompting") else [0, 0, 0]
        found = [len(ids) + twin for ids, twin in zip(splits.values(), without_twin, strict=True)]
        assert found == sizes


def test_the_families_differ_where_the_papers_differ():
    huffpost, amazon, reuters, news, hwu64 = (card(name)["splits"] for name in NAMES)
    assert set(huffpost["bao"]["test"]) - set(huffpost["metaprompting"]["test"]) == {39}
    assert news["bao"] == news["metaprompting"] != news["metaprompter"]
    assert amazon["bao"] == amazon["metaprompting"] != amazon["metaprompter"]
    assert reuters["bao"] == reuters["metaprompting"] == reuters["metaprompter"]
    assert list(hwu64) == ["metaprompter"]
    assert [*map(len, hwu64["metaprompter"].values())] == [23, 16, 25]


@needs_real("splits.json")
@pytest.mark.parametrize("name", NAMES)
def test_the_cards_agree_with_the_splits_beside_the_data(name):
    there = json.loads((REAL / "splits.json").read_text())["20newsgroups" if name == "20news" else name]
    facts = card(name)
    assert {str(entry["id"]): entry["label"] for entry in facts["classes"]} == there["labels"]
    for family, splits in facts["splits"].items():
        known = there["bao2020" if family == "bao" else family]
        assert {split: sorted(ids) for split, ids in splits.items()} == {s: sorted(known[s]) for s in splits}


@needs_real("huffpost.json")
@needs_real("reuters.json")
@needs_real("hwu64.json")
def test_the_real_sets_of_lines():
    data = load_huffpost()
    assert data.counts.tolist() == [900] * 41
    repeats = Counter(zip(data.inputs, data.labels.tolist(), strict=True))
    assert sum(count - 1 for count in repeats.values()) == 193
    assert len(load_huffpost("metaprompting").classes("test")) == 15
    assert load_reuters().counts.tolist() == [20] * 31
    hwu64 = load_hwu64()
    assert len(hwu64) == 11_036 and (int(hwu64.counts.min()), int(hwu64.counts.max())) == (38, 194)
    assert hwu64.split_family == "metaprompter" and len(set(hwu64.domains)) == 18


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
    assert [len(classes) for classes in data.splits.values()] == [7, 2, 7]
    assert sorted(data.counts.tolist()) == [0] * 8 + [1000] * 16
