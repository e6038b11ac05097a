"""Chapter 06: the benchmark's rows as read and averaged, sentences that follow the numbers, answers."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_lib.core import PairedDifference
from fewshot_lib.course.answers import chapter_06 as answers
from fewshot_lib.course.answers import wrap_up_2
from fewshot_lib.course.chapters import chapter_06 as chapter
from fewshot_lib.course.measured import measured_table
from fewshot_lib.data import ClassDataset


def difference(*accuracies):
    facts = {
        "n_way": 5,
        "n_shot": 1,
        "n_query": 15,
        "episodes_fingerprint": "",
        "method": "a",
        "against": "b",
    }
    return PairedDifference(torch.tensor([accuracies]), transductive=False, **facts)


@pytest.fixture(scope="module")
def table():
    return chapter.with_shots(measured_table("metaprompting"), 1)


def test_every_data_set_of_the_benchmark_has_a_difference_for_each_thing_that_moves(table):
    sets = {row["data set"] for row in table}
    found = chapter.ablation_rows(table)
    assert set(found) == {"frozen LM", "LoRA"} and all(set(rows) == sets for rows in found.values())
    for what, rows in found.items():
        for name, row in rows.items():
            means = [
                float(other["accuracy in %"])
                for method in ("MetaPrompting", "0 inner steps")
                for other in table
                if (other["data set"], other["method"]) == (name, f"{method}, {what}")
            ]
            assert row.mean == pytest.approx((means[0] - means[1]) / 100, abs=0.0011)  # of rounded numbers
            low, high = chapter.interval_of(table, name, f"MetaPrompting, {what}")
            assert low < means[0] < high


def test_a_difference_and_an_interval_are_read_as_they_are_written():
    row = {"data set": "mine", "method": "MetaPrompting, LoRA", "95 % interval": "1.5 to 2.5"}
    found = [row | {chapter.ABLATION: "-1.5 ± 0.5"}]
    assert chapter.ablation_rows(found) == {"LoRA": {"mine": chapter.Row(-0.015, 0.005)}}
    assert chapter.interval_of(found, "mine", "MetaPrompting, LoRA") == (1.5, 2.5)


def test_the_interval_of_a_mean_of_equal_rows_shrinks_with_the_root_of_their_number():
    mean = chapter.averaged({str(i): chapter.Row(0.02, 0.04) for i in range(4)})
    assert (mean.mean, mean.ci95) == pytest.approx((0.02, 0.02))
    values = {
        name: chapter.Row(m, 0.01) for name, m in zip("abcd", (0.021, 0.024, 0.026, 0.007), strict=True)
    }
    assert chapter.averaged(values) == chapter.averaged(dict(reversed(values.items())))
    assert chapter.Row(0.02, 0.01).verdict == "better than" and mean.verdict == "not told apart from"


def test_panels_of_the_benchmark_have_one_scale(table):
    fig = chapter.ablation_figure(chapter.ablation_rows(table), {"frozen LM": "a", "LoRA": "b"})
    assert len({ax.get_xlim() for ax in fig.axes}) == 1


def test_of_each_class_the_first_texts_are_kept():
    ds = ClassDataset(
        list("abcdef"), torch.tensor([0, 1, 0, 1, 0, 1]), ["x", "y"], {"train": torch.arange(2)}
    )
    assert chapter.thinned(ds, 2).inputs == list("abcd")


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.4, 0.9, "at least 10%"), (0.8, 1.2, "holds 100 %"), (1.1, 1.3, "costs")]
)
def test_the_share_is_told_as_its_interval_lies(low, high, said):
    assert said in chapter.of_share(0.5 * (low + high), low, high, difference(0.1, 0.11, 0.09))
    assert "no gain to share" in chapter.of_share(1.0, low, high, difference(0.1, -0.1))


def test_a_run_that_does_not_find_what_the_benchmark_found_is_said_to_disagree():
    rows = {
        what: {"a": chapter.Row(0.02, 0.01), "b": chapter.Row(0.03, 0.01)} for what in ("frozen LM", "LoRA")
    }
    assert "4 of 4" in chapter.of_benchmark(rows, difference(0.1, 0.1001, 0.0999))
    assert "The two agree" in chapter.of_benchmark(rows, difference(0.1, 0.1001, 0.0999))
    assert "depends on the data" in chapter.of_benchmark(rows, difference(0.1, -0.1))


def test_what_more_examples_leave_to_the_loop_is_told_of_the_data_sets_that_have_both(table):
    more = chapter.with_shots(measured_table("metaprompting"), 5)
    names = {row["data set"] for row in more}
    assert names <= {row["data set"] for row in table}
    told = chapter.of_more_shots(table, more)
    *first, last = sorted(names)
    assert told.startswith(f"On {', '.join(first)} and {last}:") and "earns **less**" in told
    for what in ("frozen LM", "LoRA"):
        for rows in (table, more):
            row = chapter.averaged({n: chapter.ablation_rows(rows)[what][n] for n in names})
            assert row.in_words in told
    assert "earns **less**" not in chapter.of_more_shots(more, [r | {"shots": "9"} for r in more])


@pytest.mark.parametrize("calibrated_start", [0.3, 0.5])
@pytest.mark.parametrize("gains", [(0.2, 0.05, 0.05), (0.2, 0.2, 0.0), (0.1, 0.1, 0.1)])
def test_what_tuning_repairs_is_told_as_the_gains_differ(gains, calibrated_start):
    near = torch.tensor([-0.01, 0.01])  # two episodes
    starts = (0.3, calibrated_start, 0.5)
    found = {}
    for name, start, gain in zip("abc", starts, gains, strict=True):
        before, brought = difference(*(start + near).tolist()), difference(*(gain * (1 + near)).tolist())
        found[name] = before, difference(*(before.accuracies + brought.accuracies)[0].tolist()), brought
    told = chapter.of_verbalizers(found)
    plain, calibrated, both = gains
    assert ("repairs *calibration*" in told) == (calibrated_start > 0.3 and plain > calibrated)
    assert ("is seen" in told) == (calibrated > both)


def test_a_real_spread_does_not_see_what_all_runs_share():
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(4, 30, generator=draw, dtype=torch.float64) + torch.arange(4)[:, None]
    shared = 5 * torch.randn(30, generator=draw, dtype=torch.float64)
    assert_close(answers.real_spread(table + shared), answers.real_spread(table))
    assert answers.real_spread(table) < table.mean(1).std()


def test_the_two_gradients_of_the_quiz_are_those_of_autograd():
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    bowls = [lambda x: x**2 / 2, lambda x: 2 * (x - 3) ** 2]
    steps = [torch.autograd.grad(bowl(theta), theta, create_graph=True)[0] for bowl in bowls]
    phis = [theta - 0.2 * step for step in steps]
    loss = sum(bowl(phi) for bowl, phi in zip(bowls, phis, strict=True)) / 2
    first = (
        sum(torch.autograd.grad(b(p), p, retain_graph=True)[0] for b, p in zip(bowls, phis, strict=True)) / 2
    )
    second = torch.autograd.grad(loss, theta)[0]
    assert wrap_up_2.two_gradients(0.2, 1.5) == pytest.approx((second.item(), first.item()))


@pytest.mark.slow
def test_the_standard_library_makes_classes_that_episodes_can_be_drawn_from():
    ds = chapter.standard_library()
    assert ds.n_classes > 30 and int(ds.counts.min()) >= 20 and int(ds.counts.max()) <= 30
    assert all(len(ds.classes(split)) >= 5 for split in ("train", "val", "test"))
    assert len(set(ds.inputs)) > 0.95 * len(ds)


def test_the_sentence_on_spreads_follows_the_losses():
    spreads = [0, 0.5, 1, 1.2, 1.5]
    usual = chapter.of_spreads(spreads, [1, 1, 1, 1, 2], [1.5, 1, 1, 1, 1])
    turned = chapter.of_spreads(spreads, [1.5, 1, 1, 1, 1], [1, 1, 1, 1, 2])
    assert usual.index("**costs**") < usual.index("**pays**") and turned.index("**pays**") < turned.index(
        "**costs**"
    )
    assert "one prompt serves all" in turned and "one prompt serves all" not in usual
