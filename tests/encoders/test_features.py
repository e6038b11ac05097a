"""Features of a whole data set: batches that do not matter, fingerprints, resumed and repaired caches."""

import pytest
import torch
from torch import nn

from fewshot_lib.data.cache import CacheError
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import Conv4, encode, encoder_fingerprint, extract_features, features, raw_features


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    return tmp_path


def dataset_of(inputs):
    return ClassDataset(inputs, torch.zeros(len(inputs), dtype=torch.int64), ["only"], {})


def images(n=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return dataset_of(torch.randint(0, 256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8))


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


def test_encoding_in_batches_equals_encoding_at_once():
    torch.manual_seed(0)
    encoder, x = Conv4(width=8), images().inputs
    assert torch.allclose(encode(encoder, x, batch_size=3), encode(encoder, x), atol=1e-6)


def test_on_a_cpu_few_are_encoded_at_a_time():
    sizes = []

    class Seen(nn.Linear):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    encode(Seen(2, 2), torch.rand(70, 2))
    assert sizes == [32, 32, 6]


class LengthOfText(nn.Linear):
    """A text's length in letters and in its batch; so much padding there is."""

    def forward(self, texts):
        lengths = torch.tensor([len(text) for text in texts])
        return torch.stack([lengths, lengths.max().expand_as(lengths)], 1)


def test_texts_are_encoded_with_texts_of_their_length_and_come_back_in_order():
    lengths = [5, 1, 9, 1, 8, 2]
    found = encode(LengthOfText(1, 1), ["x" * n for n in lengths], batch_size=2)
    assert found[:, 0].tolist() == lengths and found[:, 1].tolist() == [5, 1, 9, 1, 9, 5]


def test_encoding_leaves_no_graph_and_every_module_as_it_was_even_when_it_fails():
    encoder = Conv4(width=4).train()
    encoder.blocks[0][1].eval()  # a frozen batch norm
    modes = [m.training for m in encoder.modules()]
    assert not encode(encoder, torch.rand(2, 1, 28, 28)).requires_grad
    assert [m.training for m in encoder.modules()] == modes
    with pytest.raises(ValueError, match=r"`images` have shape \(2, 3, 28, 28\): give \(n, 1, "):
        encode(encoder, torch.rand(2, 3, 28, 28))
    assert [m.training for m in encoder.modules()] == modes


def test_progress_is_silent_without_a_reader(monkeypatch, capsys):
    for static, silent in (("1", True), ("0", False)):
        monkeypatch.setenv("FEWSHOT_STATIC", static)
        encode(Conv4(width=4), torch.rand(3, 1, 28, 28), label="features")
        assert (capsys.readouterr().err == "") == silent


def test_features_are_computed_once_and_those_of_other_data_or_other_weights_anew(cache):
    encoder = CountingEncoder()
    first = extract_features(encoder, images(seed=0))
    assert torch.equal(extract_features(encoder, images(seed=0)), first) and encoder.encoded == 10
    extract_features(encoder, images(seed=1))
    assert encoder.encoded == 20
    with torch.no_grad():
        encoder.weight *= 2
    expected = 2 * images(seed=0).inputs.flatten(1).float()[:, :3]
    assert torch.equal(extract_features(encoder, images(seed=0)), expected)


def test_an_interruption_costs_one_part(cache, monkeypatch):
    monkeypatch.setattr(features, "_PART", 4)
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


def test_features_in_bfloat16_are_kept_apart_and_in_half_the_room(cache, monkeypatch):
    monkeypatch.setattr(features, "bfloat16_asked", lambda device: asked)
    torch.manual_seed(0)
    encoder, found, some = nn.Linear(64, 64), {}, dataset_of(torch.randn(50, 64))
    for asked in (False, True):
        found[asked] = extract_features(encoder, some)
        assert torch.equal(found[asked], extract_features(encoder, some))  # from the cache
    assert found[True].dtype == torch.float32 and not torch.equal(found[True], found[False])
    torch.testing.assert_close(found[True], found[False], atol=0.02, rtol=0.02)
    small, large = sorted(path.stat().st_size for path in cache.rglob("*.safetensors"))
    assert small < 0.7 * large


def test_the_fingerprint_follows_weights_buffers_names_class_and_architecture_and_takes_bfloat16():
    a, b = Conv4(width=4), Conv4(width=4)
    assert encoder_fingerprint(a) != encoder_fingerprint(b)
    b.load_state_dict(a.state_dict())
    assert encoder_fingerprint(a) == encoder_fingerprint(b)
    b.blocks[0][1].running_mean += 1
    assert encoder_fingerprint(a) != encoder_fingerprint(b)

    class One(nn.Module):
        def __init__(self, name):
            super().__init__()
            setattr(self, name, nn.Parameter(torch.ones(2)))

    class Two(One):
        pass

    assert len({encoder_fingerprint(m) for m in (One("a"), One("b"), Two("a"))}) == 3
    a, b = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    b.load_state_dict(a.state_dict())
    assert encoder_fingerprint(a) != encoder_fingerprint(b)
    assert encoder_fingerprint(Conv4(width=4).bfloat16())


def test_raw_features_are_pixels_in_0_to_1_or_counts_of_length_1():
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    for inputs in (pixels, pixels / 255):
        torch.testing.assert_close(raw_features(dataset_of(inputs)), pixels.flatten(1) / 255)
    counts = raw_features(dataset_of(["a word", "two words two words", "bb cc dd", "graph of graph"]))
    assert counts.shape == (4, 4096)
    torch.testing.assert_close(counts[1:].norm(dim=1), torch.ones(3))
