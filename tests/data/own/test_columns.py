"""The two columns are found by name, guessed where only one guess is possible, and else asked for."""

from pathlib import Path

import pytest

from fewshot_lib.data.own.columns import choose, shown
from fewshot_lib.data.reporting import DataError

PATH = Path("x.csv")
SAMPLE = [[f"a longer text, number {i}", "red" if i % 2 else "blue"] for i in range(20)]


@pytest.mark.parametrize(
    ("names", "asked", "used"),
    [
        (["text", "label"], {}, (0, 1)),
        (["label", "id", "text"], {}, (2, 0)),
        (["LABEL", "Text"], {}, (1, 0)),
        (["text", "Text", "label"], {}, (0, 2)),  # to the letter comes first
        (["text", "headline", "label", "label_text"], {}, (0, 2)),
        (["headline", "category"], {}, (0, 1)),
        (["id", "topic", "headline"], {}, (2, 1)),
        (["Class Name", "Review"], {}, (1, 0)),
        (["foo", "label"], {}, (0, 1)),  # the other one of two
        (["review", "bar"], {}, (0, 1)),
        (["foo", "bar"], {}, (0, 1)),  # by content
        (["a", "b", "c"], {"text": "c", "label": "a"}, (2, 0)),
        (["Title", "Topic"], {"text": "title", "label": " topic "}, (0, 1)),
        (["title", "text", "label"], {"text": "title"}, (0, 2)),
        (["text", "label", "label"], {"text": "text", "label": "text"}, None),
    ],
)
def test_columns_are_found(names, asked, used):
    sample = [row * 2 for row in SAMPLE] if len(names) > 2 else SAMPLE
    arguments = {"text": None, "label": None} | asked
    if used is None:
        with pytest.raises(DataError, match="both the column 'text'"):
            choose(PATH, names, sample, **arguments)
        return
    columns = choose(PATH, names, sample, **arguments)
    assert (columns.text, columns.label) == used
    guessed = [
        n for role, n in zip(("text", "label"), columns.used, strict=True) if role not in asked and n != role
    ]
    assert len(columns.notes) == len(guessed) and all(name in " ".join(columns.notes) for name in guessed)


@pytest.mark.parametrize(
    ("names", "asked", "words"),
    [
        (
            ["title", "headline", "label"],
            {},
            "the text may be 'title' or 'headline'.*text=… and label=….*--text",
        ),
        (["text", "topic", "category"], {}, "the label may be 'topic' or 'category'"),
        (
            ["id", "foo", "bar"],
            {},
            "the columns 'id', 'foo', 'bar', and which of them holds the texts is not",
        ),
        (["text", "label"], {"text": "txet"}, "'txet' is asked for; did you mean 'text'"),
        (["text", "label", "text"], {}, "several columns 'text' .no. 1, no. 3"),
        (["text", "label", "x", "x"], {"text": "x"}, "several columns 'x' .no. 3, no. 4"),
        (["Text", "TEXT", "label"], {}, "several columns"),
        ([], {}, "the columns .none."),
    ],
)
def test_where_nobody_can_know_the_columns_are_asked_for(names, asked, words):
    sample = SAMPLE if len(names) == 2 else []
    with pytest.raises(DataError, match=words):
        choose(PATH, names, sample, **({"text": None, "label": None} | asked))


def test_two_columns_of_which_none_stands_out_are_not_guessed():
    for sample in ([], [["a", "b"]], [["same", "same"]] * 20, [[f"x{i}", f"y{i}"] for i in range(20)]):
        with pytest.raises(DataError, match="is not clear"):
            choose(PATH, ["foo", "bar"], sample, None, None)


def test_long_names_and_many_of_them_are_cut_in_messages():
    assert shown("x" * 10**7) == f"'{'x' * 60}…' (10,000,000 characters)"
    with pytest.raises(DataError) as error:
        choose(PATH, [f"{'x' * 1000}{i}" for i in range(9000)], [], None, None)
    assert len(str(error.value)) < 2000 and "9,000 in all" in str(error.value)
