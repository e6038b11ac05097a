"""The masked LM: embeddings in place of tokens, padding, halves that make the whole, LoRA merged exactly, verified weights."""

import hashlib
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from fewshot_lib import encoders, masked_lm
from fewshot_lib.encoders import load_masked_lm, minilm_path
from fewshot_lib.masked_lm import MaskedLM, merge
from fewshot_lib.training import seed_everything

ROOT = Path(__file__).parents[1]
TEXTS = ["a graph", "the graph has a short path from each node to each node", "node"]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a the graph has short path from each node to is long edge and of".split()
SIZES = {"vocab_size": len(WORDS), "max_position_embeddings": 40, "pad_token_id": 0}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32} | SIZES
CONFIGS = {
    "bert": transformers.BertConfig(**BERT),
    "roberta": transformers.RobertaConfig(**BERT),
    "distilbert": transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **SIZES),
}


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


def tokenizer():
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


def tiny(kind="bert", seed=0):
    """A random model with large weights, so that differences would show."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForMaskedLM.from_config(CONFIGS[kind], attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return MaskedLM(model, tokenizer(), max_tokens=20)


@pytest.mark.parametrize("kind", CONFIGS)
def test_word_embeddings_in_place_of_tokens_give_the_same(kind):
    lm = tiny(kind)
    batch = lm.tokenise(TEXTS)
    by_tokens, real = lm.hidden(**batch), batch["attention_mask"].bool()
    by_vectors = lm.hidden(inputs_embeds=lm.word_embeddings[batch["input_ids"]], attention_mask=batch["attention_mask"])
    assert by_tokens.shape == (3, 14, lm.hidden_size)
    assert torch.allclose(by_vectors[real], by_tokens[real], atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_does_not_change_a_text(kind):
    lm = tiny(kind)
    together = lm.hidden(**lm.tokenise(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = lm.hidden(**lm.tokenise([text]))
        assert torch.allclose(together[row, : alone.shape[1]], alone[0], atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_halves_make_the_whole(kind):
    lm = tiny(kind)
    batch = lm.tokenise(["the [MASK] has a [MASK] path"])
    at = batch["input_ids"][0] == lm.mask_token_id
    whole = lm.model(**batch).logits[0, at]
    assert whole.shape == (2, len(WORDS))
    assert torch.allclose(lm.logits_at(lm.hidden(**batch)[0, at]), whole, atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_dropout_is_off_even_in_training_mode(kind):
    lm = tiny(kind)
    batch = lm.tokenise(TEXTS)
    quiet = lm.hidden(**batch)
    lm.train()
    assert torch.equal(lm.hidden(**batch), quiet)


def test_second_derivatives_are_right():
    """A Hessian-vector product through the attention, against finite differences of the gradient in float64."""
    lm = tiny().double()
    vectors = lm.word_embeddings[lm.tokenise(["a [MASK] path"])["input_ids"]].detach().requires_grad_()

    def gradient(x, **options):
        loss = lm.logits_at(lm.hidden(inputs_embeds=x)[:, 2]).log_softmax(-1)[0, 7]
        return torch.autograd.grad(loss, x, **options)[0]

    direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.autograd.grad((gradient(vectors, create_graph=True) * direction).sum(), vectors)[0]
    numeric = (gradient(vectors + 1e-5 * direction) - gradient(vectors - 1e-5 * direction)) / 2e-5
    assert exact.abs().max() > 1e-3
    assert torch.allclose(exact, numeric, atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_vmap_over_texts_gives_each_its_gradient(kind):
    lm = tiny(kind)
    batch = lm.tokenise(TEXTS)
    vectors, mask = lm.word_embeddings[batch["input_ids"]].detach(), batch["attention_mask"]

    def loss(x, m):
        return lm.logits_at(lm.hidden(inputs_embeds=x[None], attention_mask=m[None])[:, 0]).log_softmax(-1)[0, 7]

    together = torch.vmap(torch.func.grad(loss))(vectors, mask)
    for x, m, gradient in zip(vectors, mask, together, strict=True):
        assert torch.allclose(torch.func.grad(loss)(x, m), gradient, atol=1e-5)
        assert gradient[~m.bool()].abs().sum() == 0, "nothing flows into padding"


def test_without_a_mask_every_token_is_read():
    lm = tiny()
    batch = lm.tokenise(["a graph has a path"])
    assert torch.equal(lm.hidden(batch["input_ids"]), lm.hidden(**batch))


def test_texts_are_cut_and_padded_to_the_longest_of_the_batch():
    lm = tiny()
    assert lm.tokenise(["a graph"])["input_ids"].tolist() == [[2, 5, 7, 3]]
    batch = lm.tokenise(["a graph", "a " * 100])
    assert batch["input_ids"].shape == (2, lm.max_tokens)
    assert batch["attention_mask"].sum(1).tolist() == [4, lm.max_tokens]


def test_merged_adapters_equal_attached_ones(benchmark):
    lm, plain = tiny(), tiny()
    peft_model = benchmark.adapted(lm, torch.full((len(WORDS),), 1 / len(WORDS)), rank=3)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half())  # the file holds float16
    tensors = benchmark.packed(peft_model)
    assert len([name for name in tensors if name.endswith("lora_A")]) == 2 * 6, "every linear layer of the encoder"
    batch = plain.tokenise(TEXTS)
    before = plain.hidden(**batch)
    merge(plain.model, tensors, benchmark.SCALE)
    assert not torch.allclose(plain.hidden(**batch), before, atol=1e-2)
    assert torch.allclose(plain.hidden(**batch), lm.hidden(**batch), atol=1e-5)
    assert torch.allclose(plain.model(**batch).logits, lm.model(**batch).logits, atol=1e-4)


def test_merging_into_another_architecture_is_refused():
    with pytest.raises(ValueError, match=r"'bert.x.lora_A', but the model has no 'bert.x.weight'"):
        merge(tiny().model, {"bert.x.lora_A": torch.zeros(1, 1)}, 1.0)


def saved(folder, kind="bert", drop=""):
    """A folder as a hub has it, without the weights whose name contains ``drop``."""
    lm = tiny(kind)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    if drop:
        weights = load_file(folder / "model.safetensors")
        save_file({name: tensor for name, tensor in weights.items() if drop not in name}, folder / "model.safetensors", {"format": "pt"})
    return lm


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_is_loaded_with_its_own_head(kind, tmp_path):
    lm = saved(tmp_path, kind)
    loaded, state = load_masked_lm(tmp_path, max_tokens=20), torch.get_rng_state()
    load_masked_lm(str(tmp_path), max_tokens=20)
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random numbers from the caller"
    batch = lm.tokenise(["the [MASK] has a path"])
    assert torch.equal(loaded.tokenise(["the [MASK] has a path"])["input_ids"], batch["input_ids"])
    assert torch.allclose(loaded.logits_at(loaded.hidden(**batch)), lm.model(**batch).logits, atol=1e-6)
    assert loaded.model.config._attn_implementation == "eager" and not loaded.training


def test_a_checkpoint_in_the_old_format_of_bert_base_is_complete(tmp_path):
    lm = saved(tmp_path)
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in load_file(tmp_path / "model.safetensors").items() if ".decoder." not in name}  # fmt: skip
    extra = {"bert.pooler.dense.weight": torch.zeros(16, 16), "cls.seq_relationship.bias": torch.zeros(2)}
    save_file(old | extra, tmp_path / "model.safetensors", {"format": "pt"})
    batch = lm.tokenise(TEXTS)
    assert torch.allclose(load_masked_lm(tmp_path, max_tokens=20).model(**batch).logits, lm.model(**batch).logits, atol=1e-6)


def test_sources_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="use 'minilm-mlm'"):
        load_masked_lm("minilm")
    with pytest.raises(ValueError, match=r"no trained MLM head \(missing: cls.predictions"):
        load_masked_lm(minilm_path())
    with pytest.raises(ValueError, match="cannot be loaded: give 'minilm-mlm', a hub id"):
        load_masked_lm(tmp_path / "nothing")
    saved(tmp_path / "headless", drop="transform")
    with pytest.raises(ValueError, match="no trained MLM head"):
        load_masked_lm(tmp_path / "headless", max_tokens=20)
    transformers.AlbertConfig(**BERT).save_pretrained(tmp_path / "albert")
    with pytest.raises(ValueError, match="a 'albert' model, which is not supported: use one of the types 'bert'"):
        load_masked_lm(tmp_path / "albert")


def test_wrong_arguments_are_named():
    lm = tiny()
    for max_tokens in (2, 41):
        with pytest.raises(ValueError, match=f"`max_tokens` is {max_tokens}: choose 3 to 40"):
            MaskedLM(lm.model, lm.tokenizer, max_tokens)
    with pytest.raises(ValueError, match="choose 3 to 39"):
        MaskedLM(tiny("roberta").model, lm.tokenizer, 40)
    with pytest.raises(ValueError, match="neither of `input_ids` and `inputs_embeds`"):
        lm.hidden()
    with pytest.raises(ValueError, match="both of"):
        lm.hidden(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 16))
    for texts in ("a graph", []):
        with pytest.raises(ValueError, match="a list with at least one text"):
            lm.tokenise(texts)


def test_changed_or_missing_weights_are_refused(tmp_path, monkeypatch):
    changed = tmp_path / "weights.safetensors"
    changed.write_bytes(masked_lm.MINILM_MLM.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(masked_lm, "MINILM_MLM", changed)
    with pytest.raises(ValueError, match=f"not the published {masked_lm.MINILM_MLM_SHA256}: restore it"):
        load_masked_lm()
    changed.unlink()
    with pytest.raises(FileNotFoundError, match="from a clone"):
        load_masked_lm()
    monkeypatch.undo()
    monkeypatch.setattr(encoders, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the published 0000"):
        load_masked_lm()


def test_what_is_committed_is_small_and_described():
    content = masked_lm.MINILM_MLM.read_bytes()
    assert len(content) < 6e6
    assert hashlib.sha256(content).hexdigest() in (ROOT / "data" / "minilm-mlm.md").read_text(encoding="utf-8")


def test_the_shipped_model_fills_gaps_better_than_word_frequency(benchmark, shipped):
    """On docstrings of the training classes that were held out; the intervals do not touch."""
    corpus = benchmark.read("docstrings", shipped.tokenizer)
    texts = sorted(corpus.held_out)[:150]
    scores = benchmark.score(shipped, texts, benchmark.frequencies(corpus.train, len(shipped.word_embeddings)))
    gaps = scores[:, 0]
    assert gaps.sum() > 250
    for ours, usual in ((1, 4), (2, 5)):
        (p, half), (base, base_half) = benchmark.share(scores[:, ours], gaps), benchmark.share(scores[:, usual], gaps)
        assert p - half > base + base_half


def test_the_shipped_model_reads_vectors_and_padding_alike(shipped):
    batch = shipped.tokenise(["Compute the [MASK] of a matrix.", "Draw samples from a normal [MASK] with the given mean and variance."])
    at = batch["input_ids"] == shipped.mask_token_id
    by_tokens = shipped.logits_at(shipped.hidden(**batch)[at])
    by_vectors = shipped.hidden(inputs_embeds=shipped.word_embeddings[batch["input_ids"]], attention_mask=batch["attention_mask"])
    assert torch.allclose(shipped.logits_at(by_vectors[at]), by_tokens, atol=1e-4)
    alone = shipped.tokenise(["Compute the [MASK] of a matrix."])
    assert torch.allclose(shipped.logits_at(shipped.hidden(**alone)[0, 3]), by_tokens[0], atol=1e-4)


def test_held_out_texts_and_those_of_other_classes_are_not_trained_on(benchmark, monkeypatch):
    words = [f"{a} {b} {c}" for a in WORDS[5:] for b in WORDS[5:12] for c in WORDS[5:9]]
    labels = torch.tensor([0, 0, 1, 2] * (len(words) // 4))
    words[3] = words[0].upper() + "!"  # stands in a test class as well
    dataset = benchmark.data.ClassDataset(words, labels, ["a", "b", "c"], {"train": torch.tensor([0, 1]), "test": torch.tensor([2])})
    monkeypatch.setattr(benchmark.data, "load", lambda name: dataset)
    corpus = benchmark.read("any", tokenizer())
    read = {side: {" ".join(WORDS[i] for i in ids) for ids in getattr(corpus, side)} for side in ("train", "held_out")}
    allowed = {word for word, label in zip(words, labels.tolist(), strict=True) if label < 2} - {words[0]}
    assert read["held_out"] and not read["train"] & read["held_out"]
    assert read["train"] | read["held_out"] == allowed


def test_gaps_are_15_per_cent_of_the_words_and_never_the_frame(benchmark):
    texts = [[2, *[5 + (i + n) % 15 for i in range(n)], 3] for n in (1, 7, 20, 60)] * 20
    batch = benchmark.with_gaps(texts, tokenizer(), torch.Generator().manual_seed(0))
    assert batch["chosen"].sum(1).tolist() == [1, 1, 3, 9] * 20
    for row, text in enumerate(texts):
        shown = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert shown[0] == 2 and shown[-1] == 3 and len(shown) == len(text)
        assert not batch["chosen"][row, [0, len(text) - 1]].any()
    original = batch["input_ids"].masked_scatter(batch["chosen"], batch["targets"])
    assert [ids[: len(text)] for ids, text in zip(original.tolist(), texts, strict=True)] == texts
    is_mask = batch["input_ids"][batch["chosen"]] == 4
    assert 0.7 < is_mask.float().mean() < 0.9
    all_masked = benchmark.with_gaps(texts, tokenizer(), torch.Generator().manual_seed(0), shares=(1.0, 0.0))
    assert (all_masked["input_ids"][all_masked["chosen"]] == 4).all()


def test_the_interval_of_single_gaps_is_the_binomial_one(benchmark):
    hits = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
    p, half = benchmark.share(hits, torch.ones(10))
    assert p == pytest.approx(0.2)
    assert half == pytest.approx(2.262 * (0.2 * 0.8 / 9) ** 0.5, rel=1e-3)
    _, repeated = benchmark.share(5 * hits, 5 * torch.ones(10))  # five equal gaps in a text are no five observations
    assert repeated == pytest.approx(half)


def corpora(benchmark):
    """Sentences with a rule: what follows is known from what precedes."""
    texts = [[5 + (start + i) % 15 for i in range(4 + start % 5)] for start in range(60)]
    return [benchmark.Corpus("rule", texts[:40], texts[40:]), benchmark.Corpus("more", texts[10:30], texts[30:])]


def run(benchmark, checkpoint=None, stop_at=None, n_steps=250):
    seed_everything(0)
    lm = tiny()
    peft_model = benchmark.adapted(lm, torch.full((len(WORDS),), 1 / len(WORDS)), rank=4)
    stream = benchmark.batch_stream(corpora(benchmark), lm.tokenizer, 100, seed=0)

    def batches(i):
        if i == stop_at:
            raise KeyboardInterrupt
        return stream(i)

    history = benchmark.train(lm, peft_model, batches, n_steps, 5e-3, checkpoint, seed=0)
    return history.metrics["loss"], benchmark.packed(peft_model)


def test_training_lowers_the_loss_and_resumes_to_the_same_numbers(benchmark, tmp_path):
    losses, weights = run(benchmark)
    assert sum(losses[-20:]) / 20 < math.log(15) - 0.1 < sum(losses[:20]) / 20, "better than knowing which 15 words occur"
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, tmp_path / "run.pt", stop_at=130)
    resumed_losses, resumed = run(benchmark, tmp_path / "run.pt")
    assert resumed_losses == losses
    assert resumed.keys() == weights.keys() and all(torch.equal(resumed[name], weights[name]) for name in weights)


def test_a_batch_depends_on_its_step_alone(benchmark):
    a = benchmark.batch_stream(corpora(benchmark), tokenizer(), 100, seed=0)
    b = benchmark.batch_stream(corpora(benchmark), tokenizer(), 100, seed=0)
    first = [a(i)["input_ids"] for i in range(40)]
    assert torch.equal(b(33)["input_ids"], first[33]) and torch.equal(b(2)["input_ids"], first[2])
    other = benchmark.batch_stream(corpora(benchmark), tokenizer(), 100, seed=1)
    assert any(not torch.equal(other(i)["input_ids"], first[i]) for i in range(3))
    sizes = torch.tensor([ids.numel() for ids in first]).float()
    assert 60 < sizes.mean() < 140
