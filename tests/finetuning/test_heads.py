"""Fine-tuned heads: closed forms at step 0, gradients by finite differences, the papers' settings."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.encoders import Conv4
from fewshot_lib.finetuning import FineTuning, entropy
from fewshot_lib.prototypes import class_means, cosine_prototypes, euclidean_prototypes

HEADS = ["cosine", "linear", "euclidean"]
REGULARISERS = [None, "weight_decay", "entropy", "support_entropy"]


def test_without_a_step_and_normalised_every_head_is_the_prototype_classifier(batch):
    support, query = batch()
    for head in HEADS:
        found = FineTuning(head=head, steps=0)(support, query)
        assert_close(found.softmax(-1), cosine_prototypes(support, query).softmax(-1))
    m, q = F.normalize(class_means(support), dim=-1), F.normalize(query, dim=-1)
    linear = FineTuning(head="linear", steps=0, temperature=0.3)
    assert_close(linear(support, query), q @ m.transpose(1, 2) / 0.3)


def test_without_a_step_and_not_normalised_the_euclidean_head_is_the_prototypical_network(batch):
    support, query = batch()
    head = FineTuning(head="euclidean", init="means", normalise=False, temperature=0.5, steps=0)
    assert_close(head(support, query).softmax(-1), euclidean_prototypes(support, query).softmax(-1))


def loss_by_hand(settings, weights, biases, support, query):
    """Equation (3) for one episode, written example by example."""

    def p(x):
        x = F.normalize(x, dim=0) if settings.normalise else x
        logits = []
        for w, b in zip(weights, biases, strict=True):
            similarity = {
                "cosine": F.cosine_similarity(w, x, dim=0),
                "linear": w @ x,
                "euclidean": -(w - x).square().sum() / 2,
            }
            logits.append(similarity[settings.head] / settings.temperature + b)
        return torch.stack(logits).softmax(0)

    supports = [p(x) for x in support.flatten(0, 1)]
    truth = [way for way in range(support.shape[0]) for _ in range(support.shape[1])]
    loss = -torch.stack([q[y].log() for q, y in zip(supports, truth, strict=True)]).mean()
    entropies = {"entropy": [p(x) for x in query], "support_entropy": supports}
    if settings.regulariser == "weight_decay":
        loss = loss + settings.weight * weights.square().sum() / 2
    elif settings.regulariser is not None:
        minus_entropies = [(q * q.log()).sum() for q in entropies[settings.regulariser]]
        loss = loss - settings.weight * torch.stack(minus_entropies).mean()
    return loss


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("regulariser", REGULARISERS)
def test_one_sgd_step_follows_the_gradient_found_by_finite_differences(batch, head, regulariser):
    scales = {"weight": 0.7, "temperature": 0.4, "lr": 0.1}
    settings = FineTuning(head, "means", regulariser, optimizer="sgd", **scales)
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


def test_a_random_start_is_the_same_in_every_episode_and_follows_the_seed(batch):
    support, _ = batch()
    weights = FineTuning(init="random", seed=3).start(support).weights
    assert torch.equal(weights, weights[:1].expand_as(weights))
    assert torch.equal(weights, FineTuning(init="random", seed=3).start(support).weights)
    assert not torch.equal(weights, FineTuning(init="random", seed=4).start(support).weights)
    wide = FineTuning(init="random").start(torch.zeros(1, 4, 1, 4096)).weights
    assert_close(wide.norm(dim=-1), torch.ones(1, 4), atol=0.05, rtol=0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("init", ["prototypes", "random"])
def test_separable_episodes_are_solved_and_noise_is_at_chance(head, init):
    generator = torch.Generator().manual_seed(0)
    fine_tuning, labels = FineTuning(head, init), torch.arange(20).expand(200, 20) % 4
    noise = torch.randn(200, 4, 2, 8, generator=generator), torch.randn(200, 20, 8, generator=generator)
    support, query = (
        3 * torch.eye(4, 8).view(1, 4, 1, 8) + 0.1 * noise[0],
        3 * torch.eye(4, 8)[labels] + 0.1 * noise[1],
    )
    assert (fine_tuning(support, query).argmax(-1) == labels).all()
    assert abs((fine_tuning(*noise).argmax(-1) == labels).float().mean() - 0.25) < 0.03


def test_baseline_is_a_linear_layer_trained_with_the_papers_optimizer(batch):
    """Chen et al. (2019): SGD with momentum and dampening 0.9 and weight decay, on features as they are."""
    support, query = batch()
    sgd = {"optimizer": "sgd", "lr": 0.01, "regulariser": "weight_decay", "weight": 0.1, "steps": 30}
    method = FineTuning("linear", "random", temperature=1.0, normalise=False, **sgd)
    start = method.start(support)
    for e in range(3):
        layer = torch.nn.Linear(5, 4, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(start.weights[e])
            layer.bias.zero_()
        groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}]
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, dampening=0.9)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(layer(support[e].flatten(0, 1)), torch.arange(4).repeat_interleave(2)).backward()
            optimizer.step()
        assert_close(method(support, query)[e], layer(query[e]).detach(), atol=1e-9, rtol=0)


def test_a_cosine_head_ignores_the_length_of_features_and_a_linear_one_does_not(batch):
    support, query = batch()
    cosine, linear = (FineTuning(head, "random", normalise=False, steps=9) for head in ("cosine", "linear"))
    assert_close(cosine(3 * support, 3 * query), cosine(support, query))
    assert not torch.allclose(linear(3 * support, 3 * query), linear(support, query), atol=0.1)


def test_a_trajectory_is_what_separate_runs_give(batch):
    support, query = batch()
    fine_tuning = FineTuning(regulariser="entropy", lr=0.05)
    at = [5, 0, 2]
    together = fine_tuning.trajectory(support, query, at)
    for logits, steps in zip(together, at, strict=True):
        assert torch.equal(logits, replace(fine_tuning, steps=steps)(support, query))


def test_the_encoder_under_a_head_is_left_alone():
    torch.manual_seed(0)
    encoder = Conv4(width=4).eval()
    features = encoder(torch.rand(24, 1, 28, 28))  # with gradients on: nobody said no_grad
    support, query = features[:12].view(2, 3, 2, 4), features[12:].view(2, 6, 4)
    FineTuning(regulariser="entropy", steps=3)(support, query)
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"query": torch.zeros(3, 6, 4)},
            r"`query` has shape \(3, 6, 4\): it must be \(E, M, …\) with E = 3",
        ),
        ({"support": torch.zeros(4, 2, 5)}, r"`support` has shape \(4, 2, 5\): it must be \(E, N, K, …\)"),
        ({"support_mask": torch.ones(3, 4)}, r"`support_mask` has shape \(3, 4\): .* E = 3, N = 4, K = 2"),
        ({"support_mask": torch.zeros(3, 4, 2) > 0}, "`support_mask` has no example of way 0 in episode 0"),
        ({"at": []}, r"`at` is \[\]"),
    ],
)
def test_what_does_not_fit_is_named(wrong, message):
    fitting = {"support": torch.zeros(3, 4, 2, 5), "query": torch.zeros(3, 6, 5), "at": [0]}
    with pytest.raises(ValueError, match=message):
        FineTuning().heads(**fitting | wrong)


def test_weights_that_stop_being_numbers_are_an_error(batch):
    support, query = batch()
    with pytest.raises(FloatingPointError, match="use an `lr` below"):
        FineTuning(head="euclidean", optimizer="sgd", lr=1e200, steps=5)(support, query)


def test_names_follow_the_settings_unless_given():
    assert FineTuning().name == "fine-tuned cosine head, prototypes start"
    with_decay = FineTuning(regulariser="weight_decay")
    assert with_decay.name == "fine-tuned cosine head, prototypes start, weight decay"
    assert FineTuning(label="mine").name == "mine"


def test_entropy_is_that_of_the_softmax_and_ignores_impossible_classes():
    assert_close(entropy(torch.zeros(2, 4)), torch.full((2,), 4.0).log())
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    assert_close(entropy(logits), torch.tensor([2.0]).log())
    entropy(logits).sum().backward()
    assert logits.grad.isfinite().all()
