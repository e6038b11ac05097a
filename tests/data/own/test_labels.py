"""Names that look the same are one name; names that may be meant apart are only reported."""

import unicodedata

import pytest

from fewshot_lib.data.own.labels import look_alikes, tidy


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("  two \t words\u00a0 ", "two words"),
        (unicodedata.normalize("NFD", "café"), "café"),
        ("\ufeffcafé\u200b", "café"),
        ("ca\u200brd\u00ad", "card"),
        ("cafe\u200b\u0301", "café"),  # the accent reaches its letter when the mark is gone
        ("\u202eabc\u202c", "abc"),
        ("C++", "C++"),
        ("Card", "Card"),
        ("\u200b", ""),
        ("car\u200dd\u200c", "card"),
        ("👨\u200d👩", "👨\u200d👩"),  # a family, not a man and a woman
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian spelling needs it
    ],
)
def test_what_cannot_be_seen_is_not_part_of_a_name(written, name):
    assert tidy(written) == name
    assert tidy(name) == name, "tidy names stay"


def test_look_alikes_are_found_and_different_names_are_not():
    names = [
        "Card",
        "card",
        "ＣＡＲＤ",
        "cards",
        "ﬁsh",
        "fish",
        "Straße",
        "STRASSE",
        "C",
        "C++",
        "❤",
        "❤\ufe0f",
    ]
    assert look_alikes(names) == [
        ["Card", "card", "ＣＡＲＤ"],
        ["STRASSE", "Straße"],
        ["fish", "ﬁsh"],
        ["❤", "❤\ufe0f"],
    ]
    assert look_alikes(["a", "b", "a"]) == []
