"""Tuning an encoder: closed forms, only adapters move, the geometry is kept, it goes on where it stopped."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import TokenEncoder, encode, tokenise, with_lora
from fewshot_lib.multitask import Task, TaskSampler, scale_adapters, tune_encoder, validation_accuracy
from fewshot_lib.multitask.encoder import geometry_loss, name_and_prototype_loss

WORDS = ["sea", "war", "art", "law", "pie", "sky", "cat", "tax"]
PHRASES = ["on the", "about the", "a story of the", "no", "the news of the", "against the"]
QUICK = {"validate_every": 2, "n_validation": 5, "batch_size": 4, "lr": 1e-3}
ONCE = QUICK | {"validate_every": 100}
VALIDATION = "fewshot_lib.multitask.encoder.validation_accuracy"


@pytest.fixture(scope="module")
def text_encoder():
    """A random BERT of two layers, with weights so large that differences show."""
    import transformers

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*marks, *WORDS, *dict.fromkeys(" ".join(PHRASES).split())]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"hidden_dropout_prob": 0.02, "attention_probs_dropout_prob": 0.02}
    config = transformers.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=16, **sizes)
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)})
    return SimpleNamespace(model=model, tokenizer=tokenizer, max_tokens=16, n_features=16)


@pytest.fixture(scope="module")
def task(text_encoder):
    """Six texts about each of eight words; five train, three validate."""
    texts = [f"{phrase} {word}" for word in WORDS for phrase in PHRASES]
    splits = {"train": torch.arange(5), "val": torch.arange(5, 8)}
    dataset = ClassDataset(texts, torch.arange(8).repeat_interleave(6), WORDS, splits, name="words")
    ids = tokenise(text_encoder, [*texts, *WORDS])
    return Task("words", dataset, ids[:48], ids[48:])


def samplers(*tasks, seed=0):
    """Of episodes with three ways, or as many as a task has, of one or two shots."""
    ways = [min(3, len(task.classes("train"))) for task in tasks]
    return [TaskSampler([t], ways[i], (1, 2), 1, 1, seed=seed + i) for i, t in enumerate(tasks)]


def weights(encoder):
    return {name: p.detach().clone() for name, p in encoder.named_parameters()}


def moved(encoder, before):
    """The names of the weights that are not what they were."""
    return {name for name, p in encoder.named_parameters() if not torch.equal(p, before[name])}


def test_the_loss_is_the_mean_over_names_prototypes_and_their_mix():
    generator, shapes = torch.Generator().manual_seed(0), ((2, 3, 4, 5), (2, 6, 5), (2, 3, 5))
    support, query, names = (torch.randn(shape, generator=generator).double() for shape in shapes)
    answers = torch.randint(3, (2, 6), generator=generator)
    expected = 0.0
    for e in range(2):
        called = [names[e, n] / names[e, n].norm() for n in range(3)]
        means = [sum(x / x.norm() for x in support[e, n]) for n in range(3)]
        prototypes = [m / m.norm() for m in means]
        for centres in (called, prototypes, [n + p for n, p in zip(called, prototypes, strict=True)]):
            for q, y in zip(query[e], answers[e], strict=True):
                scores = torch.stack([q @ c / (q.norm() * c.norm()) / 0.3 for c in centres])
                expected += (scores.logsumexp(0) - scores[y]) / (2 * 3 * 6)
    assert_close(name_and_prototype_loss(support, query, names, answers, 0.3), expected)


def test_classes_that_cannot_be_told_apart_cost_the_logarithm_of_their_number():
    same = torch.ones(1, 4, 2, 3), torch.ones(1, 5, 3), torch.ones(1, 4, 3), torch.zeros(1, 5).long()
    assert_close(name_and_prototype_loss(*same), torch.tensor(math.log(4)))


def test_the_geometry_is_that_of_directions_whatever_the_axes_and_lengths():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, generator=generator).double()
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q
    assert_close(geometry_loss(3 * x @ rotation, x), torch.zeros((), dtype=torch.float64))
    turned = torch.tensor([[1.0, 0.0], [3**0.5, 1.0]])  # a right angle becomes 30°, in two of four pairs
    assert_close(geometry_loss(turned, torch.eye(2)), torch.tensor(2 / 4 * 3 / 4))


def test_only_the_adapters_move_and_the_loss_falls(text_encoder, task):
    encoder = with_lora(text_encoder, rank=2)
    before = weights(encoder)
    history = tune_encoder(encoder, samplers(task), 50, geometry=0.0, **ONCE | {"lr": 0.03})
    assert moved(encoder, before) and all("lora_" in name for name in moved(encoder, before))
    losses = history.metrics["loss"]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert not encoder.training


def test_with_a_large_weight_the_geometry_stays(text_encoder, task):
    """The same number of steps: the heavier the term, the nearer the cosines stay to the frozen encoder's."""
    frozen, drift = encode(TokenEncoder(text_encoder), task.features), {}
    for weight in (0.0, 1000.0):
        torch.manual_seed(0)  # of dropout
        encoder = with_lora(text_encoder, rank=2)
        tune_encoder(encoder, samplers(task), 30, geometry=weight, **ONCE | {"lr": 0.03})
        drift[weight] = float(geometry_loss(encode(encoder, task.features), frozen))
    assert drift[1000.0] < 0.2 * drift[0.0]


def test_the_frozen_encoder_stays_as_it_was_given(text_encoder, task):
    """An encoder that cannot move keeps its geometry exactly, at every step."""
    encoder = with_lora(text_encoder, rank=2)
    history = tune_encoder(encoder, samplers(task), 3, **QUICK | {"lr": 1e-12})
    assert max(history.metrics["geometry"]) < 0.02  # dropout alone
    assert history.metrics["geometry"][0] > 0


def test_the_best_of_the_validations_stays(text_encoder, task, monkeypatch):
    encoder, seen = with_lora(text_encoder, rank=2), []

    def validation(*args, **kwargs):
        seen.append(weights(encoder))
        return [0.5, 0.9, 0.2][len(seen) - 1]

    monkeypatch.setattr(VALIDATION, validation)
    history = tune_encoder(encoder, samplers(task), 6, **QUICK)
    assert history.validation == [(2, 0.5), (4, 0.9), (6, 0.2)]
    assert [bool(moved(encoder, then)) for then in seen] == [True, False, True]


def test_an_interrupted_run_goes_on_to_the_same_numbers(text_encoder, task, tmp_path, monkeypatch):
    two = [task, Task("again", task.dataset, task.features, task.names)]
    options = QUICK | {"checkpoint_every": 2, "validate_every": 4}

    def tuned(seed=0, **more):
        torch.manual_seed(0)  # of dropout
        encoder = with_lora(text_encoder, rank=2)
        tune_encoder(encoder, samplers(*two, seed=seed), 6, **options | more)
        return encoder

    def stops(*args, **kwargs):
        raise KeyboardInterrupt

    straight, path = tuned(), tmp_path / "c.pt"
    monkeypatch.setattr(VALIDATION, stops)
    with pytest.raises(KeyboardInterrupt):
        tuned(checkpoint=path)
    monkeypatch.undo()
    assert path.exists() and not moved(tuned(checkpoint=path), weights(straight))
    for change in ({"geometry": 1.0}, {"seed": 1}):
        with pytest.raises(ValueError, match="belongs to another run"):
            tuned(checkpoint=path, **change)
    relabelled = replace(task.dataset, labels=task.dataset.labels.flip(0))
    two[0] = Task(task.name, relabelled, task.features, task.names)
    with pytest.raises(ValueError, match="not the same labels of task"):
        tuned(checkpoint=path)


def test_validation_reads_validation_classes_only(text_encoder, task):
    encoder = TokenEncoder(text_encoder)
    noise = task.features.clone()
    noise[:30] = task.features[:1]  # every text of a training class
    other = Task("words", task.dataset, noise, task.names)
    whole = validation_accuracy(encoder, task, (1, 2), 3, 20)
    assert validation_accuracy(encoder, other, (1, 2), 3, 20) == whole
    assert 0.5 < whole <= 1


def test_the_strength_of_the_adapters(text_encoder, task):
    encoder = with_lora(text_encoder, rank=2)
    tune_encoder(encoder, samplers(task), 3, **QUICK | {"lr": 1e-2})
    frozen, whole = encode(TokenEncoder(text_encoder), task.features), weights(encoder)
    scale_adapters(encoder, 0.5)
    for name, p in encoder.named_parameters():  # B alone: with A, too, it would be a quarter of B A
        assert_close(p.detach(), whole[name] * (0.5 if "lora_B" in name else 1.0))
    scale_adapters(encoder, 0.0)
    assert_close(encode(encoder, task.features), frozen, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no LoRA adapters"):
        scale_adapters(TokenEncoder(text_encoder), 0.5)


def test_tasks_without_names_and_encoders_that_cannot_learn_are_refused(text_encoder, task):
    nameless = Task("nameless", task.dataset, task.features)
    with pytest.raises(ValueError, match=r"`samplers` have tasks without names, \['nameless'\]"):
        tune_encoder(with_lora(text_encoder), samplers(nameless), 1)
    with pytest.raises(ValueError, match="no parameter with requires_grad"):
        tune_encoder(TokenEncoder(text_encoder).requires_grad_(False), samplers(task), 1)


def test_a_validation_class_with_too_few_texts_is_refused_before_the_first_step(text_encoder, task):
    few = torch.tensor([*range(32), *range(36, 48)])  # two texts of a validation class: for one shot only
    dataset = replace(task.dataset, inputs=task.dataset.take(few), labels=task.dataset.labels[few])
    part = Task("few", dataset, task.features[few], task.names)
    encoder = with_lora(text_encoder, rank=2)
    before = weights(encoder)
    with pytest.raises(ValueError, match=r"Task 'few', split 'val': Class 'sky' has 2 examples"):
        tune_encoder(encoder, samplers(part), 2, **QUICK)
    assert not moved(encoder, before)


def test_tasks_take_turns(text_encoder, task, monkeypatch):
    dataset = replace(task.dataset, splits={"train": torch.arange(2)})
    two, dealt, deal = Task("two ways", dataset, task.features, task.names), [], TaskSampler.sample

    def seen(sampler):
        joint = deal(sampler)
        dealt.append((sampler.tasks[0].name, joint.names.shape[1]))
        return joint

    monkeypatch.setattr(TaskSampler, "sample", seen)
    history = tune_encoder(with_lora(text_encoder, rank=2), samplers(task, two), 3, **ONCE)
    assert dealt == [("words", 3), ("two ways", 2), ("words", 3)]
    assert len(history.validation) == 1  # of the one task that has validation classes
