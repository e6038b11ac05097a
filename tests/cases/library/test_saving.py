"""Saved files: what a killed save leaves behind, and who may read them."""

import os
import signal

import pytest
import torch

from fewshot_lib.data.cache import atomic_write, cache_dir, cached_tensors, save_tensors


def killed_while_saving(path):
    """A process that is killed in the middle of a save."""
    if (child := os.fork()) == 0:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a16_what_a_killed_save_left_goes_with_the_next_one(tmp_path, own_cache):
    for path in (tmp_path / "x", own_cache / "features" / "key" / "x"):
        killed_while_saving(path)
        assert len(list(path.parent.glob(".x.*.part"))) == 1 and not path.exists()
    theirs = tmp_path / ".x.part"
    theirs.touch()
    with atomic_write(tmp_path / "y") as alive, atomic_write(tmp_path / "z") as other:
        alive.write_text("y")
        other.write_text("z")
        assert alive.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"y", "z", ".x.part", "cache"}
    cached_tensors(cache_dir("glyphs") / "g.safetensors", lambda: ({}, {}))
    assert not list(own_cache.rglob("*.part"))


def test_a16_another_machines_leftover_goes_after_a_day(tmp_path):
    young, old = (tmp_path / f".x.0000000{n}-1-{'0' * 32}.part" for n in (1, 2))
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    with atomic_write(tmp_path / "x") as temporary:
        temporary.touch()
    assert young.exists() and not old.exists()


@pytest.mark.skipif(os.name != "posix", reason="umask")
@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a11_files_have_the_rights_of_any_file(umask, rights, tmp_path):
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "x", {"t": torch.ones(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == rights
