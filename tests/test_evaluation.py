"""The numbers are what they claim: intervals cover, pairs cancel, chance is chance."""

import math

import pytest
import torch

from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import (
    EpisodeResults,
    accuracy_per_episode,
    compare_paired,
    evaluate,
    half_width,
    method,
    over_seeds,
)
from fewshot_lib.prototypes import cosine_prototypes, euclidean_prototypes

LABELS = torch.arange(12).repeat_interleave(20)


def episodes_of(n_episodes=50, seed=0, **options):
    return EpisodeSampler(LABELS, torch.arange(12), **{"n_way": 5, "n_shot": 1, "n_query": 4, **options}, seed=seed).sample(n_episodes)


def results_of(accuracies, fingerprint="same"):
    return EpisodeResults(torch.as_tensor(accuracies, dtype=torch.float64), "m", False, 5, 1, 15, fingerprint)


def features(spread, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(12)[LABELS] + spread * torch.randn(len(LABELS), 12, generator=generator)


def test_separable_classes_give_100_percent():
    assert evaluate(euclidean_prototypes, episodes_of(), features(0.0)).mean == 1.0


def test_features_without_information_give_chance():
    noise = torch.randn(len(LABELS), 8, generator=torch.Generator().manual_seed(3))
    low, high = evaluate(cosine_prototypes, episodes_of(2000), noise).interval
    assert low - 0.01 < 0.2 < high + 0.01


def test_all_episodes_at_once_equal_one_at_a_time():
    episodes, x = episodes_of(40), features(0.8)
    at_once = evaluate(euclidean_prototypes, episodes, x).accuracies[0]
    for e in range(40):
        support, query = x[episodes.support[e]], x[episodes.query[e]]
        distance = torch.stack([(query - support[k].mean(0)).square().sum(-1) for k in range(5)], -1)
        assert at_once[e].item() == pytest.approx((distance.argmin(-1) == episodes.query_labels[e]).double().mean().item())


def test_the_batch_size_changes_nothing():
    episodes, x = episodes_of(50), features(0.8)
    whole, pieces = evaluate(cosine_prototypes, episodes, x), evaluate(cosine_prototypes, episodes, x, batch_size=7)
    assert torch.equal(whole.accuracies, pieces.accuracies)


def test_masked_queries_do_not_count():
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
    labels = torch.tensor([[0, 1, 1, 0]])
    assert accuracy_per_episode(logits, labels).item() == 0.75
    assert accuracy_per_episode(logits, labels, torch.tensor([[True, True, False, False]])).item() == 1.0


def test_padded_episodes_equal_the_same_episodes_one_by_one():
    episodes, x = episodes_of(60, n_way=(2, 6), n_shot=(1, 4)), features(0.7)
    at_once = evaluate(euclidean_prototypes, episodes, x).accuracies[0]
    for e in range(60):
        way = int(episodes.support_mask[e].any(-1).sum())
        means = torch.stack([x[episodes.support[e, k][episodes.support_mask[e, k]]].mean(0) for k in range(way)])
        rows, labels = episodes.query[e][episodes.query_mask[e]], episodes.query_labels[e][episodes.query_mask[e]]
        expected = (torch.cdist(x[rows], means).argmin(-1) == labels).double().mean()
        assert at_once[e].item() == pytest.approx(expected.item())


def test_the_interval_covers_the_truth_95_times_in_100():
    generator = torch.Generator().manual_seed(0)
    draws = 0.6 + 0.1 * torch.randn(4000, 25, generator=generator, dtype=torch.float64)
    covered = sum(abs(row.mean().item() - 0.6) <= half_width(row) for row in draws) / len(draws)
    assert 0.94 < covered < 0.96  # 4,000 evaluations: standard error 0.0034


def test_one_episode_says_nothing_about_the_mean():
    assert half_width(torch.tensor([0.7])) == math.inf


def test_standard_deviation_stays_and_interval_shrinks_with_episodes():
    few, many = (evaluate(euclidean_prototypes, episodes_of(n, seed=5), features(0.9)) for n in (100, 6400))
    assert few.std == pytest.approx(many.std, rel=0.2)
    assert few.ci95 / many.ci95 == pytest.approx(8, rel=0.25)  # √(6400/100)


def test_the_paired_interval_is_narrower_than_the_unpaired():
    episodes, x = episodes_of(500), features(0.9)
    a, b = evaluate(euclidean_prototypes, episodes, x), evaluate(cosine_prototypes, episodes, x)
    difference = compare_paired(a, b)
    assert difference.mean == pytest.approx(a.mean - b.mean)
    assert difference.ci95 < math.hypot(a.ci95, b.ci95)


def test_a_method_compared_with_itself_is_zero():
    a = evaluate(euclidean_prototypes, episodes_of(), features(0.9))
    assert compare_paired(a, a).interval == (0, 0)


def test_comparison_on_other_episodes_is_refused():
    x = features(0.9)
    a, b = evaluate(euclidean_prototypes, episodes_of(seed=0), x), evaluate(euclidean_prototypes, episodes_of(seed=1), x)
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
    assert compare_paired(together, results_of([[0.5, 0.5]])).mean == pytest.approx(0.2)
    with pytest.raises(ValueError, match="`a` has 3 training seeds and `b` has 2"):
        compare_paired(together, over_seeds(runs[:2]))


def test_a_method_must_say_whether_it_is_transductive():
    with pytest.raises(TypeError, match="does not say whether it is transductive"):
        evaluate(lambda support, query: query, episodes_of(), features(0.1))


def test_features_of_another_data_set_are_refused():
    with pytest.raises(ValueError, match="they belong to different data sets"):
        evaluate(euclidean_prototypes, episodes_of(), features(0.1)[:100])


def test_a_result_says_everything_that_must_be_reported():
    @method("guessing", transductive=True)
    def guess(support, query):
        return query @ support.mean(2).transpose(1, 2)

    text = str(evaluate(guess, episodes_of(), features(0.5)))
    assert all(part in text for part in ("guessing", "5-way 1-shot", "4 queries", "50 episodes", "transductive", "±"))
