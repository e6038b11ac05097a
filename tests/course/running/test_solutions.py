import pytest

from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import fill_solutions


def test_every_stub_is_replaced_and_nothing_else(course_notebook):
    before = course_notebook()
    for old, new in zip(before.cells, fill_solutions(before).cells, strict=True):
        if "exercise" in tags(old):
            assert "return ..." in old.source and "return x +" in new.source and "course.check" in new.source
        else:
            assert old == new


@pytest.mark.parametrize(
    ("following", "message"),
    [
        (["<details>\n\nNo code.\n\n</details>", "solution"], "cell 1: the solution holds 0 blocks"),
        (["```python\na\n```\n\n```python\nb\n```", "solution"], "cell 1: the solution holds 2 blocks"),
        (["Something else."], "cell 1: the exercise is not followed"),
        ([], "cell 1: the exercise is not followed"),
    ],
)
def test_a_missing_solution_is_an_error_that_names_the_cell(notebook, code, text, following, message):
    with pytest.raises(ValueError, match=message):
        fill_solutions(notebook(code("...", "exercise"), *([text(*following)] if following else [])))
