"""Texts for an encoder: which are none, which are cut, and which encoders there are."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import TextEncoder, count_tokens, encode, extract_features, load_masked_lm, tokenise
from fewshot_lib.prompts import class_words


def test_f9_too_many_tokens_and_missing_encoders_are_one_sentence(tmp_path):
    for tokens in (513, 1000, 2):
        with pytest.raises(ValueError, match=f"`max_tokens` is {tokens}: choose 3 to 512"):
            TextEncoder(max_tokens=tokens)
    (tmp_path / "empty").mkdir()
    for source in ("./no such model", tmp_path / "nothing", tmp_path / "empty"):
        with pytest.raises(ValueError, match="`source` is .*, which cannot be loaded: give 'minilm'"):
            TextEncoder(source)


def test_f7_half_a_character_is_refused_with_its_row(minilm):
    texts = ["fine", "cut in the middle \ud83d"]
    for read in (minilm, lambda t: encode(minilm, t), lambda t: tokenise(minilm, t), count_tokens):
        with pytest.raises(ValueError, match=r"half a character .*ud83d' at 18, .* in row 1"):
            read(texts)


def test_a16_one_text_is_no_list_and_a_missing_one_is_named_by_row(minilm):
    for read in (minilm, lambda t: encode(minilm, t), lambda t: tokenise(minilm, t)):
        with pytest.raises(ValueError, match="is .*one text.*: give a list"):
            read("one text")
        for missing in (None, float("nan"), 3):
            with pytest.raises(ValueError, match=rf"`texts` has {missing} in row 1: give texts"):
                read(["a", missing])
    expected = encode(minilm, ["a", "b c"])
    for kind in (np.array, pd.Series, tuple, lambda t: np.array(t, object)):
        assert torch.equal(encode(minilm, kind(["a", "b c"])), expected)


@pytest.mark.parametrize("texts", [{"a": 1}, {"a", "b"}, pd.DataFrame({"t": ["a", "b"]}), None])
def test_a16_keys_and_column_names_are_no_texts(texts, minilm):
    for read in (minilm, lambda t: encode(minilm, t), lambda t: class_words(load_masked_lm(), t)):
        with pytest.raises(ValueError, match="give a list with at least one text"):
            read(texts)


def test_f8_texts_that_are_cut_are_counted_once_a_call_and_also_from_the_cache(minilm, own_cache):
    texts = ["short"] * 5 + ["word " * 300] * 2
    with pytest.warns(UserWarning, match="2 of 7 texts are longer than 256 tokens.*here up to 512") as said:
        encode(minilm, texts)
    assert len(said) == 1 and said[0].filename == __file__
    data = ClassDataset(texts, torch.zeros(7, dtype=torch.int64), ["a"], {})
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 of 7 texts are longer") as said:
            extract_features(minilm, data)
        assert len(said) == 1 and said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(minilm, ["word " * 254])
    assert count_tokens(["word " * 126, "word " * 127, ""]).tolist() == [128, 129, 2]
    assert minilm.count_tokens(["a b"]).tolist() == [4]
