"""Fine-tuning the encoder: it is itself never changed, batches equal loops, LoRA trains its adapters and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from fewshot_lib.backbone import CosineClassifier, EncoderFineTuning, OnTokens, TokenEncoder, tokenise, with_lora
from fewshot_lib.encoders import Conv4, TextEncoder, encode
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.finetune import FineTuning
from fewshot_lib.prototypes import cosine_prototypes
from fewshot_lib.relational import RelationalNetwork
from fewshot_lib.selection import evaluate_steps
from fewshot_lib.training import seed_everything, train_classifier
from fewshot_lib.transductive import TransductiveFineTuning


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder()


def small_encoder():
    """A float64 encoder with what could leak: batch norm with statistics of its own, and dropout."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 5)).double()
    encoder[1].running_mean.copy_(torch.linspace(-1, 1, 8))
    return encoder.train()


def batch(e=3, n=4, k=2, m=6, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(e, n, k, d, generator=generator, dtype=torch.float64),
        torch.randn(e, m, d, generator=generator, dtype=torch.float64),
    )


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def features_of(encoder, support, query):
    """What the encoder in evaluation mode makes of a batch of episodes."""
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        encoded = [encoder(inputs.flatten(0, -2)).unflatten(0, inputs.shape[:-1]) for inputs in (support, query)]
    encoder.train(was_training)
    return encoded


def unchanged(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_cosine_logits_ignore_lengths_and_are_bounded():
    torch.manual_seed(0)
    classifier = CosineClassifier(5, 7, temperature=0.2).double()
    x = torch.randn(9, 5, dtype=torch.float64)
    logits = classifier(x)
    assert logits.shape == (9, 7)
    assert_close(classifier(3 * x), logits)
    assert logits.abs().max() <= 1 / 0.2
    assert_close(classifier(classifier.weight).diagonal(), torch.full((7,), 5.0, dtype=torch.float64))
    with torch.no_grad():
        classifier.weight *= torch.rand(7, 1) + 0.5
    assert_close(classifier(x), logits)
    with pytest.raises(ValueError, match=r"`temperature` is 0\.0"):
        CosineClassifier(5, 7, temperature=0.0)


def test_cosine_pre_training_turns_classes_into_directions(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    labels = torch.arange(4).repeat_interleave(10)
    x = torch.eye(4)[labels] + 0.3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    seed_everything(0)
    encoder = nn.Linear(4, 8)

    def margin():
        """How much nearer an example's direction is to that of its own class than to the next."""
        z = F.normalize(encoder(x), dim=-1).detach()
        cosines = z @ F.normalize(torch.stack([z[labels == c].mean(0) for c in range(4)]), dim=-1).T
        own = F.one_hot(labels, 4).bool()
        return (cosines[own] - cosines.masked_fill(own, -1).amax(1)).mean()

    before = margin()
    history = train_classifier(encoder, CosineClassifier(8, 4), x, labels, 150, batch_size=16, lr=0.03)
    assert sum(history.metrics["accuracy"][-20:]) / 20 > 0.9
    assert margin() > before + 0.15


HEADS = [
    FineTuning(steps=5),
    FineTuning(head="linear", init="random", regulariser="weight_decay", optimizer="sgd", steps=5),
    FineTuning(regulariser="entropy", steps=5),
    TransductiveFineTuning(steps=5),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.name)
def test_each_episode_is_fine_tuned_by_itself_and_forgotten(head):
    support, query = batch()
    encoder = small_encoder()
    before = state_of(encoder)
    method = EncoderFineTuning(encoder, head, lr=0.01)
    logits = method(support, query)
    assert_close(logits, torch.cat([method(support[e : e + 1], query[e : e + 1]) for e in (0, 1, 2)]), atol=1e-6, rtol=0)
    assert torch.equal(method(support, query), logits)
    assert unchanged(encoder, before) and encoder.training and all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.name)
def test_it_is_inductive_exactly_when_its_head_is(head):
    support, query = batch()
    method = EncoderFineTuning(small_encoder(), head, lr=0.01)  # the batch norm inside is in training mode
    others = torch.cat([query[:, :1], 5 * query[:, 1:].flip(1) - 2], 1)
    independent = torch.allclose(method(support, others)[:, :1], method(support, query)[:, :1])
    assert method.transductive == head.transductive == (not independent)


@pytest.mark.parametrize("regulariser, passes", [(None, 1), ("entropy", 6)])
def test_queries_are_encoded_while_learning_only_where_they_are_learnt_from(regulariser, passes):
    support, query = batch(e=1, m=30)
    encoder, sizes = small_encoder(), []
    encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    EncoderFineTuning(encoder, FineTuning(regulariser=regulariser, steps=5))(support, query)
    assert sizes.count(30) == passes and sizes.count(8) == 1 + 5


def test_without_a_step_it_is_the_head_on_the_encoders_features():
    support, query = batch()
    encoder = small_encoder()
    method = EncoderFineTuning(encoder, FineTuning(steps=0))
    assert_close(method(support, query), cosine_prototypes(*features_of(encoder, support, query)))


def test_the_encoder_takes_part_beyond_the_head():
    """One SGD step on both: the encoder moves against the gradient of the support's loss, at its own rate."""
    support, query = batch(e=1)
    encoder, lr = small_encoder().eval(), 0.1
    head = FineTuning(optimizer="sgd", steps=1, lr=1e-12)
    stepped = EncoderFineTuning(encoder, head, lr=lr)(support, query)

    weights = F.normalize(encoder(support.flatten(0, 2)).view(4, 2, 5).mean(1), dim=-1).detach()
    labels = torch.arange(4).repeat_interleave(2)
    F.cross_entropy(F.normalize(encoder(support.flatten(0, 2)), dim=-1) @ weights.T / 0.1, labels).backward()
    with torch.no_grad():
        for p in encoder.parameters():
            p -= lr * p.grad
        expected = F.normalize(encoder(query[0]), dim=-1) @ weights.T / 0.1
    assert_close(stepped[0], expected, atol=1e-9, rtol=0)


def test_parameters_that_require_no_gradient_stay():
    support, query = batch()
    encoder = small_encoder()
    encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="`encoder` has no parameter with requires_grad"):
        EncoderFineTuning(encoder, FineTuning())
    encoder[4].bias.requires_grad_(True)
    only_bias = EncoderFineTuning(encoder, FineTuning(steps=5), lr=0.1)(support, query)
    encoder.requires_grad_(True)
    everything = EncoderFineTuning(encoder, FineTuning(steps=5), lr=0.1)(support, query)
    head_only = FineTuning(steps=5)(*features_of(encoder, support, query))
    assert not torch.allclose(only_bias, head_only) and not torch.allclose(only_bias, everything)


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.name)
def test_padding_changes_nothing(head):
    support, query = batch(k=3)
    support_mask = torch.zeros(3, 4, 3, dtype=torch.bool)
    support_mask[:, :3, :2] = True
    query_mask = torch.arange(6).expand(3, 6) < 4
    method = EncoderFineTuning(small_encoder(), head, lr=0.01)
    logits = method(support.masked_fill(~support_mask.unsqueeze(-1), 9.0), query, support_mask, query_mask)
    assert (logits[..., 3] == -torch.inf).all()
    if head.init != "random":  # whose first rows depend on how many there are
        assert_close(logits[:, :4, :3], method(support[:, :3, :2], query[:, :4]))


def test_it_runs_in_evaluate_on_images_and_gives_a_curve_over_steps():
    torch.manual_seed(0)
    labels = torch.arange(4).repeat_interleave(6)
    generator = torch.Generator().manual_seed(0)
    images = (100 * torch.rand(4, 1, 28, 28, generator=generator)[labels] + 100 * torch.rand(24, 1, 28, 28, generator=generator)).byte()
    episodes = EpisodeSampler(labels, torch.arange(4), 3, 2, 2, seed=0).sample(3)
    method = EncoderFineTuning(Conv4(width=4), FineTuning(steps=3))
    results = evaluate(method, episodes, images)
    curve = evaluate_steps(method, episodes, images, [0, 3])
    assert torch.equal(curve[1].accuracies, results.accuracies)
    assert results.method == "fine-tuned cosine head, prototypes start + Conv4"


def test_bad_rates_and_diverging_runs_are_named():
    support, query = batch()
    with pytest.raises(ValueError, match=r"`lr` is 0\.0"):
        EncoderFineTuning(small_encoder(), FineTuning(), lr=0.0)
    with pytest.raises(FloatingPointError, match="use smaller learning rates"):
        EncoderFineTuning(small_encoder(), FineTuning(head="linear", optimizer="sgd", normalise=False, steps=5), lr=1e308)(support, query)


TEXTS = [
    "the shortest path between two nodes",
    "a minimum spanning tree of a graph",
    "nodes and their neighbours in a network",
    "the fast Fourier transform of a real signal, computed in place and without a copy",
    "filter a signal with a window",
    "the power spectrum",
]


def test_token_ids_give_the_text_encoders_features(minilm):
    ids = tokenise(minilm, TEXTS)
    assert ids.shape[0] == 6 and ids.dtype == torch.int64
    assert_close(encode(TokenEncoder(minilm), ids), encode(minilm, TEXTS), atol=1e-5, rtol=0)
    padded = F.pad(ids, (0, 9), value=minilm.tokenizer.pad_token_id)
    assert_close(encode(TokenEncoder(minilm), padded), encode(minilm, TEXTS), atol=1e-5, rtol=0)


def test_lora_learns_an_episode_and_leaves_every_weight_as_it_was(minilm):
    ids, before = tokenise(minilm, TEXTS), state_of(minilm)
    encoder = with_lora(minilm, rank=4)
    adapters = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert len(adapters) == 4 * minilm.model.config.num_hidden_layers and all("lora_" in name for name in adapters)
    assert torch.equal(encode(encoder, ids), encode(TokenEncoder(minilm), ids))  # B = 0: nothing has changed yet

    rows = torch.tensor([[[0], [3]], [[4], [1]]]), torch.tensor([[1, 2, 4, 5], [0, 2, 3, 5]])
    support, query = ids[rows[0]], ids[rows[1]]
    with_adapters = state_of(encoder)
    method = EncoderFineTuning(encoder, FineTuning(steps=3, lr=1e-4), lr=1e-2)
    trajectory = method.trajectory(support, query, [0, 3])
    features = encode(minilm, TEXTS)
    assert_close(trajectory[0], cosine_prototypes(features[rows[0]], features[rows[1]]), atol=1e-4, rtol=0)
    assert not torch.allclose(trajectory[1], trajectory[0], atol=0.1)
    assert unchanged(minilm, before) and unchanged(encoder, with_adapters)
    assert_close(method(support[1:], query[1:])[0], trajectory[1][1], atol=1e-3, rtol=0)  # nothing is left of episode 0


def test_the_adapters_start_follows_the_seed_and_nothing_else(minilm):
    state = torch.get_rng_state()
    a, b, c = (with_lora(minilm, rank=2, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert any(not torch.equal(tensor, c[name]) for name, tensor in a.items())


def test_targets_that_the_model_lacks_are_refused(minilm):
    with pytest.raises(ValueError, match="q_proj"):
        with_lora(minilm, targets=("q_proj",))


def test_a_model_on_tokens_is_the_model_on_features_and_trains_the_encoder(minilm):
    texts = [f"a text about {word}, of {n} words " + "more " * n for n, word in enumerate(["sea", "war", "art", "law", "pie", "sky"])]
    ids = tokenise(minilm, texts)
    episode = torch.tensor([[[0], [1]]]), torch.tensor([[2, 3, 3]]), torch.tensor([[4, 5]])
    encoder = with_lora(minilm, rank=2)
    model = OnTokens(encoder, RelationalNetwork(), batch_size=2)
    features = encode(encoder, ids)
    support, query, labels = episode
    expected = model.model(features[support], features[query], labels=features[labels])
    logits = model(ids[support], ids[query], labels=ids[labels])
    assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert_close(model(ids[support], ids[query], ids[labels], groups=torch.zeros(1)), logits)  # which this model has no use for
    F.cross_entropy(logits[0], torch.tensor([0, 1, 1])).backward()
    assert any(p.grad.abs().sum() > 0 for p in encoder.parameters() if p.requires_grad)
    assert all(p.grad is None for p in encoder.parameters() if not p.requires_grad)
    assert (model.transductive, model.uses_labels) == (False, True)


def test_a_text_that_occurs_twice_is_encoded_once(minilm, monkeypatch):
    encoder, seen = TokenEncoder(minilm), []
    model = OnTokens(encoder, RelationalNetwork(), batch_size=4)
    monkeypatch.setattr(encoder, "forward", lambda ids: seen.append(len(ids)) or ids[:, :1].float())
    ids = torch.arange(1, 8).repeat(3).unsqueeze(1)
    assert_close(model.features(ids), ids.float())
    assert sum(seen) == 7 and max(seen) == 4
