import json

import nbformat
import pytest

from fewshot_lib.course import cli
from fewshot_lib.course.sweeps.students import judge, read_roster, read_works, seed_of


def test_a_seed_is_of_one_student_and_one_term():
    assert seed_of("Ada ") == seed_of("ada") == seed_of("ADA") < 2**32
    seeds = {seed_of(f"student {i}", salt) for i in range(500) for salt in ("", "spring")}
    assert len(seeds) == 1000
    with pytest.raises(ValueError, match="`--student` is ' ': give an id"):
        seed_of(" ")


def test_a_roster_is_read_and_a_name_twice_is_refused(tmp_path):
    file = tmp_path / "roster.txt"
    file.write_text("ada\n\n bob \n", encoding="utf-8-sig")
    assert read_roster(file, "x") == {seed_of("ada", "x"): "ada", seed_of("bob", "x"): "bob"}
    file.write_text("ada\nAda\n")
    with pytest.raises(ValueError, match="has 'Ada' and 'ada', one seed"):
        read_roster(file, "")
    file.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        read_roster(file, "")
    with pytest.raises(ValueError, match="cannot be read"):
        read_roster(tmp_path / "none", "")


def row(method, mean):
    return dict.fromkeys("kind dataset split_family n_way n_shot n_query note".split(), 1) | {
        "method": method,
        "mean": mean,
    }


def test_numbers_are_compared_one_by_one():
    right = {"failure": "", "rows": [row("A", 0.5), row("B", 0.6)]}
    assert judge([row("A", 0.501), row("B", 0.6)], right) == "the same, 2 numbers"
    assert judge([row("A", 0.55), row("B", 0.6)], right) == "1 of 2 numbers differ, most: A, by +5.0 points"
    assert judge(right["rows"][:1], right) == "1 numbers are missing"
    assert judge([*right["rows"], row("C", 0.9)], right) == "1 numbers are not the notebook's"
    assert judge(right["rows"], {"failure": "cell 3"}) == "could not be computed again: cell 3"
    assert judge(right["rows"], None) == "could not be computed again: its worker was lost"


@pytest.fixture
def handed_in(planned, inline, no_kernel, tmp_path, tiny):
    """What two students handed in, as ``fewshot run --student`` leaves it."""
    from fewshot_lib.course import sweeps

    for student in ("ada", "bob"):
        (point,) = planned(student, seed=[seed_of(student)])
        sweeps.run([point], inline, say=lambda line: None)
        folder = tmp_path / "handed_in" / student
        folder.mkdir(parents=True)
        notebook = nbformat.read(tmp_path / student / "points" / point.key / "01_tiny.ipynb", as_version=4)
        nbformat.write(notebook, folder / "01_tiny.ipynb")
    no_kernel.clear()
    (tmp_path / "roster.txt").write_text("ada\nbob\ncleo\n")
    return tmp_path / "handed_in"


def test_the_class_is_computed_again_and_joined(handed_in, tmp_path, monkeypatch, no_kernel, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["class", "handed_in", "--roster", "roster.txt"]
    assert cli.main(command) == 0 and len(no_kernel) == 2
    said = capsys.readouterr().out
    assert "| ada | 01_tiny | the same, 1 numbers |" in said and "Nothing from 1: cleo" in said
    assert "2 seeds" in said  # the class, over its students
    assert cli.main(command) == 0 and len(no_kernel) == 2  # nothing is computed twice


def test_numbers_that_were_made_up_are_found(handed_in, tmp_path, monkeypatch, no_kernel, capsys):
    monkeypatch.chdir(tmp_path)
    path = handed_in / "bob" / "01_tiny.ipynb"
    content = json.loads(path.read_text())
    (data,) = [out["data"] for cell in content["cells"] for out in cell.get("outputs", [])]
    data["application/vnd.fewshot.result+json"]["mean"] = 0.99
    path.write_text(json.dumps(content))
    assert cli.main(["class", "handed_in", "--roster", "roster.txt"]) == 1
    assert "| bob | 01_tiny | 1 of 1 numbers differ, most: Half, by +" in capsys.readouterr().out


def test_what_is_of_nobody_or_was_changed_is_named(handed_in, tmp_path):
    path = handed_in / "bob" / "01_tiny.ipynb"
    roster = {seed_of(name): name for name in ("ada", "bob")}
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# My own"
    nbformat.write(notebook, path)
    (handed_in / "notes.ipynb").write_text("no notebook")
    works, problems = read_works(handed_in, roster)
    assert [work["student"] for work in works] == ["ada"]
    assert "(bob): its cells were changed after it ran" in problems[0] and "is not a notebook" in problems[1]
    assert "its seed is" in read_works(handed_in, {1: "eve"})[1][0]
