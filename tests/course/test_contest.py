"""Many methods on the same episodes: costs and differences known beforehand, and figures that draw."""

import pytest
import torch

from fewshot_lib.core import EpisodeSampler, few_shot_method
from fewshot_lib.course import contest
from fewshot_lib.course.contest import Entrant
from fewshot_lib.course.gallery import gallery, show_episode
from fewshot_lib.data import ClassDataset
from fewshot_lib.prototypes import cosine_prototypes, zero_shot

LABELS = torch.arange(6).repeat_interleave(10)
FEATURES = torch.eye(6)[LABELS] + 0.1 * torch.randn(60, 6, generator=torch.Generator().manual_seed(0))


def episodes(ways, shots):
    return EpisodeSampler(LABELS, torch.arange(6), ways, shots, 4, seed=0).sample(5)


@few_shot_method("large", transductive=False)
def large(support, query, support_mask=None):
    """Takes 8 MB, then 4 MB more while it gives back the first."""
    first = torch.zeros(2_000_000)
    second = torch.zeros(1_000_000)
    del first, second
    return cosine_prototypes(support, query)


def test_memory_is_the_most_that_stands_at_once():
    seconds, taken = Entrant(large, FEATURES).cost(episodes(2, 1))
    assert seconds > 0
    assert 12_000_000 <= taken < 12_100_000
    assert Entrant(cosine_prototypes, FEATURES).cost(episodes(2, 1))[1] < 100_000


@pytest.fixture
def table():
    methods = {
        "means": Entrant(cosine_prototypes, FEATURES),
        "names": Entrant(zero_shot, FEATURES, torch.eye(6)),
        "noise": Entrant(cosine_prototypes, torch.randn(60, 6, generator=torch.Generator().manual_seed(1))),
    }
    return {
        (ways, shots): {name: entrant.on(episodes(ways, shots)) for name, entrant in methods.items()}
        for ways in (2, 4)
        for shots in (1, 5)
    }


def test_differences_are_of_the_same_episodes(table):
    found = contest.against(table, (4, 5), "names", "noise")
    assert found.mean == pytest.approx(table[4, 5]["names"].mean - table[4, 5]["noise"].mean)


def test_the_critical_difference_is_that_of_the_table_of_demsar():
    # Demšar (2006), table 5(a): q = 2.343 for 3 and 3.164 for 10 classifiers
    assert contest.critical_difference(3, 20) == pytest.approx(2.343 * (3 * 4 / 120) ** 0.5, abs=1e-3)
    assert contest.critical_difference(10, 14) == pytest.approx(3.164 * (10 * 11 / 84) ** 0.5, abs=1e-3)


def test_the_figures_have_every_method_and_every_setting(table):
    fig = contest.difference_panels(table, "means", ["noise"], ["names", "noise"], (2, 4))
    assert [ax.get_title() for ax in fig.axes] == ["2 ways", "4 ways"]
    assert [line.get_linestyle() for line in fig.axes[1].lines] == ["-", "-", "--"]  # zero, names, noise
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["names", "noise"]
    entrant = Entrant(cosine_prototypes, FEATURES, per_task=lambda ways: 7 * ways, before=3)
    costs = {"means": (entrant, {(4, 1): (0.01, 2**20), (4, 5): (0.02, 2**21)})}
    costs["dear"] = entrant, {(4, 1): (1.0, 2**30)}
    left, middle, right = contest.cost_figure(costs).axes
    assert [list(line.get_xdata()) for line in left.lines] == [[10, 1000], [20]]
    assert [list(line.get_xdata()) for line in middle.lines] == [[1, 1024], [2]]
    assert [list(line.get_xdata()) for line in right.lines] == [[28, 28], [3, 3]]
    ranks = torch.tensor([[1.0, 2, 3], [3, 1, 2], [2, 1, 3]])
    (ax,) = contest.rank_figure(ranks, ["a", "b", "c"], 0.5).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a", "c"]
    (band,) = ax.patches  # from the best mean, 4/3, as wide as the difference
    assert (band.get_x(), band.get_width()) == pytest.approx((4 / 3, 0.5))
    of_b, _, of_c = (rows.get_sizes() for rows in ax.collections)
    assert of_b[0] == 2 * of_b[1] and of_c[1] == 2 * of_c[0]  # b has the rank 1 twice, c the rank 3


def test_a_gallery_is_a_table_of_texts_or_a_sheet_of_pictures(capsys):
    gallery(["a | b", "x" * 200], ["one", "two"], said="class", alt="Texts.")
    assert "a \\\\| b" in capsys.readouterr().out
    gallery(torch.zeros(7, 3, 9, 9, dtype=torch.uint8), list("abcdefg"), said="class", alt="Seven pictures.")
    assert "Seven pictures." in capsys.readouterr().out


def test_an_episode_is_shown_as_a_picture_or_as_a_list_of_its_texts(capsys):
    labels, classes = torch.arange(2).repeat_interleave(3), torch.arange(2)
    texts = [f"text {i}" for i in range(6)]
    for inputs, words in ((torch.rand(6, 1, 4, 4), "a row per class"), (texts, "text ")):
        dataset = ClassDataset(inputs, labels, ["left", "right"], {"test": classes})
        show_episode(dataset, EpisodeSampler(labels, classes, 2, 1, 1, seed=0).sample(1))
        assert words in capsys.readouterr().out
