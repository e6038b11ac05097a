"""Graph attention by hand: softmax over edges, PyTorch Geometric's numbers, static and dynamic attention."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.graphs.attention import GATAttention, GATv2Attention, edge_softmax, ranking_count
from fewshot_lib.graphs.episode_graph import N_EDGE_FEATURES, episode_graph

D = 8


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graph_of_two_episodes():
    batch = random(2, 4, 3, D), random(2, 6, D, seed=1)
    return episode_graph(*batch, transductive=True, groups=torch.zeros(2))


def test_edge_softmax_adds_up_to_one_for_every_target_and_equals_softmax():
    scores = 50 * random(7, 5, 2)  # (targets, sources, heads)
    target = torch.arange(7).repeat_interleave(5)
    shuffle = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    attention = torch.empty(35, 2, dtype=torch.float64)
    # nodes 7 and 8 have no edge
    attention[shuffle] = edge_softmax(scores.flatten(0, 1)[shuffle], target[shuffle], 9)
    assert_close(attention.view_as(scores), scores.softmax(1))
    graph = graph_of_two_episodes()
    uneven = edge_softmax(1e4 * random(graph.edges.shape[1], 2), graph.edges[1], len(graph.x))
    sums = torch.zeros(len(graph.x), 2).double().index_add(0, graph.edges[1], uneven)
    assert_close(sums, torch.ones_like(sums))
    values = random(9, 1, seed=5).requires_grad_()
    torch.autograd.gradcheck(lambda v: edge_softmax(v, torch.tensor([0, 1, 0, 2, 2, 0, 1, 0, 4]), 6), values)


KINDS = [(GATAttention, "GATConv", {}), (GATv2Attention, "GATv2Conv", {})]
KINDS += [(GATv2Attention, "GATv2Conv", {"edge_dim": N_EDGE_FEATURES, "dropout": 0.4})]
every_kind = pytest.mark.parametrize(("ours", "name", "options"), KINDS, ids=["GAT", "GATv2", "with edges"])


@every_kind
def test_attention_by_hand_equals_pytorch_geometric(ours, name, options):
    import torch_geometric.nn

    torch.manual_seed(0)
    graph = graph_of_two_episodes()
    conv = getattr(torch_geometric.nn, name)(D, 5, heads=3, add_self_loops=False, **options).double().eval()
    torch.nn.init.normal_(conv.bias)
    layer = ours(D, 5, heads=3, **options).double().eval()
    layer.load_state_dict(conv.state_dict())
    features = [graph.features] if "edge_dim" in options else []
    out, (_, attention) = conv(graph.x, graph.edges, *features, return_attention_weights=True)
    mine, weights = layer(graph.x, graph.edges, *features)
    assert_close(mine, out, rtol=0, atol=1e-12)
    assert_close(weights, attention, rtol=0, atol=1e-12)
    loss = random(*out.shape, seed=6)
    theirs = torch.autograd.grad((out * loss).sum(), list(conv.parameters()))
    for a, b in zip(torch.autograd.grad((mine * loss).sum(), list(layer.parameters())), theirs, strict=True):
        assert_close(a, b)


@every_kind
def test_one_seed_gives_pytorch_geometrics_layer_and_its_dropout(ours, name, options):
    import torch_geometric.nn

    graph, found = graph_of_two_episodes(), []
    for make in (ours, getattr(torch_geometric.nn, name)):
        torch.manual_seed(3)
        layer = make(D, 5, heads=3, **options, **({} if make is ours else {"add_self_loops": False}))
        features = [graph.features.float()] if "edge_dim" in options else []
        out = layer(graph.x.float(), graph.edges, *features)
        names = [name for name, _ in layer.named_parameters()]
        found.append((names, list(layer.parameters()), out[0] if make is ours else out, torch.rand(3)))
    (names, weights, out, after), (other_names, others, expected, as_well) = found
    assert names == other_names and all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert_close(out, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(after, as_well)  # and equally many random numbers were drawn


def test_gat_ranks_alike_for_everyone_and_gatv2_does_not():
    sources, targets = 20, 30
    target, source = torch.cartesian_prod(sources + torch.arange(targets), torch.arange(sources)).T
    edges = torch.stack([source, target])
    for seed in range(50):
        torch.manual_seed(seed)
        x = random(sources + targets, D, seed=seed)
        for layer, alike in ((GATAttention(D, 5), True), (GATv2Attention(D, 5), False)):
            attention = layer.double()(x, edges)[1]
            assert (ranking_count(attention.view(targets, sources)) == 1) == alike, seed


def test_rankings_are_counted():
    assert ranking_count(torch.tensor([[1.0, 2.0, 3.0], [0.0, 5.0, 6.0], [-2.0, -1.0, 9.0]])) == 1
    four = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [0.0, 9.0, 1.0]])
    assert ranking_count(four) == 3


def test_edge_features_and_the_layer_must_fit():
    graph = graph_of_two_episodes()
    with pytest.raises(ValueError, match="`features` is None: give the features"):
        GATv2Attention(D, 4, edge_dim=N_EDGE_FEATURES).double()(graph.x, graph.edges)
    with pytest.raises(ValueError, match="make the layer with edge_dim"):
        GATv2Attention(D, 4).double()(graph.x, graph.edges, graph.features)
