"""The numbers are what they claim: intervals cover, pairs cancel, chance is chance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fewshot_lib.core import (
    EpisodeResults,
    EpisodeSampler,
    accuracy_per_episode,
    compare_paired,
    evaluate,
    few_shot_method,
    half_width,
    mean_interval,
    over_seeds,
    with_fewer_queries,
)
from fewshot_lib.prototypes import cosine_prototypes, euclidean_prototypes, zero_shot

LABELS = torch.arange(12).repeat_interleave(20)


def episodes_of(n_episodes=50, seed=0, n_shot=1):
    return EpisodeSampler(LABELS, torch.arange(12), 5, n_shot, 4, seed=seed).sample(n_episodes)


def results_of(accuracies, name="m", transductive=False):
    accuracies = torch.as_tensor(accuracies, dtype=torch.float64)
    return EpisodeResults(accuracies, name, transductive, 5, 1, 15, "same")


def features(spread, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(12)[LABELS] + spread * torch.randn(len(LABELS), 12, generator=generator)


def test_separable_classes_give_100_percent_and_features_without_information_chance():
    assert evaluate(euclidean_prototypes, episodes_of(), features(0.0)).mean == 1.0
    noise = torch.randn(len(LABELS), 8, generator=torch.Generator().manual_seed(3))
    low, high = evaluate(cosine_prototypes, episodes_of(2000), noise).interval
    assert low - 0.01 < 0.2 < high + 0.01


def test_masked_queries_do_not_count():
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
    labels = torch.tensor([[0, 1, 1, 0]])
    assert accuracy_per_episode(logits, labels).item() == 0.75
    assert accuracy_per_episode(logits, labels, torch.tensor([[True, True, False, False]])).item() == 1.0


def test_accuracies_are_no_float64_on_an_apple_gpu():
    class OnApple(torch.Tensor):
        device = torch.device("mps")

    logits, labels = torch.rand(2, 3, 4).as_subclass(OnApple), torch.zeros(2, 3, dtype=torch.int64)
    assert accuracy_per_episode(logits, labels).dtype == torch.float32


@pytest.mark.parametrize("n_shot", [2, (1, 4)], ids=["whole episodes", "padded episodes"])
def test_all_episodes_at_once_equal_one_at_a_time(n_shot):
    episodes, x = episodes_of(60, n_shot=n_shot), features(0.8)
    if n_shot != 2:
        episodes = with_fewer_queries(episodes, 2, balanced=False)
    results = evaluate(euclidean_prototypes, episodes, x)
    pieces = evaluate(euclidean_prototypes, episodes, x, batch_size=7)
    assert torch.equal(pieces.accuracies, results.accuracies)
    for e in range(60):
        support, mask, asked = episodes.support[e], episodes.support_mask[e], episodes.query_mask[e]
        means = torch.stack([x[support[k][mask[k]]].mean(0) for k in range(5)])
        answers = torch.cdist(x[episodes.query[e][asked]], means).argmin(-1)
        expected = (answers == episodes.query_labels[e][asked]).double().mean()
        assert results.accuracies[0, e].item() == pytest.approx(expected.item())
    assert results.n_query == (4 if n_shot == 2 else 2)


@pytest.mark.parametrize(("width", "sizes"), [(8, [1000, 1]), (2**10, 6 * [163] + [23]), (2**13, [32, 8])])
def test_fewer_episodes_are_taken_at_once_where_features_are_wide(width, sizes):
    taken, n_episodes = [], sum(sizes)

    @few_shot_method("counting", transductive=False)
    def counting(support, query):
        taken.append(len(support))
        return support.new_zeros(*query.shape[:2], support.shape[1])

    evaluate(counting, episodes_of(n_episodes), torch.ones(len(LABELS), 1).expand(-1, width))
    assert taken == sizes  # of 25 rows each: 16 MB, but 32 episodes at least and 1,000 at most


def test_evaluating_builds_no_graph_and_tells_a_transductive_method_which_queries_are_left_out():
    calls = []

    @few_shot_method("spy", transductive=True)
    def spy(support, query, support_mask=None, query_mask=None):
        calls.append((support.requires_grad, None if query_mask is None else query_mask.shape))
        return euclidean_prototypes(support, query, support_mask)

    x = torch.randn(240, 4, requires_grad=True)
    evaluate(spy, episodes_of(3, n_shot=(1, 2)), x)
    evaluate(spy, episodes_of(3), x)
    assert calls == [(False, (3, 20)), (False, None)]


def test_every_batch_gets_the_names_of_its_own_classes():
    names = torch.eye(12)
    assert evaluate(zero_shot, episodes_of(20), 10 * names[LABELS], batch_size=3, names=names).mean == 1.0
    wrong = evaluate(zero_shot, episodes_of(20), features(0.1), names=names.roll(1, dims=0))
    assert wrong.mean < 0.3
    missing = "`names` is missing: 'label names, zero-shot' uses the names"
    for given, message in ((None, missing), (names[:3], "`names` has shape \\(3, 12\\)")):
        with pytest.raises(ValueError, match=message):
            evaluate(zero_shot, episodes_of(2), features(0.1), names=given)


def test_the_interval_covers_the_truth_95_times_in_100():
    generator = torch.Generator().manual_seed(0)
    draws = 0.6 + 0.1 * torch.randn(4000, 25, generator=generator, dtype=torch.float64)
    covered = sum(abs(row.mean().item() - 0.6) <= half_width(row) for row in draws) / len(draws)
    assert 0.94 < covered < 0.96  # 4,000 evaluations: standard error 0.0034


def test_the_interval_of_a_mean_is_scipys():
    values = torch.tensor([0.1, 0.5, 0.6, 0.95], dtype=torch.float64)
    low, high = stats.t.interval(0.95, 3, values.mean().item(), stats.sem(values))
    assert mean_interval(values) == pytest.approx((low, high))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width(torch.tensor([0.7])) == math.inf, "one episode says nothing about the mean"


def test_the_standard_deviation_is_that_of_episodes_averaged_over_seeds():
    expected = np.std([0.3, 0.5, 0.8], ddof=1)
    assert results_of([[0.2, 0.4, 0.9], [0.4, 0.6, 0.7]]).std == pytest.approx(expected)


def test_the_paired_interval_is_narrower_than_the_unpaired():
    episodes, x = episodes_of(500), features(0.9)
    a, b = evaluate(euclidean_prototypes, episodes, x), evaluate(cosine_prototypes, episodes, x)
    difference = compare_paired(a, b)
    assert difference.mean == pytest.approx(a.mean - b.mean)
    assert difference.ci95 < math.hypot(a.ci95, b.ci95)
    assert compare_paired(a, a).interval == (0, 0)


def test_comparison_on_other_episodes_is_refused():
    x = features(0.9)
    a, b = (evaluate(euclidean_prototypes, episodes_of(seed=seed), x) for seed in (0, 1))
    with pytest.raises(ValueError, match="different episodes"):
        compare_paired(a, b)
    with pytest.raises(ValueError, match="different episodes"):
        over_seeds([a, b])


def test_several_seeds_give_the_interval_over_seeds():
    runs = [results_of([[0.5, 0.7]]), results_of([[0.6, 0.8]]), results_of([[0.7, 0.9]])]
    together = over_seeds(runs)
    assert (together.n_seeds, together.n_episodes) == (3, 2)
    assert together.mean == pytest.approx(0.7)
    assert together.ci95 == pytest.approx(4.302652729911275 * 0.1 / math.sqrt(3))  # t(0.975, 2) s/√3
    assert over_seeds(runs[:2]).ci95 == pytest.approx(stats.t.ppf(0.975, 1) * 0.05)
    assert compare_paired(together, results_of([[0.5, 0.5]])).mean == pytest.approx(0.2)
    with pytest.raises(ValueError, match="`a` has 3 training seeds and `b` has 2"):
        compare_paired(together, over_seeds(runs[:2]))
    with pytest.raises(ValueError, match="`results` are of \\['m', 'other'\\]"):
        over_seeds([runs[0], results_of([[0.5, 0.7]], name="other")])


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([0.80, 0.82, 0.81], "better than"),
        ([0.2, 0.21, 0.2], "worse than"),
        ([0.2, 0.9, 0.5], "not told apart from"),
        ([0.503, 0.5031, 0.5029], "barely better than"),
        ([0.4979, 0.498, 0.4981], "barely worse than"),
        ([0.49, 0.51, 0.5001], "not told apart from"),
    ],
)
def test_a_difference_says_which_way_and_by_how_many_points(accuracies, verdict):
    first = results_of([accuracies], name="full − graph")  # a minus in a name must not confuse the sentence
    difference = compare_paired(first, results_of([[0.5, 0.5, 0.5]], name="full", transductive=True))
    assert (difference.verdict, difference.kind, difference.transductive) == (verdict, "difference", True)
    low, high = (100 * v for v in difference.interval)
    mean = 100 * (sum(accuracies) / 3 - 0.5)
    digits = 2 if abs(mean) < 1 else 1  # two differences that round to 0.1 may differ in everything else
    mean, low, high = (f"{value:+.{digits}f}" for value in (mean, low, high))
    assert difference.in_words == f"{mean} points (95 % interval {low} to {high})"
    assert str(difference) == f"full − graph is {verdict} full: {difference.in_words}, 3 episodes"


def test_no_interval_leaves_what_is_possible():
    nearly = results_of([[1.0, 1.0, 0.97]])
    assert nearly.mean + nearly.ci95 > 1 and nearly.interval == (nearly.mean - nearly.ci95, 1.0)
    assert results_of([[0.0, 0.0, 0.03]]).interval[0] == 0
    assert compare_paired(results_of([[0.0, 0.0, 0.1]]), results_of([[1.0] * 3])).interval[0] == -1


def test_results_of_accuracies_take_the_facts_from_method_and_episodes():
    episodes, accuracies = episodes_of(3), torch.tensor([0.1, 0.2, 0.3])
    results = EpisodeResults.of(accuracies, euclidean_prototypes, episodes, method="another name")
    expected = evaluate(euclidean_prototypes, episodes, features(0.1))
    assert vars(results) | {"accuracies": 0, "method": 0} == vars(expected) | {"accuracies": 0, "method": 0}
    assert torch.equal(results.accuracies, accuracies[None]) and results.method == "another name"


def test_a_method_must_say_whether_it_is_transductive():
    with pytest.raises(TypeError, match="does not say whether it is transductive"):
        evaluate(lambda support, query: query, episodes_of(), features(0.1))


def test_a_class_without_an_example_is_named():
    episodes = episodes_of(4, n_shot=2)
    episodes.support_mask[3, 1] = False
    with pytest.raises(ValueError, match="`support_mask` has no example of way 1 in episode 3: every class"):
        evaluate(euclidean_prototypes, episodes, features(0.1))


@pytest.mark.parametrize("field", ["support", "query"])
def test_features_of_another_data_set_are_refused_even_if_they_are_one_row_too_few(field):
    episodes = episodes_of(4)
    rows = {name: getattr(episodes, name).clamp(max=200) for name in ("support", "query")}
    rows[field].view(-1)[0] = 239
    with pytest.raises(
        ValueError, match="`features` has 239 rows, and row 239 is asked for: .* the same data set"
    ):
        evaluate(euclidean_prototypes, replace(episodes, **rows), torch.randn(239, 4))


def test_a_result_says_everything_that_must_be_reported():
    @few_shot_method("guessing", transductive=True)
    def guess(support, query):
        return query @ support.mean(2).transpose(1, 2)

    text = str(evaluate(guess, episodes_of(), features(0.5)))
    parts = ("guessing", "5-way 1-shot", "4 queries", "50 episodes", "transductive", "±")
    assert all(part in text for part in parts)
    results = results_of([[0.8, 0.9]])
    low, high = results.interval
    assert results.in_words == f"85.0% (95 % interval {low:.1%} to {high:.1%})" and low < 0.85 < high
