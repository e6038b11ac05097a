"""What chapter 03 draws: differences on one scale, weights where they are, the entropy of two classes."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.core import EpisodeSampler, compare_paired, evaluate
from fewshot_lib.course.chapters import chapter_03
from fewshot_lib.finetuning import FineTuning
from fewshot_lib.prototypes import cosine_prototypes, euclidean_prototypes


def difference(shift: float):
    """Euclid against cosine on classes that lie so far from the origin."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(10)
    features = torch.randn(60, 4, generator=draw) + 2 * torch.randn(6, 4, generator=draw)[labels] + shift
    episodes = EpisodeSampler(labels, torch.arange(6), 3, 1, 4, seed=0).sample(30)
    methods = (euclidean_prototypes, cosine_prototypes)
    return compare_paired(*(evaluate(method, episodes, features) for method in methods))


def test_all_panels_of_differences_have_one_scale_and_say_who_is_transductive(shown):
    chapter_03.gains([[difference(0.0)], [difference(20.0)]], ["a row (T)"], ["near", "far"])
    ((fig, words),) = shown
    assert len({ax.get_xlim() for ax in fig.axes}) == 1
    assert "near, far" in words["alt"] and "transductive" in words["caption"]


def test_the_arrows_end_at_the_weights(shown):
    support, query = torch.tensor([[[0.0, 2.0], [2.0, 4.0]], [[3.0, 0.0], [5.0, 2.0]]]), torch.ones(2)
    states = FineTuning().heads(support.unsqueeze(0), query.view(1, 1, 2), at=[0, 9])
    weights = [state.weights[0] for state in states]
    chapter_03.moved_weights(support, query, {name: weights for name in ("product", "cosine")}, [0, 9])
    ((fig, _),) = shown
    ends = [text.xy for text in fig.axes[0].texts if text.arrow_patch is not None]
    assert_close(torch.tensor(ends), torch.cat(weights))


def test_a_longer_class_and_a_shift_do_what_they_say_and_centring_undoes_the_shift():
    plain, longer, moved = chapter_03.clouds(), chapter_03.clouds(norm=3.0), chapter_03.clouds(shift=2.0)
    assert_close(longer[0], 3 * plain[0])
    assert_close(longer[1:], plain[1:])
    assert_close(moved, plain + 2)
    assert_close(chapter_03.clouds(shift=2.0, centre=True), chapter_03.clouds(centre=True))


def test_the_schemes_and_curves_are_drawn(shown):
    chapter_03.three_steps()
    chapter_03.who_enters()
    chapter_03.entropy_slope([[0.6, 0.7], [0.5, 0.5]])
    curve = [difference(0.0), difference(0.0)]
    chapter_03.over_steps([0, 5], {"1-shot": curve}, {"1-shot": [0.5, 0.1]})
    assert len(shown) == 4 and all(len(words["alt"]) > 50 for _, words in shown)
    assert max(shown[2][0].axes[0].lines[0].get_ydata()) == pytest.approx(
        torch.tensor(2.0).log().item(), 1e-3
    )
