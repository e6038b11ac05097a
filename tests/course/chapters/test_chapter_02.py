"""What chapter 02 draws: clouds with one outlier, curves in their order, an episode to read."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.core import EpisodeResults, EpisodeSampler, History
from fewshot_lib.course.chapters import chapter_02
from fewshot_lib.data import ClassDataset


def results(*accuracies, n_seeds=1):
    return EpisodeResults(torch.tensor(n_seeds * [accuracies]), "m", False, 5, 1, 15, "same")


def test_one_example_of_one_class_is_moved_and_its_prototype_is_drawn_where_it_then_is():
    plain, moved = chapter_02.toy_classes(3), chapter_02.toy_classes(3, outlier=2.0)
    assert [tuple(place) for place in (plain != moved).nonzero().tolist()] == [(0, 0, 0)]
    centres = moved.mean(1)
    fig = chapter_02.regions(moved, lambda xy: -torch.cdist(xy, centres), "title")
    first_mark = fig.axes[0].collections[-5].get_offsets()
    assert_close(torch.tensor(first_mark.tolist()[0]), centres[0])


def test_training_and_validation_are_two_curves(shown):
    history = History(metrics={"accuracy": [0.0, 0.5] * 15}, validation=[(15, 0.4), (30, 0.6)])
    chapter_02.training_curve(history, train_ways=20, n_way=5)
    training, validation = shown[0][0].axes[0].lines
    assert list(training.get_ydata()) == [25] * 29 and list(validation.get_ydata()) == [40, 60]
    assert "20-way" in training.get_label() and "5-way" in validation.get_label()


def test_curves_over_images_and_shots_name_their_seeds_and_chance(shown):
    curves = {name: [results(0.5, 0.6, n_seeds=3), results(0.7, 0.8, n_seeds=3)] for name in ("a", "b")}
    chapter_02.over_images([10, 20], curves)
    chapter_02.over_shots([1, 5], curves, chance=0.2)
    (images, words), (shots, _) = shown
    assert "3 training seeds" in words["caption"]
    assert list(images.axes[0].lines[0].get_ydata()) == pytest.approx([55, 75])
    assert [line.get_label() for line in shots.axes[0].lines] == ["a", "b", "chance"]


def test_an_episode_of_texts_is_read_with_what_was_answered(shown):
    labels = torch.arange(2).repeat_interleave(3)
    classes = torch.arange(2)
    texts = ClassDataset([f"text {i}" for i in range(6)], labels, ["left", "right"], {"test": classes})
    episode = EpisodeSampler(labels, classes, 2, 1, 1, seed=0).sample(1)
    chapter_02.read_aloud(texts, episode, 1 - episode.query_labels[0])
    heading, _, *lines = shown[0].splitlines()
    assert heading == "A 2-way 1-shot episode of texts:"
    names = [texts.class_names[labels[row]] for row in episode.query[0].tolist()]
    for name, line in zip(names, lines, strict=True):
        assert f"is **{name}**" in line and line.endswith("✗")
