"""Relational attention: its equations by hand, and what must not change the answers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.graphs.relational import RelationalNetwork, Relations, assign, describe
from fewshot_lib.prototypes import cosine_prototypes, name_mix, names_as_examples

E, N, K, M, D = 3, 4, 3, 6, 8
SHOTS = [K, 2, 1]  # of padded episodes
MASK = torch.stack([(torch.arange(K) < k).expand(N, K) for k in SHOTS])
OPTIONS = [{}, {"transductive": True}, {"rounds": 1}, {"use_names": False}, {"head": names_as_examples}]


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


def test_rotations_lengths_and_more_dimensions_change_nothing(model):
    support, query, names = episodes()
    logits = model(support, query, names)
    turn = torch.linalg.qr(random(D + 5, D, seed=3))[0].T  # (D, D + 5): into more dimensions, and turned
    moved = [random(*x.shape[:-1], 1, seed=4).exp() * x @ turn for x in (support, query, names)]
    assert_close(model(*moved), logits)
    assert not torch.allclose(model(moved[0].roll(1, -1), *moved[1:]), logits)


def test_asking_everything_twice_changes_no_answer(model):
    support, query, names = episodes()
    assert_close(model(support, query.repeat(1, 2, 1), names), model(support, query, names).repeat(1, 2, 1))


def test_a_task_is_described_by_margins_closeness_and_shots():
    support = torch.tensor([[[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [-0.6, 0.8]]]], dtype=torch.float64)
    names = torch.tensor([[[0.8, -0.6], [0.0, 1.0]]], dtype=torch.float64)
    means = F.normalize(support.mean(2), dim=-1)
    first, second = math.sqrt(5), math.sqrt(10)  # (2, 1)/√5 and (−1, 3)/√10
    by_names = [0.8 - 0, (0.48 - 0.48) - 0.8, 1 + 0.6, 0.8 - (-0.48 - 0.48)]
    by_means = [0.6 + 1 / second, 0.6 - 1.8 / second, 0.8 - 1 / first, 0.8 + 0.4 / first]
    expected = [5 * sum(by_names) / 4, 5 * sum(by_means) / 4, 2 / math.sqrt(50), math.log(2)]
    found = describe(support, means, names, torch.ones(1, 2, 2).double())
    assert_close(found, torch.tensor([expected], dtype=torch.float64))


def test_one_shot_has_no_margin_by_the_means_and_padding_is_not_described():
    support, query, names = episodes()
    task = Relations.of(support[:, :, :1], query, names, None).task
    assert (task[:, 1] == 0).all() and (task[:, 3] == 0).all() and (task[:, [0, 2]] != 0).all()
    one_of_three = torch.tensor([True, False, False]).expand(E, N, K)
    assert_close(Relations.of(support, query, names, one_of_three).task, task)


def test_a_margin_is_the_soft_assignment_less_the_best_other():
    cosines = torch.tensor([[0.1, 0.2, 0.0], [0.2, 0.2, 0.0], [0.3, 0.3, 0.3]], dtype=torch.float64)
    p, margin = assign(cosines)
    assert_close(p, (10 * cosines).softmax(-1))
    e, ee = math.e, math.e**2
    first = [x / (1 + e + ee) for x in (e - ee, ee - e, 1 - ee)]
    by_hand = [first, [0, 0, (1 - ee) / (1 + 2 * ee)], [0, 0, 0]]
    assert_close(margin, torch.tensor(by_hand, dtype=torch.float64))


def test_weights_start_at_the_prior_and_one():
    support, query, names = episodes()
    relations = Relations.of(support, query, names, MASK)
    name, weights = RelationalNetwork().double().weights(0, relations, relations.start)
    assert torch.equal(name, torch.ones(E, N).double()) and torch.equal(weights, relations.prior)
    directions = F.normalize(support, dim=-1)
    for e, k in enumerate(SHOTS):
        for way in range(N):
            prior = weights[e].view(N, K, N)[way]  # (K, N)
            by_hand = 1 / (k * directions[e, way, :k].mean(0).norm())
            assert_close(prior[:k, way], by_hand.expand(k))
            assert (prior[k:] == 0).all() and (prior.sum(0)[torch.arange(N) != way] == 0).all()
    assert ((trained().weights(0, relations, relations.start)[1] == 0).all(-1) == ~MASK.flatten(1)).all()


@pytest.mark.parametrize("transductive", [False, True])
def test_rounds_and_readout_are_the_three_equations(transductive):
    """One episode, number by number: what every MLP is asked, and what becomes of its answers."""
    support, query, names = (F.normalize(x[0], dim=-1) for x in episodes(e=1))
    support[0], query[0] = support[0, 0].clone(), -support[0, 0]  # nothing of its own class is anywhere near
    model = trained(rounds=2, transductive=transductive)
    task = Relations.of(support[None], query[None], names[None]).task[0]
    means = F.normalize(support.mean(1), dim=-1)
    classes = list(means + names)

    def assigned(cosines, k):
        p = (10 * torch.stack(cosines)).softmax(0)
        return [p[k], p[k] - torch.cat([p[:k], p[k + 1 :]]).max()]

    def cos(x, y):
        return F.cosine_similarity(x, y, dim=0)

    def of_sample(x, k, member):
        p = assigned([cos(x, c) for c in classes], k)
        return torch.stack([cos(x, classes[k]), x @ names[k], member, *p, *task])

    for number in range(2):
        new = []
        for k in range(N):
            spread = 1 / (K * support[k].mean(0).norm())
            asked = torch.stack([cos(names[k], classes[k]), names[k] @ means[k], spread, *task])
            node = model.name_mlps[number](asked).exp() * names[k]
            for j, x in enumerate(support.flatten(0, 1)):
                member = torch.tensor(float(j // K == k)).double()
                a, b = model.support_mlps[number](of_sample(x, k, member))
                node = node + (member * spread * a.exp() + b / K) * x
            for x in query if transductive else ():
                asked = of_sample(x, k, 0 * spread)
                node = node + model.query_mlps[number](asked)[0] * asked[3] * N / M * x
            new.append(node)
        classes = new
    expected = torch.empty(M, N).double()
    for q in range(M):
        nearest = [(support[k] @ query[q]).max() for k in range(N)]
        to_classes = [cos(query[q], c) for c in classes]
        kinds = [to_classes, list(names @ query[q]), list(means @ query[q]), nearest]
        for k in range(N):
            asked = [f for cosines in kinds for f in (cosines[k] - sum(cosines) / N, assigned(cosines, k)[0])]
            said = model.readout(torch.stack([*asked, means[k] @ names[k], *task]))[0]
            expected[q, k] = (to_classes[k] + said) / 0.1
    assert_close(model(support[None], query[None], names[None])[0], expected)


def test_on_a_head_the_rounds_correct_what_it_answers():
    support, query, names = episodes()
    model = trained(head=names_as_examples)
    for given in (names, None):
        answers = names_as_examples(support, query, given, MASK)
        relations = Relations.of(support, query, given, MASK)
        start, *_, classes = model.class_nodes(relations)
        of_head = torch.stack([(answers - answers.mean(-1, keepdim=True)) / 10, answers.softmax(-1)], -1)
        said = model.readout(torch.cat([relations.of_queries(classes), of_head], -1))[..., 0]
        after, before = (F.cosine_similarity(query[:, :, None], c[:, None], dim=-1) for c in (classes, start))
        assert_close(model(support, query, given, MASK), answers + (after - before + said) / 0.1)
        untrained = RelationalNetwork(head=names_as_examples).double()
        assert_close(untrained(support, query, given, MASK), answers)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_evaluation_takes_it_with_names_and_without_on_padded_episodes(options):
    rows = torch.arange(200)
    features, names = F.normalize(random(200, D), dim=-1), random(10, D, seed=1)
    dealt = EpisodeSampler(rows % 10, torch.arange(10), 5, (1, 3), 5).sample(30)
    given = {"names": names} if options.get("use_names", True) else {}
    start = options.get("head") or (name_mix if given else cosine_prototypes)
    untrained = RelationalNetwork(**options).double()
    start, untrained, found = (
        evaluate(method, dealt, features, **given).accuracies
        for method in (start, untrained, trained(**options))
    )
    assert torch.equal(untrained, start) and not torch.equal(found, start)


def test_errors_name_the_argument_the_value_and_the_fix():
    (support, query, names), model = episodes(), RelationalNetwork().double()
    for call, message in (
        (lambda: RelationalNetwork(rounds=0), "`rounds` is 0: use a whole number, 1 or more"),
        (lambda: RelationalNetwork(hidden=0), "`hidden` is 0: use a whole number, 1 or more"),
        (lambda: model(support, query[..., :7]), r"`query` has shape \(3, 6, 7\): it must be .* d = 8"),
        (lambda: model(support, query, names[:1]), r"`names` has shape \(1, 4, 8\): .* E = 3, N = 4, d = 8"),
        (lambda: model(support[:, :1], query), "`support` has 1 way: there is nothing to tell apart"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
