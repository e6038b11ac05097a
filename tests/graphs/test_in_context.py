"""The in-context head: its start, its codes, who reads whom, and that it is trained like its siblings."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.data import ClassDataset
from fewshot_lib.graphs import Blocks, InContext
from fewshot_lib.graphs.in_context import orthonormal
from fewshot_lib.multitask import Task, TaskSampler, train_jointly
from fewshot_lib.prototypes import cosine_prototypes, name_mix

E, N, K, M, D = 3, 4, 3, 6, 8
MASK = (torch.arange(K) < torch.tensor([K, 2, 1]).view(E, 1, 1)).expand(E, N, K)
SMALL = Blocks(hidden=12, heads=2, graph=False)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(e=E, n=N, k=K, m=M, d=D):
    support = torch.nn.functional.normalize(random(e, n, k, d), dim=-1)
    return support, random(e, m, d, seed=1), random(e, n, d, seed=2)


def trained(**options):
    """As if trained: no parameter is at its start."""
    model = InContext(D, SMALL, **options).double().eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.data += 0.3 * random(*parameter.shape, seed=number)
    return model


def test_an_untrained_head_is_the_name_mix():
    support, query, names = episodes()
    model = InContext(D, SMALL).double().eval()
    assert_close(model(support, query, names, MASK), name_mix(support, query, names, MASK))
    without = InContext(D, SMALL, use_names=False).double().eval()
    for head, given in ((model, None), (without, names)):
        assert_close(head(support, query, given, MASK), cosine_prototypes(support, query, MASK))


def test_without_a_start_all_is_its_own():
    support, query, names = episodes()
    model = trained(start=False)
    with_start = trained()
    with_start.load_state_dict(model.state_dict())
    expected = with_start(support, query, names) - name_mix(support, query, names)
    assert_close(model(support, query, names), expected)


def test_attention_starts_as_a_look_up():
    """Of two examples the one like the query is attended to, and what it holds is handed on."""
    torch.manual_seed(0)
    attention = InContext(D, Blocks(hidden=64, heads=1, graph=False)).double().eval().blocks[0].overall
    one, other = random(2, 64).split(1)
    held = torch.cat([other, one])
    heard, weights = attention(one, held, held)
    assert weights[0, 1] > 0.9
    assert_close(heard, weights @ held)


def test_codes_are_orthonormal_as_far_as_there_are_dimensions():
    codes = orthonormal(2, 5, 6, None)
    assert_close(codes @ codes.mT, torch.eye(5).expand(2, -1, -1), atol=1e-5, rtol=0)
    many = orthonormal(1, 15, 6, None)[0]
    assert_close(many.norm(dim=-1), torch.ones(15))
    assert (many @ many.T - torch.eye(15)).abs().max() < 0.999  # no two classes share a code


def test_in_training_every_episode_has_codes_of_its_own_and_in_testing_they_follow_the_classes():
    model, classes = trained(), random(1, N, D).repeat(2, 1, 1)
    first, second = model.codes(classes)
    assert torch.equal(first, second)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(model.codes(classes[:, order])[0], first[order])
    first, second = model.train().codes(classes)
    assert not torch.allclose(first, second)
    assert not torch.allclose(model.codes(classes)[0], first)


@pytest.mark.parametrize("transductive", [False, True])
def test_nobody_reads_padding_and_nobody_but_itself_a_query_unless_transductive(transductive):
    told, asked = torch.tensor([[True, False, True]]), torch.tensor([[True, False]])
    hidden = trained(transductive=transductive).hidden_from(told, asked)[0]
    silent = {1, 4} if transductive else {1, 3, 4}
    for i, j in itertools.product(range(5), repeat=2):
        assert hidden[i, j] == (j in silent and i != j)


def test_names_are_read_where_they_are_used():
    support, query, names = episodes()
    others = names.roll(1, 0)
    model, without = trained(), trained(use_names=False)
    assert not torch.allclose(model(support, query, names), model(support, query, others), atol=1e-3)
    assert torch.equal(without(support, query, names), without(support, query, others))


def test_there_may_be_more_ways_than_dimensions():
    support, query, names = episodes(1, 30, 1, 5)
    assert trained()(support, query, names).isfinite().all()


def test_what_it_cannot_read_is_refused():
    support, query, names = episodes(d=D + 1)
    with pytest.raises(ValueError, match=f"`support` has {D + 1} features: this model was made for"):
        trained()(support, query, names)
    with pytest.raises(ValueError, match="no edges, use Blocks"):
        InContext(D, Blocks())


def test_joint_training_reaches_every_number_of_it():
    labels = torch.arange(6).repeat_interleave(8)
    features = (torch.eye(D)[labels % D] + 0.5 * random(48, D)).float()
    dataset = ClassDataset(features, labels, list("abcdef"), {"train": torch.arange(6)})
    torch.manual_seed(0)
    model = InContext(D, SMALL)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    sampler = TaskSampler([Task("toy", dataset, features, torch.eye(D)[:6])], 3, (1, 3), 2, 4)
    history = train_jointly(model, sampler, 3)
    assert all(torch.tensor(history.metrics["loss"]).isfinite())
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
