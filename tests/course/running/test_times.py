import pytest

from fewshot_lib.course.running import times


def test_small_differences_are_not_written_and_profiles_are_kept_apart(tmp_path):
    times.keep_costs(tmp_path, "laptop", "a", 100.4)
    times.keep_costs(tmp_path, "laptop", "b", 2.0)
    before = (tmp_path / times.FILE).read_bytes()
    times.keep_costs(tmp_path, "laptop", "a", 80.0)
    times.keep_costs(tmp_path, "laptop", "b", 2.9)
    assert (tmp_path / times.FILE).read_bytes() == before
    times.keep_costs(tmp_path, "laptop", "a", 70.0)
    times.keep_costs(tmp_path, "smoke", "b", 0.1)
    assert times.load_times(tmp_path) == {"laptop": {"a": 70, "b": 2}, "smoke": {"b": 1}}


def test_a_change_of_memory_alone_is_written(tmp_path):
    for peak in (2**30, 2**30 + 2**27, 2**31):
        times.keep_costs(tmp_path, "laptop", "a", 7.0, peak)
        found = times.load_costs(tmp_path)["laptop"]["a"]
        assert found == {"seconds": 7, "peak_mib": 1024 if peak < 2**31 else 2048}


def test_the_optional_notebooks_keep_their_times_with_the_chapters(tmp_path):
    (tmp_path / "extra").mkdir()
    times.keep_costs(tmp_path / "extra", "laptop", "x", 5.0)
    times.keep_costs(tmp_path, "laptop", "a", 7.0)
    both = {"laptop": {"a": 7, "x": 5}}
    assert times.load_times(tmp_path) == times.load_times(tmp_path / "extra") == both


@pytest.mark.parametrize("content", ["{", "[]", '{"smoke": [8]}', '{"smoke": {"a": 8}}'])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / times.FILE).write_text(content)
    with pytest.raises(ValueError, match="delete it"):
        times.load_times(tmp_path)


@pytest.mark.parametrize(
    ("waiting", "done", "expected", "seconds"),
    [
        (["b", "c"], {"a": 20}, {"a": 10, "b": 30, "c": 5}, 70),  # a machine twice as slow
        (["a", "b"], {}, {"a": 10, "b": 30}, 40),
        (["c"], {"a": 10, "b": 20}, {}, 15),  # a notebook without a time takes the average
        (["new"], {"a": 20}, {"a": 10, "b": 20}, 30),
        (["a"], {}, {}, None),
        ([], {"a": 3}, {"a": 1}, 0),
    ],
)
def test_the_time_that_is_left(waiting, done, expected, seconds):
    assert times.estimate_left(waiting, done, expected) == seconds


def test_times_in_words():
    assert times.in_words(8.2) == "8 s" and times.in_words(200) == "3 min"
