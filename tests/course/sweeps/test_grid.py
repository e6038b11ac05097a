import pytest

from fewshot_lib.course.sweeps.grid import combinations, parse_grid, parse_seeds, swept, typed


def test_values_are_parted_by_commas_and_ranges_are_whole():
    grid = parse_grid(["n_shot=1,5", "seed=0..4", "dataset=glyphs,docstrings", "rate=0.1,1e-3"])
    assert grid == {
        "n_shot": [1, 5],
        "seed": [0, 1, 2, 3, 4],
        "dataset": ["glyphs", "docstrings"],
        "rate": [0.1, 0.001],
    }
    assert len(combinations(grid)) == 2 * 5 * 2 * 2
    assert parse_seeds("0..2,7") == [0, 1, 2, 7] and parse_seeds("3") == [3]


def test_a_comma_in_brackets_or_quotes_parts_nothing():
    grid = parse_grid(
        ["layers=[1, 2],[[3], 4]", "dataset={'source': 'a,b.csv', 'label': 'x'},'c,d.csv',it's.csv"]
    )
    assert grid["layers"] == [[1, 2], [[3], 4]]
    assert grid["dataset"] == [{"source": "a,b.csv", "label": "x"}, "c,d.csv", "it's.csv"]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["n_shot"], "`-p n_shot` is not NAME=VALUE"),
        (["n_shot="], "the value is empty"),
        (["n_shot=1,,5"], "the value is empty"),
        (["n_shot=1", "n_shot=5"], "given twice: give it once, with commas"),
        (["seed=4..0"], r"`4\.\.0` is no range: write FIRST\.\.LAST"),
        (["seed=0..99999999"], "is no range"),
    ],
)
def test_what_is_no_grid_is_refused(assignments, message):
    with pytest.raises(ValueError, match=message):
        parse_grid(assignments)


def test_a_grid_without_values_or_too_large_is_refused():
    with pytest.raises(ValueError, match="`seed` has no value"):
        combinations({"seed": []})
    with pytest.raises(ValueError, match="1,000,000 points: at most 100,000"):
        combinations({"a": range(1000), "b": range(1000)})


@pytest.mark.parametrize(
    "value",
    [1, 0.5, None, True, "glyphs", "2024", "a,b.csv", "0..4", " x", [1, "a"], {"source": "a", "b": [1]}],
)
def test_what_is_typed_is_read_back(value):
    assert parse_grid([typed("rate", value)]) == {"rate": [value]}


def test_the_name_of_a_data_set_may_be_a_number():
    assert typed("dataset", "2024") == "dataset=2024" and parse_grid(["dataset=2024"]) == {
        "dataset": ["2024"]
    }


def test_what_differs_is_swept():
    assert swept([{"a": 1, "b": [1]}, {"a": 1, "b": [2]}]) == ["b"]
    assert swept([{"a": 1}, {"a": True}]) == ["a"]
