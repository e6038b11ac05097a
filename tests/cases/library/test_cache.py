"""The cache: when it is used, when what it holds is made anew, and where it lies."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fewshot_lib.data import cache
from fewshot_lib.data.cache import CacheError, cache_dir, cached_tensors, save_tensors
from fewshot_lib.encoders import encoder_fingerprint, extract_features, features

from .helpers import ROWS, dataset


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.encoded = nn.Parameter(torch.ones(1)), 0

    def forward(self, x):
        self.encoded += len(x)
        return x[:, :3] * self.weight


def test_a16_a_cached_part_with_missing_rows_or_of_another_encoder_is_made_again(own_cache, monkeypatch):
    monkeypatch.setattr(features, "_PART", 20)
    expected = extract_features(Mean(), dataset())
    for spoil in (lambda t: t[:-1], lambda t: t[:0]):
        file = sorted(own_cache.rglob("*.safetensors"))[1]
        save_file({"features": spoil(load_file(file)["features"]).contiguous()}, file)
        encoder = Mean()
        with pytest.warns(UserWarning, match="does not hold the features of the 20 examples it is for"):
            assert torch.equal(extract_features(encoder, dataset()), expected)
        assert encoder.encoded == 20
    broken = Mean()
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ValueError, match="`features` of unnamed .*by `Mean` has NaN in row 0"):
        extract_features(broken, dataset())


def test_a16_a_changed_tokenizer_is_another_encoder_and_its_use_is_not(minilm):
    before = encoder_fingerprint(minilm)
    minilm(["a", "b c d"])
    assert encoder_fingerprint(minilm) == before
    other = copy.deepcopy(minilm)
    other.tokenizer.add_tokens(["fewshot"])
    assert encoder_fingerprint(other) != before
    other = copy.deepcopy(minilm)
    other.max_tokens = 64
    assert encoder_fingerprint(other) != before


def test_a11_a_file_that_may_not_be_read_is_no_damaged_one(own_cache, monkeypatch):
    path = cache_dir("x") / "x.safetensors"
    save_tensors(path, {"t": torch.ones(2)})
    opened = Path.open

    def refuse(self, *args, **kwargs):  # root, as in many a test, may read anything
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CacheError, match=r"x.safetensors cannot be read \(Permission denied\).*chmod a\+r"):
        cached_tensors(path, lambda: pytest.fail("made again"))
    monkeypatch.undo()
    assert path.exists()


def test_f20_a_complete_cache_is_used_without_writing(own_cache, monkeypatch):
    expected = extract_features(Mean(), dataset())

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(cache, "save_file", refuse)
    encoder = Mean()
    assert torch.equal(extract_features(encoder, dataset()), expected) and encoder.encoded == 0
    with pytest.raises(CacheError, match="cannot be written .*Read-only.*Set FEWSHOT_CACHE"):
        extract_features(encoder, dataset(inputs=ROWS + 1))
    assert encoder.encoded == 0


def test_a10_a_relative_cache_is_where_python_was_started(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_START", tmp_path / "start")
    monkeypatch.setenv("FEWSHOT_CACHE", "own")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cache_dir("x") == tmp_path / "start" / "own" / "x" and not list(Path().iterdir())
