"""How much names count: closed forms, and examples that speak for the names or against them."""

import math

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.prototypes import NamesAsExamples, found_weight, names_as_examples, weighed_names
from fewshot_lib.prototypes import name_weight as module
from fewshot_lib.prototypes.name_weight import ENOUGH, FOLDS, MOST, WEIGHTS, _at_best_temperature, _folds

E, N, D = 3, 6, 24


def episodes(n_shot, noise=2.0, n_way=N):
    """Support (E, N, K, d), names (E, N, d) near their classes, float64."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(E, n_way, 1, D, generator=generator, dtype=torch.float64)
    support = centres + noise * torch.randn(E, n_way, n_shot, D, generator=generator, dtype=torch.float64)
    names = centres[:, :, 0] + 0.5 * torch.randn(E, n_way, D, generator=generator, dtype=torch.float64)
    return support, names


def masked(*counts):
    """A mask (E, N, K) with so many examples of the first classes, in every episode."""
    counts = torch.tensor(counts)
    return (torch.arange(int(counts.max())) < counts.unsqueeze(1)).expand(E, -1, -1)


@pytest.mark.parametrize("n_shot", [1, MOST + 1])
def test_where_no_example_can_be_spared_or_there_are_many_it_is_the_usual_one(n_shot):
    support, names = episodes(n_shot)
    assert (found_weight(support, names) == names_as_examples.weight).all()
    assert_close(
        weighed_names(support, support[:, :, 0], names), names_as_examples(support, support[:, :, 0], names)
    )


def test_one_class_with_many_examples_keeps_nobody_from_asking():
    support, names = episodes(MOST + 4)
    assert (found_weight(support, names, masked(MOST + 4, 5, 5, 5, 5, 5)) != names_as_examples.weight).all()


@pytest.mark.parametrize("n_shot", [2, 3, 8])
def test_names_that_fit_count_more_and_names_of_other_classes_less(n_shot):
    support, names = episodes(n_shot)
    right, wrong = (found_weight(support, n) for n in (names, names.roll(1, 1)))
    lowest, _, _, highest = (3 * times for times in WEIGHTS)
    assert (lowest <= wrong).all() and (wrong < 1.5).all()
    assert (right > 3).all() and (right <= highest).all()


def test_the_answers_are_those_of_the_weight_that_was_found():
    support, names = episodes(3)
    query = torch.randn(E, 5, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    answers = weighed_names(support, query, names)
    for e, weight in enumerate(found_weight(support, names).tolist()):
        alone = NamesAsExamples(weight)(support[e : e + 1], query[e : e + 1], names[e : e + 1])
        assert_close(answers[e : e + 1], alone, atol=1e-5, rtol=0)


def test_a_weight_is_judged_by_heads_that_have_not_seen_the_example():
    """Equation (1), with a loop over folds and weights, and (2)."""
    support, names = episodes(3)
    log_p_of = torch.zeros(len(WEIGHTS), dtype=torch.float64)
    weights = 3 * torch.tensor(WEIGHTS, dtype=torch.float64)
    for row, v in enumerate(weights.tolist()):
        logits = []
        for out in range(3):
            rest = support[:1, :, [shot for shot in range(3) if shot != out]]
            logits.append(NamesAsExamples(v)(rest, support[:1, :, out], names[:1])[0])
        best = -torch.inf
        for log_t in torch.linspace(-4, 4, 801).tolist():
            log_p = [(z / torch.tensor(log_t).exp()).log_softmax(-1).diagonal().sum() for z in logits]
            best = max(best, float(sum(log_p)) - log_t**2 / 2)
        log_p_of[row] = best - math.log(v / 3) ** 2 / 2
    expected = (log_p_of.softmax(0) @ weights.log()).exp()
    assert_close(found_weight(support, names)[0], expected, rtol=0.02, atol=0)


def test_the_scale_of_the_logits_matters_through_the_density_of_the_temperature_only():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 4, 200, 4, generator=generator, dtype=torch.float64)
    logits[0, 0, range(4), :, range(4)] += 1
    asked = torch.ones(1, 1, 4, 200, dtype=torch.float64)
    one, larger = (float(_at_best_temperature(scale * logits, asked)) for scale in (1.0, 5.0))
    assert one - larger == pytest.approx(math.log(5) ** 2 / 2, abs=0.3)
    assert one > float(logits.log_softmax(-1)[0, 0, range(4), :, range(4)].sum()) - 1e-3


def test_weights_that_answer_alike_are_weighed_by_their_density(monkeypatch):
    support, names = episodes(3)
    nothing = torch.zeros(E, dtype=torch.float64)
    monkeypatch.setattr(module, "_at_best_temperature", lambda logits, asked: nothing)
    monkeypatch.setattr(module, "WEIGHTS", (1.7,))
    assert_close(found_weight(support, names), nothing + 1.7 * 3)
    monkeypatch.setattr(module, "WEIGHTS", (1.0, 3.0))
    of_one = math.exp(-(math.log(3) ** 2) / 2)
    assert_close(found_weight(support, names), nothing + 3 * 3 ** (of_one / (1 + of_one)))


def test_every_example_is_held_out_once_and_classes_count_alike():
    mask = masked(2, 3, 7)
    held_out, asked = _folds(mask)
    assert len(held_out) == FOLDS and (held_out.sum(0) == mask).all()
    assert (mask & ~held_out).any(-1).all()
    assert_close(asked.sum((0, 3)), torch.full((E, 3), 4.0))


def test_classes_with_one_example_take_no_part():
    support, names = episodes(4, n_way=7)
    mask = masked(1, 4, 1, 4, 4, 2, 3)
    own = [1, 3, 4, 5, 6]
    assert_close(
        found_weight(support, names, mask), found_weight(support[:, own], names[:, own], mask[:, own])
    )
    assert (found_weight(support, names, masked(4, 1, 1, 1, 1, 1, 1)) == 3).all()


@pytest.mark.parametrize(("n_way", "usual"), [(2, 7.5), (3, 5.0), (4, 3.75), (5, 3.0), (64, 3.0)])
def test_of_few_classes_all_names_together_count_for_fifteen_examples(n_way, usual):
    support, names = episodes(1, n_way=n_way)
    assert (found_weight(support, names) == usual).all()
    support, names = episodes(2, n_way=n_way)
    found = found_weight(support, names) / usual
    assert (found > WEIGHTS[0]).all() and (found < WEIGHTS[-1]).all()


def test_names_that_fit_are_not_lost_where_few_classes_have_many_examples():
    support, names = episodes(8)
    assert (found_weight(support, names, masked(8, 8, 1, 1, 1, 1)) > 2).all()


def test_where_the_examples_stand_in_a_mask_does_not_matter():
    support, names = episodes(6)
    gaps = torch.tensor([True, False, False, False, True, True]).expand(E, N, 6)
    packed = found_weight(support[:, :, [0, 4, 5]], names)
    assert_close(found_weight(support.masked_fill(~gaps.unsqueeze(-1), torch.nan), names, gaps), packed)


@pytest.mark.parametrize(("n_way", "n_folds"), [(6, 4), (100, 3), (300, 1)])
def test_no_more_folds_are_asked_than_it_takes(n_way, n_folds):
    asked = _folds(torch.ones(1, n_way, 4, dtype=torch.bool))[1]
    assert len(asked) == n_folds
    assert n_folds == FOLDS or ENOUGH <= (asked > 0).sum() < ENOUGH + n_way


def test_an_episode_of_a_batch_is_weighed_as_if_alone_whatever_the_others_need():
    support, names = episodes(5)
    mask = torch.stack([masked(*counts)[0] for counts in ([5] * N, [2, 2, 3, 4, 5, 5], [1] * (N - 1) + [5])])
    mask[2, -1, 1:] = False  # nothing to spare
    together = found_weight(support.masked_fill(~mask.unsqueeze(-1), torch.nan), names, mask)
    for e, k in ((0, 5), (1, 5), (2, 1)):
        alone = found_weight(support[e : e + 1, :, :k], names[e : e + 1], mask[e : e + 1, :, :k])
        assert_close(together[e : e + 1], alone, rtol=1e-4, atol=0)
    assert together[2] == names_as_examples.weight and together[1] != together[2]
