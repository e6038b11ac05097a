import re

import pytest

from fewshot_lib.course.running import parameters


def test_literals_are_read(notebook, code):
    cell = code("a = 1  # one\nb = None\nc = [1, 'x']\nd = -2.5", "parameters")
    assert parameters.declared(notebook(code("x = 1"), cell)) == {"a": 1, "b": None, "c": [1, "x"], "d": -2.5}


@pytest.mark.parametrize(
    "source", ["import os", "a = b = 1", "a = 1 + n", "a: int = 1", "a = (", "a.b = 1", "print(1)"]
)
def test_anything_but_literals_is_refused(notebook, code, source):
    with pytest.raises(ValueError, match="nothing but `name = literal`"):
        parameters.declared(notebook(code(source, "parameters")))


@pytest.mark.parametrize("n", [0, 2])
def test_exactly_one_cell_is_needed(notebook, code, n):
    with pytest.raises(ValueError, match=f"{n} cells are tagged"):
        parameters.declared(notebook(*[code("a = 1", "parameters") for _ in range(n)]))


VALUES = {
    "20": 20,
    "-3": -3,
    "1_000": 1000,
    "1.5": 1.5,
    "1e3": 1000.0,
    ".5": 0.5,
    "true": True,
    "False": False,
    "None": None,
    "null": None,
    "[1, 2]": [1, 2],
    "['a', None]": ["a", None],
    '{"a": true}': {"a": True},
    "omniglot": "omniglot",
    "'a=b'": "a=b",
    '"7"': "7",
    # what other readers take for something else
    "010": "010",
    "0x10": "0x10",
    "1,000": "1,000",
    "nan": "nan",
    "inf": "inf",
    "yes": "yes",
    "~": "~",
    "2020-01-01": "2020-01-01",
    "12:30": "12:30",
    "٣": "٣",
    "my #1 texts.csv": "my #1 texts.csv",
    "a: b.csv": "a: b.csv",
    "[draft] my.csv": "[draft] my.csv",
    "C:\\new\\table.csv": "C:\\new\\table.csv",
    '"C:\\new"': "C:\\new",
    "größe.csv": "größe.csv",
    "it's": "it's",
    "&a": "&a",
    "*": "*",
    "!!python": "!!python",
    "@x": "@x",
    "a\tb": "a\tb",
    "-": "-",
}


@pytest.mark.parametrize("typed", VALUES)
def test_a_value_is_what_a_person_typed(typed):
    (value,) = parameters.parse_assignments([f"mine={typed}"]).values()
    assert value == VALUES[typed] and type(value) is type(VALUES[typed])


@pytest.mark.parametrize("typed", ["2024", "010", "1e3", "2.5"])
def test_a_data_set_may_be_named_by_a_number(typed):
    assert parameters.parse_assignments([f"dataset={typed}"]) == {"dataset": typed}
    assert parameters.parse_assignments(["dataset=None", "profile=None"]) == {
        "dataset": None,
        "profile": None,
    }


UNREADABLE = [
    "n_way",
    "=3",
    "n way=3",
    "a=",
    "a=  ",
    "a=[1, b]",
    "a={x: 1}",
    "a=[NaN]",
    "a={1, 2}",
    "a=[1e999]",
]
UNREADABLE += ["a=1e999", "a=" + "9" * 5000, "a=" + "[" * 5000 + "]" * 5000]


@pytest.mark.parametrize("given", [["a=1", "a=2"], *([one] for one in UNREADABLE)], ids=range(14))
def test_assignments_that_cannot_be_read_are_refused(given):
    with pytest.raises(ValueError, match="`-p"):
        parameters.parse_assignments(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_ways": 5}, "01_tiny has no parameter 'n_ways': did you mean 'n_way'?"),
        ({"zzz": 5}, "it declares profile, seed"),
        ({"n_way": 1}, "`n_way` is 1"),
    ],
)
def test_misspelt_parameters_and_impossible_values_are_refused(course_notebook, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parameters.check_all({"01_tiny": course_notebook()}, values)


def test_a_cell_of_text_is_no_parameters_cell_whatever_its_tag(notebook, code, text):
    with pytest.raises(ValueError, match="0 cells are tagged"):
        parameters.declared(notebook(text("n_way = 5", "parameters")))
    both = notebook(text("# Parameters", "parameters"), code("n_way = 5", "parameters"))
    cells = parameters.inject(both, {"n_way": 3}).cells
    assert [cell.source for cell in cells][1:] == ["n_way = 5", "n_way = 3"]


def test_one_notebook_without_the_parameter_or_the_cell_is_enough(course_notebook, notebook, code):
    good, other = course_notebook(), notebook(code("a = 1", "parameters"))
    with pytest.raises(ValueError, match="02_other has no parameter 'n_way'"):
        parameters.check_all({"01_tiny": good, "02_other": other}, {"n_way": 5})
    with pytest.raises(ValueError, match="02_other: 0 cells"):
        parameters.check_all({"01_tiny": good, "02_other": notebook(code("a = 1"))}, {})


def test_injected_values_replace_the_declared_ones_and_earlier_injections(course_notebook):
    once = parameters.inject(course_notebook(), {"n_way": 7, "dataset": "o'x"})
    twice = parameters.inject(once, {"n_way": 8})
    names = {}
    for cell in twice.cells:
        if cell.cell_type == "code" and {"parameters", "injected-parameters"} & set(parameters.tags(cell)):
            exec(cell.source, names)
    assert names["n_way"] == 8 and names["dataset"] is None and names["n_query"] == 15
    assert len(twice.cells) == len(once.cells) == len(course_notebook().cells) + 1
    assert parameters.inject(once, {}) == course_notebook()  # without values it is as it was


def test_injection_is_what_papermill_would_do(course_notebook, written):
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    values = {"n_way": 7, "dataset": "omniglot", "n_episodes": None}
    ours = parameters.inject(course_notebook(), values)
    theirs = parameterize_notebook(load_notebook_node(str(written(course_notebook()))), values)
    assert [parameters.tags(cell) for cell in ours.cells] == [parameters.tags(cell) for cell in theirs.cells]
