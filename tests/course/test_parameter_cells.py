import pytest

from fewshot_lib.course import parameters


def test_literals_are_read(notebook, code):
    cell = code("a = 1  # one\nb = None\nc = [1, 'x']\nd = -2.5", "parameters")
    assert parameters.declared(notebook(code("x = 1"), cell)) == {"a": 1, "b": None, "c": [1, "x"], "d": -2.5}


@pytest.mark.parametrize("source", ["import os", "a = b = 1", "a = 1 + n", "a: int = 1", "a = (", "a.b = 1", "print(1)"])
def test_anything_but_literals_is_refused(notebook, code, source):
    with pytest.raises(ValueError, match="nothing but `name = literal`"):
        parameters.declared(notebook(code(source, "parameters")))


@pytest.mark.parametrize("n", [0, 2])
def test_exactly_one_cell_is_needed(notebook, code, n):
    with pytest.raises(ValueError, match=f"{n} cells are tagged"):
        parameters.declared(notebook(*[code("a = 1", "parameters") for _ in range(n)]))


def test_assignments_have_the_types_of_yaml():
    given = ["n_way=20", "lr=1.5", "dataset=omniglot", "off=false", "none=null", "sizes=[1, 2]", "empty=", "text='a=b'"]
    expected = {"n_way": 20, "lr": 1.5, "dataset": "omniglot", "off": False, "none": None, "sizes": [1, 2], "empty": None, "text": "a=b"}
    assert parameters.parse_assignments(given) == expected


@pytest.mark.parametrize("given", [["n_way"], ["=3"], ["n way=3"], ["a=1", "a=2"], ["a=[1"], ["a=2020-01-01"], ["a=.nan"]])
def test_assignments_that_cannot_be_read_are_refused(given):
    with pytest.raises(ValueError, match="`-p"):
        parameters.parse_assignments(given)


def test_a_misspelt_parameter_is_refused_with_a_suggestion(course_notebook):
    with pytest.raises(ValueError, match=r"01_tiny has no parameter 'n_ways': did you mean 'n_way'\?"):
        parameters.check_all({"01_tiny": course_notebook()}, {"n_ways": 5})
    with pytest.raises(ValueError, match="it declares profile, seed"):
        parameters.check_all({"01_tiny": course_notebook()}, {"zzz": 5})


def test_one_notebook_without_the_parameter_or_the_cell_is_enough(course_notebook, notebook, code):
    with pytest.raises(ValueError, match="02_other has no parameter 'n_way'"):
        parameters.check_all({"01_tiny": course_notebook(), "02_other": notebook(code("a = 1", "parameters"))}, {"n_way": 5})
    with pytest.raises(ValueError, match="02_other: 0 cells"):
        parameters.check_all({"01_tiny": course_notebook(), "02_other": notebook(code("a = 1"))}, {})


def test_an_impossible_value_is_refused_before_a_notebook_starts(course_notebook):
    with pytest.raises(ValueError, match="`n_way` is 1"):
        parameters.check_all({"01_tiny": course_notebook()}, {"n_way": 1})


def test_injected_values_replace_the_declared_ones_and_earlier_injections(course_notebook):
    once = parameters.inject(course_notebook(), {"n_way": 7, "dataset": "o'x"})
    twice = parameters.inject(once, {"n_way": 8})
    names = {}
    for cell in twice.cells:
        if cell.cell_type == "code" and {"parameters", "injected-parameters"} & set(parameters.tags(cell)):
            exec(cell.source, names)
    assert names["n_way"] == 8 and names["dataset"] is None and names["n_query"] == 15
    assert len(twice.cells) == len(once.cells) == len(course_notebook().cells) + 1


def test_without_values_the_notebook_stays_as_it_is(course_notebook):
    notebook = course_notebook()
    assert parameters.inject(parameters.inject(notebook, {"seed": 3}), {}) == notebook


def test_injection_is_what_papermill_would_do(course_notebook, written):
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    values = {"n_way": 7, "dataset": "omniglot", "n_episodes": None}
    ours = parameters.inject(course_notebook(), values)
    theirs = parameterize_notebook(load_notebook_node(str(written(course_notebook()))), values)
    assert [parameters.tags(cell) for cell in ours.cells] == [parameters.tags(cell) for cell in theirs.cells]
