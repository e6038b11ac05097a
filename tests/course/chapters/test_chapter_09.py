"""What chapter 09 compares on, which labels it hides, and which sentences its results leave standing."""

import pytest
import torch

from fewshot_lib.core import EpisodeResults
from fewshot_lib.course.chapters import chapter_09
from fewshot_lib.data import ClassDataset

REFERENCE = "names as examples (09)"
OTHERS = ["nearest mean (02)", "names, zero-shot (02)", "names + means (02)", "logistic regression (01)"]
NAMES = [*OTHERS, "prompt, not tuned (05)", "ProtoMAML (04)", REFERENCE]


def own(*counts, names=None, pictures=False):
    """A data set with so many examples in its classes, three quarters of which are for training."""
    n = sum(counts)
    inputs = torch.rand(n, 1, 28, 28) if pictures else [f"text {i}" for i in range(n)]
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    third = len(counts) // 3
    splits = dict(zip(("train", "val", "test"), torch.arange(3 * third).split(third), strict=True))
    return ClassDataset(
        inputs, labels, names or [f"word {'abcdefghi'[c]}" for c in range(len(counts))], splits
    )


def result(name, accuracy, number=0):
    """Accuracies of 20 episodes around this one; ``number``: how they scatter."""
    scatter = 0.02 * torch.randn(20, generator=torch.Generator().manual_seed(number))
    return EpisodeResults((accuracy + scatter)[None], name, False, 5, 1, 15, "the same episodes")


def table(few, many):
    """Two settings in which the methods reach these accuracies."""
    return {
        setting: {
            name: result(name, accuracy, i) for i, (name, accuracy) in enumerate(zip(NAMES, row, strict=True))
        }
        for setting, row in {(5, 1): few, (5, 20): many}.items()
    }


def test_own_texts_are_compared_on_where_they_give_episodes_and_have_names():
    large = own(*[20] * 9)
    assert chapter_09.to_compare(large, 3, 1, 15) == (large, "")
    for data, why in (
        (own(*[20] * 9, pictures=True), "pictures go without"),
        (own(*[20] * 9, names=[f"A{i}" for i in range(9)]), "its labels are codes"),
        (own(*[9] * 9), "too few examples"),
    ):
        found, said = chapter_09.to_compare(data, 3, 1, 15)
        assert found.name == "docstrings" and why in said and not said.endswith(".")


def test_nothing_is_learnt_from_and_judged_by_and_a_quarter_of_the_classes_is_hidden_whole():
    data = own(40, 3, 9, 2, 12, 12, 12, 12, 12)
    rows = chapter_09.hide_labels(data, 3, 1, 12, seed=0)
    assert (
        rows
        == chapter_09.hide_labels(data, 3, 1, 12, seed=0)
        != chapter_09.hide_labels(data, 3, 1, 12, seed=1)
    )
    used = [row for part in rows.values() for row in part]
    assert len(set(used)) == len(used)
    labelled, rest, foreign = (data.labels[rows[part]].bincount(minlength=9) for part in rows)
    assert (foreign > 0).sum() == 2  # of eight: one class is too small
    for c in range(9):
        n = int(labelled[c] + rest[c])
        assert n == (0 if foreign[c] or c == 3 else min(31, data.counts[c]))
        if n:
            assert labelled[c] == max(2, min(8, n // 2)) and rest[c] > 0


def test_a_reason_is_given_only_where_the_results_show_what_it_explains():
    usual = table(few=(0.6, 0.6, 0.65, 0.6, 0.4, 0.6, 0.7), many=(0.8, 0.6, 0.8, 0.9, 0.6, 0.8, 0.9))
    words = chapter_09.reasons(usual, (5, 1), (5, 20), REFERENCE)
    assert words.count("\n") == 6 and "not told apart" in words
    turned = table(few=(0.7, 0.7, 0.7, 0.8, 0.7, 0.7, 0.7), many=(0.9, 0.9, 0.9, 0.95, 0.9, 0.9, 0.9))
    assert chapter_09.reasons(turned, (5, 1), (5, 20), REFERENCE) == ""


def test_the_rule_names_the_best_and_counts_who_is_level():
    results = table(few=(0.6, 0.6, 0.65, 0.6, 0.4, 0.6, 0.7), many=(0.8, 0.6, 0.8, 0.9, 0.6, 0.8, 0.88))
    unbeaten = {(5, 1): [REFERENCE], (5, 20): [OTHERS[3], REFERENCE]}
    head, _, first, last = chapter_09.rule_table(results, unbeaten).splitlines()
    assert head == "| examples per class | 5 ways |"
    assert first.startswith(f"| 1 | {REFERENCE}, 70 ± 1 %") and "level" not in first
    assert last.startswith(f"| 20 | {OTHERS[3]}, 9") and last.endswith("(+ 1 level) |")


def test_a_share_comes_with_its_interval():
    assert chapter_09.share(5, 24) == "5 of 24 (21%, 95 % interval 9% to 40%)"
    assert chapter_09.share(0, 0) == "none"
    assert (
        chapter_09.words_of((20, 1)) == "20 ways, 1 shot" and chapter_09.words_of((2, 5)) == "2 ways, 5 shots"
    )


@pytest.mark.parametrize("foreign", [([1, 5], 10), ([0, 0], 0)])
def test_what_is_refused_is_drawn_for_the_classes_that_there_are(foreign, shown):
    chapter_09.show_refused({"yours": ([0, 2], 20), "foreign": foreign}, (0.05, 0.4), "texts")
    (ax,) = shown[0][0].axes
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["as asked for", "yours", *(["foreign"] if foreign[1] else [])]


def test_what_many_draws_say_names_a_row_and_why_a_few_texts_cannot_say_it():
    said = chapter_09.measured_weights(4, 36)
    assert "4 examples" in said and "One of them is 2.8 points" in said
    rows = {line.split(" | ")[0].strip("| "): line for line in said.splitlines() if line.startswith("|")}
    best = said.split("**Look at ")[1].split(",")[0]
    row = next(line for name, line in rows.items() if name.startswith(best))
    assert said.split("all names wrong: ")[1].split(" points")[0] in row  # the number of the sentence
    assert len(rows) == 7 and "1 example" in chapter_09.measured_words(36)
    assert "only 16 are left" in chapter_09.measured_suggestions(20, 36)


def test_a_gap_that_few_texts_allow_is_called_chance():
    few = chapter_09.refused_in_words(13, 36, 0.2, 36, 4, "texts")
    many = chapter_09.refused_in_words(1300, 3600, 0.2, 3600, 4, "texts")
    assert "above the line" in few and "may be chance" in few
    assert "above the line" in many and "not like the labelled ones" in many
    assert "below the line" in chapter_09.refused_in_words(0, 36, 0.2, 36, 4, "texts")


def test_all_methods_are_folded_with_the_fewest_and_the_most_examples():
    results = table(few=(0.6, 0.6, 0.65, 0.6, 0.4, 0.6, 0.7), many=(0.8, 0.6, 0.8, 0.9, 0.6, 0.8, 0.88))
    folded = chapter_09.folded_differences(results, REFERENCE)
    assert folded.startswith("<details>") and folded.count("\n| ") == 2 + len(NAMES) - 1
