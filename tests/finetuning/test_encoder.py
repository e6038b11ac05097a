"""Fine-tuning the encoder: never changed itself, it takes part beyond the head, and learns by adapters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.encoders import Conv4, TextEncoder, encode, tokenise, with_lora
from fewshot_lib.finetuning import (
    CosineClassifier,
    EncoderFineTuning,
    FineTuning,
    TransductiveFineTuning,
    evaluate_steps,
)
from fewshot_lib.prototypes import cosine_prototypes


def small_encoder():
    """A float64 encoder with what could leak: batch norm with statistics of its own, and dropout."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 5)
    ).double()
    encoder[1].running_mean.copy_(torch.linspace(-1, 1, 8))
    return encoder.train()


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def features_of(encoder, support, query):
    """What the encoder in evaluation mode makes of a batch of episodes."""
    return [encode(encoder, x.flatten(0, -2)).unflatten(0, x.shape[:-1]) for x in (support, query)]


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


@pytest.mark.parametrize("head", [FineTuning(steps=5), TransductiveFineTuning(steps=5)], ids=lambda h: h.name)
def test_the_encoder_itself_is_never_changed(batch, head):
    encoder = small_encoder()
    before = state_of(encoder)
    EncoderFineTuning(encoder, head, lr=0.01)(*batch(d=6))
    assert unchanged(encoder, before) and encoder.training
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize(("regulariser", "passes"), [(None, 1), ("entropy", 6)])
def test_queries_are_encoded_while_learning_only_where_they_are_learnt_from(batch, regulariser, passes):
    support, query = batch(e=1, m=30, d=6)
    encoder, sizes = small_encoder(), []
    encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    EncoderFineTuning(encoder, FineTuning(regulariser=regulariser, steps=5))(support, query)
    assert sizes.count(30) == passes and sizes.count(8) == 1 + 5


def test_the_encoder_takes_part_beyond_the_head(batch):
    """One SGD step on both: the encoder moves against the gradient of the support's loss, at its own rate."""
    support, query = batch(e=1, d=6)
    encoder, lr = small_encoder().eval(), 0.1
    head = FineTuning(optimizer="sgd", steps=1, lr=1e-12)
    start, stepped = EncoderFineTuning(encoder, head, lr=lr).trajectory(support, query, [0, 1])
    assert_close(start, cosine_prototypes(*features_of(encoder, support, query)))

    weights = F.normalize(encoder(support.flatten(0, 2)).view(4, 2, 5).mean(1), dim=-1).detach()
    labels = torch.arange(4).repeat_interleave(2)
    F.cross_entropy(F.normalize(encoder(support.flatten(0, 2)), dim=-1) @ weights.T / 0.1, labels).backward()
    with torch.no_grad():
        for p in encoder.parameters():
            p -= lr * p.grad
        expected = F.normalize(encoder(query[0]), dim=-1) @ weights.T / 0.1
    assert_close(stepped[0], expected, atol=1e-9, rtol=0)


def test_parameters_that_require_no_gradient_stay(batch):
    support, query = batch(d=6)
    encoder = small_encoder()
    encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="`encoder` has no parameter with requires_grad"):
        EncoderFineTuning(encoder, FineTuning())
    encoder[4].bias.requires_grad_(True)
    only_bias = EncoderFineTuning(encoder, FineTuning(steps=5), lr=0.1)(support, query)
    encoder.requires_grad_(True)
    whole = EncoderFineTuning(encoder, FineTuning(steps=5), lr=0.1)(support, query)
    head_only = FineTuning(steps=5)(*features_of(encoder, support, query))
    assert not torch.allclose(only_bias, head_only) and not torch.allclose(only_bias, whole)


def test_it_runs_in_evaluate_on_images_and_gives_a_curve_over_steps():
    torch.manual_seed(0)
    labels = torch.arange(4).repeat_interleave(6)
    generator = torch.Generator().manual_seed(0)
    images = 100 * torch.rand(4, 1, 28, 28, generator=generator)[labels]
    images = (images + 100 * torch.rand(24, 1, 28, 28, generator=generator)).byte()
    episodes = EpisodeSampler(labels, torch.arange(4), 3, 2, 2, seed=0).sample(3)
    method = EncoderFineTuning(Conv4(width=4), FineTuning(steps=3))
    results = evaluate(method, episodes, images)
    curve = evaluate_steps(method, episodes, images, [0, 3])
    assert torch.equal(curve[1].accuracies, results.accuracies)
    assert results.method == "fine-tuned cosine head, prototypes start + Conv4"


def test_bad_rates_and_diverging_runs_are_named(batch):
    support, query = batch(d=6)
    with pytest.raises(ValueError, match=r"`lr` is 0\.0"):
        EncoderFineTuning(small_encoder(), FineTuning(), lr=0.0)
    head = FineTuning(head="linear", optimizer="sgd", normalise=False, steps=5)
    with pytest.raises(FloatingPointError, match="use smaller learning rates"):
        EncoderFineTuning(small_encoder(), head, lr=1e308)(support, query)


@pytest.mark.slow
def test_adapters_learn_an_episode_and_leave_every_weight_as_it_was():
    minilm = TextEncoder()
    texts = "shortest path; spanning tree; nodes of a network; a fast transform; filter; power".split("; ")
    encoder, ids = with_lora(minilm, rank=4), tokenise(minilm, texts)
    before = state_of(encoder)
    support = torch.tensor([[[0], [3]], [[4], [1]]])
    query = torch.tensor([[1, 2, 4, 5], [0, 2, 3, 5]])
    method = EncoderFineTuning(encoder, FineTuning(steps=3, lr=1e-4), lr=1e-2)
    trajectory = method.trajectory(ids[support], ids[query], [0, 3])
    features = encode(minilm, texts)
    assert_close(trajectory[0], cosine_prototypes(features[support], features[query]), atol=1e-4, rtol=0)
    assert not torch.allclose(trajectory[1], trajectory[0], atol=0.1)
    assert unchanged(encoder, before)
    alone = method(ids[support[1:]], ids[query[1:]])[0]  # nothing is left of episode 0
    assert_close(alone, trajectory[1][1], atol=1e-3, rtol=0)
