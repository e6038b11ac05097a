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


def test_assignments_have_the_types_of_yaml():
    given = ["n_way=20", "lr=1.5", "dataset=omniglot", "off=false", "none=null", "sizes=[1, 2]", "empty="]
    expected = {"n_way": 20, "lr": 1.5, "dataset": "omniglot", "off": False, "none": None}
    expected |= {"sizes": [1, 2], "empty": None, "text": "a=b"}
    assert parameters.parse_assignments([*given, "text='a=b'"]) == expected


@pytest.mark.parametrize(
    "given", [["n_way"], ["=3"], ["n way=3"], ["a=1", "a=2"], ["a=[1"], ["a=2020-01-01"], ["a=.nan"]]
)
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
