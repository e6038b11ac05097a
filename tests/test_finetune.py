"""Fine-tuned heads: closed forms at step 0, gradients by finite differences, batch equal to loop, masks, invariances."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.encoders import Conv4, end_to_end
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.finetune import FineTuning, entropy
from fewshot_lib.prototypes import class_means, cosine_prototypes, euclidean_prototypes

HEADS = ["cosine", "linear", "euclidean"]
INITS = ["prototypes", "means", "random"]
REGULARISERS = [None, "weight_decay", "entropy", "support_entropy"]
EVERY = [FineTuning(head=h, init=i, regulariser=r, steps=6, lr=0.05) for h, i, r in itertools.product(HEADS, INITS, REGULARISERS)] + [
    FineTuning(optimizer="sgd", normalise=False, bias=False, lr=0.1, steps=6),
]
PER_HEAD = [FineTuning(head=h, steps=6, lr=0.05) for h in HEADS]


def identity(fine_tuning):
    bias = "" if fine_tuning.bias else ", no bias"
    return f"{fine_tuning.head}-{fine_tuning.init}-{fine_tuning.regulariser}-{fine_tuning.optimizer}{bias}"


def batch(e=3, n=4, k=2, m=6, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(e, n, k, d, generator=generator, dtype=torch.float64),
        torch.randn(e, m, d, generator=generator, dtype=torch.float64),
    )


def depends_on_other_queries(method, support, query):
    logits = method(support, query)[:, :1]
    others = torch.cat([query[:, :1], 5 * query[:, 1:].flip(1) - 2], 1)
    return not (torch.allclose(method(support, others)[:, :1], logits) and torch.allclose(method(support, query[:, :1]), logits))


@pytest.mark.parametrize("fine_tuning", EVERY, ids=identity)
def test_a_batch_of_episodes_equals_a_loop(fine_tuning):
    support, query = batch()
    looped = torch.cat([fine_tuning(support[e : e + 1], query[e : e + 1]) for e in range(3)])
    assert_close(fine_tuning(support, query), looped, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fine_tuning", EVERY, ids=identity)
def test_calling_twice_gives_the_same_logits_and_draws_nothing(fine_tuning):
    support, query = batch()
    state = torch.get_rng_state()
    assert torch.equal(fine_tuning(support, query), fine_tuning(support, query))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fine_tuning", EVERY, ids=identity)
def test_methods_are_what_they_declare(fine_tuning):
    assert fine_tuning.transductive == (fine_tuning.regulariser == "entropy")
    assert depends_on_other_queries(fine_tuning, *batch()) == fine_tuning.transductive


def test_without_a_step_the_cosine_head_is_the_prototype_classifier():
    support, query = batch()
    assert_close(FineTuning(steps=0)(support, query), cosine_prototypes(support, query))


def test_without_a_step_the_linear_head_is_the_product_with_the_normalised_means():
    support, query = batch()
    m = F.normalize(class_means(support), dim=-1)
    q = F.normalize(query, dim=-1)
    assert_close(FineTuning(head="linear", steps=0, temperature=0.3)(support, query), q @ m.transpose(1, 2) / 0.3)


def test_without_a_step_and_normalised_all_heads_predict_the_same():
    support, query = batch()
    cosine, linear, euclidean = (FineTuning(head=h, steps=0)(support, query).softmax(-1) for h in HEADS)
    assert_close(cosine, linear)
    assert_close(cosine, euclidean)


def test_without_a_step_and_not_normalised_the_euclidean_head_is_the_prototypical_network():
    support, query = batch()
    head = FineTuning(head="euclidean", init="means", normalise=False, temperature=0.5, steps=0)
    assert_close(head(support, query).softmax(-1), euclidean_prototypes(support, query).softmax(-1))


def loss_by_hand(settings, weights, biases, support, query):
    """Equation (3) for one episode, written example by example."""

    def p(x):
        x = F.normalize(x, dim=0) if settings.normalise else x
        logits = []
        for w, b in zip(weights, biases, strict=True):
            similarity = {"cosine": F.cosine_similarity(w, x, dim=0), "linear": w @ x, "euclidean": -(w - x).square().sum() / 2}
            logits.append(similarity[settings.head] / settings.temperature + b)
        return torch.stack(logits).softmax(0)

    supports = [p(x) for x in support.flatten(0, 1)]
    truth = [way for way in range(support.shape[0]) for _ in range(support.shape[1])]
    loss = -torch.stack([q[y].log() for q, y in zip(supports, truth, strict=True)]).mean()
    entropies = {"entropy": [p(x) for x in query], "support_entropy": supports}
    if settings.regulariser == "weight_decay":
        loss = loss + settings.weight * weights.square().sum() / 2
    elif settings.regulariser is not None:
        loss = loss - settings.weight * torch.stack([(q * q.log()).sum() for q in entropies[settings.regulariser]]).mean()
    return loss


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("regulariser", REGULARISERS)
def test_one_sgd_step_follows_the_gradient_found_by_finite_differences(head, regulariser):
    settings = FineTuning(head=head, init="means", regulariser=regulariser, weight=0.7, temperature=0.4, optimizer="sgd", lr=0.1)
    support, query = batch(e=2, n=3, m=4, d=3)
    start, stepped = settings.heads(support, query, [0, 1])
    for e in range(2):
        numbers = torch.cat([start.weights[e].flatten(), start.biases[e]])
        slopes = torch.zeros_like(numbers)
        for i in range(len(numbers)):
            ends = []
            for sign in (1, -1):
                moved = numbers.clone()
                moved[i] += sign * 1e-5
                ends.append(loss_by_hand(settings, moved[:9].view(3, 3), moved[9:], support[e], query[e]))
            slopes[i] = (ends[0] - ends[1]) / 2e-5
        after = torch.cat([stepped.weights[e].flatten(), stepped.biases[e]])
        assert_close((numbers - after) / 0.1, slopes, atol=1e-8, rtol=1e-6)


def test_the_entropy_regulariser_makes_predictions_on_queries_surer_and_the_control_those_on_supports():
    support, query = batch(k=3)
    plain, on_queries, on_supports = (FineTuning(regulariser=r, steps=20, temperature=0.5) for r in (None, "entropy", "support_entropy"))

    def mean_entropy(fine_tuning, features):
        (head,) = fine_tuning.heads(support, query, [20])
        return entropy(fine_tuning.logits(head, features)).mean(1)

    assert (mean_entropy(on_queries, query) < mean_entropy(plain, query)).all()
    supports = support.flatten(1, 2)
    assert (mean_entropy(on_supports, supports) < mean_entropy(plain, supports)).all()


def test_weight_decay_shrinks_the_weights_the_more_the_larger_its_weight():
    support, query = batch()
    lengths = [
        FineTuning(head="linear", regulariser="weight_decay", weight=w).heads(support, query, [30])[0].weights.norm() for w in (0, 0.1, 1)
    ]
    assert lengths[0] > lengths[1] > lengths[2]
    assert_close(lengths[0], FineTuning(head="linear").heads(support, query, [30])[0].weights.norm())


@pytest.mark.parametrize("regulariser", REGULARISERS)
@pytest.mark.parametrize("head", HEADS)
def test_permuting_the_ways_permutes_the_logits(head, regulariser):
    support, query = batch()
    fine_tuning = FineTuning(head=head, regulariser=regulariser, steps=6)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(fine_tuning(support[:, order], query), fine_tuning(support, query)[..., order])


@pytest.mark.parametrize("fine_tuning", PER_HEAD, ids=identity)
def test_the_order_of_the_shots_does_not_matter(fine_tuning):
    support, query = batch()
    assert_close(fine_tuning(support.flip(2), query), fine_tuning(support, query))


def test_a_random_start_is_the_same_in_every_episode_and_follows_the_seed():
    support, _ = batch()
    weights = FineTuning(init="random", seed=3).start(support).weights
    assert torch.equal(weights, weights[:1].expand_as(weights))
    assert torch.equal(weights, FineTuning(init="random", seed=3).start(support).weights)
    assert not torch.equal(weights, FineTuning(init="random", seed=4).start(support).weights)
    wide = FineTuning(init="random").start(torch.zeros(1, 4, 1, 4096)).weights
    assert_close(wide.norm(dim=-1), torch.ones(1, 4), atol=0.05, rtol=0)


@pytest.mark.parametrize("fine_tuning", [*PER_HEAD, FineTuning(init="random")], ids=identity)
def test_separable_episodes_are_solved_and_noise_is_at_chance(fine_tuning):
    generator = torch.Generator().manual_seed(0)
    support, labels = 3 * torch.eye(4, 8).view(1, 4, 1, 8).repeat(200, 1, 2, 1), torch.arange(20).expand(200, 20) % 4
    support = support + 0.1 * torch.randn(support.shape, generator=generator)
    query = 3 * torch.eye(4, 8)[labels] + 0.1 * torch.randn(200, 20, 8, generator=generator)
    assert (fine_tuning(support, query).argmax(-1) == labels).all()
    noise = torch.randn(query.shape, generator=generator)
    assert abs((fine_tuning(torch.randn(support.shape, generator=generator), noise).argmax(-1) == labels).float().mean() - 0.25) < 0.03


def test_a_trajectory_is_what_separate_runs_give():
    support, query = batch()
    fine_tuning = FineTuning(regulariser="entropy", lr=0.05)
    at = [5, 0, 2]
    together = fine_tuning.trajectory(support, query, at)
    for logits, steps in zip(together, at, strict=True):
        assert torch.equal(logits, replace(fine_tuning, steps=steps)(support, query))


@pytest.mark.parametrize("regulariser", REGULARISERS)
@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head, regulariser):
    """A 3-way 2-shot episode in a 4-way 3-shot tensor, whatever stands in the padding."""
    support, query = batch(k=3)
    support_mask = torch.zeros(3, 4, 3, dtype=torch.bool)
    support_mask[:, :3, :2] = True
    query_mask = torch.arange(6).expand(3, 6) < 4
    spoiled, spoiled_query = support.clone(), query.clone()
    spoiled[~support_mask], spoiled_query[~query_mask] = 1e3, -1e3
    fine_tuning = FineTuning(head=head, regulariser=regulariser, steps=6)
    logits = fine_tuning(spoiled, spoiled_query, support_mask, query_mask)
    assert (logits[..., 3] == -torch.inf).all()
    assert_close(logits[:, :4, :3], fine_tuning(support[:, :3, :2], query[:, :4]))


def test_padded_queries_must_be_named_to_a_method_that_learns_from_queries():
    support, query = batch()
    support_mask = torch.ones(3, 4, 2, dtype=torch.bool)
    support_mask[:, 3] = False
    with pytest.raises(ValueError, match="give `query_mask`"):
        FineTuning(regulariser="entropy")(support, query, support_mask)
    assert FineTuning(steps=1)(support, query, support_mask).shape == (3, 6, 4)


def test_evaluate_runs_it_without_gradients_on_episodes_of_changing_shots():
    labels = torch.arange(8).repeat_interleave(10)
    features = 3 * torch.eye(8)[labels] + torch.randn(80, 8, generator=torch.Generator().manual_seed(0))
    episodes = EpisodeSampler(labels, torch.arange(8), 4, (1, 3), 5, seed=0).sample(20)
    assert episodes.is_padded
    for regulariser in REGULARISERS:
        results = evaluate(FineTuning(regulariser=regulariser, steps=5), episodes, features)
        assert results.mean > 0.5 and results.transductive == (regulariser == "entropy")


def test_the_encoder_under_a_head_is_left_alone():
    torch.manual_seed(0)
    encoder = Conv4(width=4).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    support, query = torch.rand(2, 3, 2, 1, 28, 28, generator=generator), torch.rand(2, 6, 1, 28, 28, generator=generator)
    end_to_end(encoder, FineTuning(regulariser="entropy", steps=3))(support, query)  # with gradients on: nobody said no_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"head": "dot"}, "`head` is 'dot': use one of 'cosine', 'linear', 'euclidean'"),
        ({"init": "zeros"}, "`init` is 'zeros'"),
        ({"regulariser": "dropout"}, "`regulariser` is 'dropout': use one of None, 'weight_decay'"),
        ({"optimizer": "lbfgs"}, "`optimizer` is 'lbfgs'"),
        ({"temperature": 0.0}, r"`temperature` is 0\.0: it must be positive"),
        ({"temperature": float("nan")}, "`temperature` is nan"),
        ({"lr": -0.1}, r"`lr` is -0\.1"),
        ({"weight": -1.0}, r"`weight` is -1\.0: it must be 0 or more"),
        ({"steps": -1}, "`steps` is -1"),
        ({"steps": 2.5}, r"`steps` is 2\.5"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FineTuning(**settings)


def test_shapes_that_do_not_fit_are_named():
    support, query = batch()
    with pytest.raises(ValueError, match=r"`support` is \(3, 4, 2, 5\) and `query` is \(3, 6, 4\)"):
        FineTuning()(support, query[..., :4])
    with pytest.raises(ValueError, match="must be"):
        FineTuning()(support[0], query[0])
    with pytest.raises(ValueError, match=r"`support_mask` is \(3, 4\): for this support it must be \(3, 4, 2\)"):
        FineTuning()(support, query, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`at` is \[\]"):
        FineTuning().trajectory(support, query, [])


def test_weights_that_stop_being_numbers_are_an_error():
    support, query = batch()
    with pytest.raises(FloatingPointError, match="use an `lr` below"):
        FineTuning(head="euclidean", optimizer="sgd", lr=1e200, steps=5)(support, query)


def test_names_follow_the_settings_unless_given():
    assert FineTuning().name == "fine-tuned cosine head, prototypes start"
    assert replace(FineTuning(), regulariser="weight_decay").name == "fine-tuned cosine head, prototypes start, weight decay"
    assert FineTuning(label="mine").name == "mine"


def test_entropy_is_that_of_the_softmax_and_ignores_impossible_classes():
    assert_close(entropy(torch.zeros(2, 4)), torch.full((2,), 4.0).log())
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    assert_close(entropy(logits), torch.tensor([2.0]).log())
    entropy(logits).sum().backward()
    assert logits.grad.isfinite().all()
