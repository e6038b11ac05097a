"""The masked LM: vectors for tokens, halves that make the whole, LoRA merged exactly, verified weights."""

import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fewshot_lib.encoders import language_model, load_masked_lm
from fewshot_lib.encoders import text as sentence_encoders
from fewshot_lib.encoders.language_model import MaskedLM, merge
from fewshot_lib.encoders.text import minilm_path

ROOT = Path(__file__).parents[2]
TEXTS = ["a graph", "the path of a node to a node in the net with noise", "node"]
KINDS = ["bert", "roberta", "distilbert"]


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/masked_lm.py, which trains and evaluates."""
    spec = importlib.util.spec_from_file_location("masked_lm_benchmark", ROOT / "benchmarks" / "masked_lm.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped():
    return load_masked_lm()


def batch_for(lm, texts):
    """What transformers' own forward is called with."""
    tokens, mask = lm.tokenise(texts).values()
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_their_word_embeddings_give_what_transformers_gives(tiny_lm, kind):
    lm = tiny_lm(kind)
    tokens, mask = lm.tokenise(TEXTS).values()
    expected = lm.model.base_model(**batch_for(lm, TEXTS)).last_hidden_state
    assert expected.shape == (3, 15, lm.hidden_size)
    for given in (tokens, lm.word_embeddings[tokens]):
        assert torch.allclose(lm.hidden(given, mask)[mask.bool()], expected[mask.bool()], atol=1e-6)
    assert torch.allclose(lm.hidden(tokens[1:2]), expected[1:2], atol=1e-6)  # without a mask all are read


@pytest.mark.parametrize("kind", KINDS)
def test_the_halves_make_the_whole(tiny_lm, kind):
    lm = tiny_lm(kind)
    texts = ["the [MASK] with a [MASK] path"]
    batch = lm.tokenise(texts)
    at = batch["tokens"][0] == lm.mask_token_id
    whole = lm.model(**batch_for(lm, texts)).logits[0, at]
    assert whole.shape == (2, lm.word_embeddings.shape[0])
    assert torch.allclose(lm.logits_at(lm.hidden(**batch)[0, at]), whole, atol=1e-6)
    assert torch.equal(lm.decoder(lm.transform(whole[:, :12])), lm.logits_at(whole[:, :12]))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_off_even_in_training_mode(tiny_lm, kind):
    lm = tiny_lm(kind)
    batch = lm.tokenise(TEXTS)
    quiet = lm.hidden(**batch)
    lm.train()
    assert torch.equal(lm.hidden(**batch), quiet)


def test_second_derivatives_are_right(tiny_lm):
    """A Hessian-vector product through the attention, against finite differences of the gradient."""
    lm = tiny_lm()
    vectors = lm.word_embeddings[lm.tokenise(["a [MASK] path"])["tokens"]].detach().requires_grad_()

    def gradient(x, **options):
        loss = lm.logits_at(lm.hidden(x)[:, 2]).log_softmax(-1)[0, 7]
        return torch.autograd.grad(loss, x, **options)[0]

    direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.autograd.grad((gradient(vectors, create_graph=True) * direction).sum(), vectors)[0]
    numeric = (gradient(vectors + 1e-5 * direction) - gradient(vectors - 1e-5 * direction)) / 2e-5
    assert exact.abs().max() > 1e-3
    assert torch.allclose(exact, numeric, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_texts_gives_each_its_gradient(tiny_lm, kind):
    lm = tiny_lm(kind)
    tokens, mask = lm.tokenise(TEXTS).values()
    vectors = lm.word_embeddings[tokens].detach()

    def loss(x, m):
        return lm.logits_at(lm.hidden(x[None], m[None])[:, 0]).log_softmax(-1)[0, 7]

    together = torch.vmap(torch.func.grad(loss))(vectors, mask)
    for x, m, gradient in zip(vectors, mask, together, strict=True):
        assert torch.allclose(torch.func.grad(loss)(x, m), gradient, atol=1e-5)
        assert gradient[~m.bool()].abs().sum() == 0, "nothing flows into padding"


def test_texts_are_cut_and_padded_to_the_longest_of_the_batch(tiny_lm):
    lm = tiny_lm()
    batch = lm.tokenise(["a graph", "a " * 100])
    assert batch["tokens"][0, :5].tolist() == [2, 12, 14, 3, 0]
    assert batch["tokens"].shape == (2, lm.max_tokens)
    assert batch["attention_mask"].sum(1).tolist() == [4, lm.max_tokens]


def test_merged_adapters_equal_attached_ones(benchmark, tiny_lm):
    lm, plain = tiny_lm(), tiny_lm()
    n_vocab = len(lm.word_embeddings)
    peft_model = benchmark.adapted(lm, torch.full((n_vocab,), 1 / n_vocab), rank=3)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                moved = parameter + 0.1 * torch.randn_like(parameter)
                parameter.copy_(moved.half())  # the file holds float16
    tensors = benchmark.packed(peft_model)
    assert sum(name.endswith("lora_A") for name in tensors) == 2 * 6, "every linear layer of the encoder"
    batch = plain.tokenise(TEXTS)
    before = plain.hidden(**batch)
    merge(plain.model, tensors, benchmark.SCALE)
    assert not torch.allclose(plain.hidden(**batch), before, atol=1e-2)
    assert torch.allclose(plain.hidden(**batch), lm.hidden(**batch), atol=1e-5)
    with pytest.raises(ValueError, match=r"'bert.x.lora_A', but the model has no 'bert.x.weight'"):
        merge(plain.model, {"bert.x.lora_A": torch.zeros(1, 1)}, 1.0)


@pytest.fixture
def saved(tiny_lm, tmp_path):
    """Writes a folder as a hub has it, without the weights whose name contains ``drop``."""

    def save(kind="bert", drop="nothing"):
        lm = tiny_lm(kind).float()
        lm.model.save_pretrained(tmp_path)
        lm.tokenizer.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        left = {name: tensor for name, tensor in weights.items() if drop not in name}
        save_file(left, tmp_path / "model.safetensors", {"format": "pt"})
        return lm

    return save


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_loaded_with_its_own_head(saved, kind, tmp_path):
    lm = saved(kind)
    loaded, state = load_masked_lm(tmp_path, max_tokens=24), torch.get_rng_state()
    load_masked_lm(str(tmp_path), max_tokens=24)
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random numbers from the caller"
    texts = ["the [MASK] with a path"]
    expected = lm.model(**batch_for(lm, texts)).logits
    assert torch.allclose(loaded.logits_at(loaded.hidden(**loaded.tokenise(texts))), expected, atol=1e-6)
    assert loaded.model.config._attn_implementation == "eager" and not loaded.training


def test_a_checkpoint_in_the_old_format_of_bert_base_is_complete(saved, tmp_path):
    lm = saved()
    old = {"bert.pooler.dense.weight": torch.zeros(12, 12), "cls.seq_relationship.bias": torch.zeros(2)}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        if ".decoder." not in name:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    batch = batch_for(lm, TEXTS)
    loaded = load_masked_lm(tmp_path, max_tokens=24)
    assert torch.allclose(loaded.model(**batch).logits, lm.model(**batch).logits, atol=1e-6)


def test_sources_that_cannot_work_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="use 'minilm-mlm'"):
        load_masked_lm("minilm")
    with pytest.raises(ValueError, match=r"no trained MLM head \(missing: cls.predictions"):
        load_masked_lm(minilm_path())
    with pytest.raises(ValueError, match="cannot be loaded: give 'minilm-mlm', a folder with"):
        load_masked_lm(tmp_path / "nothing")
    saved(drop="transform")
    with pytest.raises(ValueError, match="no trained MLM head"):
        load_masked_lm(tmp_path)
    transformers.AlbertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'albert' model, .*: use one of the types 'bert'"):
        load_masked_lm(tmp_path)


def test_wrong_arguments_are_named(tiny_lm):
    lm = tiny_lm()
    for max_tokens in (2, 65):
        with pytest.raises(ValueError, match=f"`max_tokens` is {max_tokens}: choose 3 to 64"):
            MaskedLM(lm.model, lm.tokenizer, max_tokens)
    with pytest.raises(ValueError, match="choose 3 to 63"):
        MaskedLM(tiny_lm("roberta").model, lm.tokenizer, 64)
    for texts in ("a graph", []):
        with pytest.raises(ValueError, match="give a list"):
            lm.tokenise(texts)


def test_changed_or_missing_weights_are_refused(tmp_path, monkeypatch):
    changed = tmp_path / "weights.safetensors"
    changed.write_bytes(language_model.MINILM_MLM.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(language_model, "MINILM_MLM", changed)
    with pytest.raises(
        ValueError, match=f"published {language_model.MINILM_MLM_SHA256}: install fewshot_lib"
    ):
        load_masked_lm()
    changed.unlink()
    with pytest.raises(FileNotFoundError, match="it comes with fewshot_lib"):
        load_masked_lm()
    monkeypatch.undo()
    monkeypatch.setattr(sentence_encoders, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the published 0000"):
        load_masked_lm()


def test_what_is_committed_is_small_and_described():
    content = language_model.MINILM_MLM.read_bytes()
    assert len(content) < 6e6
    card = (ROOT / "data" / "minilm-mlm.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in card


@pytest.mark.slow
def test_the_shipped_model_fills_gaps_better_than_word_frequency(benchmark, shipped):
    """On docstrings of the training classes that were held out; the intervals do not touch."""
    corpus = benchmark.read("docstrings", shipped.tokenizer)
    texts = sorted(corpus.held_out)[:150]
    usual = benchmark.frequencies(corpus.train, len(shipped.word_embeddings))
    scores = benchmark.score(shipped, texts, usual)
    gaps = scores[:, 0]
    assert gaps.sum() > 250
    for of_model, of_frequency in ((1, 4), (2, 5)):
        p, half = benchmark.share(scores[:, of_model], gaps)
        base, base_half = benchmark.share(scores[:, of_frequency], gaps)
        assert p - half > base + base_half


def test_the_shipped_model_reads_a_text_alike_with_others_beside_it(shipped):
    """Compute the [MASK] of a matrix: the same words fill the gap whether a longer text pads it or not."""
    texts = ["Compute the [MASK] of a matrix.", "Draw samples from a normal [MASK] with mean and variance."]
    together, alone = (shipped.hidden(**shipped.tokenise(texts[:n]))[0, 3] for n in (2, 1))
    assert torch.allclose(shipped.logits_at(together), shipped.logits_at(alone), atol=1e-4)


def test_held_out_texts_and_those_of_other_classes_are_not_trained_on(benchmark, tiny_lm, monkeypatch):
    tokenizer = tiny_lm().tokenizer
    words = "graph node path edge signal wave sound noise font letter glyph net".split()
    texts = [f"{a} {b} {c}" for a in words for b in words[:7] for c in words[:4]]
    labels = torch.tensor([0, 0, 1, 2] * (len(texts) // 4))
    texts[3] = texts[0].upper() + "!"  # stands in a test class as well
    splits = {"train": torch.tensor([0, 1]), "test": torch.tensor([2])}
    dataset = benchmark.data.ClassDataset(texts, labels, ["a", "b", "c"], splits)
    monkeypatch.setattr(benchmark.data, "load", lambda name: dataset)
    corpus = benchmark.read("any", tokenizer)
    train, held_out = ({tokenizer.decode(ids) for ids in side} for side in (corpus.train, corpus.held_out))
    allowed = {text for text, label in zip(texts, labels.tolist(), strict=True) if label < 2} - {texts[0]}
    assert held_out and not train & held_out and train | held_out == allowed
