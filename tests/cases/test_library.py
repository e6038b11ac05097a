"""Inputs as people have them, at the library's door: each is right, or refused in one sentence."""

import copy
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fewshot_lib.core import (
    Episodes,
    EpisodeSampler,
    evaluate,
    few_shot_method,
    fit,
    pick_device,
    seed_everything,
    train_classifier,
)
from fewshot_lib.data import cache
from fewshot_lib.data.cache import CacheError, atomic_write, cache_dir, cached_tensors, save_tensors
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import (
    Conv4,
    TextEncoder,
    count_tokens,
    encode,
    encoder_fingerprint,
    extract_features,
    features,
    load_masked_lm,
    tokenise,
)
from fewshot_lib.finetuning import FineTuning, evaluate_steps
from fewshot_lib.maml import MAML, Classifier, Tasks, meta_loss, meta_train, train_on_episodes
from fewshot_lib.maml.outer import episode_tasks
from fewshot_lib.multitask import Task, TaskSampler, train_jointly
from fewshot_lib.prompts import PromptModel, Template, class_words
from fewshot_lib.prototypes import cosine_prototypes, train_prototypical, zero_shot

LABELS = torch.arange(8).repeat_interleave(6)
ROWS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
SIZES = {"n_way": 2, "n_shot": 1, "n_query": 2}


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder()


def dataset(labels=LABELS, inputs=ROWS, names="abcdefgh", **splits):
    splits = {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]} | splits
    return ClassDataset(inputs, labels, list(names), {s: torch.tensor(c) for s, c in splits.items()})


def a2_changes():
    """The data set with another fact, and what the refusal calls it."""
    swapped = {"train": [4, 5, 6, 7], "val": [0, 1], "test": [2, 3]}
    shuffled = LABELS[torch.randperm(48, generator=torch.Generator().manual_seed(1))]
    return {
        "train split": dataset(**swapped),
        "labels": dataset(shuffled),
        "class names": dataset(names="abcdefgx"),
        "data": dataset(inputs=ROWS + 1),
        "val split": dataset(val=[4, 6], test=[5, 7]),
    }


def with_prototypes(data, **loop):
    model = nn.Linear(5, 3)
    train_prototypical(model, data, 4, **SIZES, **loop)
    return model


def with_maml(data, **loop):
    model = MAML(Classifier(nn.Linear(5, 3), 3, 2))
    train_on_episodes(model, data, 4, **SIZES, **loop)
    return model


def jointly(data, **loop):
    model, sampler = Joint(), TaskSampler([Task("t", data, data.inputs)], 2, 1, 2, 2)
    train_jointly(model, sampler, 4, n_validation=2, **loop)
    return model


class Joint(nn.Module):
    uses_names, transductive, name = False, False, "joint"

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, support, query):
        return cosine_prototypes(self.layer(support), self.layer(query))


@pytest.mark.parametrize("train", [with_prototypes, with_maml, jointly])
def test_a2_a_checkpoint_of_other_labels_or_splits_is_refused_by_name(train, tmp_path):
    loop = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 4}
    train(dataset(), **loop)
    train(dataset(), **loop)  # its own
    for fact, other in a2_changes().items():
        if train is jointly and fact == "class names":  # it reads none; features of names are its own
            continue
        fact = "features" if train is jointly and fact == "data" else fact
        with pytest.raises(ValueError, match=rf"c.pt belongs to another run .*not the same {fact}"):
            train(other, **loop)


def test_a2_the_classifier_on_other_labels_is_refused_and_a_sampler_knows_its_own(tmp_path):
    loop = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 2, "n_steps": 2, "lr": np.float32(0.1)}
    train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS, LABELS, **loop)
    train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS, LABELS, **loop)
    with pytest.raises(ValueError, match="not the same labels"):
        train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS, LABELS.flip(0), **loop)

    def own_loop(labels, classes):
        """A training of one's own: the sampler is all that it hands on."""
        sampler = EpisodeSampler(labels, classes, 2, 1, 2)
        learner = MAML(Classifier(nn.Identity(), 5, 2))
        checkpoint = {"checkpoint": tmp_path / "own.pt", "checkpoint_every": 2}
        tasks = lambda _: episode_tasks(sampler.sample(2), ROWS)  # noqa: E731
        meta_train(learner, tasks, 2, states={"sampler": sampler}, **checkpoint)

    own_loop(LABELS, [0, 1, 2])
    own_loop(LABELS, torch.tensor([0, 1, 2]))
    for labels, classes in ((LABELS, [3, 4, 5]), (LABELS.flip(0), [0, 1, 2])):
        with pytest.raises(ValueError, match="belongs to another run .*another"):
            own_loop(labels, classes)


def test_a2_a_refused_checkpoint_leaves_the_model_and_one_of_an_older_version_is_named(tmp_path):
    path = tmp_path / "c.pt"
    with_prototypes(dataset(), checkpoint=path, checkpoint_every=4)
    model = nn.Linear(5, 3)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="not the same labels"):
        train_prototypical(model, a2_changes()["labels"], 4, **SIZES, checkpoint=path)
    assert torch.equal(model.weight, before)
    state = torch.load(path, weights_only=True)
    del state["parts"]["settings"]["labels"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="it says nothing of labels, as it is of an older version"):
        with_prototypes(dataset(), checkpoint=path)
    del state["parts"]["sampler"]["settings"]
    torch.save(state | {"parts": state["parts"] | {"settings": {}}}, path)
    with pytest.raises(ValueError, match="c.pt belongs to another run"):
        with_prototypes(dataset(), checkpoint=path)


@pytest.mark.parametrize(("value", "word"), [(torch.nan, "NaN"), (torch.inf, "an infinite number")])
def test_a4_features_that_are_no_numbers_are_refused_by_row(value, word):
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(100)
    bad = ROWS.clone()
    bad[17, 3] = value
    with pytest.raises(ValueError, match=rf"`features` has {word} in row 17: leave"):
        evaluate(cosine_prototypes, episodes, bad)
    with pytest.raises(ValueError, match="`features` has .* in row 17"):
        evaluate_steps(FineTuning(), episodes, bad, [0, 1])
    names = torch.randn(8, 5)
    names[2] = value
    with pytest.raises(ValueError, match=rf"`names` has {word} in row 2"):
        evaluate(zero_shot, episodes, ROWS, names=names)
    bad[[1, 3]] = value
    with pytest.raises(ValueError, match=r"in row 1 \(and 2 more rows have\)"):
        evaluate(cosine_prototypes, episodes, bad)
    with pytest.raises(ValueError, match=r"NaN or infinite in example no. 1, of class 'a' \(and 2 more\)"):
        dataset(inputs=bad)  # so no trainer sees it
    with pytest.raises(ValueError, match=rf"`inputs` has {word} in row 1"):
        train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), bad, LABELS, 1)


def test_a4_an_answer_that_is_no_number_is_no_answer():
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(20)

    @few_shot_method("diverged", transductive=False)
    def diverged(support, query):
        logits = query.new_zeros(*query.shape[:2], 5)
        logits[..., 0], logits[7, 3, 2] = -torch.inf, torch.nan  # −∞ is an answer: never this class
        return logits

    with pytest.raises(FloatingPointError, match="'diverged' answers NaN in episode 7"):
        evaluate(diverged, episodes, ROWS, batch_size=10)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda t: np.array(t, np.int32), torch.tensor])
def test_f9_labels_and_classes_of_any_kind_draw_the_same_episodes(kind):
    expected = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5, seed=3).sample(9).fingerprint()
    labels, classes = kind(LABELS.tolist()), kind(list(range(8)))
    assert EpisodeSampler(labels, classes, 5, 1, 5, seed=3).sample(9).fingerprint() == expected
    numpy_sizes = EpisodeSampler(labels, classes, np.int64(5), np.int64(1), np.int64(5), np.int64(3))
    assert numpy_sizes.sample(np.int64(9)).fingerprint() == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (list("aabbcc"), "cannot be read as numbers: give"),
        ([0.5] * 12, "has 0.5 in row 0: use whole numbers"),
        (np.eye(3)[[0, 1, 2]], r"has shape \(3, 3\).*one-hot rows are `.argmax"),
        (pd.Series([0.0, None, 1.0]), "has nan in row 1: use whole numbers"),
        ([0, None, 1], "has nan in row 1: use whole numbers"),
    ],
)
def test_f9_labels_that_are_no_numbers_are_named(labels, message):
    with pytest.raises(ValueError, match=f"`labels` .*{message}"):
        EpisodeSampler(labels, [0, 1], 2, 1, 1)


@pytest.mark.parametrize(
    "kind", [np.asarray, pd.DataFrame, lambda t: t.tolist(), lambda t: t.double().numpy()]
)
def test_f9_features_of_any_kind_score_the_same(kind):
    episodes = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(50)
    expected = evaluate(cosine_prototypes, episodes, ROWS).accuracies
    assert torch.equal(evaluate(cosine_prototypes, episodes, kind(ROWS)).accuracies, expected)
    names = ROWS[:8]
    of_names = evaluate(zero_shot, episodes, ROWS, names=names).accuracies
    assert torch.equal(evaluate(zero_shot, episodes, kind(ROWS), names=kind(names)).accuracies, of_names)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.rnn(x.unflatten(-1, (2, 4)))[0][:, -1])


class InPlace(nn.Linear):
    def forward(self, x):
        out = torch.zeros(len(x), 5)
        out += super().forward(x)
        return out


def tasks():
    y = torch.arange(5).repeat(3, 1)
    return Tasks(torch.randn(3, 5, 8), y, torch.randn(3, 5, 8), y)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_f9_recurrent_layers_under_vmap_name_the_other_engine(kind):
    with pytest.raises(ValueError, match=f"holds {kind.__name__} as 'rnn', .*use engine='loop'"):
        MAML(Recurrent(kind))
    assert meta_loss(MAML(Recurrent(kind), engine="loop"), tasks())["loss"].isfinite()


def test_f9_so_does_a_model_that_vmap_cannot_run_and_an_error_of_the_model_stays_its_own():
    with pytest.raises(ValueError, match="cannot run under engine='vmap'.*use engine='loop'"):
        meta_loss(MAML(InPlace(8, 5)), tasks())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        meta_loss(MAML(nn.Linear(7, 5)), tasks())


def test_f9_numpy_scalars_are_rates_and_checkpoints_with_them_can_be_read(tmp_path):
    for rate in (np.float32(0.1), np.float64(0.1), np.int64(1), 0):
        assert MAML(nn.Linear(8, 5), inner_lr=rate).inner_lr == float(rate)
    for rate in (np.float32("nan"), -0.1, "0.1", None, True, np.inf):
        with pytest.raises(ValueError, match="`inner_lr` is .*: use a number, 0 or more"):
            MAML(nn.Linear(8, 5), inner_lr=rate)
    model, path = nn.Linear(1, 1), tmp_path / "c.pt"
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=np.float32(0.1))
        fit(lambda _: {"loss": model.weight.sum()}, model, optimizer, 2, checkpoint=path, checkpoint_every=1)


def test_f9_too_many_tokens_and_missing_encoders_are_one_sentence(tmp_path):
    for tokens in (513, 1000, 2):
        with pytest.raises(ValueError, match=f"`max_tokens` is {tokens}: choose 3 to 512"):
            TextEncoder(max_tokens=tokens)
    (tmp_path / "empty").mkdir()
    for source in ("./no such model", tmp_path / "nothing", tmp_path / "empty"):
        with pytest.raises(ValueError, match="`source` is .*, which cannot be loaded: give 'minilm'"):
            TextEncoder(source)


def test_f7_half_a_character_is_refused_with_its_row(minilm):
    texts = ["fine", "cut in the middle \ud83d"]
    for read in (minilm, lambda t: encode(minilm, t), lambda t: tokenise(minilm, t), count_tokens):
        with pytest.raises(ValueError, match=r"half a character .*ud83d' at 18, .* in row 1"):
            read(texts)


def test_a16_one_text_is_no_list_and_a_missing_one_is_named_by_row(minilm):
    for read in (minilm, lambda t: encode(minilm, t), lambda t: tokenise(minilm, t)):
        with pytest.raises(ValueError, match="is .*one text.*: give a list"):
            read("one text")
        for missing in (None, float("nan"), 3):
            with pytest.raises(ValueError, match=rf"`texts` has {missing} in row 1: give texts"):
                read(["a", missing])
    expected = encode(minilm, ["a", "b c"])
    for kind in (np.array, pd.Series, tuple, lambda t: np.array(t, object)):
        assert torch.equal(encode(minilm, kind(["a", "b c"])), expected)


def test_f8_texts_that_are_cut_are_counted_once_a_call_and_also_from_the_cache(minilm, own_cache):
    texts = ["short"] * 5 + ["word " * 200] * 2
    with pytest.warns(UserWarning, match="2 of 7 texts are longer than 128 tokens.*here up to 512") as said:
        encode(minilm, texts)
    assert len(said) == 1 and said[0].filename == __file__
    data = ClassDataset(texts, torch.zeros(7, dtype=torch.int64), ["a"], {})
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 of 7 texts are longer") as said:
            extract_features(minilm, data)
        assert len(said) == 1 and said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(minilm, ["word " * 126])
    assert count_tokens(["word " * 126, "word " * 127, ""]).tolist() == [128, 129, 2]
    assert minilm.count_tokens(["a b"]).tolist() == [4]


def test_f10_a_name_without_a_known_word_and_names_that_cannot_be_told_apart():
    lm = load_masked_lm()
    with pytest.raises(
        ValueError, match=r"'A', which holds no word .*`words=\{'A': \[...\]\}`, or give the class"
    ):
        class_words(lm, ["A", "B"])
    with pytest.warns(UserWarning, match=r"same logits \('C', 'C\+\+', 'C#'; 'x y', 'y x'\)") as said:
        class_words(lm, ["C", "C++", "D", "x y", "C#", "y x"])
    assert len(said) == 1
    with pytest.raises(ValueError, match="`class_names` is the one text 'abc': give a list"):
        class_words(lm, "abc")
    with pytest.raises(ValueError, match=r"`words\['A'\]` is the one text 'font': give a list"):
        class_words(lm, ["A"], {"A": "font"})


def test_f4_classes_have_their_own_names_in_messages():
    data = dataset(torch.cat([LABELS[:45], LABELS[:3]]), names=["7", "x", *"cdefgh"])
    message = r"Class 'h' has 3 examples, but n_shot \+ n_query = 1 \+ 5 = 6 are needed"
    with pytest.raises(ValueError, match=message):
        EpisodeSampler.of(data, "test", 2, 1, 5)
    with pytest.raises(ValueError, match="'g' has 6 examples, 'h' has 3, but .*leave them out"):
        EpisodeSampler.of(data, "test", n_way=2, n_shot=2, n_query=5)
    with pytest.raises(ValueError, match="Class 7 has 3 examples"):
        EpisodeSampler(data.labels, data.classes("test"), 2, 1, 5)
    sizes = (2, 1, 2, 5)
    expected = EpisodeSampler(data.labels, data.classes("train"), *sizes).sample(7)
    assert EpisodeSampler.of(data, "train", *sizes).sample(7).fingerprint() == expected.fingerprint()


def test_a14_a_billion_episodes_are_refused_before_any_memory_is_filled():
    sampler = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5)
    with pytest.raises(ValueError, match=r"`n_episodes` is 1,000,000,000, and .* GB of memory: draw at most"):
        sampler.sample(1_000_000_000)


def episodes_damaged():
    whole = vars(EpisodeSampler(LABELS, torch.arange(8), 3, 1, 2).sample(4))
    return {
        "one is missing": {k: v for k, v in whole.items() if k != "query"},
        "one too many": whole | {"other": torch.ones(1)},
        "a shape": whole | {"support": whole["support"][:, :2]},
        "numbers": whole | {"query": whole["query"].float()},
        "negative": whole | {"query": whole["query"] - 99},
        "a way": whole | {"query_labels": whole["query_labels"] + 1},
        "no example": whole | {"support_mask": ~whole["support_mask"]},
    }


@pytest.mark.parametrize("damage", episodes_damaged())
def test_a14_damaged_episodes_are_named_and_stay(damage, tmp_path):
    path = tmp_path / "e.safetensors"
    save_file({name: t.contiguous() for name, t in episodes_damaged()[damage].items()}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="e.safetensors is damaged or holds no episodes"):
        Episodes.load(path)
    assert path.read_bytes() == before


def test_a14_cut_and_foreign_files_are_no_episodes(tmp_path):
    path = tmp_path / "e.safetensors"
    EpisodeSampler(LABELS, torch.arange(8), 3, 1, 2).sample(4).save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[:-5], b"PK" + whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or holds no episodes"):
            Episodes.load(path)
    with pytest.raises(FileNotFoundError):
        Episodes.load(tmp_path / "nothing")


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.encoded = nn.Parameter(torch.ones(1)), 0

    def forward(self, x):
        self.encoded += len(x)
        return x[:, :3] * self.weight


def test_a16_a_cached_part_with_missing_rows_or_of_another_encoder_is_made_again(own_cache, monkeypatch):
    monkeypatch.setattr(features, "_PART", 20)
    expected = extract_features(Mean(), dataset())
    for spoil in (lambda t: t[:-1], lambda t: t[:0]):
        file = sorted(own_cache.rglob("*.safetensors"))[1]
        save_file({"features": spoil(load_file(file)["features"]).contiguous()}, file)
        encoder = Mean()
        with pytest.warns(UserWarning, match="does not hold the features of the 20 examples it is for"):
            assert torch.equal(extract_features(encoder, dataset()), expected)
        assert encoder.encoded == 20
    broken = Mean()
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ValueError, match="`features` of unnamed .*by `Mean` has NaN in row 0"):
        extract_features(broken, dataset())


def test_a16_a_changed_tokenizer_is_another_encoder_and_its_use_is_not(minilm):
    before = encoder_fingerprint(minilm)
    minilm(["a", "b c d"])
    assert encoder_fingerprint(minilm) == before
    other = copy.deepcopy(minilm)
    other.tokenizer.add_tokens(["fewshot"])
    assert encoder_fingerprint(other) != before
    other = copy.deepcopy(minilm)
    other.max_tokens = 64
    assert encoder_fingerprint(other) != before


def killed_while_saving(path):
    """A process that is killed in the middle of a save."""
    if (child := os.fork()) == 0:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a16_what_a_killed_save_left_goes_with_the_next_one(tmp_path, own_cache):
    for path in (tmp_path / "x", own_cache / "features" / "key" / "x"):
        killed_while_saving(path)
        assert len(list(path.parent.glob(".x.*.part"))) == 1 and not path.exists()
    theirs = tmp_path / ".x.part"
    theirs.touch()
    with atomic_write(tmp_path / "y") as alive, atomic_write(tmp_path / "z") as other:
        alive.write_text("y")
        other.write_text("z")
        assert alive.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"y", "z", ".x.part", "cache"}
    cached_tensors(cache_dir("glyphs") / "g.safetensors", lambda: ({}, {}))
    assert not list(own_cache.rglob("*.part"))


def test_a16_another_machines_leftover_goes_after_a_day(tmp_path):
    young, old = (tmp_path / f".x.0000000{n}-1-{'0' * 32}.part" for n in (1, 2))
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    with atomic_write(tmp_path / "x") as temporary:
        temporary.touch()
    assert young.exists() and not old.exists()


@pytest.mark.skipif(os.name != "posix", reason="umask")
@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a11_files_have_the_rights_of_any_file(umask, rights, tmp_path):
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "x", {"t": torch.ones(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == rights


def test_a11_a_file_that_may_not_be_read_is_no_damaged_one(own_cache, monkeypatch):
    path = cache_dir("x") / "x.safetensors"
    save_tensors(path, {"t": torch.ones(2)})
    opened = Path.open

    def refuse(self, *args, **kwargs):  # root, as in many a test, may read anything
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CacheError, match=r"x.safetensors cannot be read \(Permission denied\).*chmod a\+r"):
        cached_tensors(path, lambda: pytest.fail("made again"))
    monkeypatch.undo()
    assert path.exists()


def test_f20_a_complete_cache_is_used_without_writing(own_cache, monkeypatch):
    expected = extract_features(Mean(), dataset())

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(cache, "save_file", refuse)
    encoder = Mean()
    assert torch.equal(extract_features(encoder, dataset()), expected) and encoder.encoded == 0
    with pytest.raises(CacheError, match="cannot be written .*Read-only.*Set FEWSHOT_CACHE"):
        extract_features(encoder, dataset(inputs=ROWS + 1))
    assert encoder.encoded == 0


def test_a10_a_relative_cache_is_where_python_was_started(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_START", tmp_path / "start")
    monkeypatch.setenv("FEWSHOT_CACHE", "own")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cache_dir("x") == tmp_path / "start" / "own" / "x" and not list(Path().iterdir())


def test_names_of_a_task_are_numbers_too():
    data = dataset()
    names = torch.randn(8, 5)
    names[0] = torch.nan
    with pytest.raises(ValueError, match="`names` of task `t` has NaN in row 0"):
        TaskSampler([replace(Task("t", data, data.inputs), names=names)], 2, 1, 2, 2)


EPISODES = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5).sample(20)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind",
    [
        lambda a: np.flip(np.flip(a, 0).copy(), 0),  # negative strides
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: pd.DataFrame(a).convert_dtypes() if a.ndim == 2 else pd.Series(a).convert_dtypes(),
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),  # not writable
        lambda a: a.astype(np.longdouble if a.dtype.kind == "f" else np.uint16),
        lambda a: a.astype(object),
        lambda a: torch.from_numpy(a).to_sparse(),
    ],
)
def test_f9_arrays_of_every_layout_are_read_without_a_warning(kind):
    labels, rows = kind(LABELS.numpy()), kind(ROWS.numpy())
    episodes = EpisodeSampler(labels, torch.arange(8), 5, 1, 5).sample(20)
    assert episodes.fingerprint() == EPISODES.fingerprint()
    expected = evaluate(cosine_prototypes, EPISODES, ROWS).accuracies
    assert torch.equal(evaluate(cosine_prototypes, EPISODES, rows).accuracies, expected)


def test_a4_what_is_missing_in_an_array_is_nan():
    missing = ROWS.numpy() == ROWS[EPISODES.support[0, 0, 0], 0].item()
    masked = np.ma.masked_array(ROWS.numpy(), missing)
    nullable = pd.DataFrame(ROWS.numpy()).convert_dtypes().mask(missing)
    for rows in (masked, nullable):
        with pytest.raises(ValueError, match="`features` has NaN in row"):
            evaluate(cosine_prototypes, EPISODES, rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(48, 5, dtype=torch.int64), r"`features` are torch.int64, .*give `features.float\(\)`"),
        (torch.ones(48), r"`features` has shape \(48,\): give a vector per row"),
        (ROWS.to(torch.complex64), "complex Tensor.* cannot be read as numbers"),
        (ROWS[:40], "`features` has 40 rows, and row 47 is asked for"),
        (None, "cannot be read as numbers|is the one number"),
    ],
)
def test_f9_features_of_no_use_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        evaluate(cosine_prototypes, EPISODES, rows)


def test_f9_what_evaluate_is_given_fits_together():
    names = ROWS[:8].double()
    expected = evaluate(zero_shot, EPISODES, ROWS, names=ROWS[:8]).accuracies
    assert torch.equal(evaluate(zero_shot, EPISODES, ROWS, names=names).accuracies, expected)
    with pytest.raises(ValueError, match=r"`names` has shape \(20, 5, 3\): it must be \(E, N, d\)"):
        evaluate(zero_shot, EPISODES, ROWS, names=torch.ones(8, 3))
    with pytest.raises(TypeError, match=r"`episodes` is of type EpisodeSampler: .*sample\(n_episodes\)"):
        evaluate(cosine_prototypes, EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5), ROWS)

    @few_shot_method("short", transductive=False)
    def short(support, query, **_):
        return torch.zeros(len(query), query.shape[1], 9)

    with pytest.raises(ValueError, match=r"`method` 'short' gives \(20, 25, 9\): .* = \(20, 25, 5\)"):
        evaluate(short, EPISODES, ROWS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EpisodeSampler(LABELS, range(8), np.array([5, 6])), r"`n_way` is array\(\[5, 6\]\)"),
        (
            lambda: EpisodeSampler(LABELS, range(8), 5, (1, 2, 3)),
            r"`n_shot` is \(1, 2, 3\): use a number, or",
        ),
        (
            lambda: EpisodeSampler(LABELS, range(8), 5, 1, 2, 2**64),
            "`seed` is 18446744073709551616: use a whole",
        ),
        (
            lambda: EpisodeSampler(LABELS, [0, 99], 2, 1, 1, class_names=list("abcdefgh")),
            "Class 99 has 0 exam",
        ),
        (lambda: FineTuning(lr="0.1"), "`lr` is '0.1': it must be positive"),
        (lambda: evaluate_steps(FineTuning(), EPISODES, ROWS, 3), "`at` is 3: give whole numbers of steps"),
        (lambda: pick_device("cpu:x"), "`device` is 'cpu:x', which this machine does not have"),
        (lambda: pick_device("cuda:99"), "`device` is 'cuda:99', which this machine does not have"),
        (lambda: seed_everything("1"), "`seed` is '1': use a whole number"),
        (lambda: EPISODES[np.int64(0)], "`episodes` is 0: use a slice"),
        (lambda: Task("t", dataset(), ROWS[:, 0]), r"`features` of task 't' has shape \(48,\) for n = 48"),
        (
            lambda: encode(Conv4(3), torch.rand(2, 28, 28, 3)),
            r"`images` have shape \(2, 28, 28, 3\): give \(n, 3",
        ),
        (lambda: encode(Conv4(), torch.full((2, 1, 28, 28), torch.nan)), "`inputs` has NaN in row 0"),
        (lambda: encode(Conv4(), []), "`texts` is .*: give a list with at least one text"),
        (lambda: encode(Conv4(), ["a"]), "`images` are a list: give a tensor"),
        (lambda: encode(Conv4(), torch.rand(2, 1, 28, 28), 0), "`batch_size` is 0"),
        (
            lambda: train_classifier(nn.Linear(5, 3), nn.Linear(3, 4), ROWS, LABELS, 2),
            "`labels` run from 0 to 7",
        ),
        (lambda: with_prototypes(dataset(), validate_every=0), "`validate_every` is 0: use a whole number"),
        (lambda: meta_loss(MAML(nn.Linear(8, 5)), Tasks(*(t[:0] for t in tasks()))), "`n_tasks` is 0"),
    ],
)
def test_f9_arguments_that_cannot_be_are_refused_by_name(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_f9_trainers_take_the_precision_of_their_model(tmp_path):
    double = dataset(inputs=ROWS.double())
    assert torch.equal(with_prototypes(double).weight.isfinite(), torch.ones(3, 5, dtype=torch.bool))
    with_maml(double)
    train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS.tolist(), LABELS.tolist(), np.int64(2))
    assert encode(nn.Flatten(), ROWS.double()).shape == (48, 5)  # an encoder without parameters


@pytest.mark.parametrize("texts", [{"a": 1}, {"a", "b"}, pd.DataFrame({"t": ["a", "b"]}), None])
def test_a16_keys_and_column_names_are_no_texts(texts, minilm):
    for read in (minilm, lambda t: encode(minilm, t), lambda t: class_words(load_masked_lm(), t)):
        with pytest.raises(ValueError, match="give a list with at least one text"):
            read(texts)


def test_f10_a_missing_word_is_no_word_called_none():
    lm = load_masked_lm()
    for given, message in (
        (["x", None], "has None in row 1"),
        (None, "is of type NoneType"),
        ([], r"is \[\]"),
    ):
        with pytest.raises(ValueError, match=rf"`words\['sport'\]` {message}"):
            class_words(lm, ["sport"], {"sport": given})
    with pytest.raises(ValueError, match="`max_tokens` is 600: choose 3 to 512"):
        Template("{text} [MASK]").tokenise(lm, ["a"], 600)
    for prompt in (torch.ones(2, 7), torch.ones(2, 384) / 0, "noise"):
        with pytest.raises(ValueError, match="`prompt` "):
            PromptModel(lm, prompt)


def damaged_checkpoints():
    """What is done to a checkpoint of the same training, which could still be read."""
    return {
        "no step": lambda state: state["progress"].pop("step"),
        "a step too far": lambda state: state["progress"].update(step=99),
        "no number": lambda state: state["progress"].update(step="x"),
        "no random numbers": lambda state: state.pop("torch_rng"),
        "other parts": lambda state: state.update(parts=[1]),
        "the last part": lambda state: state["parts"].update(scheduler=3),
    }


@pytest.mark.parametrize("damage", damaged_checkpoints())
def test_a2_a_damaged_checkpoint_is_refused_and_leaves_the_model_as_it_was(damage, tmp_path):
    path = tmp_path / "c.pt"
    with_prototypes(dataset(), checkpoint=path, checkpoint_every=2)
    state = torch.load(path, weights_only=True)
    damaged_checkpoints()[damage](state)
    torch.save(state, path)
    model = nn.Linear(5, 3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="`checkpoint` .*c.pt (is damaged|belongs to another run)"):
        train_prototypical(model, dataset(), 4, **SIZES, checkpoint=path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a2_where_no_checkpoint_can_lie_is_said_before_the_first_step(tmp_path, capsys):
    (tmp_path / "file").touch()
    for place, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "c.pt", "cannot be written")):
        with pytest.raises(ValueError, match=f"`checkpoint` .* {message}"):
            with_prototypes(dataset(), checkpoint=place)
    assert "step 1" not in capsys.readouterr().out and (tmp_path / "file").is_file()


def test_a4_a_validation_that_is_no_number_is_no_score():
    with pytest.raises(FloatingPointError, match="`validate` gives NaN at step 4"):
        with_prototypes(dataset(), validate=lambda: float("nan"))
