"""Prototype classifiers against their equations, closed forms and invariances."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import Conv4, encode
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import compare_paired, evaluate
from fewshot_lib.prototypes import (
    class_means,
    cosine_logits,
    cosine_prototypes,
    euclidean_prototypes,
    prototypical_loss,
    squared_euclidean_logits,
    train_prototypical,
)

METHODS = [euclidean_prototypes, cosine_prototypes]


def batch(e=3, n=4, k=2, m=6, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(e, n, k, d, generator=generator, dtype=torch.float64),
        torch.randn(e, m, d, generator=generator, dtype=torch.float64),
    )


def test_class_means_by_hand():
    support = torch.tensor([[[[0.0, 2.0], [2.0, 4.0]], [[1.0, 1.0], [3.0, 5.0]]]])
    assert_close(class_means(support), torch.tensor([[[1.0, 3.0], [2.0, 3.0]]]))


def test_masked_shots_do_not_count_whatever_they_hold():
    support, _ = batch(k=3)
    mask = torch.tensor([True, True, False]).expand(3, 4, 3)
    spoiled = support.clone()
    spoiled[:, :, 2] = 1e6
    assert_close(class_means(spoiled, mask), support[:, :, :2].mean(2))
    assert (class_means(support, torch.zeros(3, 4, 3, dtype=torch.bool)) == 0).all()


def test_squared_distances_equal_the_differences():
    support, query = batch()
    means = class_means(support)
    expected = -(query.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1)
    assert_close(squared_euclidean_logits(query, means), expected)


def test_the_euclidean_classifier_is_linear_with_weights_2mu_and_bias_minus_mu_squared():
    support, query = batch()
    means = class_means(support)
    linear = query @ (2 * means).transpose(1, 2) - means.square().sum(-1).unsqueeze(1)
    assert_close(linear.softmax(-1), squared_euclidean_logits(query, means).softmax(-1))


def test_euclidean_predictions_ignore_a_shift_and_a_rotation():
    support, query = batch()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    moved = euclidean_prototypes(support @ rotation + 3, query @ rotation + 3)
    assert_close(moved, euclidean_prototypes(support, query))


def test_cosine_ignores_lengths_but_not_a_shift():
    support, query = batch(k=1)
    scale = torch.rand(3, 4, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    assert_close(cosine_prototypes(support * scale, 7 * query), cosine_prototypes(support, query))
    assert not torch.allclose(cosine_prototypes(support + 3, query + 3), cosine_prototypes(support, query), atol=0.1)


def test_with_everything_normalised_euclidean_and_cosine_agree():
    support, query = batch()
    means = torch.nn.functional.normalize(class_means(support), dim=-1)
    q = torch.nn.functional.normalize(query, dim=-1)
    assert_close(squared_euclidean_logits(q, means), 2 * cosine_logits(q, means, temperature=1.0) - 2)  # ‖a − b‖² = 2 − 2cos


@pytest.mark.parametrize("classify", METHODS)
def test_permuting_the_ways_permutes_the_logits(classify):
    support, query = batch()
    order = torch.tensor([2, 0, 3, 1])
    assert_close(classify(support[:, order], query), classify(support, query)[..., order])


@pytest.mark.parametrize("classify", METHODS)
def test_the_order_of_the_shots_does_not_matter(classify):
    support, query = batch()
    assert_close(classify(support.flip(2), query), classify(support, query))


@pytest.mark.parametrize("classify", METHODS)
def test_a_batch_of_episodes_equals_a_loop(classify):
    support, query = batch()
    looped = torch.cat([classify(support[e : e + 1], query[e : e + 1]) for e in range(3)])
    assert_close(classify(support, query), looped)


@pytest.mark.parametrize("classify", METHODS)
def test_padded_ways_are_never_predicted(classify):
    support, query = batch()
    mask = torch.ones(3, 4, 2, dtype=torch.bool)
    mask[:, 3] = False
    logits = classify(support, query, support_mask=mask)
    assert (logits[..., 3] == -torch.inf).all()
    assert_close(logits[..., :3], classify(support[:, :3], query))


def test_one_outlier_moves_a_prototype_by_its_distance_over_k():
    for k in (1, 10):
        support, _ = batch(k=k)
        moved = support.clone()
        moved[:, 0, 0, 0] += 3
        assert_close((class_means(moved) - class_means(support))[:, 0, 0], torch.full((3,), 3 / k, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature):
    _, query = batch()
    with pytest.raises(ValueError, match=f"`temperature` is {temperature}"):
        cosine_logits(query, query, temperature)


def test_loss_is_cross_entropy_of_the_softmax_over_distances():
    support, query = batch()
    labels = torch.randint(4, (3, 6), generator=torch.Generator().manual_seed(2))
    loss, accuracy = prototypical_loss(support, query, labels)
    p = euclidean_prototypes(support, query).softmax(-1)
    assert_close(loss, -p.gather(-1, labels.unsqueeze(-1)).log().mean())
    assert accuracy == (p.argmax(-1) == labels).float().mean()


def striped_images(n_classes=24, per_class=12):
    """Images whose class is the position of a bright stripe, under strong noise: learnable, and not already solved."""
    generator = torch.Generator().manual_seed(0)
    images = 160 * torch.rand(n_classes * per_class, 1, 28, 28, generator=generator)
    for c in range(n_classes):
        images[c * per_class : (c + 1) * per_class, :, (2 * c) % 27 : (2 * c) % 27 + 2 + c // 14] += 70
    splits = {"train": torch.arange(0, n_classes, 2), "test": torch.arange(1, n_classes, 2)}
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    return ClassDataset(images.clamp(0, 255).to(torch.uint8), labels, [str(c) for c in range(n_classes)], splits)


def test_training_helps_on_classes_never_seen():
    dataset = striped_images()
    torch.manual_seed(0)
    encoder = Conv4(width=16)
    episodes = EpisodeSampler(dataset.labels, dataset.classes("test"), 5, 1, 5, seed=1).sample(200)
    before = evaluate(euclidean_prototypes, episodes, encode(encoder, dataset.inputs))
    history = train_prototypical(encoder, dataset, 40, n_way=8, n_query=4)
    after = evaluate(euclidean_prototypes, episodes, encode(encoder, dataset.inputs))
    assert compare_paired(after, before).interval[0] > 0
    assert len(history.metrics["loss"]) == 40 and not encoder.training


def test_training_refuses_texts():
    dataset = ClassDataset(["a", "b"], torch.tensor([0, 1]), ["x", "y"], {"train": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match="holds texts"):
        train_prototypical(Conv4(), dataset, 1)
