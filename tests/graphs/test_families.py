"""Both families of models and their mix: their start, who reads whom, every switch, and gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_lib.graphs import Blocks, Combined, GATTransformer, GATv2Attention, RelationalNetwork
from fewshot_lib.graphs.episode_graph import N_EDGE_FEATURES, episode_graph
from fewshot_lib.prototypes import cosine_prototypes, name_mix

E, N, K, M, D = 3, 4, 3, 6, 8
TOGETHER = torch.zeros(E, dtype=torch.int64)
SHOTS, QUERIES = torch.tensor([K, 2, 1]), torch.tensor([M, 4, 1])  # of padded episodes
MASK = (torch.arange(K) < SHOTS.view(E, 1, 1)).expand(E, N, K)
QUERY_MASK = torch.arange(M) < QUERIES.unsqueeze(1)
MASKS = {"support_mask": MASK, "query_mask": QUERY_MASK}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(e=E, n=N, k=K, m=M, d=D):
    return 3 * random(e, n, k, d), random(e, m, d, seed=1), random(e, n, d, seed=2)


def untrained(
    family="projected", use_names=True, transductive=False, rounds=2, task_nodes=True, linked=False, **blocks
):
    torch.manual_seed(0)
    both = {"use_names": use_names, "transductive": transductive}
    relational = RelationalNetwork(rounds, **both)
    blocks = Blocks(**{"hidden": 12, "heads": 2, **blocks})
    projected = GATTransformer(D, blocks, task_nodes=task_nodes, linked=linked, **both)
    models = {"relational": relational, "projected": projected, "both": Combined(relational, projected)}
    return models[family].double().eval()


def trained(seed=0, **options):
    """As if trained: no parameter is at its start."""
    model = untrained(**options)
    for number, parameter in enumerate(model.parameters()):
        parameter.data += 0.3 * random(*parameter.shape, seed=1000 * seed + number)
    return model


OPTIONS = [{}, {"graph": False}, {"transformer": False}, {"task_nodes": False}, {"use_names": False}]
OPTIONS += [{"family": "both"}]
OPTIONS += [{"family": "relational", **option} for option in ({}, {"rounds": 1}, {"use_names": False})]
KINDS = [{**options, "transductive": transductive} for transductive in (False, True) for options in OPTIONS]
every_kind = pytest.mark.parametrize("options", KINDS, ids=str)


@every_kind
def test_an_untrained_model_is_the_name_mix(options):
    support, query, names = episodes()
    support, model = F.normalize(support, dim=-1), untrained(**options)
    for mask in (None, MASK.roll(1, 2)):
        start = cosine_prototypes(support, query, mask)
        assert_close(model(support, query, None, support_mask=mask), start, atol=1e-6, rtol=0)
        expected = name_mix(support, query, names, mask) if model.uses_names else start
        assert_close(model(support, query, names, support_mask=mask), expected, atol=1e-6, rtol=0)


@every_kind
def test_a_query_is_answered_from_other_queries_only_when_transductive(options):
    (support, query, names), model = (x[:1] for x in episodes()), trained(**options)
    jacobian = torch.autograd.functional.jacobian(
        lambda q: model(support, q, names)[0].square().sum(-1), query
    )[:, 0]
    between = jacobian.abs().sum(-1)[~torch.eye(M, dtype=torch.bool)]  # (M, M) without the diagonal
    assert (between > 0).all() if model.transductive else (between == 0).all()


@every_kind
def test_lengths_and_what_padding_holds_change_nothing(options):
    (support, query, names), model = episodes(), trained(**options)
    longer = [random(*x.shape[:-1], 1, seed=4).exp() * x for x in (support, query, names)]
    longer[0][~MASK], longer[1][~QUERY_MASK] = 1e3 * random(D, seed=5), 1e3 * random(D, seed=6)
    assert_close(model(*longer, **MASKS)[QUERY_MASK], model(support, query, names, **MASKS)[QUERY_MASK])


@pytest.mark.parametrize("transductive", [False, True])
def test_nobody_reads_what_is_silent(transductive):
    """Two supports, two queries, two classes, a task; in the second episode one query is padding."""
    support, query = random(2, 2, 1, D), random(2, 2, D, seed=1)
    masks = {"query_mask": torch.tensor([[True, True], [True, False]])}
    masks["unlabelled"] = random(2, 1, D) if transductive else None
    graph = episode_graph(support, query, transductive=transductive, **masks)
    hidden = trained(transductive=transductive).hidden_from(graph)
    for e, silent in enumerate([set(), {3}] if transductive else [{2, 3}, {2, 3}]):
        for i, j in itertools.product(range(8 if transductive else 7), repeat=2):
            assert hidden[e, i, j] == (j in silent and i != j)
    support_mask = torch.ones(1, 2, 2, dtype=torch.bool)
    support_mask[0, 1, 0] = False
    graph = episode_graph(random(1, 2, 2, D), query[:1], transductive=True, support_mask=support_mask)
    assert trained(transductive=True).hidden_from(graph)[0, 0].nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(("graph", "transformer"), [(True, True), (True, False), (False, True)])
def test_a_block_is_its_three_equations(graph, transformer):
    """Global attention is done for every node alone, among the nodes that it may read."""
    model = trained(graph=graph, transformer=transformer)
    nodes = model.adapt(*episodes(), **MASKS)[2]
    hidden = model.hidden_from(nodes)
    block, h = model.blocks[1], random(len(nodes.x), 12, seed=9)
    by_hand = GATv2Attention(12, 6, heads=2, edge_dim=N_EDGE_FEATURES).double()
    by_hand.load_state_dict(block.local.state_dict() if graph else by_hand.state_dict())
    read = block.norms[0](h).view(E, -1, 12)
    expected = h + (by_hand(block.norms[0](h), nodes.edges, nodes.features)[0] if graph else 0)
    for e, i in itertools.product(range(E), range(read.shape[1])) if transformer else ():
        visible = read[e, ~hidden[e, i]]
        expected[e * read.shape[1] + i] += block.overall(read[e, i : i + 1], visible, visible)[0][0]
    expected = expected + block.mlp(block.norms[1](expected))
    assert_close(block(h, nodes, hidden), expected)


def test_every_switch_does_what_it_says():
    batch = episodes()
    answers = [trained(**options)(*batch) for options in KINDS]
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(answers, 2))
    block = trained(dropout=0.5).blocks[0]
    assert block.local.dropout == block.overall.dropout == block.mlp[2].p == 0.5
    for options in KINDS:
        model = trained(**options)
        assert torch.equal(model(*batch), model(*batch[:2])) == (not model.uses_names)
    model = trained(transductive=True)
    assert not torch.allclose(model(*batch, unlabelled=random(E, 2, D, seed=8)), model(*batch))
    turn = torch.linalg.qr(random(D, D, seed=3))[0]  # unlike in the relational family, directions matter
    assert not torch.allclose(trained()(*(x @ turn for x in batch)), answers[0], atol=0.1)


@pytest.mark.parametrize("family", ["projected", "both"])
def test_linked_episodes_hear_of_each_other_through_their_task_nodes(family):
    (support, query, names), model = episodes(), trained(family=family, linked=True)
    other, asked = (torch.cat([x[:1], x[1:].roll(1, -1)]) for x in (support, query))

    def first(support, groups, query=query):
        return model(support, query, names, groups=groups)[0]

    alone = trained(family=family)(support, query, names)[0]
    assert_close(first(support, torch.arange(E)), alone)
    assert_close(first(other, torch.tensor([0, 1, 1])), alone)
    assert not torch.allclose(first(support, TOGETHER), alone)
    assert not torch.allclose(first(other, TOGETHER), first(support, TOGETHER))
    # of their supports, not of their queries
    assert_close(first(support, TOGETHER, asked), first(support, TOGETHER))


@every_kind
def test_odd_inputs_give_numbers_and_padding_no_gradient(options):
    """Examples, queries and names that are the same, and examples whose mean is 0."""
    (support, query, names), model = (x.float() for x in episodes()), trained(dropout=0.5, **options).float()
    support[0], query[0], query[1, 0] = support[0, 0, 0], support[0, 0, 0], support[1, 0, 0]
    if model.uses_names:  # without a name, a class whose mean is 0 is nowhere
        support[1, :, 1], names[2] = -support[1, :, 0], names[2, 0]
    support.requires_grad_()
    for parameter in model.parameters():
        parameter.data *= 3
    answers = model(support, query, names, **MASKS)
    logits = model.train()(support, query, names, **MASKS)
    assert logits.isfinite().all() and torch.allclose(logits, answers) == ("relational" in options.values())
    F.cross_entropy(logits[QUERY_MASK], torch.zeros(int(QUERY_MASK.sum()), dtype=torch.int64)).backward()
    assert all(x.grad.isfinite().all() for x in (support, *model.parameters()))
    assert (support.grad[~MASK] == 0).all()


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("family", ["relational", "projected"])
def test_gradients_are_those_of_finite_differences(family, transductive):
    model = trained(family=family, transductive=transductive, n_blocks=1, rounds=1)
    mask = torch.tensor([[[True, True]] * 3, [[True, False]] * 3])

    def loss(*inputs):
        parameters = dict(zip(dict(model.named_parameters()), inputs[3:], strict=True))
        logits = functional_call(model, parameters, inputs[:3], {"support_mask": mask})
        return F.cross_entropy(logits.flatten(0, 1), torch.tensor([0, 1, 2, 0, 1, 2]))

    inputs = (*episodes(e=2, n=3, k=2, m=3), *model.parameters())
    inputs = [x.detach().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    of_support = torch.autograd.grad(loss(*inputs), inputs[0])[0]
    assert (of_support[mask] != 0).any(-1).all() and (of_support[~mask] == 0).all()


def test_a_gate_between_0_and_1_mixes_the_logits_of_both():
    (support, query, names), both = episodes(), trained(family="both")
    mask = {"support_mask": MASK}
    simple, rich = (model(support, query, names, **mask) for model in (both.relational, both.projected))
    gate = both.gate(support, query, names, MASK)
    assert gate.shape == (E, 1, 1) and len(gate.unique()) == E and ((gate > 0) & (gate < 1)).all()
    assert_close(both(support, query, names, **mask), (1 - gate) * simple + gate * rich)
    assert torch.equal(gate, both.gate(support, query[:, :1] + 1, names, MASK))
    both.gate_of_task.weight.data.zero_()
    for bias, expected in ((0.0, (simple + rich) / 2), (-1e3, simple), (1e3, rich)):
        both.gate_of_task.bias.data.fill_(bias)
        assert_close(both(support, query, names, **mask), expected)
    assert (untrained(family="both").gate(support, query) == 0.5).all()
    without = trained(family="both", use_names=False)
    assert torch.equal(without.gate(support, query, names), without.gate(support, query))
    assert both(support, query * torch.nan, names, **mask).isnan().all()  # nothing is hidden


def test_only_the_projected_family_learns_noise_by_heart():
    """Sixty queries with random answers. From relations alone, nobody does much better than guess, ln 3."""
    support, query, losses = random(2, 3, 1, 16).float(), random(2, 30, 16, seed=1).float(), []
    answers = torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    for model in (RelationalNetwork(), GATTransformer(16, Blocks(32, n_blocks=1, dropout=0.0))):
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
    assert torch.equal(model(*batch), once)
    assert torch.allclose(once, again) == ("relational" in options.values())  # which has no dropout


def test_errors_name_the_argument_the_value_and_the_fix():
    few, differ = random(E, 2, D), "is True for one model and False for the other: use the same"
    talking, nameless = RelationalNetwork(transductive=True), GATTransformer(D, use_names=False)
    for call, message in (
        (lambda: Blocks(hidden=10), "`hidden` is 10 and `heads` is 4: hidden must be a multiple of heads"),
        (lambda: Blocks(heads=0), "`heads` is 0: use a whole number, 1 or more"),
        (lambda: Blocks(n_blocks=0), "`n_blocks` is 0: use a whole number, 1 or more"),
        (lambda: Blocks(graph=False, transformer=False), "`graph` and `transformer` are both False: a block"),
        (lambda: untrained(linked=True, task_nodes=False), "`linked` is True, .*: it needs task nodes"),
        (lambda: untrained(linked=True, n_blocks=1), "`linked` is True, .* two blocks or more"),
        (lambda: untrained(linked=True)(*episodes()), "`groups` is None: give the group of each episode"),
        (lambda: untrained()(*episodes(), groups=TOGETHER), "make the model with linked=True"),
        (lambda: untrained()(*episodes(d=7)), "`support` has 7 features: .* was made for n_features=8"),
        (lambda: untrained()(*episodes(), unlabelled=few), "`unlabelled` has shape .* transductive=True"),
        (lambda: Combined(talking, GATTransformer(D)), f"`transductive` {differ}"),
        (lambda: Combined(RelationalNetwork(), nameless), f"`uses_names` {differ}"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="`unlabeled` is nothing that an episode graph has: use support"):
        untrained()(*episodes(), unlabeled=few)
