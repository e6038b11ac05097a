"""Pictures of episode graphs draw the nodes and edges that there are, and no others."""

import matplotlib.pyplot as plt
import pytest
import torch

from fewshot_lib.course import graph_figures
from fewshot_lib.graphs import NodeKind, Relation, episode_graph, reaches


@pytest.fixture
def graph():
    """Two episodes of three ways, two shots, four queries and one unlabelled sample."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, *shape, 5, generator=generator) for shape in ((3, 2), (4,), (1,))]
    yield episode_graph(*parts[:2], transductive=True, unlabelled=parts[2])
    plt.close("all")


@pytest.mark.parametrize("relations", [(Relation.MEMBER,), (Relation.QUERY, Relation.TASK)])
def test_an_episode_has_a_mark_for_every_node_and_an_arrow_for_every_edge(graph, relations):
    _, ax = plt.subplots()
    graph_figures.draw_episode(ax, graph, episode=1, relations=relations)
    inside = graph.episode[graph.edges[0]] == 1
    edges = sum(int(((graph.relation == relation) & inside).sum()) for relation in relations)
    assert len(ax.lines) == len(graph.x) // 2 and len(ax.texts) == edges > 0
    assert len({tuple(line.get_xydata()[0]) for line in ax.lines}) == len(ax.lines)  # each at its own place


def test_a_reach_map_has_a_row_for_every_node_kind_by_kind(graph):
    fig = graph_figures.reach_figure({"one": reaches(graph, 1), "any": reaches(graph)}, graph)
    for ax, n_steps in zip(fig.axes, (1, None), strict=True):
        rows = torch.cat([graph.rows(kind)[0] for kind in NodeKind])
        shown = torch.tensor(ax.images[0].get_array().tolist())
        assert shown.bool().equal(reaches(graph, n_steps)[rows][:, rows])
        words = [label.get_text() for label in ax.get_xticklabels()]
        assert words == list(map(graph_figures.in_words, NodeKind))


def test_the_legend_names_what_is_drawn():
    _, ax = plt.subplots()
    graph_figures.graph_legend(ax, (Relation.NON_MEMBER,), (NodeKind.QUERY,))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["query", "non-member"]
