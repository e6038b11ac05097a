"""Pictures of episode graphs draw the nodes and edges that there are; a contest is fair to its opponents."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch

from fewshot_lib.core import EpisodeResults, EpisodeSampler, few_shot_method
from fewshot_lib.course.chapters import chapter_07
from fewshot_lib.graphs import NodeKind, Relation, episode_graph, reaches
from fewshot_lib.prototypes import cosine_prototypes


@pytest.fixture
def graph():
    """Two episodes of three ways, two shots, four queries and one unlabelled sample."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, *shape, 5, generator=generator) for shape in ((3, 2), (4,), (1,))]
    return episode_graph(*parts[:2], transductive=True, unlabelled=parts[2])


@pytest.mark.parametrize("relations", [(Relation.MEMBER,), (Relation.QUERY, Relation.TASK)])
def test_an_episode_has_a_mark_for_every_node_and_an_arrow_for_every_edge(graph, relations):
    _, ax = plt.subplots()
    chapter_07.draw_episode(ax, graph, episode=1, relations=relations)
    inside = graph.episode[graph.edges[0]] == 1
    edges = sum(int(((graph.relation == relation) & inside).sum()) for relation in relations)
    assert len(ax.lines) == len(graph.x) // 2 and len(ax.texts) == edges > 0
    assert len({tuple(line.get_xydata()[0]) for line in ax.lines}) == len(ax.lines)  # each at its own place


def test_a_reach_map_has_a_row_for_every_listener_and_a_column_for_every_node_that_is_heard(graph):
    fig = chapter_07.reach_figure({"one": reaches(graph, 1), "any": reaches(graph)}, graph)
    for ax, n_steps in zip(fig.axes, (1, None), strict=True):
        rows = torch.cat([graph.rows(kind)[0] for kind in NodeKind])
        shown = torch.tensor(ax.images[0].get_array().tolist())
        assert shown.bool().T.equal(reaches(graph, n_steps)[rows][:, rows])
        words = [label.get_text() for label in ax.get_xticklabels()]
        assert words == list(map(chapter_07.in_words, NodeKind))


def test_the_legend_names_what_is_drawn():
    _, ax = plt.subplots()
    chapter_07.graph_legend(ax, (Relation.NON_MEMBER,), (NodeKind.QUERY,))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["query", "non-member"]


def arrows(ax):
    """Every arrow as (from, to), rounded."""
    return [
        (tuple(text.xyann), tuple(text.xy))
        for text in ax.texts
        if getattr(text, "arrow_patch", None) is not None
    ]


def test_no_arrow_leaves_a_query_unless_the_graph_is_transductive(graph):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, *shape, 5, generator=generator) for shape in ((2, 2), (2,))]
    views = {
        kind: episode_graph(*parts, transductive=kind == "transductive", neighbours=0, task_nodes=False)
        for kind in ("inductive", "transductive")
    }
    _, listening, talking, _ = chapter_07.who_reads_whom_figure(views).axes
    leaving = [[start for start, _ in arrows(ax) if start[0] == 2.0] for ax in (listening, talking)]
    assert not leaving[0] and len(leaving[1]) == 4  # two queries, two classes


def test_an_example_that_is_heard_more_has_a_wider_arrow():
    members = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.6, 0.8]])
    weights, nodes = [torch.full((3,), 1 / 3), torch.tensor([0.3, 0.6, 0.1])], [members.mean(0)] * 2
    _, ax = chapter_07.rounds_figure(members, weights, nodes).axes
    widths = [text.arrow_patch.get_linewidth() for text in ax.texts if text.arrow_patch is not None]
    assert widths[1] > widths[0] > widths[2] and ax.get_xlabel() == "weights 0.30, 0.60, 0.10"


def test_a_query_changes_its_class_where_the_nodes_do():
    nodes = torch.tensor([[1.0, 0.0], [-0.6, 0.8]])
    moved = nodes + torch.tensor([[0.8, 0.6], [0.0, 0.0]])
    fig = chapter_07.stepping_stone_figure(
        nodes, moved, torch.tensor([0.8, 0.6]), torch.tensor([5.0, 12.0]) / 13
    )
    assert [ax.get_title()[-1] for ax in fig.axes] == ["1", "0"]


def test_only_weights_that_are_not_zero_are_written_beside_their_arrow():
    fig = chapter_07.collects_figure({"name": (1.0, 0.0), "example": (2.5, 0.5)}, ["a", "b"])
    texts = [text.get_text() for text in fig.axes[0].texts]
    assert {"1.0", "2.5", "0.5", "name", "example", "a", "b"} <= set(texts) and "0.0" not in texts


def test_situations_are_measured_against_their_first_method_on_one_scale():
    accuracies = torch.tensor([[0.4, 0.6, 0.5, 0.7]])
    results = {
        name: EpisodeResults(accuracies + gain, name, False, 5, 1, 15, "same")
        for name, gain in (("bar", 0.0), ("other", -0.1), ("relational", 0.2))
    }
    (ax,) = chapter_07.regimes_figure({"one": results, "two": results}).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["other", "relational"] * 2
    means = [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert sorted({round(mean, 3) for mean in means}) == [-10.0, 20.0]


def test_wrong_and_right_examples_have_a_histogram_each():
    rounds = [torch.rand(6, 3, 5, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    fig = chapter_07.loudness_figure(rounds, n_wrong=2)
    assert len(fig.axes) == 2 and len(fig.axes[0].patches) == 80
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == [
        "wrong label",
        "right label",
    ]


def noisy_prototypes(noise):
    """Prototypes of queries that are blurred: the more, the worse."""

    @few_shot_method(f"noise {noise}", transductive=False)
    def method(support, query, names):
        blur = torch.randn(query.shape, generator=torch.Generator().manual_seed(0))
        return cosine_prototypes(support, query + noise * blur)

    return method


def one_situation(grids):
    """A contest on 6 classes, one in two of them a validation class, after its only situation."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(10)
    features = torch.eye(6)[labels] + 0.4 * torch.randn(60, 6, generator=generator)
    classes = {"val": torch.tensor([0, 2, 4]), "test": torch.tensor([1, 3, 5])}
    recorded = []
    lesson = SimpleNamespace(n_episodes=30, record=lambda *row, **facts: recorded.append(row))
    contest = chapter_07.Contest(lesson, None, features, None, n_validation=20)
    nets = [chapter_07.Inside(noisy_prototypes(noise), alone, uses_names=False) for noise in (0.2, 0.3)]
    for net in nets:
        net.name = "relational"

    def deal(split, number):
        return EpisodeSampler(labels, classes[split], 3, 1, 5, 0).sample(number)

    return contest, contest.hold("here", nets, deal, grids, n_query=4), recorded


def alone(method, support, query, names, query_mask):
    return method(support, query, names)


def test_an_opponent_competes_with_the_settings_that_are_best_on_validation_classes():
    good, bad = noisy_prototypes(0.1), noisy_prototypes(3.0)
    contest, said, recorded = one_situation({"tuned": [bad, good, bad], "fixed": [bad]})
    assert contest.chosen == {("here", "tuned"): good, ("here", "fixed"): bad}
    assert contest.settings().splitlines()[2:] == ["| here | tuned | noise 0.1 |"]  # the other had no choice
    results = contest.results["here"]
    assert list(results) == ["tuned", "fixed", "relational"] and {r.n_query for r in results.values()} == {4}
    assert results["tuned"].mean > results["fixed"].mean
    assert contest.gains["here"].against == "tuned" and recorded[0][0] == "relational − tuned, here"
    assert "**here**" in said and contest.gains["here"].verdict in said


def test_the_lead_of_several_trainings_has_an_interval_over_episodes():
    contest, _, _ = one_situation({"fixed": [noisy_prototypes(1.0)]})
    ours, rival = contest.results["here"]["relational"], contest.results["here"]["fixed"]
    gain = contest.gains["here"]
    assert (ours.n_seeds, gain.n_seeds, gain.n_episodes) == (2, 1, 30)
    over_episodes = (ours.accuracies.mean(0) - rival.accuracies[0]).std().item() / 30**0.5
    assert gain.ci95 == pytest.approx(2.045 * over_episodes, rel=1e-3)  # Student's t, 29 degrees of freedom
