"""Tuning an encoder: the losses' closed forms, only adapters move, the frozen geometry is kept, and it goes on where it stopped."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_lib.backbone import TokenEncoder, tokenise, with_lora
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoder_tuning import geometry_loss, name_and_prototype_loss, scale_adapters, tune_encoder, validation_accuracy
from fewshot_lib.encoders import TextEncoder, encode
from fewshot_lib.task_sampling import JointEpisodes, Task, TaskSampler

WORDS = ["sea", "war", "art", "law", "pie", "sky", "cat", "tax"]
QUICK = {"n_way": 3, "n_shot": (1, 2), "n_query": 1, "validate_every": 2, "n_validation": 5, "batch_size": 4}


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder()


@pytest.fixture(scope="module")
def task(minilm):
    """Six texts about each of eight words; five train, three validate."""
    texts = [f"{how} the {word}" for word in WORDS for how in ("on", "about", "a story of", "no", "the news of", "against")]
    labels, splits = torch.arange(8).repeat_interleave(6), {"train": torch.arange(5), "val": torch.arange(5, 8)}
    dataset = ClassDataset(inputs=texts, labels=labels, class_names=WORDS, splits=splits, name="words", split_family="all")
    ids = tokenise(minilm, [*texts, *WORDS])
    return Task("words", dataset, ids[:48], ids[48:])


def episodes(support, query, labels, answers):
    return JointEpisodes(support, query, labels, answers, torch.zeros(1), torch.zeros(1))


def test_the_loss_is_the_mean_over_names_prototypes_and_their_mix():
    generator = torch.Generator().manual_seed(0)
    support, query, labels = (torch.randn(shape, generator=generator).double() for shape in ((2, 3, 4, 5), (2, 6, 5), (2, 3, 5)))
    answers = torch.randint(3, (2, 6), generator=generator)
    expected = 0.0
    for e in range(2):
        names = [labels[e, n] / labels[e, n].norm() for n in range(3)]
        means = [sum(x / x.norm() for x in support[e, n]) for n in range(3)]
        prototypes = [m / m.norm() for m in means]
        for centres in (names, prototypes, [n + p for n, p in zip(names, prototypes, strict=True)]):
            for q, y in zip(query[e], answers[e], strict=True):
                scores = torch.stack([q @ c / (q.norm() * c.norm()) / 0.3 for c in centres])
                expected += (scores.logsumexp(0) - scores[y]) / (2 * 3 * 6)
    assert_close(name_and_prototype_loss(episodes(support, query, labels, answers), 0.3), expected)


def test_classes_that_cannot_be_told_apart_cost_the_logarithm_of_their_number():
    same = torch.ones(1, 4, 2, 3), torch.ones(1, 5, 3), torch.ones(1, 4, 3), torch.zeros(1, 5, dtype=torch.int64)
    assert_close(name_and_prototype_loss(episodes(*same)), torch.tensor(math.log(4)))


def test_the_geometry_is_that_of_directions_whatever_the_axes_and_lengths():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, generator=generator).double()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q
    assert_close(geometry_loss(3 * x @ rotation, x), torch.zeros((), dtype=torch.float64))
    x, y = torch.eye(2), torch.tensor([[1.0, 0.0], [3**0.5, 1.0]])  # a right angle that becomes 30°, in two of four pairs
    assert_close(geometry_loss(y, x), torch.tensor(2 / 4 * 3 / 4))


def test_only_the_adapters_move_and_the_loss_falls(minilm, task):
    encoder = with_lora(minilm, rank=2)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    history = tune_encoder(encoder, [task], 12, lr=5e-3, geometry=0.0, **{**QUICK, "validate_every": 100})
    moved = {name for name, p in encoder.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)
    losses = history.metrics["loss"]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert not encoder.training


def test_with_a_large_weight_the_geometry_stays(minilm, task):
    """The same number of steps: the heavier the term, the nearer the cosines stay to the frozen encoder's."""
    frozen, drift = encode(TokenEncoder(minilm), task.features), {}
    for weight in (0.0, 1000.0):
        encoder = with_lora(minilm, rank=2)
        tune_encoder(encoder, [task], 12, lr=5e-3, geometry=weight, **{**QUICK, "validate_every": 100})
        drift[weight] = float(geometry_loss(encode(encoder, task.features), frozen))
    assert drift[1000.0] < 0.2 * drift[0.0]


def test_the_frozen_encoder_stays_as_it_was_given(minilm, task):
    """An encoder that cannot move keeps its geometry exactly, at every step."""
    encoder = with_lora(minilm, rank=2)
    history = tune_encoder(encoder, [task], 3, lr=1e-12, **QUICK)
    assert max(history.metrics["geometry"]) < 0.02  # dropout alone
    assert history.metrics["geometry"][0] > 0


def test_the_best_of_the_validations_stays(minilm, task, monkeypatch):
    scores = iter([0.5, 0.9, 0.2])
    monkeypatch.setattr("fewshot_lib.encoder_tuning.validation_accuracy", lambda *args, **kwargs: next(scores))
    encoder, shorter = with_lora(minilm, rank=2), with_lora(minilm, rank=2)
    history = tune_encoder(encoder, [task], 6, lr=1e-3, **QUICK)
    assert history.validation == [(2, 0.5), (4, 0.9), (6, 0.2)]
    monkeypatch.setattr("fewshot_lib.encoder_tuning.validation_accuracy", lambda *args, **kwargs: 0.0)
    tune_encoder(shorter, [task], 6, lr=1e-3, **QUICK)  # of equal scores the first stays: step 2
    assert any(not torch.equal(a, b) for a, b in zip(encoder.parameters(), shorter.parameters(), strict=True))


def test_an_interrupted_run_goes_on_to_the_same_numbers(minilm, task, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    two = [task, Task("again", task.dataset, task.features, task.label_features)]
    options = {**QUICK, "lr": 1e-3, "checkpoint_every": 2, "validate_every": 4}
    dropout_off = {"p": 0.0}

    def fresh():
        encoder = with_lora(minilm, rank=2)
        for part in encoder.modules():
            if isinstance(part, nn.Dropout):
                vars(part).update(dropout_off)
        return encoder

    straight, broken = fresh(), fresh()
    tune_encoder(straight, two, 6, **options)
    calls = iter(range(100))

    def stops(*args, **kwargs):
        if next(calls) == 0:
            raise Stop
        return 0.5

    monkeypatch.setattr("fewshot_lib.encoder_tuning.validation_accuracy", stops)
    with pytest.raises(Stop):
        tune_encoder(broken, two, 6, checkpoint=tmp_path / "c.pt", **options)
    monkeypatch.undo()
    again = fresh()
    tune_encoder(again, two, 6, checkpoint=tmp_path / "c.pt", **options)
    for a, b in zip(straight.parameters(), again.parameters(), strict=True):
        assert_close(a, b)
    with pytest.raises(ValueError, match="belongs to another run|settings"):
        tune_encoder(fresh(), two, 6, checkpoint=tmp_path / "c.pt", **{**options, "geometry": 1.0})


def test_validation_reads_validation_classes_only(minilm, task):
    encoder = TokenEncoder(minilm)
    noise = task.features.clone()
    noise[:30] = task.features[:1]  # every text of a training class
    other = Task("words", task.dataset, noise, task.label_features)
    whole = validation_accuracy(encoder, task, (1, 2), 3, 20)
    assert validation_accuracy(encoder, other, (1, 2), 3, 20) == whole
    assert 0.5 < whole <= 1


def test_the_strength_of_the_adapters(minilm, task):
    encoder = with_lora(minilm, rank=2)
    tune_encoder(encoder, [task], 3, lr=1e-2, **QUICK)
    frozen, whole = encode(TokenEncoder(minilm), task.features), {name: p.detach().clone() for name, p in encoder.named_parameters()}
    scale_adapters(encoder, 0.5)
    for name, p in encoder.named_parameters():  # B alone: with A, too, it would be a quarter of B A
        assert_close(p.detach(), whole[name] * (0.5 if "lora_B" in name else 1.0))
    scale_adapters(encoder, 0.0)
    assert_close(encode(encoder, task.features), frozen, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no LoRA adapters"):
        scale_adapters(TokenEncoder(minilm), 0.5)


def test_tasks_without_names_and_encoders_that_cannot_learn_are_refused(minilm, task):
    with pytest.raises(ValueError, match=r"`tasks` \['nameless'\] have no label_features"):
        tune_encoder(with_lora(minilm), [Task("nameless", task.dataset, task.features)], 1)
    with pytest.raises(ValueError, match="no parameter with requires_grad"):
        tune_encoder(TokenEncoder(minilm).requires_grad_(False), [task], 1)


def test_a_validation_class_with_too_few_texts_is_refused_before_the_first_step(minilm, task):
    few = torch.cat([torch.arange(32), torch.arange(36, 48)])  # two texts of the first validation class: enough for one shot only
    dataset = replace(task.dataset, inputs=task.dataset.take(few), labels=task.dataset.labels[few])
    part = Task("few", dataset, task.features[few], task.label_features)
    encoder = with_lora(minilm, rank=2)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    with pytest.raises(ValueError, match=r"Task 'few', split 'val': Class 5 has 2 examples"):
        tune_encoder(encoder, [part], 2, **QUICK)
    assert all(torch.equal(p, before[name]) for name, p in encoder.named_parameters())


def test_tasks_take_turns_each_with_as_many_ways_as_it_has(minilm, task, monkeypatch):
    dataset = replace(task.dataset, splits={"train": torch.arange(2)})
    two, dealt, deal = Task("two ways", dataset, task.features, task.label_features), [], TaskSampler.sample

    def seen(sampler):
        joint = deal(sampler)
        dealt.append((sampler.tasks[0].name, joint.labels.shape[1]))
        return joint

    monkeypatch.setattr(TaskSampler, "sample", seen)
    history = tune_encoder(with_lora(minilm, rank=2), [task, two], 3, **{**QUICK, "n_validation": 2, "validate_every": 3})
    assert dealt == [("words", 3), ("two ways", 2), ("words", 3)]
    assert len(history.validation) == 1  # of the one task that has validation classes
