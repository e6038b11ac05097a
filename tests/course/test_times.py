import pytest

from fewshot_lib.course import times


def test_small_differences_are_not_written(tmp_path):
    times.keep_times(tmp_path, "laptop", {"a": 100.4, "b": 2.0})
    before = (tmp_path / times.FILE).read_bytes()
    times.keep_times(tmp_path, "laptop", {"a": 80.0, "b": 2.9})
    assert (tmp_path / times.FILE).read_bytes() == before
    times.keep_times(tmp_path, "laptop", {"a": 70.0})
    assert times.load_times(tmp_path) == {"laptop": {"a": 70, "b": 2}}


def test_profiles_and_notebooks_are_kept_apart(tmp_path):
    times.keep_times(tmp_path, "laptop", {"a": 100})
    times.keep_times(tmp_path, "smoke", {"a": 10})
    times.keep_times(tmp_path, "smoke", {"b": 0.1})
    assert times.load_times(tmp_path) == {"laptop": {"a": 100}, "smoke": {"a": 10, "b": 1}}


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / times.FILE).write_text("{")
    with pytest.raises(ValueError, match="delete it"):
        times.load_times(tmp_path)


def test_a_machine_twice_as_slow_takes_twice_as_long():
    assert times.estimate_left(["b", "c"], {"a": 20}, {"a": 10, "b": 30, "c": 5}) == 70
    assert times.estimate_left(["a", "b"], {}, {"a": 10, "b": 30}) == 40


def test_a_notebook_without_a_time_takes_the_average():
    assert times.estimate_left(["c"], {"a": 10, "b": 20}, {}) == 15
    assert times.estimate_left(["new"], {"a": 20}, {"a": 10, "b": 20}) == 30


def test_without_anything_known_there_is_no_estimate_and_at_the_end_nothing_left():
    assert times.estimate_left(["a"], {}, {}) is None
    assert times.estimate_left([], {"a": 3}, {"a": 1}) == 0


def test_times_in_words():
    assert times.in_words(8.2) == "8 s" and times.in_words(200) == "3 min"
