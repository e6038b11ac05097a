"""Names of classes as words for a prompt, and what such a prompt may be."""

import pytest
import torch

from fewshot_lib.encoders import load_masked_lm
from fewshot_lib.prompts import PromptModel, Template, class_words


def test_f10_a_name_without_a_known_word_and_names_that_cannot_be_told_apart():
    lm = load_masked_lm()
    with pytest.raises(
        ValueError, match=r"'A', which holds no word .*`words=\{'A': \[...\]\}`, or give the class"
    ):
        class_words(lm, ["A", "B"])
    with pytest.warns(UserWarning, match=r"same logits \('C', 'C\+\+', 'C#'; 'x y', 'y x'\)") as said:
        class_words(lm, ["C", "C++", "D", "x y", "C#", "y x"])
    assert len(said) == 1
    with pytest.raises(ValueError, match="`class_names` is the one text 'abc': give a list"):
        class_words(lm, "abc")
    with pytest.raises(ValueError, match=r"`words\['A'\]` is the one text 'font': give a list"):
        class_words(lm, ["A"], {"A": "font"})


def test_f10_a_missing_word_is_no_word_called_none():
    lm = load_masked_lm()
    for given, message in (
        (["x", None], "has None in row 1"),
        (None, "is of type NoneType"),
        ([], r"is \[\]"),
    ):
        with pytest.raises(ValueError, match=rf"`words\['sport'\]` {message}"):
            class_words(lm, ["sport"], {"sport": given})
    with pytest.raises(ValueError, match="`max_tokens` is 600: choose 3 to 512"):
        Template("{text} [MASK]").tokenise(lm, ["a"], 600)
    for prompt in (torch.ones(2, 7), torch.ones(2, 384) / 0, "noise"):
        with pytest.raises(ValueError, match="`prompt` "):
            PromptModel(lm, prompt)
