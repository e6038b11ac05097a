"""Chapter 05: its drawings can be read, texts lose one word and no more, and an interval knows two things."""

import itertools
import math

import pytest
import torch

from fewshot_lib.core.evaluation import half_width
from fewshot_lib.course.chapters import chapter_05


def two_classes():
    chapter_05.show_calibration(torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.3]), ["graphs", "sound"])


@pytest.mark.parametrize("draw", [chapter_05.show_gap, chapter_05.show_soft, two_classes])
def test_no_two_words_of_a_scheme_overlap(shown, draw):
    draw()
    ((fig, _),) = shown
    fig.canvas.draw()
    texts = [text for ax in fig.axes for text in [*ax.texts, ax.title] if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    pairs = itertools.combinations(zip(texts, boxes, strict=True), 2)
    assert len(boxes) > 6
    assert not [(a.get_text(), b.get_text()) for (a, box), (b, other) in pairs if box.overlaps(other)]


@pytest.mark.parametrize("draw", [chapter_05.show_gap, chapter_05.show_soft])
def test_every_word_of_a_scheme_stands_in_its_own_box(shown, draw):
    draw()
    ((fig, _),) = shown
    fig.canvas.draw()
    (ax,) = fig.axes
    boxes = [patch.get_window_extent() for patch in ax.patches]
    inside = [t.get_window_extent() for t in ax.texts if any(b.contains(*centre(t)) for b in boxes)]
    assert len(inside) == len(boxes)
    for word in inside:
        assert any(b.x0 <= word.x0 and word.x1 <= b.x1 for b in boxes)


def centre(text):
    box = text.get_window_extent()
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def test_the_two_parts_of_a_logit_add_up(shown):
    two_classes()
    ((fig, words),) = shown
    assert {"= 1.9", "= 2.3"} <= {text.get_text() for text in fig.axes[0].texts}
    assert {"= 0.9", "= 0.3"} <= {text.get_text() for text in fig.axes[1].texts}
    assert "2.0 + 0.3 = 2.3" in words["alt"]


def test_the_table_of_seeds_goes_from_hard_to_easy(shown):
    chapter_05.show_seeds(torch.tensor([[0.9, 0.1, 0.5], [0.7, 0.3, 0.5]]))
    ((fig, _),) = shown
    image = torch.tensor(fig.axes[2].images[0].get_array().tolist())
    assert torch.allclose(image, torch.tensor([[10.0, 50, 90], [30, 50, 70]]))


def test_a_line_for_every_rate(shown):
    curves = {0.1: {0: torch.tensor([0.2, 0.4]), 4: torch.tensor([0.5, 0.7])}}
    chapter_05.show_grid(curves, Two())
    ((fig, _),) = shown
    (line,) = fig.axes[0].lines
    assert line.get_xydata().round(3).tolist() == [[0, 30], [4, 60]] and line.get_label() == "rate 0.1"


class Two:
    """Two episodes of 15 queries."""

    query = torch.zeros(2, 15)

    def __len__(self):
        return 2


def test_a_text_loses_one_word_and_no_more():
    texts = [
        "Fit the model to data in place. And in more",  # the first of the words, in the first sentence
        "In the end to it",  # neither first nor last
        "A list of in",
        "Draw a line in [MASK] red",  # a gap of its own
        "Go up and in it",
        "Look here and in there",  # one too many
    ]
    found, labels = chapter_05.missing_words(texts, ["in", "to"], most=1)
    assert found == ["Go up and [MASK] it", "Fit the model [MASK] data in place"]
    assert labels.tolist() == [0, 1]
    found, _ = chapter_05.missing_words(["Look here in it", "Go up in ease to it"], ["in", "to"], most=1)
    assert found[-1] == "Go up in ease [MASK] it"  # there is one of "in" already
    found, _ = chapter_05.missing_words(["Cut here and in it"], ["in"], most=1, length=4)
    assert not found  # the last word that is kept


def test_a_text_with_its_own_gap_is_read_as_it_stands(tiny_lm):
    lm = tiny_lm()
    text = "the [MASK] of two"
    plain = lm.tokenizer(text)["input_ids"]
    assert chapter_05.with_gap(lm, [text])[0].tolist() == plain and plain.count(lm.mask_token_id) == 1
    soft, _ = chapter_05.with_gap(lm, [text, f"{text} {text}"], n_soft=2).tolist()
    assert soft[: len(plain) + 2] == [plain[0], -1, -2, *plain[1:]]
    assert set(soft[len(plain) + 2 :]) == {lm.tokenizer.pad_token_id}


def test_the_results_page_has_the_rows_that_the_chapter_shows():
    rows = chapter_05.page_rows(["soft prompt", "prototypes, cosine", "label names + prototypes"])
    assert all(0 < float(row["huffpost, 1-shot"].split()[0]) < 100 for row in rows)


def test_without_differences_of_seeds_the_interval_is_that_over_episodes():
    episodes = torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = chapter_05.half_width(episodes.expand(4, -1))
    assert math.isclose(found, half_width(episodes), rel_tol=1e-6)
    assert math.isclose(
        chapter_05.half_width(episodes.expand(4, -1).T), found, rel_tol=1e-6
    )  # either way round


def test_the_interval_holds_the_mean_about_as_often_as_it_says():
    draw = torch.Generator().manual_seed(0)

    def table():
        seeds, episodes = (torch.randn(n, generator=draw, dtype=torch.float64) for n in (5, 40))
        rest = torch.randn(5, 40, generator=draw, dtype=torch.float64)
        return 0.03 * seeds[:, None] + 0.1 * episodes + 0.1 * rest  # the truth is 0

    tables = [table() for _ in range(600)]
    held = sum(abs(float(a.mean())) <= chapter_05.half_width(a) for a in tables) / len(tables)
    over_seeds = sum(abs(float(a.mean())) <= half_width(a.mean(1)) for a in tables) / len(tables)
    assert held > 0.92 > over_seeds  # an interval over seeds alone knows nothing of other episodes
