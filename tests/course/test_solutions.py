import pytest

from fewshot_lib.course.parameters import tags
from fewshot_lib.course.solutions import fill_solutions, strip_solutions


def test_every_stub_is_replaced_and_nothing_else(course_notebook):
    before = course_notebook()
    after = fill_solutions(before)
    for old, new in zip(before.cells, after.cells, strict=True):
        if "exercise" in tags(old):
            assert "return ..." in old.source and "return ..." not in new.source and "course.check" in new.source
        else:
            assert old == new


def test_a_student_version_holds_no_solution(course_notebook):
    before = course_notebook()
    after = strip_solutions(before)
    assert len(after.cells) == len(before.cells) - 3
    assert not any("return x +" in cell.source or "solution" in tags(cell) for cell in after.cells)
    assert sum("exercise" in tags(cell) for cell in after.cells) == 3


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        ("<details>\n\nNo code.\n\n</details>", "holds 0 blocks"),
        ("```python\na\n```\n\n```python\nb\n```", "holds 2 blocks"),
        (None, "cell 1: the exercise is not followed"),
    ],
)
def test_a_missing_solution_is_an_error_that_names_the_cell(notebook, code, text, solution, message):
    cells = [code("...", "exercise")] + ([text(solution, "solution")] if solution else [text("Something else.")])
    with pytest.raises(ValueError, match=message):
        fill_solutions(notebook(*cells))


def test_an_exercise_at_the_very_end_has_no_solution(notebook, code):
    with pytest.raises(ValueError, match="not followed"):
        fill_solutions(notebook(code("...", "exercise")))
