"""Small wrong changes to the core that no other test noticed: each test here fails for one of them."""

import random
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fewshot_lib import data
from fewshot_lib.course import plots
from fewshot_lib.course.course_map import ARROWS, CHAPTERS, course_map, map_alt
from fewshot_lib.data import cache
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import Conv4, TextEncoder, encode, encoder_fingerprint, end_to_end, raw_features, uses_batch_statistics
from fewshot_lib.episodes import EpisodeSampler, with_fewer_queries
from fewshot_lib.evaluation import EpisodeResults, compare_paired, evaluate, half_width, mean_interval, method
from fewshot_lib.labels import label_features, label_mix, logistic_regression, zero_shot
from fewshot_lib.prototypes import cosine_logits, cosine_prototypes, euclidean_prototypes, prototypical_loss, train_prototypical
from fewshot_lib.training import History, autocast, fit, one_cycle, pick_device, seed_everything, train_classifier

SIZES = [7, 20, 9, 12, 30, 8, 15, 11]
LABELS = torch.repeat_interleave(torch.arange(8), torch.tensor(SIZES))[
    torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(9))
]
CLASSES = torch.tensor([6, 1, 3, 4, 7])
TWELVE = torch.arange(12).repeat_interleave(20)


def draw(n_episodes=400, **options):
    return EpisodeSampler(LABELS, CLASSES, **{"n_way": 4, "n_shot": 3, "n_query": 5, "seed": 1, **options}).sample(n_episodes)


# --- episodes
# A seed promises the same episodes on every machine and in every version: so these stand here as numbers.
GOLD = [[[4, 1, 6]], [[33, 14, 100, 109, 92, 104]], [6, 1, 3, 7]]


def test_padding_is_last_and_holds_row_0_and_label_0():
    episodes = draw(n_way=(2, 5), n_shot=(1, 4))
    assert episodes.n_query == 5
    for rows, mask in (
        (episodes.support, episodes.support_mask),
        (episodes.query, episodes.query_mask),
        (episodes.query_labels, episodes.query_mask),
    ):
        assert (rows[~mask] == 0).all() and (mask.long().diff(dim=-1) <= 0).all()


def test_varying_shots_alone_are_padding():
    assert draw(n_shot=(1, 3)).is_padded


def test_the_fingerprint_covers_every_field():
    episodes = draw(10)
    for name in ("support", "query", "query_labels", "classes", "support_mask", "query_mask"):
        tensor = getattr(episodes, name).clone()
        tensor.view(-1)[3] = ~tensor.view(-1)[3] if tensor.dtype == torch.bool else tensor.view(-1)[3] + 1
        assert replace(episodes, **{name: tensor}).fingerprint() != episodes.fingerprint(), name
    assert replace(episodes, support=episodes.support.view(10, 3, 4)).fingerprint() != episodes.fingerprint()


def test_a_seed_means_these_episodes_for_ever():
    """Across versions, machines, and the order of the class list: recorded numbers rest on it."""
    sampler = EpisodeSampler(LABELS, CLASSES, 3, 1, 2, seed=1)
    one, _two = sampler.sample(1), EpisodeSampler(LABELS, CLASSES, 3, 1, 2, seed=1).sample(1)
    assert one.classes.tolist() == GOLD[0] and one.query.tolist() == GOLD[1]


def test_the_size_of_a_block_is_part_of_what_a_seed_means():
    from fewshot_lib import episodes

    assert episodes._DRAW_BLOCK == 2_000_000
    assert EpisodeSampler(LABELS, CLASSES, 4, 3, 5, seed=1).sample(20_000).classes[-1].tolist() == GOLD[2]


# --- evaluation
def results_of(accuracies, fingerprint="same", name="m", transductive=False):
    return EpisodeResults(torch.as_tensor(accuracies, dtype=torch.float64), name, transductive, 5, 1, 15, fingerprint)


def test_the_standard_deviation_is_that_of_episodes_averaged_over_seeds():
    assert results_of([[0.2, 0.4, 0.9], [0.4, 0.6, 0.7]]).std == pytest.approx(np.std([0.3, 0.5, 0.8], ddof=1))


def test_two_seeds_already_give_the_interval_over_seeds():
    assert results_of([[0.5, 0.7], [0.6, 0.8]]).ci95 == pytest.approx(stats.t.ppf(0.975, 1) * 0.05)


def test_the_interval_of_a_mean_is_scipys():
    values = torch.tensor([0.1, 0.5, 0.6, 0.95], dtype=torch.float64)
    low, high = stats.t.interval(0.95, 3, values.mean().item(), stats.sem(values))
    assert mean_interval(values) == pytest.approx((low, high)) and half_width(values) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize(
    ("a", "verdict"), [([0.80, 0.82, 0.81], "better than"), ([0.2, 0.21, 0.2], "worse than"), ([0.2, 0.9, 0.5], "not told apart from")]
)
def test_a_difference_says_which_way_and_by_how_many_points(a, verdict):
    difference = compare_paired(results_of([a], name="first"), results_of([[0.5, 0.5, 0.5]], name="second", transductive=True))
    assert (difference.verdict, difference.kind, difference.transductive) == (verdict, "difference", True)
    low, high = (100 * v for v in difference.interval)
    assert difference.in_words == f"{100 * (sum(a) / 3 - 0.5):+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    assert str(difference) == f"first is {verdict} second: {difference.in_words}, 3 episodes"


def test_a_mean_in_words_names_the_interval_from_low_to_high():
    r = results_of([[0.8, 0.9]])
    assert r.in_words == f"85.0% (95 % interval {r.interval[0]:.1%} to {r.interval[1]:.1%})" and r.interval[0] < 0.85 < r.interval[1]


LABELS12 = torch.arange(12).repeat_interleave(20)


def episodes_of(n_episodes=50, seed=0, **options):
    return EpisodeSampler(LABELS12, torch.arange(12), **{"n_way": 5, "n_shot": 1, "n_query": 4, **options}, seed=seed).sample(n_episodes)


def test_evaluating_builds_no_graph_and_tells_a_transductive_method_which_queries_are_padding():
    seen = []

    @method("spy", transductive=True)
    def spy(support, query, support_mask=None, query_mask=None):
        seen.append((support.requires_grad, None if query_mask is None else query_mask.shape))
        return euclidean_prototypes(support, query, support_mask)

    x = torch.randn(240, 4, requires_grad=True)
    evaluate(spy, episodes_of(3, n_way=(2, 5)), x)
    evaluate(spy, episodes_of(3), x)
    assert seen == [(False, (3, 20)), (False, None)]


@pytest.mark.parametrize("field", ["support", "query"])
def test_one_row_too_few_is_noticed_in_supports_and_in_queries(field):
    episodes = episodes_of(4)
    rows = getattr(episodes, field).clamp(max=200)
    rows.view(-1)[0] = 239
    other = "query" if field == "support" else "support"
    episodes = replace(episodes, **{field: rows, other: getattr(episodes, other).clamp(max=200)})
    with pytest.raises(ValueError, match="use row 239 but `features` has 239 rows"):
        evaluate(euclidean_prototypes, episodes, torch.randn(239, 4))


def test_every_batch_gets_the_names_of_its_own_classes():
    names = torch.eye(12)
    assert evaluate(zero_shot, episodes_of(20), 10 * names[LABELS12], batch_size=3, label_features=names).mean == 1.0


# --- prototypes
def test_the_temperature_is_a_tenth():
    support, query = torch.eye(3).view(1, 3, 1, 3), torch.eye(3)[None]
    torch.testing.assert_close(cosine_prototypes(support, query)[0], 10 * torch.eye(3))


class Recording(nn.Module):
    """Keeps which images it saw: the first pixel of each is its row."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(2, 3), []

    def forward(self, x):
        self.seen.append(x[:, 0].long().tolist())
        return self.linear(x / 100)


def toy_set():
    labels = torch.arange(8).repeat_interleave(6)
    inputs = torch.stack([torch.arange(48.0), labels.float()], 1)
    return ClassDataset(inputs, labels, list("abcdefgh"), {"train": torch.tensor([6, 0, 2, 4]), "test": torch.tensor([1, 3, 5, 7])})


def trained(tmp_path=None, **options):
    torch.manual_seed(0)
    encoder, dataset = Recording(), toy_set()
    history = train_prototypical(encoder, dataset, 6, **{"n_way": 3, "n_shot": 2, "n_query": 2, **options})
    return encoder, dataset, history


def test_training_sees_training_classes_only_and_the_seed_decides_which():
    encoder, dataset, history = trained()
    rows = torch.tensor(encoder.seen)
    assert rows.shape == (6, 3 * 4) and torch.isin(dataset.labels[rows], dataset.classes("train")).all()
    assert (dataset.labels[rows[:, :6]].view(6, 3, 2) == dataset.labels[rows[:, :6]].view(6, 3, 2)[..., :1]).all()
    assert trained()[2] == history != trained(seed=1)[2]
    assert trained(seed=1)[0].seen != encoder.seen


def test_training_hands_on_validation_checkpoint_and_label(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    monkeypatch.setattr("fewshot_lib.prototypes.fit", lambda *a, **options: given.update(options) or fit(*a, **options))
    given = {}
    _, _, history = trained(validate=lambda: 0.5, validate_every=2, checkpoint=tmp_path / "c.pt", label="mine")
    assert [step for step, _ in history.validation] == [2, 4, 6]
    assert given["checkpoint"] == tmp_path / "c.pt" and "sampler" in given["resume_with"]
    assert capsys.readouterr().out.startswith("mine: step")
    assert isinstance(given.get("scheduler"), torch.optim.lr_scheduler.OneCycleLR) and given["scheduler"].total_steps == 6


def test_a_hard_episode_per_step_by_default():
    import inspect

    defaults = {n: p.default for n, p in inspect.signature(train_prototypical).parameters.items()}
    assert (defaults["n_way"], defaults["n_shot"], defaults["n_query"], defaults["lr"]) == (20, 1, 5, 4e-3)


# --- encoders
def test_encoding_leaves_no_graph_and_the_mode_of_evaluation():
    encoder = Conv4(width=4).eval()
    assert not encode(encoder, torch.rand(3, 1, 28, 28)).requires_grad and not encoder.training


def test_texts_are_cut_to_max_tokens_and_the_fingerprint_knows():
    short = TextEncoder(max_tokens=5)
    long = TextEncoder()
    text = ["the sum of two numbers is a number that stands for both"]
    assert not torch.allclose(encode(short, text), encode(long, text), atol=1e-3)
    assert encoder_fingerprint(short) != encoder_fingerprint(long)
    assert long.n_features == encode(long, text).shape[1] and Conv4(width=8).n_features == 8


def test_the_fingerprint_follows_buffers_names_and_class():
    a = Conv4(width=4)
    before = encoder_fingerprint(a)
    a.blocks[0][1].running_mean += 1
    assert encoder_fingerprint(a) != before

    class One(nn.Module):
        def __init__(self, name):
            super().__init__()
            setattr(self, name, nn.Parameter(torch.ones(2)))

    class Two(One):
        pass

    assert len({encoder_fingerprint(m) for m in (One("a"), One("b"), Two("a"))}) == 3


def test_raw_features_are_pixels_in_0_to_1_or_counts_of_length_1():
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)

    def of(x):
        return raw_features(ClassDataset(x, torch.zeros(4, dtype=torch.int64), ["a"], {}))

    assert torch.allclose(of(pixels), pixels.flatten(1) / 255) and torch.allclose(of(pixels / 255), pixels.flatten(1) / 255)
    texts = of(["a word", "two words two words", "bb cc dd", "graph of graph"])
    assert texts.shape == (4, 4096)
    torch.testing.assert_close(texts[1:].norm(dim=1), torch.ones(3))


def test_batch_norm_without_running_statistics_always_mixes():
    assert uses_batch_statistics(nn.BatchNorm1d(3, track_running_stats=False).eval())


def test_a_transductive_head_stays_one_and_masks_reach_the_head():
    @method("head", transductive=True)
    def head(support, query, support_mask=None, query_mask=None):
        return euclidean_prototypes(support, query, support_mask)

    assert end_to_end(Conv4(width=4).eval(), head).transductive
    encoder = Conv4(width=4).eval()
    support, query = torch.rand(2, 3, 2, 1, 28, 28), torch.rand(2, 4, 1, 28, 28)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[:, 2] = False
    with torch.no_grad():
        logits = end_to_end(encoder, euclidean_prototypes)(support, query, support_mask=mask)

        def f(x, axes):
            return encoder(x.flatten(0, axes - 1)).unflatten(0, x.shape[:axes])

        torch.testing.assert_close(logits, euclidean_prototypes(f(support, 3), f(query, 2), mask))


def test_progress_is_silent_without_a_reader(monkeypatch, capsys):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    encode(Conv4(width=4), torch.rand(3, 1, 28, 28), label="features")
    assert capsys.readouterr().err == ""


def test_loading_the_text_encoder_leaves_the_progress_bars_as_they_were():
    from transformers.utils import logging

    for shown, switch in ((True, logging.enable_progress_bar), (False, logging.disable_progress_bar)):
        switch()
        TextEncoder()
        assert logging.is_progress_bar_enabled() == shown
    logging.enable_progress_bar()


def test_a_fresh_text_encoder_has_no_dropout():
    encoder = TextEncoder()
    with torch.no_grad():
        assert torch.equal(encoder(["a graph"]), encoder(["a graph"]))


# --- training
def test_steps_run_in_training_mode_and_validation_in_evaluation_mode_without_a_graph():
    model, modes = nn.Linear(1, 1).eval(), []

    def step(i):
        modes.append(("step", model.training, torch.is_grad_enabled()))
        return {"loss": model.weight.square().sum()}

    def validate():
        modes.append(("validate", model.training, torch.is_grad_enabled()))
        return 0.0

    fit(step, model, torch.optim.SGD(model.parameters(), 0.1), 3, validate=validate, validate_every=2)
    s, v = ("step", True, True), ("validate", False, False)
    assert modes == [s, s, v, s, v] and not model.training


def test_of_equal_scores_the_first_model_is_kept():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    fit(lambda i: {"loss": -model.weight.sum()}, model, torch.optim.SGD(model.parameters(), 1.0), 4, validate=lambda: 0.5, validate_every=2)
    assert model.weight.item() == 2


def test_the_last_model_is_validated_whatever_the_interval():
    model = nn.Linear(1, 1)
    history = fit(
        lambda i: {"loss": model.weight.sum()}, model, torch.optim.SGD(model.parameters(), 0.1), 3, validate=lambda: 1.0, validate_every=100
    )
    assert history.validation == [(3, 1.0)]


def test_a_checkpoint_is_written_whole_into_a_folder_that_is_made(tmp_path, monkeypatch):
    path = tmp_path / "new" / "run.pt"

    def run(n_steps=5):
        model = nn.Linear(1, 1)
        return fit(
            lambda i: {"loss": model.weight.sum()},
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            n_steps,
            checkpoint=path,
            checkpoint_every=5,
        )

    run()
    kept = path.read_bytes()

    def half(state, file, *rest):
        open(file, "wb").write(b"half") if not hasattr(file, "write") else file.write(b"half")
        raise KeyboardInterrupt

    path2 = tmp_path / "new" / "other.pt"
    monkeypatch.setattr(torch, "save", half)
    model = nn.Linear(1, 1)
    with pytest.raises(KeyboardInterrupt):
        fit(
            lambda i: {"loss": model.weight.sum()}, model, torch.optim.SGD(model.parameters(), 0.1), 5, checkpoint=path2, checkpoint_every=5
        )
    assert list(path.parent.iterdir()) == [path] and path.read_bytes() == kept


def test_a_checkpoint_with_other_parts_or_an_empty_one_is_refused(tmp_path):
    def run(**options):
        model = nn.Linear(1, 1)
        return fit(
            lambda i: {"loss": model.weight.sum()},
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            5,
            checkpoint=tmp_path / "c.pt",
            checkpoint_every=5,
            **options,
        )

    run()
    with pytest.raises(ValueError, match="belongs to another run"):
        run(resume_with={"sampler": EpisodeSampler(LABELS, CLASSES, 2, 1, 1)})
    (tmp_path / "c.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        run()


def test_the_bar_shows_the_last_loss_and_starts_where_the_run_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEWSHOT_STATIC", "0")

    def run(stop=None):
        model = nn.Linear(1, 1)

        def step(i):
            if i == stop:
                raise KeyboardInterrupt
            return {"loss": model.weight.sum() * 0 + i}

        return fit(step, model, torch.optim.SGD(model.parameters(), 0.1), 8, checkpoint=tmp_path / "c.pt", checkpoint_every=4, label="mine")

    with pytest.raises(KeyboardInterrupt):
        run(6)
    capsys.readouterr()
    run()
    shown = capsys.readouterr().err
    assert "mine:  50%" in shown and "4/8" in shown and "8/8" in shown and "loss=7.000" in shown


def test_plain_lines_give_the_mean_since_the_line_before(monkeypatch, capsys):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    model = nn.Linear(1, 1)
    fit(lambda i: {"loss": model.weight.sum() * 0 + i}, model, torch.optim.SGD(model.parameters(), 0.1), 10)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["0.500", "2.500", "4.500", "6.500", "8.500"]


def test_one_seed_seeds_python_numpy_and_torch():
    def numbers(seed):
        seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert numbers(3) == numbers(3) and not set(numbers(3)) & set(numbers(4))


def test_a_short_curve_is_smoothed_over_what_there_is():
    assert History({"loss": [1.0, 3.0]}).smoothed("loss") == ([2], [2.0])


def test_supervised_training_moves_the_encoder_on_one_cycle_and_global_randomness_plays_no_part(monkeypatch):
    seen = []

    def spy(*args, **options):
        seen.append(options.get("scheduler"))
        return fit(*args, **options)

    monkeypatch.setattr("fewshot_lib.training.fit", spy)
    x, y = torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)

    def run(noise):
        seed_everything(0)
        encoder, head = nn.Linear(4, 4), nn.Linear(4, 4)
        start = encoder.weight.detach().clone()
        torch.manual_seed(noise)
        history = train_classifier(encoder, head, x, y, 10, batch_size=4)
        assert not torch.equal(start, encoder.weight)
        return history

    assert run(1) == run(2)
    assert isinstance(seen[0], torch.optim.lr_scheduler.OneCycleLR) and seen[0].total_steps == 10


def test_one_cycle_peaks_at_the_optimisers_rate():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    scheduler, rates = one_cycle(optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.5) and 25 <= rates.index(max(rates)) <= 34 and rates[-1] < 1e-3


def test_arithmetic_on_a_cpu_is_float32():
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_device_may_have_a_number():
    assert pick_device("cpu:0") == torch.device("cpu:0")


# --- labels
def test_names_go_into_the_template(monkeypatch):
    monkeypatch.setattr("fewshot_lib.labels.encode", lambda encoder, texts: texts)
    dataset = ClassDataset(["a", "b"], torch.tensor([0, 1]), ["cat", "dog"], {})
    assert label_features(None, dataset) == ["this is news about cat.", "this is news about dog."]
    assert label_features(None, dataset, "a {}!") == ["a cat!", "a dog!"]


@pytest.mark.parametrize("few_shot_method", [zero_shot, label_mix], ids=lambda m: m.name)
def test_methods_with_names_mask_shots_and_ways(few_shot_method):
    g = torch.Generator().manual_seed(0)
    support, query, labels = torch.randn(2, 3, 2, 6, generator=g), torch.randn(2, 5, 6, generator=g), torch.randn(2, 3, 6, generator=g)
    mask = torch.tensor([[True, True], [True, False], [False, False]]).expand(2, 3, 2)
    logits = few_shot_method(support, query, labels=labels, support_mask=mask)
    spoiled = support.masked_fill(~mask.unsqueeze(-1), 1e6)
    assert (logits[..., 2] == -torch.inf).all()
    torch.testing.assert_close(few_shot_method(spoiled, query, labels=labels, support_mask=mask), logits)
    if few_shot_method is label_mix:
        means = torch.nn.functional.normalize(torch.stack([support[:, 0].mean(1), support[:, 1, 0]], 1), dim=-1)
        expected = cosine_logits(query, means + torch.nn.functional.normalize(labels[:, :2], dim=-1))
        torch.testing.assert_close(logits[..., :2], expected)


def test_logistic_regression_is_scikit_learns_on_directions():
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(0)
    support, query = torch.randn(1, 3, 4, 6, generator=g), torch.randn(1, 5, 6, generator=g)

    def unit(x):
        return torch.nn.functional.normalize(x, dim=-1).numpy()

    probe = LogisticRegression(C=10, max_iter=1000).fit(unit(support[0].flatten(0, 1)), np.repeat(range(3), 4))
    expected = torch.tensor(probe.predict_log_proba(unit(query[0]))).double()
    torch.testing.assert_close(logistic_regression(support, 7 * query)[0].double(), expected, atol=1e-5, rtol=1e-5)


# --- data
def test_endings_in_capitals_spaces_and_options_reach_the_reader(tmp_path):
    rows = [(f"text {i} about {name}", name) for name in "abcdefghij" for i in range(4)]
    folder = tmp_path / "My Data"
    folder.mkdir()
    (folder / "mine too.CSV").write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in rows))
    (folder / "lines.jsonl").write_text("".join(f'{{"body": "{t}", "label": "{c}"}}\n' for t, c in rows))
    assert len(data.load(folder / "mine too.CSV")) == 40
    assert len(data.load(str(folder / "lines.jsonl"), text="body")) == 40


def test_a_folder_of_pictures_is_loaded_by_its_path(tmp_path):
    from PIL import Image

    for name in "abcdefghij":
        (tmp_path / "own.csv" / name).mkdir(parents=True)
        Image.new("L", (9, 9), 128).save(tmp_path / "own.csv" / name / "1.png")
    assert data.load(tmp_path / "own.csv", size=5).inputs.shape == (10, 1, 5, 5)


def test_naming_the_same_split_family_twice_is_no_contradiction_and_an_empty_one_is_none():
    assert data.load("docstrings/module", "module").split_family == "module"
    with pytest.raises(ValueError):
        data.load("docstrings/")


def test_capitals_are_a_misspelling():
    with pytest.raises(ValueError, match="Did you mean 'glyphs'"):
        data.load("GLYPHS")


def make(**changes):
    given = (
        dict(
            inputs=[f"text {i}" for i in range(6)],
            labels=torch.tensor([2, 0, 0, 3, 2, 1]),
            class_names=list("abcd"),
            splits={"train": torch.tensor([2, 0]), "val": torch.tensor([3]), "test": torch.tensor([1])},
        )
        | changes
    )
    return ClassDataset(**given)


def test_the_first_id_past_the_end_is_refused():
    with pytest.raises(ValueError, match="names class 4, but there are only 4"):
        make(splits={"train": torch.tensor([4])})


def test_classes_without_examples_count_0_and_no_examples_are_allowed():
    assert make(class_names=list("abcde")).counts.tolist() == [2, 1, 2, 1, 0]
    assert len(make(inputs=[], labels=torch.tensor([], dtype=torch.int64))) == 0


def test_one_split_alone_holds_nothing_else():
    only = make(name="toy", domains=list("wxyz")).only("train")
    assert only.inputs == ["text 0", "text 1", "text 2", "text 4"] and only.labels.tolist() == [2, 0, 0, 2]
    assert list(only.splits) == ["train"] and (only.n_classes, only.name, only.domains) == (4, "toy", list("wxyz"))


def test_fingerprint_of_any_text_and_of_every_dtype():
    assert make(inputs=["\ud800"] + ["x"] * 5).fingerprint()
    x = torch.zeros(6, 1, 2, 2)
    assert make(inputs=x).fingerprint() != make(inputs=x.to(torch.int32)).fingerprint()
    assert make(inputs=["a\x02", "b"] + ["x"] * 4).fingerprint() != make(inputs=["a", "\x02b"] + ["x"] * 4).fingerprint()


# --- cache
def test_the_temporary_file_stands_beside_its_place_and_has_a_name_of_its_own(tmp_path):
    with cache.atomic_write(tmp_path / "x") as a, cache.atomic_write(tmp_path / "x") as b:
        assert a.parent == b.parent == tmp_path and a != b and tmp_path / "x" not in (a, b)
        a.touch(), b.touch()


def test_tensors_with_a_gradient_are_saved(tmp_path):
    cache.save_tensors(tmp_path / "x", {"w": torch.ones(2, requires_grad=True)})
    assert cache.load_tensors(tmp_path / "x")[1] == {}


def test_a_damaged_file_is_gone_even_if_it_cannot_be_made_again(tmp_path):
    (tmp_path / "x").write_bytes(b"junk")
    with pytest.warns(UserWarning, match="damaged"):
        assert cache.load_tensors(tmp_path / "x") is None
    assert not (tmp_path / "x").exists()


# --- plots
@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def results(*accuracies, method="m"):
    return EpisodeResults(torch.tensor([accuracies], dtype=torch.float64), method, False, 5, 1, 15, "same")


def test_interval_plot_draws_means_intervals_chance_and_given_labels():
    rows = [results(0.2, 0.4), results(0.8, 0.9)]
    ax = plots.interval_plot(rows, chance=0.2, labels=["x", "y"]).axes[0]
    (container,) = ax.containers
    assert container.lines[0].get_xdata().tolist() == pytest.approx([30, 85]) and container.lines[0].get_ydata().tolist() == [1, 0]
    widths = [segment[1, 0] - segment[0, 0] for segment in container.lines[2][0].get_segments()]
    assert widths == pytest.approx([200 * r.ci95 for r in rows])
    assert any(list(line.get_xdata()) == [20, 20] for line in ax.lines)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"] and ax.get_xlim() == (0, 103)


def test_difference_plot_draws_points_and_intervals_on_their_rows():
    d = [compare_paired(results(*a), results(0.5, 0.5, 0.5)) for a in ((0.8, 0.82, 0.81), (0.2, 0.9, 0.5))]
    fig = plots.difference_plot([d, d[::-1]], ["a", "b"], ["1-shot", "5-shot"], "nothing")
    assert [ax.get_title() for ax in fig.axes] == ["1-shot", "5-shot"]
    for ax, column in zip(fig.axes, (d, d[::-1]), strict=False):
        for container, difference, row in zip(ax.containers, column, (1, 0), strict=False):
            assert container.lines[0].get_xydata()[0].tolist() == pytest.approx([100 * difference.mean, row])
            (segment,) = container.lines[2][0].get_segments()
            assert segment[1, 0] - segment[0, 0] == pytest.approx(200 * difference.ci95)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["a", "b"]
    assert fig.axes[0].get_yticks()[0] > fig.axes[0].get_yticks()[1]


def test_band_plot_draws_the_means_in_the_numbers_style_and_chance():
    points, (_, ax) = [results(0.4, 0.6), results(0.7, 0.8)], plt.subplots()
    plots.band_plot(ax, [1, 5], points, "name", number=2, chance=0.2)
    line, chance = ax.lines
    assert line.get_ydata().tolist() == pytest.approx([50, 75]) and line.get_label() == "name"
    assert (line.get_color(), line.get_marker()) == (plots.COLOURS[2], plots.MARKERS[2]) and list(chance.get_ydata()) == [20, 20]


def test_ink_is_dark_and_the_scale_does_not_depend_on_the_picture():
    _, ax = plt.subplots()
    plots.picture(ax, torch.tensor([[[100, 120]]], dtype=torch.uint8), letter="S")
    assert ax.images[0].get_cmap().name == "gray_r" and ax.images[0].get_clim() == (0, 255) and ax.texts[0].get_text() == "S"


def test_episode_picture_names_the_class_of_each_way_and_frames_supports_in_colour():
    labels = torch.arange(6).repeat_interleave(8)
    dataset = ClassDataset(torch.zeros(48, 1, 4, 4, dtype=torch.uint8), labels, [f"class {c}" for c in range(6)], {})
    episodes = EpisodeSampler(labels, torch.arange(6), 3, 2, 2, seed=0).sample(2)
    fig = plots.episode_picture(dataset, episodes, number=1, most_queries=5)
    assert len(fig.axes) == 3 * 4
    for way in range(3):
        first, last = fig.axes[4 * way], fig.axes[4 * way + 3]
        assert first.get_ylabel() == f"way {way}\nclass {episodes.classes[1, way]}"

        def frame(ax):
            return matplotlib.colors.to_hex(ax.spines["left"].get_edgecolor()).upper()

        assert (frame(first), frame(last)) == (plots.COLOURS[way], "#000000")


def test_decision_regions_stand_where_the_limits_say():
    _, ax = plt.subplots()

    def above_is_1(xy):
        return torch.stack([7 - xy[:, 1], xy[:, 1] - 7], -1) * 100

    plots.decision_regions(ax, above_is_1, (0, 1, 5, 9), size=10)
    image = ax.images[0]
    assert list(image.get_extent()) == [0, 1, 5, 9] and image.origin == "lower"
    assert image.get_array()[0, 3].tolist() != image.get_array()[9, 3].tolist()
    (path,) = (path for path in ax.collections[0].get_paths() if len(path.vertices))
    assert path.vertices[:, 1].mean() == pytest.approx(7, abs=0.3) and path.vertices[:, 0].max() == pytest.approx(1)


def test_regions_are_pale_where_the_classifier_is_unsure():
    _, ax = plt.subplots()
    plots.decision_regions(ax, lambda xy: torch.stack([0.001 * xy[:, 0], 0 * xy[:, 0]], -1), (0, 1, 0, 1), size=4)
    assert ax.images[0].get_array()[0, 0, 0] == pytest.approx(0.85, abs=0.01)


def test_scattered_points_have_the_colour_marker_and_place_of_their_class():
    _, ax = plt.subplots()
    plots.scatter_classes(ax, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([1, 0, 1]))
    zero, one = ax.collections
    assert zero.get_offsets().tolist() == [[3, 4]] and one.get_offsets().tolist() == [[1, 2], [5, 6]]
    assert [matplotlib.colors.to_hex(c.get_facecolor()[0]).upper() for c in (zero, one)] == plots.COLOURS[:2]
    assert zero.get_paths()[0].vertices.shape != one.get_paths()[0].vertices.shape


def test_the_map_fills_where_the_reader_is_and_points_forward(tmp_path):
    ax = course_map(CHAPTERS[2].notebook, tmp_path).axes[0]
    filled = [i for i, box in enumerate(ax.patches) if matplotlib.colors.to_hex(box.get_facecolor()).upper() == "#0072B2"]
    assert filled == [2]
    arrows = [t for t in ax.texts if t.get_text() == "" and hasattr(t, "xyann")]
    assert len(arrows) == len(ARROWS) and all(
        t.xy[0] > t.xyann[0] or CHAPTERS[a].place[0] == CHAPTERS[b].place[0] for t, (a, b) in zip(arrows, ARROWS, strict=False)
    )
    assert "\n" not in map_alt(CHAPTERS[2].notebook, tmp_path) and "You are at 02." in map_alt(CHAPTERS[2].notebook, tmp_path)


def test_the_arrows_say_what_the_chapters_build_on():
    assert {b for _, b in ARROWS} == set(range(1, len(CHAPTERS))), "every chapter but the first stands on another"
    assert {a for a, _ in ARROWS} == set(range(len(CHAPTERS) - 1)), "every chapter but the last leads somewhere"


class Code:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"n_steps": 5, "parts": Code()}, tmp_path / "c.pt")
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        fit(lambda i: {"loss": model.weight.sum()}, model, torch.optim.SGD(model.parameters(), 0.1), 5, checkpoint=tmp_path / "c.pt")


def test_the_first_loss_is_that_of_the_first_episode():
    labels = torch.arange(8).repeat_interleave(6)
    dataset = ClassDataset(
        torch.randn(48, 5, generator=torch.Generator().manual_seed(0)), labels, list("abcdefgh"), {"train": torch.arange(8)}
    )
    encoder = nn.Linear(5, 4)
    e = EpisodeSampler(labels, torch.arange(8), 3, 2, 2, seed=7).sample(1)
    expected, accuracy = prototypical_loss(encoder(dataset.inputs[e.support]), encoder(dataset.inputs[e.query]), e.query_labels)
    history = train_prototypical(encoder, dataset, 2, n_way=3, n_shot=2, n_query=2, seed=7)
    assert (history.metrics["loss"][0], history.metrics["accuracy"][0]) == pytest.approx((expected.item(), accuracy.item()))


def test_padding_takes_no_part_in_batch_statistics():
    torch.manual_seed(0)
    encoder = Conv4(width=4).train()
    images = torch.rand(240, 1, 28, 28)
    episodes = EpisodeSampler(TWELVE, torch.arange(12), (2, 4), (1, 3), 2).sample(4)
    run = end_to_end(encoder, euclidean_prototypes)
    with torch.no_grad():
        logits = run(images[episodes.support], images[episodes.query], support_mask=episodes.support_mask, query_mask=episodes.query_mask)
        for e in range(4):
            s, q = images[episodes.support[e][episodes.support_mask[e]]], images[episodes.query[e][episodes.query_mask[e]]]
            f = encoder(torch.cat([s, q]))
            means = torch.stack(
                [part.mean(0) for part in f[: len(s)].split(episodes.support_mask[e].sum(1)[episodes.support_mask[e].any(1)].tolist())]
            )
            expected = -torch.cdist(f[len(s) :], means).square()
            torch.testing.assert_close(logits[e][episodes.query_mask[e]][:, : len(means)], expected, atol=1e-4, rtol=1e-4)
    assert 0 <= evaluate(run, episodes, images).mean <= 1


def test_fewer_queries_are_reported_as_fewer():
    episodes = EpisodeSampler(TWELVE, torch.arange(12), 5, 1, 10).sample(50)
    assert with_fewer_queries(episodes, 2, balanced=True).n_query == 2
    assert evaluate(euclidean_prototypes, with_fewer_queries(episodes, 2, balanced=False), torch.randn(240, 3)).n_query == 2


def test_padding_takes_no_share_of_fewer_queries():
    episodes = EpisodeSampler(TWELVE, torch.arange(12), (2, 8), 1, 10).sample(500)
    fewer = with_fewer_queries(episodes, 1, balanced=False)
    ways = episodes.support_mask.any(-1).sum(1)
    assert (
        torch.equal(fewer.query_mask.sum(1), ways)
        and not evaluate(euclidean_prototypes, fewer, torch.randn(240, 3)).accuracies.isnan().any()
    )
