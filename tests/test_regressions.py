"""Bugs that were found by attacking the library, each with the input that showed it."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fewshot_lib.course import plots
from fewshot_lib.data import cache
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import Conv4, TextEncoder, encode, encoder_fingerprint, end_to_end
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import accuracy_per_episode, evaluate
from fewshot_lib.labels import label_features, label_mix
from fewshot_lib.prototypes import euclidean_prototypes, train_prototypical
from fewshot_lib.training import fit

LABELS = torch.arange(12).repeat_interleave(20)


def test_encoding_texts_leaves_dropout_off():
    encoder = TextEncoder()
    encode(encoder, ["a graph"])
    with torch.no_grad():
        assert torch.equal(encoder(["a graph"]), encoder(["a graph"]))


def test_encoding_leaves_every_module_as_it_was_even_when_it_fails():
    encoder = Conv4(width=4).train()
    encoder.blocks[0][1].eval()  # a frozen batch norm
    modes = [m.training for m in encoder.modules()]
    encode(encoder, torch.rand(2, 1, 28, 28))
    assert [m.training for m in encoder.modules()] == modes
    with pytest.raises(RuntimeError):
        encode(encoder, torch.rand(2, 3, 28, 28))
    assert [m.training for m in encoder.modules()] == modes


def test_the_fingerprint_follows_the_architecture_and_takes_bfloat16():
    a, b = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    b.load_state_dict(a.state_dict())
    assert encoder_fingerprint(a) != encoder_fingerprint(b)
    assert encoder_fingerprint(Conv4(width=4).bfloat16())


def test_accuracies_are_no_float64_on_an_apple_gpu():
    with FakeTensorMode():
        logits, labels = torch.empty(2, 3, 4, device="mps"), torch.zeros(2, 3, dtype=torch.int64, device="mps")
        assert accuracy_per_episode(logits, labels).dtype == torch.float32


def test_batch_statistics_with_an_inductive_head_on_padded_episodes():
    episodes = EpisodeSampler(LABELS, torch.arange(12), (2, 4), 1, 2).sample(3)
    run = end_to_end(Conv4(width=4).train(), euclidean_prototypes)
    assert 0 <= evaluate(run, episodes, torch.rand(240, 1, 28, 28)).mean <= 1


def test_end_to_end_passes_on_that_the_head_needs_names():
    episodes = EpisodeSampler(LABELS, torch.arange(12), 3, 1, 2).sample(3)
    run = end_to_end(Conv4(width=4).eval(), label_mix)
    assert run.uses_labels and evaluate(run, episodes, torch.rand(240, 1, 28, 28), label_features=torch.rand(12, 4)).n_episodes == 3


def small_run(path, width=1):
    model = nn.Linear(3, width)
    return fit(
        lambda i: {"loss": model(torch.ones(1, 3)).square().sum()},
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        5,
        checkpoint=path,
        checkpoint_every=5,
    )


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    small_run(tmp_path / "c.pt")
    with pytest.raises(ValueError, match="belongs to another run"):
        small_run(tmp_path / "c.pt", width=2)


@pytest.mark.parametrize("content", [{"weight": torch.ones(2)}, [1, 2]], ids=["weights", "a list"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="no checkpoint"):
        small_run(tmp_path / "c.pt")


def test_no_damage_to_a_checkpoint_ends_in_another_error(tmp_path):
    small_run(tmp_path / "c.pt")
    raw = (tmp_path / "c.pt").read_bytes()
    for end in range(0, len(raw), 97):
        (tmp_path / "c.pt").write_bytes(raw[:end])
        with pytest.raises(ValueError, match="is damaged"):
            small_run(tmp_path / "c.pt")


def test_a_prototypical_checkpoint_of_another_seed_is_refused(tmp_path):
    images = torch.rand(240, 1, 28, 28)
    dataset = ClassDataset(images, LABELS, [str(c) for c in range(12)], {"train": torch.arange(12)})

    def run(**options):
        return train_prototypical(Conv4(width=2), dataset, 100, n_way=2, n_query=1, checkpoint=tmp_path / "c.pt", **options)

    first = run(seed=0)
    assert run(seed=0) == first
    for options in ({"seed": 1}, {"seed": 0, "lr": 1e-3}):
        with pytest.raises(ValueError, match="belongs to another run"):
            run(**options)


def test_a_full_disk_is_named_whoever_writes(tmp_path, monkeypatch):
    def full(*args, **options):
        raise cache.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(cache.CacheError, match="No space left"):
        cache.save_tensors(tmp_path / "x", {"t": torch.ones(1)})


def test_home_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEWSHOT_CACHE", "~/mine")
    assert cache.cache_dir("a") == tmp_path / "mine" / "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_query": (2, 4)}, r"`n_query` is \(2, 4\)"),
        ({"n_way": 2.9}, "`n_way` is 2.9: it must be a whole number"),
        ({"classes": torch.tensor([1, 1, 2])}, "`classes` holds a class twice"),
    ],
)
def test_more_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(LABELS, **{"classes": torch.arange(12), "n_way": 3, "n_query": 2, **options})


def test_pictures_may_be_float_or_coloured_and_padding_is_not_shown():
    dataset = ClassDataset(torch.rand(240, 3, 8, 8), LABELS, [str(i) for i in range(12)], {})
    episodes = EpisodeSampler(LABELS, torch.arange(12), (2, 4), (1, 3), 3).sample(20)
    fig = plots.episode_picture(dataset, episodes, 0)
    shown = [ax for ax in fig.axes if ax.images]
    assert len(shown) == int(episodes.support_mask[0].sum() + episodes.query_mask[0].sum())
    assert shown[0].images[0].get_array().shape == (8, 8, 3)
    _, ax = plots.plt.subplots()
    plots.picture(ax, torch.rand(1, 4, 4))
    assert ax.images[0].get_clim() == (0, 1)
    plots.plt.close("all")


def test_a_name_stands_in_every_sentence(monkeypatch):
    monkeypatch.setattr("fewshot_lib.labels.encode", lambda encoder, texts: texts)
    dataset = ClassDataset(["a"], torch.tensor([0]), ["cat"], {})
    assert label_features(None, dataset, "{{}}") == ["{cat}"] and label_features(None, dataset, "{x} {}") == ["{x} cat"]


def test_regions_of_a_module():
    _, ax = plots.plt.subplots()
    plots.decision_regions(ax, nn.Linear(2, 3), (0, 1, 0, 1), size=8)
