import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from fewshot_lib.prototypes import NamesAsExamples, names_as_examples


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
        features = torch.cat([F.normalize(support[e], dim=-1), F.normalize(names[e], dim=-1)[:, None]], 1)
        of_name = torch.full((n, 1), 1.7 * mask[e].double().sum(-1).mean().sqrt())
        weights = torch.cat([mask[e].double(), of_name], 1)
        assert_close(logits[e], of_sklearn(features, weights, query[e], C), atol=1e-4, rtol=0)


def test_without_names_it_is_logistic_regression():
    support, query, _ = dealt(3, 5, 4, 16)
    logits = NamesAsExamples(C=10, uses_names=False)(support, query).log_softmax(-1)
    for e in range(3):
        expected = of_sklearn(F.normalize(support[e], dim=-1), torch.ones(5, 4), query[e], 10)
        assert_close(logits[e], expected, atol=1e-4, rtol=0)


def test_the_gradient_vanishes_and_each_weight_is_a_sum_over_the_training_set():
    """Equation (2), which ``explain`` of the classifier reads."""
    support, _, names = dealt(2, 4, 3, 12)
    features, weights = (part.flatten(1, 2) for part in names_as_examples.training_set(support, names))
    head = names_as_examples.fit(support, names)
    own = F.one_hot(torch.arange(4).repeat_interleave(4), 4)
    error = own - head(features).softmax(-1)
    dual = names_as_examples.C * weights.unsqueeze(-1) * error  # (E, n, N)
    assert_close(dual.mT @ features, head.weights, atol=1e-5, rtol=0)
    assert_close(dual.sum(1), torch.zeros(2, 4, dtype=torch.float64), atol=1e-5, rtol=0)


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


def test_a_name_weighs_less_and_less_of_all_there_is():
    shares = []
    for k in (1, 4, 16):
        _, weights = names_as_examples.training_set(*dealt(1, 3, k, 8)[::2])
        shares.append((weights[..., -1] / weights.sum(-1)).mean().item())
    assert shares == sorted(shares, reverse=True)


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
