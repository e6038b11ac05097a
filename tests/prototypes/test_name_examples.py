import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from fewshot_lib.prototypes import NamesAsExamples, names_as_examples
from fewshot_lib.prototypes.name_examples import trust


def dealt(e, n, k, d, noise=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(e, n, d, generator=generator, dtype=torch.float64)

    def around(*shape):
        return noise * torch.randn(*shape, d, generator=generator, dtype=torch.float64)

    support = centres.unsqueeze(2) + around(e, n, k)
    return support, centres.repeat(1, 2, 1) + around(e, 2 * n), centres + around(e, n)


def of_sklearn(features, weights, query, C):
    """Log-probabilities (M, N) by scikit-learn: features (N, S, d), weights (N, S).

    Of two classes it learns one vector w, ours ±w/2: half the penalty.
    """
    probe = LogisticRegression(
        C=2 * C if len(features) == 2 else C, solver="newton-cg", tol=1e-8, max_iter=1000
    )
    labels = np.repeat(np.arange(len(features)), features.shape[1])
    probe.fit(features.flatten(0, 1).numpy(), labels, weights.flatten().numpy())
    return torch.from_numpy(probe.predict_log_proba(F.normalize(query, dim=-1).numpy()))


@pytest.mark.parametrize(("n", "k", "d"), [(2, 1, 5), (5, 1, 40), (5, 5, 40), (12, 8, 20), (40, 3, 64)])
@pytest.mark.parametrize("C", [0.1, 10, 300])
def test_the_heads_of_all_episodes_are_those_of_scikit_learn(n, k, d, C):
    support, query, names = dealt(2, n, k, d)
    method = NamesAsExamples(weight=1.7, C=C)
    mask = torch.rand(2, n, k, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[..., 0] = True
    logits = method(support, query, names, mask).log_softmax(-1)
    for e in range(2):
        examples, titles = F.normalize(support[e], dim=-1), F.normalize(names[e], dim=-1)
        shots = mask[e].double().unsqueeze(-1)
        r = trust((examples * shots).sum(1)[None] / shots.sum(1), titles[None], 0.2)[0]
        each = mask[e] * shots.sum(1).mean() / shots.sum(1)  # every class counts as much as any other
        weights = torch.cat([each, 1.7 * r.unsqueeze(1)], 1)
        features = torch.cat([examples, titles.unsqueeze(1)], 1)
        assert_close(logits[e], of_sklearn(features, weights, query[e], C), atol=1e-4, rtol=0)


def test_without_names_it_is_logistic_regression():
    support, query, _ = dealt(3, 5, 4, 16)
    logits = NamesAsExamples(C=10, uses_names=False)(support, query).log_softmax(-1)
    for e in range(3):
        expected = of_sklearn(F.normalize(support[e], dim=-1), torch.ones(5, 4), query[e], 10)
        assert_close(logits[e], expected, atol=1e-4, rtol=0)


def test_a_class_with_many_examples_takes_no_answers_from_one_with_few():
    """Between the two means it is undecided, though one has fifty examples and the other one."""
    support = torch.zeros(1, 2, 50, 2)
    support[0, 0, :, 0] = support[0, 1, :, 1] = 1
    mask = torch.ones(1, 2, 50, dtype=torch.bool)
    mask[0, 1, 1:] = False
    logits = NamesAsExamples(uses_names=False)(support, torch.ones(1, 1, 2), support_mask=mask)
    assert_close(logits[0, 0, 0], logits[0, 0, 1], atol=1e-4, rtol=0)


def test_the_gradient_vanishes_and_each_weight_is_a_sum_over_the_training_set():
    """Equation (3), which ``explain`` of the classifier reads."""
    support, _, names = dealt(2, 4, 3, 12)
    features, weights = (part.flatten(1, 2) for part in names_as_examples.training_set(support, names))
    head = names_as_examples.fit(support, names)
    own = F.one_hot(torch.arange(4).repeat_interleave(4), 4)
    error = own - head(features).softmax(-1)
    dual = names_as_examples.C_of(4) * weights.unsqueeze(-1) * error  # (E, n, N)
    assert_close(dual.mT @ features, head.weights, atol=1e-5, rtol=0)
    assert_close(dual.sum(1), torch.zeros(2, 4, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_more_classes_the_larger_is_c():
    assert [NamesAsExamples().C_of(n) for n in (4, 64)] == [2, 8]
    assert NamesAsExamples(C=3).C_of(64) == 3


def test_what_is_masked_may_be_anything():
    support, query, names = dealt(1, 3, 3, 8)
    mask = torch.tensor([[[True, True, False], [True, False, False], [True, True, True]]])
    logits = names_as_examples(support.masked_fill(~mask.unsqueeze(-1), torch.nan), query, names, mask)
    assert_close(logits, names_as_examples(support, query, names, mask))


def test_float32_in_float32_out_and_the_same_answers():
    support, query, names = dealt(2, 5, 2, 8)
    exact = names_as_examples(support, query, names)
    single = names_as_examples(support.float(), query.float(), names.float())
    assert single.dtype == torch.float32
    assert_close(single.double(), exact, atol=1e-4, rtol=1e-4)


def test_trust_by_hand():
    """Two classes at (1, 0) and (−1, 0); the cosines of name 1 are c and −c, so that p is a sigmoid."""
    means = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    names = torch.tensor([[[0.6, 0.8], [-0.6, -0.8]]])
    p = torch.sigmoid(torch.tensor([2 * 0.6 / 0.2]))
    assert_close(trust(means, names, 0.2), (p / (p + 0.5)).expand(1, 2))
    assert_close(trust(means, names.flip(1), 0.2), ((1 - p) / (1 - p + 0.5)).expand(1, 2))


def test_a_name_is_trusted_as_far_as_the_examples_do_not_contradict_it():
    support, _, names = dealt(20, 6, 8, 32, noise=0.5)
    wrong = names.clone()
    wrong[:, [0, 1]] = names[:, [1, 0]]
    right, swapped = (names_as_examples.training_set(support, n)[1][..., -1] for n in (names, wrong))
    assert right.mean() > 0.75 * names_as_examples.weight
    assert swapped[:, :2].mean() < 0.3 * names_as_examples.weight
    assert_close(swapped[:, 2:], right[:, 2:])  # doubt of one name casts none on another


def test_what_all_names_share_says_nothing_against_them():
    means, names = torch.randn(2, 5, 4, 16, dtype=torch.float64)
    assert_close(trust(means, names + 3 * means[:, :1], 0.2), trust(means, names, 0.2))


@pytest.mark.parametrize("settings", [{"weight": 0}, {"C": -1}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` is .*: it must be positive"):
        NamesAsExamples(**settings)


def test_shapes_that_do_not_fit_are_refused():
    support, query, names = dealt(2, 5, 2, 8)
    with pytest.raises(ValueError, match="`names` has shape"):
        names_as_examples(support, query, names[:, :4])


def test_an_episode_that_is_solved_early_stays_as_it_is_until_all_are():
    """Its gradient is rounding by then, and a step along that would lead anywhere, even to NaN."""
    for seed in range(5):
        support, _, names = dealt(20, 2, 1, 32, noise=0.3, seed=seed)
        weights, biases = names_as_examples.fit(support, names)
        alone = [names_as_examples.fit(support[e : e + 1], names[e : e + 1]) for e in range(20)]
        assert_close(weights, torch.cat([head.weights for head in alone]), atol=1e-12, rtol=0)
        assert_close(biases, torch.cat([head.biases for head in alone]), atol=1e-12, rtol=0)
