"""What chapter 01 draws and holds back: both kinds of classes, enough samples, a table with its figure."""

from types import SimpleNamespace

import pytest
import torch

from fewshot_lib.core import EpisodeResults, EpisodeSampler, half_width
from fewshot_lib.course.chapters import chapter_01
from fewshot_lib.data import ClassDataset


def dataset(inputs):
    return ClassDataset(inputs, torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), ["a", "b"], {"test": torch.arange(2)})


def test_the_wall_has_a_column_of_as_many_drawings_as_the_smallest_class_has(shown):
    chapter_01.wall(dataset(torch.rand(8, 1, 4, 4)), "test")
    ((fig, words),) = shown
    assert len(fig.axes) == 2 * 3 and "drawn 3 times" in words["alt"]


def test_of_texts_the_wall_is_one_example_of_each_class(shown):
    chapter_01.wall(dataset([f"text {i}" for i in range(8)]), "test")
    assert shown == ["**test**\n\n- *a*: text 0\n- *b*: text 3"]


def test_too_few_held_back_become_a_support_and_a_query_of_each_class_and_one_is_left_to_train_on():
    labels, order = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([5, 0, 4, 1, 3, 2])
    few = torch.tensor([True] + 5 * [False])
    held = chapter_01.enough_for_episodes(few, order, labels, n_way=2, n_shot=1)
    assert held.tolist() == [False, True, True, True, True, False]  # all but the first of each in the order
    assert chapter_01.enough_for_episodes(held, order, labels, n_way=2, n_shot=1) is held


def test_the_table_and_its_figure_name_the_same_rows(shown):
    result = EpisodeResults(torch.tensor([[0.5, 0.7]]), "m", False, 5, 3, 15, "same")
    chapter_01.compared([("head", "seen", result), ("mean", "unseen", result)], n_way=5)
    table, (fig, _) = shown
    assert "| head | unseen | **seen** | 3 per class | 60.0%" in table and "chance 20%" in table
    names = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert names == ["head\n(seen classes)", "mean\n(unseen classes)"]


def test_the_bands_are_the_deviation_and_the_interval_of_the_first_episodes(shown):
    accuracies = torch.rand(30, generator=torch.Generator().manual_seed(0)) / 2
    chapter_01.deviation_and_interval(accuracies)
    ax = shown[0][0].axes[0]
    assert ax.lines[0].get_xdata().tolist() == [5, 10, 25, 30]
    for band, statistic in zip(ax.collections, (torch.std, half_width), strict=True):
        corners = band.get_paths()[0].vertices
        at_10 = corners[corners[:, 0] == 10][:, 1]
        width = 200 * float(statistic(accuracies[:10]))
        assert at_10.max() - at_10.min() == pytest.approx(width, rel=1e-4)


def test_a_quarter_is_held_back_and_its_episodes_are_of_classes_with_enough_samples():
    labels = torch.arange(8).repeat_interleave(20)
    held = chapter_01.hold_back(labels, n_way=3, n_shot=1, seed=0)
    assert held.sum() == 40
    assert torch.equal(held, chapter_01.hold_back(labels, n_way=3, n_shot=1, seed=0))
    assert not torch.equal(held, chapter_01.hold_back(labels, n_way=3, n_shot=1, seed=1))
    lesson = SimpleNamespace(n_way=3, n_shot=1, n_query=15, n_episodes=50, seed=0)
    episodes = chapter_01.episodes_of_seen(labels[held], 8, lesson)
    assert len(episodes) == 50 and episodes.n_query <= 3
    sizes = torch.bincount(labels[held], minlength=8)
    assert (sizes[episodes.classes.unique()] >= 1 + episodes.n_query).all()


def test_a_result_counts_the_samples_that_the_classifier_was_given():
    episodes = EpisodeSampler(torch.arange(4).repeat_interleave(6), range(4), 3, 1, 2).sample(5)
    result = chapter_01.as_result(torch.full((5,), 0.5), "head", 15, episodes)
    assert (result.n_way, result.n_shot, result.n_query, result.mean) == (3, 15, 2, 0.5)
    assert result.episodes_fingerprint == episodes.fingerprint()


def test_the_network_makes_as_many_features_as_it_says():
    for inputs in (torch.rand(2, 3, 16, 16), torch.rand(2, 5)):
        f, n_features = chapter_01.new_network(inputs, torch.device("cpu"))
        assert f(inputs).shape == (2, n_features)
