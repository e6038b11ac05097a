"""Episodes as graphs: who reads whom, by count and by effect."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fewshot_lib.graphs import GATv2Attention
from fewshot_lib.graphs.episode_graph import N_EDGE_FEATURES, NodeKind, Relation, episode_graph, reaches

SUPPORT, QUERY, CLASS, TASK, UNLABELLED = NodeKind
E, N, K, M, U, D = 3, 4, 3, 6, 2, 8
both = pytest.mark.parametrize("transductive", [False, True])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(e=E, k=K, m=M):
    return random(e, N, k, D), random(e, m, D, seed=1)


def build(transductive, support=None, query=None, **options):
    """A graph of random episodes; a transductive one also has unlabelled samples."""
    given = episodes()
    support, query = given[0] if support is None else support, given[1] if query is None else query
    if transductive:
        options = {"unlabelled": random(E, U, D, seed=2)[: len(support)], **options}
    return episode_graph(support, query, transductive=transductive, **options)


def pairs(graph, relation):
    """Where one relation holds: {(source, target)}."""
    return set(map(tuple, graph.edges[:, graph.relation == relation].T.tolist()))


def read(graph, depth=3, x=None):
    """What the nodes know after ``depth`` layers of graph attention with random weights."""
    torch.manual_seed(0)
    x = graph.x if x is None else x
    for _ in range(depth):
        layer = GATv2Attention(D, D // 2, heads=2, edge_dim=N_EDGE_FEATURES).double()
        x = layer(x, graph.edges, graph.features)[0].tanh()
    return x


def test_nodes_are_the_samples_the_classes_and_the_task():
    support, query = episodes()
    unlabelled, names = random(E, U, D, seed=2), random(E, N, D, seed=3)
    graph = episode_graph(support, query, transductive=True, unlabelled=unlabelled)
    expected = [support.flatten(1, 2), query, support.mean(2), support.mean((1, 2)).unsqueeze(1), unlabelled]
    for kind, features in zip(NodeKind, expected, strict=True):
        assert_close(graph.x[graph.rows(kind)], F.normalize(features, dim=-1))
        assert (graph.kind[graph.rows(kind)] == kind).all()
        assert (graph.episode[graph.rows(kind)] == torch.arange(E).unsqueeze(1)).all()
    assert len(graph.x) == E * (N * K + M + N + 1 + U) and graph.shape == (E, N, K, M, U)
    assert graph.way[graph.rows(SUPPORT)].equal(torch.arange(N).repeat_interleave(K).expand(E, -1))
    assert graph.way[graph.rows(CLASS)].equal(torch.arange(N).expand(E, -1))
    assert all((graph.way[graph.rows(kind)] == -1).all() for kind in (QUERY, TASK, UNLABELLED))
    named = episode_graph(support, query, names, task_nodes=False)
    assert_close(named.x[named.rows(CLASS)], F.normalize(names, dim=-1))
    assert named.rows(TASK).shape == named.rows(UNLABELLED).shape == (E, 0)
    assert named.shape == (E, N, K, M, 0) and not pairs(named, Relation.TASK)


@pytest.mark.parametrize("neighbours", [0, 2])
@both
def test_how_many_edges_of_each_kind(transductive, neighbours):
    graph = build(transductive, neighbours=neighbours)
    unknown = M + U if transductive else M
    nodes = N * K + unknown + N + 1
    expected = {
        Relation.SELF: nodes,
        Relation.MEMBER: 2 * N * K,
        Relation.NON_MEMBER: 2 * N * K * (N - 1),
        Relation.NEIGHBOUR: neighbours * (N * K + unknown),
        Relation.CLASS_CLASS: N * (N - 1),
        Relation.TASK: 2 * (nodes - 1) - (0 if transductive else M),
        Relation.QUERY: unknown * N * (2 if transductive else 1),
    }
    counts = graph.relation.bincount(minlength=len(Relation)).tolist()
    assert counts == [E * expected[relation] for relation in Relation]
    assert len(set(map(tuple, graph.edges.T.tolist()))) == graph.edges.shape[1]  # no pair twice
    assert (graph.episode[graph.edges[0]] == graph.episode[graph.edges[1]]).all()


def test_relations_join_the_right_kinds_of_node():
    graph = build(True)
    kinds = {r: {(graph.kind[a].item(), graph.kind[b].item()) for a, b in pairs(graph, r)} for r in Relation}

    def mutual(kind, others):
        return {pair for other in others for pair in ((kind, other), (other, kind))}

    assert kinds[Relation.MEMBER] == kinds[Relation.NON_MEMBER] == mutual(CLASS, [SUPPORT])
    assert kinds[Relation.CLASS_CLASS] == {(CLASS, CLASS)}
    assert {kind for pair in kinds[Relation.NEIGHBOUR] for kind in pair} == {SUPPORT, QUERY, UNLABELLED}
    assert kinds[Relation.QUERY] == mutual(CLASS, [QUERY, UNLABELLED])
    assert kinds[Relation.TASK] == mutual(TASK, [SUPPORT, QUERY, CLASS, UNLABELLED])
    for relation in (Relation.MEMBER, Relation.NON_MEMBER):
        ways = graph.way[graph.edges[:, graph.relation == relation]]
        assert ((ways[0] == ways[1]) == (relation == Relation.MEMBER)).all()
    for end in graph.edges[:, graph.relation == Relation.MEMBER]:  # K edges of every class in each direction
        assert (end.unsqueeze(1) == graph.rows(CLASS).flatten()).sum(0).eq(K).all()


@pytest.mark.parametrize("neighbours", [1, 4, 100])
@both
def test_neighbours_are_the_nearest_by_cosine(transductive, neighbours):
    query_mask = torch.arange(M).expand(E, M) != 2
    graph = build(transductive, neighbours=neighbours, query_mask=query_mask)
    rows = {kind: graph.rows(kind).tolist() for kind in NodeKind}
    expected = set()
    for e in range(E):
        queries = [q for i, q in enumerate(rows[QUERY][e]) if i != 2]
        told = rows[SUPPORT][e] + queries + rows[UNLABELLED][e]
        for target in told:
            telling = [source for source in (told if transductive else rows[SUPPORT][e]) if source != target]
            telling.sort(key=lambda source, to=target: -float(graph.x[source] @ graph.x[to]))
            expected |= {(source, target) for source in telling[:neighbours]}
    assert pairs(graph, Relation.NEIGHBOUR) == expected


@both
def test_edge_features_are_cosine_relation_and_degree(transductive):
    graph = build(transductive, groups=torch.zeros(E, dtype=torch.int64))
    source, target = graph.edges
    assert_close(graph.features[:, 0], F.cosine_similarity(graph.x[source], graph.x[target], dim=1))
    one_hot = graph.features[:, 1:-1]
    assert one_hot.argmax(1).equal(graph.relation) and (one_hot.sum(1) == 1).all()
    degree = torch.tensor([(target == t).sum() for t in target.tolist()], dtype=torch.float64)
    assert_close(graph.features[:, -1], (1 + degree).log() / 5)
    assert graph.features.shape[1] == N_EDGE_FEATURES


def test_gradients_reach_the_samples_through_nodes_and_edge_features():
    support, query = episodes(e=1, k=2, m=2)

    def outputs(support, query):
        graph = episode_graph(support, query)
        return torch.cat([graph.x.flatten(), graph.features.flatten()])

    torch.autograd.gradcheck(outputs, (support.requires_grad_(), query.requires_grad_()))


@both
def test_a_batch_is_the_disjoint_union_of_its_episodes(transductive):
    from torch_geometric.data import Batch, Data

    support, query = episodes()
    names, support_mask = random(E, N, D, seed=3), random(E, N, K, seed=4) > -1
    graph = build(transductive, names=names, support_mask=support_mask)
    alone = []
    for e in range(E):
        one = slice(e, e + 1)
        options = {"names": names[one], "support_mask": support_mask[one]}
        if transductive:
            options["unlabelled"] = random(E, U, D, seed=2)[one]
        g = build(transductive, support[one], query[one], **options)
        alone.append(Data(g.x, g.edges, g.features, kind=g.kind, way=g.way, relation=g.relation))
    union = Batch.from_data_list(alone)
    assert graph.edges.equal(union.edge_index) and graph.relation.equal(union.relation)
    assert graph.episode.equal(union.batch)
    assert graph.kind.equal(union.kind) and graph.way.equal(union.way)
    assert_close(graph.x, union.x)
    assert_close(graph.features, union.edge_attr)


@pytest.mark.parametrize("groups", [None, [5, 2, 5], [0, 0, 0], [1, 2, 3]])
def test_groups_link_the_task_nodes_of_a_group_and_nothing_else(groups):
    plain = build(False)
    graph = build(False, groups=None if groups is None else torch.tensor(groups))
    task = graph.rows(TASK).flatten().tolist()
    same = [(a, b) for a in range(E) for b in range(E) if groups and a != b and groups[a] == groups[b]]
    between = graph.edges[:, graph.episode[graph.edges[0]] != graph.episode[graph.edges[1]]]
    assert sorted(map(tuple, between.T.tolist())) == sorted((task[a], task[b]) for a, b in same)
    assert pairs(graph, Relation.TASK) - pairs(plain, Relation.TASK) == set(map(tuple, between.T.tolist()))
    assert graph.edges.shape[1] == plain.edges.shape[1] + len(same)
    without = [build(False, task_nodes=False, **extra).edges for extra in ({}, {"groups": torch.zeros(E)})]
    assert without[0].equal(without[1])


@both
def test_what_a_query_knows_can_leave_it_only_in_a_transductive_graph(transductive):
    for groups in (torch.tensor([0, 0, 1]), torch.arange(E)):
        graph = build(transductive, groups=groups)
        group = groups[graph.episode]
        expected = group.unsqueeze(1) == group  # all the rest of a group finds each other
        if not transductive:
            queries = graph.rows(QUERY).flatten()
            expected[queries] = torch.eye(len(group), dtype=torch.bool)[queries]
        assert reaches(graph).equal(expected)
    assert reaches(build(transductive)).equal(expected)


@pytest.mark.parametrize("n_steps", [0, 1, 2])
def test_reaches_is_where_the_jacobian_of_that_many_layers_is_not_zero(n_steps):
    graph = episode_graph(*episodes(e=1, k=1, m=2), neighbours=1)
    # (target, D, source, D)
    jacobian = torch.autograd.functional.jacobian(lambda x: read(graph, n_steps, x), graph.x)
    assert reaches(graph, n_steps).T.equal(jacobian.abs().amax((1, 3)) > 0)


@both
def test_changing_one_query_is_noticed_only_in_a_transductive_graph(transductive):
    _support, query = episodes()
    changed = query.clone()
    changed[1, 2] = 5 * random(D, seed=9)
    before, after = (build(transductive, query=q, groups=torch.zeros(E)) for q in (query, changed))
    difference = (read(after) - read(before)).abs().amax(1)
    itself = before.rows(QUERY)[1, 2]
    elsewhere = torch.arange(len(difference)) != itself
    assert difference[itself] > 1e-6
    assert (difference[elsewhere] > 1e-12).any() == transductive
    alone = build(transductive, query=query[:, :1], groups=torch.zeros(E))  # nor how many others there are
    first, of_all = (read(graph)[graph.rows(QUERY)[:, 0]] for graph in (alone, before))
    assert torch.allclose(first, of_all, rtol=0, atol=1e-12) != transductive


@both
def test_padding_changes_nothing_whatever_it_holds(transductive):
    support, query = episodes()
    support_mask, query_mask = torch.ones(E, N, K, dtype=torch.bool), torch.ones(E, M, dtype=torch.bool)
    support_mask[:, :, -1] = query_mask[:, -2:] = False
    masks = {"support_mask": support_mask, "query_mask": query_mask}
    padded = build(transductive, support, query, neighbours=5, **masks)
    small = build(transductive, support[:, :, :-1], query[:, :-2], neighbours=5)
    assert small.shape == (E, N, K - 1, M - 2, padded.shape[4])
    others = torch.ones(E, N + 1 + padded.shape[4], dtype=torch.bool)
    real = torch.cat([support_mask.flatten(1), query_mask, others], 1).flatten()
    assert padded.present.equal(real) and small.present.all()
    assert_close(read(padded)[real], read(small))
    source, target = padded.edges[:, ~real[padded.edges].all(0)]
    assert source.equal(target) and source.equal((~real).nonzero().squeeze(1))


UNFIT = [
    ({"support": random(E, N, D)}, r"`support` has shape \(3, 4, 8\): it must be \(E, N, K, d\)\."),
    ({"query": random(E, M, D + 1)}, r"`query` .* \(3, 6, 9\): it must be \(E, M, d\) with E = 3, d = 8"),
    ({"query": random(E + 1, M, D)}, r"`query` has shape \(4, 6, 8\).*E = 3"),
    ({"names": random(N, D)}, r"`names` .* \(4, 8\): it must be \(E, N, d\) with E = 3, N = 4, d = 8"),
    ({"groups": torch.zeros(E, 1)}, r"`groups` has shape \(3, 1\): it must be \(E\) with E = 3"),
    ({"query_mask": torch.ones(E, M + 1) > 0}, r"`query_mask` has shape \(3, 7\).*E = 3, M = 6"),
    ({"support_mask": torch.ones(E, N, K)}, r"`support_mask` holds torch.float32: it must be torch.bool"),
    ({"neighbours": -1}, "`neighbours` is -1: use a whole number"),
    ({"neighbours": 1.5}, "`neighbours` is 1.5: use a whole number"),
    ({"unlabelled": random(E, U, D)}, r"`unlabelled` .* \(3, 2, 8\) and .* False.*Set transductive=True"),
]


@pytest.mark.parametrize(("options", "message"), UNFIT)
def test_errors_name_the_argument_the_value_and_the_fix(options, message):
    with pytest.raises(ValueError, match=message):
        build(False, **options)
