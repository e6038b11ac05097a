"""Tables of benchmark pages: read where the course is, or beside the notebook."""

import pytest

from fewshot_lib.course import measured as module
from fewshot_lib.course.measured import measured_table, measured_tables
from fewshot_lib.data.reporting import DataError

PAGE = """# A page

words

| method | a |
| --- | --- |
| one | 1 |
| two | 2 |

| method | a |
|---|---|
| one | 3 |
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of a course whose library is installed somewhere else; we are among its notebooks."""
    monkeypatch.setattr(module, "PACKAGE_ROOT", tmp_path / "site-packages")
    (tmp_path / "notebooks" / "extra").mkdir(parents=True)
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


@pytest.mark.parametrize("place", [".", "extra"])
def test_the_first_table_is_read_also_beside_the_notebook(elsewhere, monkeypatch, place):
    (elsewhere / "benchmarks" / "mine.md").write_text(PAGE, encoding="utf-8")
    monkeypatch.chdir(elsewhere / "notebooks" / place)
    assert measured_table("mine") == [{"method": "one", "a": "1"}, {"method": "two", "a": "2"}]


def test_a_page_that_is_nowhere_is_an_error_that_says_where_to_put_it(elsewhere):
    with pytest.raises(DataError, match=r"no benchmarks/mine\.md around .*notebooks: .*put the page there"):
        measured_table("mine")


def test_the_tables_of_a_section_are_those_below_its_heading(elsewhere):
    page = (
        PAGE
        + "\n## Words\n\n"
        + "".join(
            f"### {name}: 7 classes\n\n| a |\n|---|\n| {a} |\n\n" for name, a in (("one", 4), ("two", 5))
        )
    )
    page += "## Other\n\n### three\n\n| a |\n|---|\n| 6 |\n"
    (elsewhere / "benchmarks" / "mine.md").write_text(page, encoding="utf-8")
    assert measured_tables("mine", "Words") == {
        "one: 7 classes": [{"a": "4"}],
        "two: 7 classes": [{"a": "5"}],
    }
    with pytest.raises(DataError, match="no tables in a section 'Nothing'"):
        measured_tables("mine", "Nothing")
