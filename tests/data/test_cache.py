"""The cache: a file is whole or not there, a damaged one is made again, and an unusable directory is named."""

import threading

import pytest
import torch

from fewshot_lib.data import cache
from fewshot_lib.data.cache import CacheError, atomic_write, cache_dir, cached_tensors, load_tensors, save_tensors

TENSORS = {"images": torch.arange(12, dtype=torch.uint8).view(3, 4), "floats": torch.tensor([0.5, -1.0])}


def test_directory_is_the_one_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "mine"))
    assert cache_dir("a", "b") == tmp_path / "mine" / "a" / "b"
    assert (tmp_path / "mine" / "a" / "b").is_dir()
    assert not list(cache_dir("a", "b").iterdir())


@pytest.mark.parametrize("variable", [None, ""])
def test_without_a_setting_it_is_the_users_own(monkeypatch, tmp_path, variable):
    monkeypatch.delenv("FEWSHOT_CACHE", raising=False)
    if variable is not None:
        monkeypatch.setenv("FEWSHOT_CACHE", variable)
    monkeypatch.setattr(cache.pooch, "os_cache", lambda name: tmp_path / name)
    assert cache_dir() == tmp_path / "fewshot_lib"


def test_a_directory_that_is_a_file_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match=r"file.* cannot be written .*Set FEWSHOT_CACHE"):
        cache_dir("glyphs")


def test_a_read_only_directory_is_named(monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)  # the tests may run as root, who may write anywhere
    with pytest.raises(CacheError, match=r"cannot be written \(Permission denied\).*FEWSHOT_CACHE"):
        cache_dir("glyphs")


def test_tensors_and_strings_come_back(tmp_path):
    save_tensors(tmp_path / "x.safetensors", TENSORS, {"unit": "pixels"})
    tensors, metadata = load_tensors(tmp_path / "x.safetensors")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert metadata["unit"] == "pixels"


def test_tensors_that_are_not_contiguous_come_back(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {"t": TENSORS["images"].mT})
    assert torch.equal(load_tensors(tmp_path / "x.safetensors")[0]["t"], TENSORS["images"].mT)


def test_strings_alone_come_back(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {}, {"texts": "größer, 大"})
    assert load_tensors(tmp_path / "x.safetensors") == ({}, {"texts": "größer, 大"})


def test_build_is_called_once(tmp_path):
    calls = []

    def build():
        calls.append(1)
        return TENSORS, {"made": "here"}

    first = cached_tensors(tmp_path / "x.safetensors", build)
    second = cached_tensors(tmp_path / "x.safetensors", build)
    assert len(calls) == 1
    assert torch.equal(first[0]["images"], second[0]["images"])
    assert first[1] == second[1]


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-3], lambda raw: b"\xff" * len(raw), lambda raw: b"not a tensor"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="x.safetensors is damaged"):
        tensors, _ = cached_tensors(path, lambda: (TENSORS, {}))
    assert torch.equal(tensors["images"], TENSORS["images"])
    assert torch.equal(load_tensors(path)[0]["images"], TENSORS["images"])


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("interrupted")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_named(tmp_path):
    with pytest.raises(CacheError, match=r"x.txt \(No space left on device\).*Free some space"), atomic_write(tmp_path / "x.txt"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "x.safetensors"
    threads = [threading.Thread(target=save_tensors, args=(path, {"t": torch.full((1000,), i)})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tensor = load_tensors(path)[0]["t"]
    assert tensor.shape == (1000,)
    assert tensor.unique().numel() == 1
    assert list(tmp_path.iterdir()) == [path]
