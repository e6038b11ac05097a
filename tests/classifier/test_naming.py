import numpy as np
import pytest

from fewshot_lib.classifier.naming import class_names, is_word, sentences, spoken


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("card_payment", "card payment"),
        ("cardPayment", "card payment"),
        ("comp.sys.mac", "comp sys mac"),
        ("STYLE & BEAUTY", "STYLE & BEAUTY"),
    ],
)
def test_labels_as_one_would_say_them(label, said):
    assert spoken(label).lower() == said.lower()


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("refund", True),
        ("größe", True),
        ("ответ", True),
        ("C17", False),
        ("12", False),
        (3, False),
        ("A", False),
        ("C++", False),
    ],
)
def test_codes_are_no_words(label, word):
    assert is_word(label) == word


def test_one_code_among_the_labels_and_no_label_is_a_name():
    assert class_names("auto", np.array(["refund", "c_2"])) is None
    assert class_names("auto", np.array(["refund", "lost_card"])) == ["refund", "lost card"]
    assert class_names(None, np.array(["refund", "lost"])) is None


def test_a_name_may_hold_braces():
    assert sentences(["a {} b"], "about {}.") == ["about a {} b."]
