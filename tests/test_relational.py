"""Relational attention: its start, its equations by hand, what must not change the answers, and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.labels import label_mix
from fewshot_lib.prototypes import cosine_prototypes
from fewshot_lib.relational import RelationalNetwork, Relations, describe

E, N, K, M, D = 3, 4, 3, 6, 8
SIZES = [(N, K, M), (3, 2, 4), (2, 1, 1)]  # ways, shots and queries of padded episodes
MASK = torch.stack([(torch.arange(N) < n).unsqueeze(1) & (torch.arange(K) < k) for n, k, _ in SIZES])
QUERY_MASK = torch.stack([torch.arange(M) < m for _, _, m in SIZES])
OPTIONS = [{}, {"transductive": True}, {"readout": False, "rounds": 1}, {"descriptors": False, "rounds": 3}, {"use_labels": False}]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(e=E, n=N, k=K, m=M, d=D):
    return 3 * random(e, n, k, d), random(e, m, d, seed=1), random(e, n, d, seed=2)


def trained(seed=0, **options):
    """As if trained: no parameter is at its start."""
    torch.manual_seed(seed)
    model = RelationalNetwork(**options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=OPTIONS, ids=str)
def model(request):
    return trained(**request.param)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("is_padded", [False, True])
def test_an_untrained_network_is_the_label_mix(options, is_padded):
    support, query, labels = episodes()
    support = F.normalize(support, dim=-1)
    mask = torch.rand(E, N, K, generator=torch.Generator().manual_seed(0)) < 0.5 if is_padded else None  # any shot of any way
    untrained = RelationalNetwork(**options).double()
    expected = label_mix(support, query, labels, mask) if untrained.uses_labels else cosine_prototypes(support, query, mask)
    assert_close(untrained(support, query, labels, mask), expected, atol=1e-6, rtol=0)
    assert_close(untrained(support, query, None, mask), cosine_prototypes(support, query, mask), atol=1e-6, rtol=0)


def test_rotations_lengths_and_more_dimensions_change_nothing(model):
    support, query, labels = episodes()
    logits = model(support, query, labels)
    turn = torch.linalg.qr(random(D + 5, D, seed=3))[0].T  # (D, D + 5): into a space with more dimensions, and turned
    moved = [random(*x.shape[:-1], 1, seed=4).exp() * x @ turn for x in (support, query, labels)]
    assert_close(model(*moved), logits)
    assert not torch.allclose(model(moved[0].roll(1, -1), *moved[1:]), logits)


def test_a_query_is_answered_from_other_queries_only_when_transductive(model):
    support, query, labels = episodes()
    others = torch.cat([query[:, :1], 5 * query[:, 1:].flip(1) - 2], 1)
    alone, logits = model(support, query[:, :1], labels), model(support, query, labels)[:, :1]
    assert torch.equal(model(support, others, labels)[:, :1], logits) == torch.allclose(alone, logits) == (not model.transductive)
    jacobian = torch.autograd.functional.jacobian(lambda q: model(support[:1], q, labels[:1])[0].square().sum(-1), query[:1])[:, 0]
    between = jacobian.abs().sum(-1)[~torch.eye(M, dtype=torch.bool)]  # (M, M) without the diagonal
    assert (between > 0).all() if model.transductive else (between == 0).all()


def test_order_only_permutes_the_logits_and_asking_twice_changes_none(model):
    support, query, labels = episodes()
    order = torch.tensor([2, 0, 3, 1])
    for mask, query_mask in ((torch.ones(E, N, K, dtype=torch.bool), None), (MASK, QUERY_MASK)):
        logits = model(support, query, labels, mask, query_mask)
        assert_close(model(support.flip(2), query, labels, mask.flip(2), query_mask), logits)
        assert_close(model(support[:, order], query, labels[:, order], mask[:, order], query_mask), logits[..., order])
    assert_close(model(support, query.repeat(1, 2, 1), labels), model(support, query, labels).repeat(1, 2, 1))


def test_a_batch_equals_a_loop_and_padding_changes_nothing(model):
    support, query, labels = episodes()
    support = torch.where(MASK.unsqueeze(-1), support, 1e3 * random(*support.shape, seed=5))
    query = torch.where(QUERY_MASK.unsqueeze(-1), query, 1e3 * random(*query.shape, seed=6))
    labels = torch.where(MASK.any(-1, keepdim=True), labels, 1e3 * random(*labels.shape, seed=7))
    logits = model(support, query, labels, MASK, QUERY_MASK)
    for e, (n, k, m) in enumerate(SIZES):
        alone = model(support[e : e + 1, :n, :k], query[e : e + 1, :m], labels[e : e + 1, :n])
        assert_close(logits[e : e + 1, :m, :n], alone)
        assert (logits[e, :, n:] == -torch.inf).all()


def test_a_task_is_described_by_margins_closeness_and_shots():
    support = torch.tensor([[[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [-0.6, 0.8]]]], dtype=torch.float64)
    names = torch.tensor([[[0.8, -0.6], [0.0, 1.0]]], dtype=torch.float64)
    means, first, second = F.normalize(support.mean(2), dim=-1), math.sqrt(5), math.sqrt(10)  # (2, 1)/√5 and (−1, 3)/√10
    by_names = [0.8 - 0, (0.48 - 0.48) - 0.8, 1 + 0.6, 0.8 - (-0.48 - 0.48)]
    by_means = [0.6 + 1 / second, 0.6 - 1.8 / second, 0.8 - 1 / first, 0.8 + 0.4 / first]
    expected = [5 * sum(by_names) / 4, 5 * sum(by_means) / 4, 2 / math.sqrt(50), math.log(2)]
    assert_close(describe(support, means, names, torch.ones(1, 2, 2).double()), torch.tensor([expected], dtype=torch.float64))


def test_one_shot_has_no_margin_by_the_means_and_padding_is_not_described():
    support, query, labels = episodes()
    task = Relations.of(support[:, :, :1], query, labels, None).task
    assert (task[:, 1] == 0).all() and (task[:, 3] == 0).all() and (task[:, [0, 2]] != 0).all()
    one_of_three = torch.tensor([True, False, False]).expand(E, N, K)
    assert_close(Relations.of(support, query, labels, one_of_three).task, task)


def test_a_margin_is_the_soft_assignment_less_the_best_other():
    support, query, labels = episodes(e=1, n=4)
    relations = Relations.of(support, query, labels, torch.tensor([[True], [True], [True], [False]]).expand(1, 4, K))
    cosines = torch.tensor([[0.1, 0.2, 0.0], [0.2, 0.2, 0.0], [0.3, 0.3, 0.3]], dtype=torch.float64).unsqueeze(0)
    garbage = torch.full((1, 3, 1), 0.9, dtype=torch.float64)
    p, margin = relations.assign(torch.cat([cosines, garbage], -1)).unbind(-1)
    assert_close(p[..., :3], (10 * cosines).softmax(-1))
    assert (p[..., 3] == 0).all()
    e, ee = math.e, math.e**2
    by_hand = [[(e - ee) / (1 + e + ee), (ee - e) / (1 + e + ee), (1 - ee) / (1 + e + ee)], [0, 0, (1 - ee) / (1 + 2 * ee)], [0, 0, 0]]
    assert_close(margin[0, :, :3], torch.tensor(by_hand, dtype=torch.float64))


def test_weights_start_at_the_prior_and_one():
    support, query, labels = episodes()
    relations = Relations.of(support, query, labels, MASK)
    name, weights = RelationalNetwork().double().weights(0, relations, relations.start)
    assert torch.equal(name, torch.ones(E, N).double()) and torch.equal(weights, relations.prior)
    directions = F.normalize(support, dim=-1)
    for e, (n, k, _) in enumerate(SIZES):
        for way in range(n):
            prior = weights[e].view(N, K, N)[way]  # (K, N)
            assert_close(prior[:k, way], torch.full((k,), 1.0).double() / (k * directions[e, way, :k].mean(0).norm()))
            assert (prior[k:] == 0).all() and (prior.sum(0)[torch.arange(N) != way] == 0).all()
    assert ((trained().weights(0, relations, relations.start)[1] == 0).all(-1) == ~MASK.flatten(1)).all()


@pytest.mark.parametrize("transductive", [False, True])
def test_rounds_and_readout_are_the_three_equations(transductive):
    """One episode, number by number: what every MLP is asked, and what becomes of its answers."""
    support, query, labels = (F.normalize(x[0], dim=-1) for x in episodes(e=1))
    support[0], query[0] = support[0, 0].clone(), -support[0, 0]  # nothing of its own class is anywhere near
    model = trained(rounds=2, transductive=transductive)
    task, means = Relations.of(support[None], query[None], labels[None], None).task[0], F.normalize(support.mean(1), dim=-1)
    classes = list(means + labels)

    def assigned(cosines, k):
        p = (10 * torch.stack(cosines)).softmax(0)
        return [p[k], p[k] - torch.cat([p[:k], p[k + 1 :]]).max()]

    def cos(x, y):
        return F.cosine_similarity(x, y, dim=0)

    for number, (edges, names) in enumerate(zip(model.edges, model.names, strict=True)):
        new = []
        for k in range(N):
            spread = 1 / (K * support[k].mean(0).norm())
            asked = torch.stack([cos(labels[k], classes[k]), labels[k] @ means[k], spread, *task])
            node = names(asked).exp() * labels[k]
            for j, x in enumerate(support.flatten(0, 1)):
                member = torch.tensor(float(j // K == k)).double()
                asked = [cos(x, classes[k]), x @ labels[k], member, *assigned([cos(x, c) for c in classes], k), *task]
                a, b = edges(torch.stack(asked))
                node = node + (member * spread * a.exp() + b / K) * x
            for x in query if transductive else ():
                asked = [cos(x, classes[k]), x @ labels[k], 0 * spread, *assigned([cos(x, c) for c in classes], k), *task]
                node = node + model.queries[number](torch.stack(asked))[0] * asked[3] * N / M * x
            new.append(node)
        classes = new
    expected = torch.empty(M, N).double()
    for q in range(M):
        nearest = [(support[k] @ query[q]).max() for k in range(N)]
        kinds = [[cos(query[q], c) for c in classes], list(labels @ query[q]), list(means @ query[q]), nearest]
        for k in range(N):
            asked = [f for cosines in kinds for f in (cosines[k] - sum(cosines) / N, assigned(cosines, k)[0])]
            expected[q, k] = (kinds[0][k] + model.readout(torch.stack([*asked, means[k] @ labels[k], *task]))[0]) / 0.1
    assert_close(model(support[None], query[None], labels[None])[0], expected)


@pytest.mark.parametrize("transductive", [False, True])
def test_gradients_are_those_of_finite_differences(transductive):
    model = trained(hidden=2, rounds=1, transductive=transductive)
    support, query, labels = episodes(e=2, n=3, k=2, m=3, d=4)
    mask = torch.tensor([[[True, True]] * 3, [[True, False]] * 2 + [[False, False]]])
    names = [name for name, _ in model.named_parameters()]

    def loss(support, query, labels, *parameters):
        logits = functional_call(model, dict(zip(names, parameters, strict=True)), (support, query, labels, mask))
        return F.cross_entropy(logits.flatten(0, 1), torch.tensor([0, 1, 2, 0, 1, 1]))

    inputs = [x.detach().requires_grad_() for x in (support, query, labels, *model.parameters())]
    assert torch.autograd.gradcheck(loss, inputs)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    assert gradients[0][mask].abs().sum(-1).gt(0).all() and (gradients[0][~mask] == 0).all()


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
@pytest.mark.parametrize("second", [1, -1], ids=["the same examples", "opposite examples"])
def test_alike_and_opposite_examples_give_numbers_and_gradients(second, options):
    support, query, labels = (x.float() for x in episodes())
    support = torch.cat([support[:, :, :1], second * support[:, :, :1]], 2).requires_grad_()
    query, mask = torch.cat([support[:, :, 0].detach(), query], 1), torch.ones(E, N, 2, dtype=torch.bool)
    mask[1, 3], mask[2, 2:] = False, False
    model = trained(**options).float()
    for parameter in model.parameters():
        parameter.data *= 3
    logits = model(support, query, labels, mask)
    F.cross_entropy(logits.flatten(0, 1), torch.zeros(E * (N + M), dtype=torch.int64)).backward()
    assert (logits.isfinite() == mask.any(-1).unsqueeze(1)).all()
    assert all(x.grad.isfinite().all() for x in (support, *model.parameters()))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_saved_parameters_are_the_whole_model(options):
    batch, model, twin = episodes(), trained(**options), trained(seed=1, **options)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval()(*batch), model(*batch))
    assert torch.equal(model(*batch), model(*batch[:2])) == (not model.uses_labels)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_evaluation_takes_it_with_names_and_without_on_padded_episodes(options):
    rows = torch.arange(200)
    features, names = F.normalize(random(200, D), dim=-1), random(10, D, seed=1)
    dealt = EpisodeSampler(rows % 10, torch.arange(10), (2, 5), (1, 3), 5).sample(30)
    given = {"label_features": names} if options.get("use_labels", True) else {}
    start = evaluate(label_mix if given else cosine_prototypes, dealt, features, **given)
    assert torch.equal(evaluate(RelationalNetwork(**options).double(), dealt, features, **given).accuracies, start.accuracies)
    assert not torch.equal(evaluate(trained(**options), dealt, features, **given).accuracies, start.accuracies)


def test_errors_name_the_argument_the_value_and_the_fix():
    support, query, labels = episodes()
    for options, batch, message in (
        ({"rounds": 0}, (support, query), "`rounds` is 0: it must be at least 1"),
        ({"hidden": 0}, (support, query), "`hidden` is 0: it must be at least 1"),
        ({"temperature": 0}, (support, query), "`temperature` is 0: it must be positive"),
        ({}, (support, query[..., :7]), r"`query` has shape \(3, 6, 7\): it must be \(3, 6, 8\) to fit `support`"),
        ({}, (support, query, labels[:1]), r"`labels` has shape \(1, 4, 8\): it must be \(3, 4, 8\) to fit `support`"),
        ({}, (support[:, :1], query), "`support` has 1 way: there is nothing to tell apart. Give at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            RelationalNetwork(**options).double()(*batch)
