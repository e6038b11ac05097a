import pytest

from fewshot_lib.course.authoring import recorder
from fewshot_lib.course.authoring.lint import lint

PRINTS = """import sys
for i in range(20):
    print("line", i, end="", flush=True)
    sys.stderr.write(f"\\r{i}/20 [00:00<00:01, 9.9it/s]")
    sys.stderr.flush()
print({"a", "b", "c", "d"}, lesson.profile)
course.say(f"{lesson.n_episodes} episodes")"""


@pytest.mark.slow
def test_recording_again_changes_no_byte(course_notebook, code, written, monkeypatch):
    monkeypatch.setenv("FEWSHOT_PROFILE", "smoke")  # the author's own settings must not end up in the file
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    path, lines = written(course_notebook(code(PRINTS))), []
    assert recorder.record([path], lines.append)
    first = path.read_bytes()
    assert (path.parent / "times.json").exists()
    assert recorder.record([path], lines.append)
    assert path.read_bytes() == first
    assert "recorded" in lines[0] and "unchanged" in lines[1] and lint(path) == []
    text = first.decode()
    assert "profile laptop" in text and "1000 episodes" in text and "it/s" not in text.split('"source"')[0]


def test_a_notebook_that_fails_is_left_as_it_was(quick_notebook, code, written):
    path, lines = written(quick_notebook(code("1 / 0"))), []
    before = path.read_bytes()
    assert not recorder.record([path], lines.append)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    assert "ZeroDivisionError" in lines[0]


def test_problems_are_reported_without_running(course_notebook, written):
    lines = []
    assert not recorder.report_problems([written(course_notebook())], lines.append)
    assert any("01_tiny, cell 2: its execution count is None" in line for line in lines)
