"""The cache: a file is whole or not there, a damaged one is made again, an unusable directory is named."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fewshot_lib.data import cache
from fewshot_lib.data.cache import (
    CacheError,
    atomic_write,
    cache_dir,
    cached_tensors,
    load_tensors,
    prove_writable,
    save_tensors,
    write_whole,
)

TENSORS = {"images": torch.arange(12, dtype=torch.uint8).view(3, 4), "floats": torch.tensor([0.5, -1.0])}


def test_directory_is_the_one_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for setting in (str(tmp_path / "mine"), "~/mine"):
        monkeypatch.setenv("FEWSHOT_CACHE", setting)
        assert cache_dir("a", "b") == tmp_path / "mine" / "a" / "b"
        assert not list((tmp_path / "mine" / "a" / "b").iterdir())


@pytest.mark.parametrize("variable", [None, ""])
def test_without_a_setting_it_is_the_users_own(monkeypatch, tmp_path, variable):
    monkeypatch.delenv("FEWSHOT_CACHE", raising=False)
    if variable is not None:
        monkeypatch.setenv("FEWSHOT_CACHE", variable)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    assert cache_dir() == tmp_path / "fewshot_lib"


def test_a_directory_that_is_a_file_or_read_only_is_named(monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match=r"file.* cannot be written .*Set FEWSHOT_CACHE"):
        cache_dir("glyphs")
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    assert cache_dir("glyphs").is_dir()
    # root, as in many a test, may write anywhere
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    with pytest.raises(CacheError, match=r"cannot be written \(Permission denied\).*FEWSHOT_CACHE"):
        prove_writable(cache_dir("glyphs"))


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (TENSORS, {"unit": "pixels"}),
        ({}, {"texts": "größer, 大"}),
        ({"t": TENSORS["images"].mT}, {}),
        ({"t": torch.ones(2, requires_grad=True)}, {}),
    ],
)
def test_tensors_of_every_kind_and_strings_come_back(tmp_path, tensors, metadata):
    save_tensors(tmp_path / "x.safetensors", tensors, metadata)
    loaded, strings = load_tensors(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys() and strings == metadata
    assert all(torch.equal(loaded[k], t) and loaded[k].dtype == t.dtype for k, t in tensors.items())


def test_build_is_called_once(tmp_path):
    calls = []
    for _ in range(2):
        tensors, metadata = cached_tensors(
            tmp_path / "x.safetensors", lambda: calls.append(1) or (TENSORS, {"made": "here"})
        )
        assert torch.equal(tensors["images"], TENSORS["images"]) and metadata == {"made": "here"}
    assert len(calls) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: raw[:-3], lambda raw: b"\xff" * len(raw), lambda raw: b"not a tensor"],
)
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    with pytest.warns(UserWarning, match="x.safetensors is damaged"):
        assert load_tensors(path) is None and not path.exists()
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match="x.safetensors is damaged"):
        tensors, _ = cached_tensors(path, lambda: (TENSORS, {}))
    assert torch.equal(tensors["images"], TENSORS["images"])
    assert torch.equal(load_tensors(path)[0]["images"], TENSORS["images"])


def test_a_file_is_written_beside_its_place_under_a_name_of_its_own_with_the_rights_of_any_file(tmp_path):
    path = tmp_path / "new folder" / "x"
    with atomic_write(path) as a, atomic_write(path) as b:
        assert a.parent == b.parent == path.parent and len({a, b, path}) == 3
        a.write_text("a")
        b.write_text("b")
    assert path.read_text() == "a" and list(path.parent.iterdir()) == [path]
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write_half():
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_or_a_folder_that_cannot_be_made_is_named_whoever_writes(tmp_path, monkeypatch):
    full = "Could not write .*x.txt .*No space left.*Free some space"
    with pytest.raises(CacheError, match=full), atomic_write(tmp_path / "x.txt"):
        raise OSError(28, "No space left on device")

    def save_file(*args):
        raise cache.SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(cache, "save_file", save_file)
    with pytest.raises(CacheError, match=full):
        save_tensors(tmp_path / "x.txt", TENSORS)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="file.x"), atomic_write(tmp_path / "file" / "x"):
        pytest.fail("there is no place to write to")


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "x.safetensors"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: save_tensors(path, {"t": torch.full((1000,), i)}), range(8)))
    tensor = load_tensors(path)[0]["t"]
    assert tensor.shape == (1000,) and tensor.unique().numel() == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_whole(path, "old\n")
    monkeypatch.setattr(Path, "replace", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_whole(path, "new" * 10_000)
    assert path.read_bytes() == b"old\n" and list(tmp_path.iterdir()) == [path]


def test_what_is_no_text_is_written_as_json_writes_it(tmp_path):
    write_whole(tmp_path / "x", json.dumps("a\udce4ö", ensure_ascii=False))
    assert json.loads((tmp_path / "x").read_text(encoding="utf-8")) == "a\udce4ö"
