"""Archives are read member by member; whatever points outside, links, lies about its size or is damaged is refused."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fewshot_lib.data.archives import describe, members, read_bytes
from fewshot_lib.data.reporting import DataError

FILES = {"set/b.txt": b"second", "set/a.txt": b"first\r\n", "set/deep/c.bin": bytes(range(256))}
OUTSIDE = ["../evil.txt", "/etc/evil.txt", "set/../../evil.txt", "C:\\evil.txt", "..\\evil.txt", "c:/evil.txt"]


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


MAKERS = pytest.mark.parametrize("make", [make_zip, make_tar, lambda path, files: make_tar(path, files, "w")], ids=["zip", "tar.gz", "tar"])


@MAKERS
def test_members_are_what_was_packed_in_the_order_of_packing(make, tmp_path):
    assert list(members(make(tmp_path / "x", FILES))) == list(FILES.items())


def test_folders_are_not_members(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        folder = tarfile.TarInfo("./set")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert list(members(tmp_path / "x.tar")) == []
    assert list(members(make_zip(tmp_path / "x.zip", {"set/": b"", "set/a": b"1"}))) == [("set/a", b"1")]


@MAKERS
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_points_outside_refuses_the_archive(make, name, tmp_path):
    path = make(tmp_path / "x", {"set/fine.txt": b"fine", name: b"evil"})
    with pytest.raises(DataError, match="outside"):
        list(members(path))
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert not (tmp_path.parent / "evil.txt").exists()


def test_a_zip_with_a_bad_name_yields_nothing_at_all(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"set/fine.txt": b"fine", "../evil.txt": b"evil"})
    with pytest.raises(DataError, match=r"evil\.txt"):
        next(members(path))


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("set/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="link"):
        list(members(tmp_path / "x.tar.gz"))
    info = zipfile.ZipInfo("set/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link"):
        list(members(tmp_path / "x.zip"))


@MAKERS
def test_a_name_twice_is_refused(make, tmp_path):
    path = make(tmp_path / "x", {"set/a": b"1", "set//a": b"2"})
    with pytest.raises(DataError, match="twice"):
        list(members(path))


@MAKERS
def test_more_content_than_allowed_is_refused(make, tmp_path):
    path = make(tmp_path / "x", {"set/zeros": b"\0" * 5_000_000, "set/more": b"\0" * 5_000_000})
    assert sum(len(content) for _, content in members(path)) == 10_000_000
    with pytest.raises(DataError, match="allowed"):
        list(members(path, max_bytes=9_000_000))


@MAKERS
def test_more_members_than_allowed_are_refused(make, tmp_path):
    path = make(tmp_path / "x", {f"set/{i}": b"" for i in range(20)})
    assert len(list(members(path, max_members=20))) == 20
    with pytest.raises(DataError, match="members"):
        list(members(path, max_members=19))


def test_a_zip_that_declares_too_little_is_refused(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"set/zeros": b"\0" * 1_000_000})
    real, small = (1_000_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little")
    raw = path.read_bytes()
    assert raw.count(real) == 2
    path.write_bytes(raw.replace(real, small))
    with pytest.raises(DataError, match="damaged"):
        list(members(path, max_bytes=10_000))


def test_gzipped_content_is_unpacked_up_to_a_limit(tmp_path):
    packed, plain = tmp_path / "x.json.gz", tmp_path / "x.json"
    packed.write_bytes(gzip.compress(b"7" * 100_000))
    plain.write_bytes(b"7" * 100_000)
    assert read_bytes(packed) == read_bytes(plain) == b"7" * 100_000
    with pytest.raises(DataError, match="more than 99,999 bytes"):
        read_bytes(packed, max_bytes=99_999)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        read_bytes(packed)


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar.gz"])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_a_truncated_archive_is_refused(make, keep, tmp_path):
    noise = {f"set/{i}": bytes((i * k * k + k) % 251 for k in range(3000)) for i in range(20)}
    path = make(tmp_path / "x", noise)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match="damaged or incomplete"):
        list(members(path))


def test_a_flipped_byte_is_refused(tmp_path):
    for make in (make_zip, make_tar):
        path = make(tmp_path / "x", {"set/a": bytes(range(256)) * 20})
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 3] ^= 0xFF
        path.write_bytes(bytes(raw))
        with pytest.raises(DataError):
            list(members(path))


def test_a_web_page_is_called_a_web_page(tmp_path):
    path = tmp_path / "images.zip"
    path.write_bytes(b"\n<!DOCTYPE html><title>Please log in</title>")
    with pytest.raises(DataError, match=r"images\.zip is not a zip or tar archive: it is a web page"):
        list(members(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        list(members(path))
    path.write_bytes(b"x" * 1234)
    assert describe(path) == "1,234 bytes long"
