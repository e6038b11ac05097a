"""Archives are read in memory: contents come back, a bomb is refused, damage is named, nothing is written."""

import contextlib
import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from fewshot_lib.data.published import archives
from fewshot_lib.data.published.archives import members, read_bytes
from fewshot_lib.data.reporting import DataError

FILES = {"set/b.txt": b"second", "set/a.txt": b"first\r\n", "set/deep/c.bin": bytes(range(256))}


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


MAKERS = pytest.mark.parametrize(
    "make", [make_zip, make_tar, lambda path, files: make_tar(path, files, "w")], ids=["zip", "tar.gz", "tar"]
)


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)


@MAKERS
def test_members_are_what_was_packed_in_the_order_of_packing(make, tmp_path):
    assert list(members(make(tmp_path / "x", FILES))) == list(FILES.items())


def test_folders_and_links_are_not_members_and_a_link_in_a_zip_is_its_own_few_bytes(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name, kind in (("./set", tarfile.DIRTYPE), ("a", tarfile.SYMTYPE), ("b", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    assert list(members(tmp_path / "x.tar.gz")) == []
    link = zipfile.ZipInfo("set/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(make_zip(tmp_path / "x.zip", {"set/": b"", "set/a": b"1"}), "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert list(members(tmp_path / "x.zip")) == [("set/a", b"1"), ("set/link", b"/etc/passwd")]


@MAKERS
@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "C:\\evil.txt", "set/../../evil.txt"])
def test_nothing_is_written_wherever_a_name_points(make, name, tmp_path):
    (tmp_path / "here").mkdir()
    assert list(members(make(tmp_path / "here" / "x", {name: b"evil"}))) == [(name, b"evil")]
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "x"] and not Path("/tmp/evil.txt").exists()


@MAKERS
def test_more_content_than_allowed_is_refused(make, tmp_path, small_limit):
    path = make(tmp_path / "x", {"set/zeros": b"\0" * 50_000, "set/more": b"\0" * 30_000})
    assert sum(len(content) for _, content in members(path)) == 80_000
    path = make(tmp_path / "x", {"set/zeros": b"\0" * 50_000, "set/more": b"\0" * 60_000})
    with pytest.raises(DataError, match="unpacks to more than 100,000 bytes"):
        list(members(path))


def test_a_zip_that_declares_too_little_is_refused(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"set/zeros": b"\0" * 1_000_000})
    declared = (1_000_000).to_bytes(4, "little")
    assert path.read_bytes().count(declared) == 2
    path.write_bytes(path.read_bytes().replace(declared, (1_000).to_bytes(4, "little")))
    with pytest.raises(DataError, match="damaged"):
        list(members(path))


def test_a_hole_in_a_tar_does_not_count_as_small(tmp_path, small_limit):
    entry = tarfile.TarInfo("set/hole")
    entry.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40)}
    entry.pax_headers |= {"GNU.sparse.map": f"{(1 << 40) - 1},1", "GNU.sparse.name": "set/hole"}
    entry.size = 1
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(b"1"))
    with pytest.raises(DataError, match="unpacks to more"):
        list(members(tmp_path / "x.tar"))


def test_a_name_as_long_as_the_memory_is_refused(tmp_path, small_limit):
    path = make_tar(tmp_path / "x", {"n" * 200_000: b""})
    assert path.stat().st_size < 5_000
    with pytest.raises(DataError, match="unpacks to more"):
        list(members(path))


def test_gzipped_content_is_unpacked_up_to_a_limit(tmp_path, small_limit):
    packed, plain = tmp_path / "x.json.gz", tmp_path / "x.json"
    for path, content in ((packed, gzip.compress(b"7" * 100_000)), (plain, b"7" * 100_000)):
        path.write_bytes(content)
        assert read_bytes(path) == b"7" * 100_000
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        read_bytes(packed)
    packed.write_bytes(gzip.compress(b"7" * 100_001))
    with pytest.raises(DataError, match="more than 100,000 bytes"):
        read_bytes(packed)


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar.gz"])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_a_truncated_archive_is_refused(make, keep, tmp_path):
    noise = {f"set/{i}": bytes((i * k * k + k) % 251 for k in range(3000)) for i in range(20)}
    path = make(tmp_path / "x", noise)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match="damaged or incomplete"):
        list(members(path))


@MAKERS
def test_no_damage_ends_in_another_error(make, tmp_path):
    path = make(tmp_path / "x", {"set/a": bytes(range(256)) * 8, "set/b": b"short", "é/" + "n" * 120: b"3"})
    raw, dice = path.read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(dice.choice([1, 1, 4])):
            damaged[dice.randrange(len(raw))] = dice.choice([0, 0xFF, dice.randrange(256)])
        path.write_bytes(bytes(damaged[: dice.choice([None, None, dice.randrange(len(raw))])]))
        with contextlib.suppress(DataError):
            list(members(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html><title>Log in</title>", "web page"),
        (b"", "empty"),
        (b"x" * 1234, "1,234 bytes long"),
    ],
)
def test_what_is_no_archive_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.zip is no archive.*it is .*{words}"):
        list(members(tmp_path / "x.zip"))
