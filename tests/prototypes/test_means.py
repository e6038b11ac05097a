"""Prototype classifiers against their equations, closed forms and invariances."""

import inspect

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler, compare_paired, evaluate, fit
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import Conv4, encode
from fewshot_lib.prototypes import (
    class_means,
    cosine_logits,
    cosine_prototypes,
    euclidean_prototypes,
    prototypical_loss,
    squared_euclidean_logits,
    train_prototypical,
)


def batch(k=2):
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 4, k, 5), (3, 6, 5)  # E, N, K, d and E, M, d
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def test_class_means_by_hand_and_masked_shots_do_not_count_whatever_they_hold():
    support = torch.tensor([[[[0.0, 2.0], [2.0, 4.0]], [[1.0, 1.0], [3.0, 5.0]]]])
    assert_close(class_means(support), torch.tensor([[[1.0, 3.0], [2.0, 3.0]]]))
    support, _ = batch(k=3)
    mask = torch.ones(3, 4, 3, dtype=torch.bool)
    mask[0, 0, 1:] = mask[1, 2, 2] = False
    means = class_means(support.masked_fill(~mask.unsqueeze(-1), 1e6), mask)
    assert_close(means[0, 0], support[0, 0, 0])
    assert_close(means[1, 2], support[1, 2, :2].mean(0))
    assert_close(means[2], support[2].mean(1))
    assert (class_means(support, torch.zeros_like(mask)) == 0).all()


def test_squared_distances_are_linear_with_weights_2mu_and_bias_minus_mu_squared():
    support, query = batch()
    means = class_means(support)
    expected = -(query.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1)
    assert_close(squared_euclidean_logits(query, means), expected)
    linear = query @ (2 * means).transpose(1, 2) - means.square().sum(-1).unsqueeze(1)
    assert_close(linear.softmax(-1), squared_euclidean_logits(query, means).softmax(-1))


def test_euclidean_predictions_ignore_a_shift_and_a_rotation():
    support, query = batch()
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    moved = euclidean_prototypes(support @ rotation + 3, query @ rotation + 3)
    assert_close(moved, euclidean_prototypes(support, query))


def test_cosine_ignores_lengths_but_not_a_shift():
    support, query = batch(k=1)
    scale = torch.rand(3, 4, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    assert_close(cosine_prototypes(support * scale, 7 * query), cosine_prototypes(support, query))
    shifted = cosine_prototypes(support + 3, query + 3)
    assert not torch.allclose(shifted, cosine_prototypes(support, query), atol=0.1)


def test_with_everything_normalised_euclidean_and_cosine_agree():
    support, query = batch()
    means = torch.nn.functional.normalize(class_means(support), dim=-1)
    q = torch.nn.functional.normalize(query, dim=-1)
    cosines = cosine_logits(q, means, temperature=1.0)
    assert_close(squared_euclidean_logits(q, means), 2 * cosines - 2)  # ‖a − b‖² = 2 − 2cos


def test_the_temperature_is_a_tenth_and_must_be_positive():
    support, query = torch.eye(3).view(1, 3, 1, 3), torch.eye(3)[None]
    assert_close(cosine_prototypes(support, query)[0], 10 * torch.eye(3))
    for temperature in (0.0, -1.0):
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
    """Images whose class is the position of a bright stripe under strong noise: learnable, not yet solved."""
    generator = torch.Generator().manual_seed(0)
    images = 160 * torch.rand(n_classes * per_class, 1, 28, 28, generator=generator)
    for c in range(n_classes):
        images[c * per_class : (c + 1) * per_class, :, (2 * c) % 27 : (2 * c) % 27 + 2 + c // 14] += 70
    splits = {"train": torch.arange(0, n_classes, 2), "test": torch.arange(1, n_classes, 2)}
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    names = [str(c) for c in range(n_classes)]
    return ClassDataset(images.clamp(0, 255).to(torch.uint8), labels, names, splits)


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


class Recording(nn.Linear):
    """Keeps which examples it saw: the first feature of each is its row."""

    def __init__(self):
        super().__init__(2, 3)
        self.rows = []

    def forward(self, x):
        self.rows.append(x[:, 0].long().tolist())
        return super().forward(x / 100)


def toy_set():
    labels = torch.arange(8).repeat_interleave(6)
    splits = {"train": torch.tensor([6, 0, 2, 4]), "test": torch.tensor([1, 3, 5, 7])}
    inputs = torch.stack([torch.arange(48.0), labels.float()], 1)
    return ClassDataset(inputs, labels, list("abcdefgh"), splits)


def trained(n_steps=6, **options):
    torch.manual_seed(0)
    encoder = Recording()
    history = train_prototypical(encoder, toy_set(), n_steps, n_way=3, n_shot=2, n_query=2, **options)
    return encoder, history


def test_training_sees_training_classes_only_and_the_seed_decides_which():
    encoder, history = trained()
    rows, dataset = torch.tensor(encoder.rows), toy_set()
    assert rows.shape == (6, 3 * 4) and torch.isin(dataset.labels[rows], dataset.classes("train")).all()
    supports = dataset.labels[rows[:, :6]].view(6, 3, 2)
    assert (supports == supports[..., :1]).all()
    assert trained()[1] == history != trained(seed=1)[1]
    assert trained(seed=1)[0].rows != encoder.rows


def test_the_first_loss_is_that_of_the_first_episode():
    dataset = toy_set()
    episode = EpisodeSampler(dataset.labels, dataset.classes("train"), 3, 2, 2, seed=7).sample(1)
    torch.manual_seed(0)
    encoder = Recording()
    support, query = (
        encoder(dataset.inputs[rows].flatten(0, -2)) for rows in (episode.support, episode.query)
    )
    expected = prototypical_loss(support.view(1, 3, 2, 3), query.view(1, 6, 3), episode.query_labels)
    first = [values[0] for values in trained(2, seed=7)[1].metrics.values()]
    assert first == pytest.approx([value.item() for value in expected])


def test_training_hands_on_validation_checkpoint_and_label(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    options = {}

    def spy(*args, **loop):
        options.update(loop)
        return fit(*args, **loop)

    monkeypatch.setattr("fewshot_lib.prototypes.means.fit", spy)
    loop = {"checkpoint": tmp_path / "c.pt", "label": "mine", "validate_every": 2}
    history = trained(validate=lambda: 0.5, **loop)[1]
    assert [step for step, _ in history.validation] == [2, 4, 6]
    assert options["checkpoint"] == tmp_path / "c.pt" and "sampler" in options["states"]
    assert capsys.readouterr().out.startswith("mine: step")
    assert isinstance(options["scheduler"], torch.optim.lr_scheduler.OneCycleLR)
    assert options["scheduler"].total_steps == 6


def test_a_checkpoint_of_another_seed_or_rate_is_refused(tmp_path):
    loop = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 5}
    first = trained(**loop)[1]
    assert trained(**loop)[1] == first
    for options in ({"seed": 1}, {"lr": 1e-3}):
        with pytest.raises(ValueError, match="belongs to another run"):
            trained(**options, **loop)


def test_training_refuses_texts_and_deals_a_hard_episode_per_step_by_default():
    defaults = {name: p.default for name, p in inspect.signature(train_prototypical).parameters.items()}
    assert [defaults[name] for name in ("n_way", "n_shot", "n_query", "lr")] == [20, 1, 5, 4e-3]
    dataset = ClassDataset(["a", "b"], torch.tensor([0, 1]), ["x", "y"], {"train": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match="holds texts"):
        train_prototypical(Conv4(), dataset, 1)
