"""The GAT-Transformer and its combination with the relational family: who reads whom, what every switch does, and gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_lib.gat_transformer import Combined, GATTransformer
from fewshot_lib.graph_attention import GATv2Attention
from fewshot_lib.graphs import N_EDGE_FEATURES, episode_graph
from fewshot_lib.labels import label_mix
from fewshot_lib.prototypes import cosine_prototypes
from fewshot_lib.relational import RelationalNetwork

E, N, K, M, D = 3, 4, 3, 6, 8
OPTIONS = [{}, {"mix": "alternating"}, {"graph": False}, {"transformer": False}, {"task_nodes": False}, {"use_labels": False}]
TOGETHER = torch.zeros(E, dtype=torch.int64)
SIZES = [(N, K, M), (3, 2, 4), (2, 1, 1)]  # ways, shots and queries of padded episodes
MASK = torch.stack([(torch.arange(N) < n).unsqueeze(1) & (torch.arange(K) < k) for n, k, _ in SIZES])
QUERY_MASK = torch.stack([torch.arange(M) < m for _, _, m in SIZES])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(e=E, n=N, k=K, m=M, d=D):
    return 3 * random(e, n, k, d), random(e, m, d, seed=1), random(e, n, d, seed=2)


def untrained(combined=False, use_labels=True, transductive=False, **options):
    torch.manual_seed(0)
    model = GATTransformer(D, 12, heads=2, use_labels=use_labels, transductive=transductive, **options)
    simple = RelationalNetwork(use_labels=use_labels, transductive=transductive)
    return (Combined(simple, model) if combined else model).double().eval()


def trained(seed=0, **options):
    """As if trained: no parameter is at its start."""
    model = untrained(**options)
    for number, parameter in enumerate(model.parameters()):
        parameter.data += 0.3 * random(*parameter.shape, seed=1000 * seed + number)
    return model


KINDS = [{**o, **t} for t in ({}, {"transductive": True}) for o in (*OPTIONS, {"combined": True})]
every_kind = pytest.mark.parametrize("options", KINDS, ids=str)


@every_kind
def test_an_untrained_model_is_the_label_mix(options):
    support, query, labels = episodes()
    support, model = F.normalize(support, dim=-1), untrained(**options)
    for mask in (None, torch.rand(E, N, K, generator=torch.Generator().manual_seed(0)) < 0.5):  # any shot of any way
        start = cosine_prototypes(support, query, mask)
        assert_close(model(support, query, None, mask), start, atol=1e-6, rtol=0)
        expected = label_mix(support, query, labels, mask) if model.uses_labels else start
        assert_close(model(support, query, labels, mask), expected, atol=1e-6, rtol=0)


@every_kind
def test_a_query_is_answered_from_other_queries_only_when_transductive(options):
    (support, query, labels), model = episodes(), trained(**options)
    others = torch.cat([query[:, :1], 5 * query[:, 1:].flip(1) - 2], 1)
    alone, logits = model(support, query[:, :1], labels), model(support, query, labels)[:, :1]
    same = torch.allclose(model(support, others, labels)[:, :1], logits)
    assert same == torch.allclose(alone, logits) == (not model.transductive)
    jacobian = torch.autograd.functional.jacobian(lambda q: model(support[:1], q, labels[:1])[0].square().sum(-1), query[:1])[:, 0]
    between = jacobian.abs().sum(-1)[~torch.eye(M, dtype=torch.bool)]  # (M, M) without the diagonal
    assert (between > 0).all() if model.transductive else (between == 0).all()


@every_kind
def test_order_lengths_batches_and_padding_change_nothing(options):
    (support, query, labels), model = episodes(), trained(**options)
    support = torch.where(MASK.unsqueeze(-1), support, 1e3 * random(*support.shape, seed=5))
    query = torch.where(QUERY_MASK.unsqueeze(-1), query, 1e3 * random(*query.shape, seed=6))
    labels = torch.where(MASK.any(-1, keepdim=True), labels, 1e3 * random(*labels.shape, seed=7))
    logits = model(support, query, labels, MASK, QUERY_MASK)
    for e, (n, k, m) in enumerate(SIZES):
        alone = model(support[e : e + 1, :n, :k], query[e : e + 1, :m], labels[e : e + 1, :n])
        assert_close(logits[e : e + 1, :m, :n], alone)
        assert (logits[e, :, n:] == -torch.inf).all()
    assert_close(model(support.flip(2), query, labels, MASK.flip(2), QUERY_MASK), logits)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(model(support[:, order], query, labels[:, order], MASK[:, order], QUERY_MASK), logits[..., order])
    assert_close(model(*(random(*x.shape[:-1], 1, seed=4).exp() * x for x in (support, query, labels)), MASK, QUERY_MASK), logits)


@pytest.mark.parametrize("transductive", [False, True])
def test_nobody_reads_what_is_silent(transductive):
    """Two episodes of two supports, two queries, two classes, a task; in the second, one way and one query are padding."""
    support, query, _ = episodes(e=2, n=2, k=1, m=2)
    support_mask, query_mask = torch.tensor([[[True], [True]], [[True], [False]]]), torch.tensor([[True, True], [True, False]])
    unlabelled = random(2, 1, D) if transductive else None
    graph = episode_graph(support, query, transductive=transductive, unlabelled=unlabelled)
    hidden = trained(transductive=transductive).hidden_from(graph, support_mask, query_mask)
    for e, silent in enumerate([set(), {1, 3, 5}] if transductive else [{2, 3}, {1, 2, 3, 5}]):
        for i, j in itertools.product(range(8 if transductive else 7), repeat=2):
            assert hidden[e, i, j] == (j in silent and i != j)


@pytest.mark.parametrize("mix", ["parallel", "alternating"])
@pytest.mark.parametrize("graph, transformer", [(True, True), (True, False), (False, True)])
def test_a_block_is_its_three_equations(mix, graph, transformer):
    """Global attention is done for every node alone, among the nodes that it may read."""
    model = trained(mix=mix, graph=graph, transformer=transformer)
    nodes = model.adapt(*episodes(), MASK, QUERY_MASK)[2]
    hidden = model.hidden_from(nodes, MASK, QUERY_MASK)
    block, h = model.blocks[1], random(len(nodes.x), 12, seed=9)
    by_hand = GATv2Attention(12, 6, heads=2, edge_dim=N_EDGE_FEATURES).double()
    by_hand.load_state_dict(block.local.state_dict() if graph else by_hand.state_dict())
    local = by_hand(block.norms[0](h), nodes.edges, nodes.features)[0] if graph else 0
    both = mix == "alternating" and graph and transformer
    read = (block.norms[1](h + local) if both else block.norms[0](h)).view(E, -1, 12)
    expected = h + local
    for e, i in itertools.product(range(E), range(read.shape[1])) if transformer else ():
        seen = read[e, ~hidden[e, i]]
        expected[e * read.shape[1] + i] += block.everywhere(read[e, i : i + 1], seen, seen)[0][0]
    expected = expected + block.mlp(block.norms[2 if both else 1](expected))
    assert_close(block(h, nodes, hidden), expected)


def test_every_switch_does_what_it_says():
    batch = episodes()
    answers = [trained(**options)(*batch) for options in KINDS]
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(answers, 2))
    block, few, many = trained(dropout=0.5).blocks[0], {"neighbours": 0}, {"neighbours": 5}
    assert block.local.dropout == block.everywhere.dropout == block.mlp[2].p == 0.5
    assert torch.equal(trained(graph=False, **few)(*batch), trained(graph=False, **many)(*batch))
    assert not torch.allclose(trained(**few)(*batch), trained(**many)(*batch))
    for options in ({"graph": False}, {"task_nodes": False}, {"n_blocks": 1}):
        assert torch.equal(trained(**options)(*batch, groups=TOGETHER), trained(**options)(*batch))
    assert torch.equal(trained(use_labels=False)(*batch), trained(use_labels=False)(*batch[:2]))
    assert not torch.allclose(trained(transductive=True)(*batch, unlabelled=random(E, 2, D, seed=8)), answers[len(OPTIONS) + 1])
    turn = torch.linalg.qr(random(D, D, seed=3))[0]  # unlike in the relational family, directions have a meaning
    assert not torch.allclose(trained()(*(x @ turn for x in batch)), answers[0], atol=0.1)


@pytest.mark.parametrize("options", [{}, {"mix": "alternating", "n_blocks": 1}, {"combined": True}], ids=str)
def test_grouped_episodes_hear_of_each_other_through_their_task_nodes(options):
    (support, query, labels), model = episodes(), trained(**options)
    other, asked = (torch.cat([x[:1], x[1:].roll(1, -1)]) for x in (support, query))

    def first(support, groups, query=query):
        return model(support, query, labels, groups=groups)[0]

    assert_close(first(other, None), first(support, None))
    assert_close(first(support, torch.arange(E)), first(support, None))
    assert_close(first(other, torch.tensor([0, 1, 1])), first(support, None))
    assert not torch.allclose(first(other, TOGETHER), first(support, TOGETHER))
    assert_close(first(support, TOGETHER, asked), first(support, TOGETHER))  # of their supports, not of their queries


@every_kind
def test_odd_inputs_give_numbers_and_every_parameter_a_gradient(options):
    support, query, labels = (x.float() for x in episodes())
    support[0], query[0], query[1, 0], labels[2] = support[0, 0, 0], support[0, 0, 0], support[1, 0, 0], labels[2, 0]
    support.requires_grad_()
    model = trained(dropout=0.5, **options).float()
    for parameter in model.parameters():
        parameter.data *= 3
    with torch.no_grad():
        answers = model(support, query, labels, MASK, QUERY_MASK)
    assert_close(answers, model(support, query, labels, MASK, QUERY_MASK), atol=1e-3, rtol=1e-3)
    logits = model.train()(support, query, labels, MASK, QUERY_MASK)
    assert (logits.isfinite() == MASK.any(-1).unsqueeze(1)).all() and not torch.allclose(logits, answers)
    F.cross_entropy(logits[QUERY_MASK], torch.zeros(int(QUERY_MASK.sum()), dtype=torch.int64)).backward()
    assert all(x.grad.isfinite().all() for x in (support, *model.parameters()))
    assert (support.grad[~MASK] == 0).all() and (support.grad[MASK] != 0).any(-1).all()


@pytest.mark.parametrize("options", [{}, {"mix": "alternating", "transductive": True}], ids=str)
def test_gradients_are_those_of_finite_differences(options):
    (support, query, labels), model = episodes(e=2, n=3, k=2, m=3), trained(n_blocks=1, **options)
    mask = torch.tensor([[[True, True]] * 3, [[True, False]] * 2 + [[False, False]]])

    def loss(*inputs):
        logits = functional_call(model, dict(zip(dict(model.named_parameters()), inputs[3:], strict=True)), (*inputs[:3], mask))
        return F.cross_entropy(logits.flatten(0, 1), torch.tensor([0, 1, 2, 0, 1, 1]))

    inputs = [x.detach().requires_grad_() for x in (support, query, labels, *model.parameters())]
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


def test_a_gate_between_0_and_1_mixes_the_logits_of_both():
    (support, query, labels), both, real = episodes(), trained(combined=True), MASK.any(-1).unsqueeze(1).expand(E, M, N)
    simple, rich = (model(support, query, labels, MASK) for model in (both.relational, both.projected))
    gate = both.gate(support, query, labels, MASK)
    assert gate.shape == (E, 1, 1) and len(gate.unique()) == E and ((gate > 0) & (gate < 1)).all()
    assert_close(both(support, query, labels, MASK)[real], ((1 - gate) * simple + gate * rich)[real])
    assert torch.equal(gate, both.gate(support, query[:, :1] + 1, labels, MASK))
    both.gate_of_task.weight.data.zero_()
    for bias, expected in ((0.0, (simple + rich) / 2), (-1e3, simple), (1e3, rich)):
        both.gate_of_task.bias.data.fill_(bias)
        logits = both(support, query, labels, MASK)
        assert_close(logits, expected)
        assert all(slope.isfinite().all() for slope in torch.autograd.grad(logits[real].sum(), list(both.parameters())))
    assert (untrained(combined=True).gate(support, query) == 0.5).all()
    without = trained(combined=True, use_labels=False)
    assert torch.equal(without.gate(support, query, labels), without.gate(support, query))
    assert both(support, query * torch.nan, labels, MASK)[real].isnan().all()  # nothing is hidden


def test_only_the_projected_family_learns_noise_by_heart():
    """Sixty queries with random answers. Told only how things are related, nobody can do much better than guess, ln 3."""
    support, query, losses = random(2, 3, 1, 16).float(), random(2, 30, 16, seed=1).float(), []
    answers = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    for model in (RelationalNetwork(), GATTransformer(16, 32, n_blocks=1, dropout=0.0)):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            loss = F.cross_entropy(model(support, query).flatten(0, 1), answers)
            optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 and losses[1] < 0.05


@every_kind
def test_saved_parameters_are_the_whole_model_and_dropout_is_for_training(options):
    batch, model, twin = episodes(), trained(dropout=0.5, **options), trained(seed=1, dropout=0.5, **options)
    twin.load_state_dict(model.state_dict())
    state = torch.get_rng_state()
    assert torch.equal(twin(*batch), model(*batch)) and torch.equal(torch.get_rng_state(), state)
    once, again = model.train()(*batch), model(*batch)
    torch.set_rng_state(state)
    assert torch.equal(model(*batch), once) and not torch.allclose(once, again)


def test_errors_name_the_argument_the_value_and_the_fix():
    for options, message in (
        ({"mix": "serial"}, "`mix` is 'serial': use one of 'parallel', 'alternating'"),
        ({"hidden": 10}, "`hidden` is 10 and `heads` is 4: hidden must be a multiple of heads"),
        ({"heads": 0}, "`heads` is 0: it must be at least 1"),
        ({"n_blocks": 0}, "`n_blocks` is 0: it must be at least 1"),
        ({"graph": False, "transformer": False}, "`graph` and `transformer` are both False: a block needs at least one"),
        ({"n_features": 7}, "`support` has 8 features: this model was made for n_features=7"),
        ({"temperature": 0}, "`temperature` is 0: it must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            GATTransformer(**{"n_features": D, **options}).double()(*episodes())
    with pytest.raises(ValueError, match="`unlabelled` has shape .* Set transductive=True"):
        trained()(*episodes(), unlabelled=random(E, 2, D))
    with pytest.raises(ValueError, match="`transductive` is True for one model and False for the other: use the same"):
        Combined(RelationalNetwork(transductive=True), GATTransformer(D))
    with pytest.raises(ValueError, match="`uses_labels` is True for one model and False for the other: use the same"):
        Combined(RelationalNetwork(), GATTransformer(D, use_labels=False))
