import csv
import math

import nbformat
import pytest
from scipy import stats

from fewshot_lib.course import sweeps
from fewshot_lib.course.sweeps import points, results


@pytest.fixture
def swept(planned, inline, no_kernel, tmp_path):
    """Runs a sweep and returns its directory."""

    def run(out="out", **grid):
        sweeps.run(planned(out, **grid), inline, say=lambda line: None)
        return tmp_path / out

    return run


def test_one_table_over_the_seeds_in_every_form(swept, tmp_path):
    import pandas

    out = swept(n_shot=[1, 5], seed=range(3), rate=[0.0, 0.1])
    text = results.join([out], out)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {(r["p_n_shot"], r["p_seed"], r["p_rate"]) for r in rows} == {
        (k, s, r) for k in "15" for s in "012" for r in ("0.0", "0.1")
    }
    assert len({row["key"] for row in rows}) == 12
    parquet = pandas.read_parquet(out / "results.parquet")
    assert len(parquet) == 12 and parquet["mean"].mean() == pytest.approx(0.62)
    # four settings; the interval is that of a t-test over three seeds
    summary = results.over_seeds(results.load([out])[0])
    assert [row["seeds"] for row in summary] == 4 * [3]
    means = [0.52, 0.53, 0.54]
    low, high = stats.t.interval(0.95, 2, loc=0.53, scale=stats.sem(means))
    assert summary[0]["mean"] == pytest.approx(0.53)
    assert (summary[0]["ci_low"], summary[0]["ci_high"]) == pytest.approx((low, high))
    assert "5-way 1-shot" in text and "rate=0.1" in text
    assert sorted(p.name for p in out.glob("results_*")) == [
        f"results_tiny_{name}.png" for name in ("n_shot", "rate")
    ]


def test_differences_are_paired_where_the_episodes_are_the_same(swept):
    found, _ = results.load([swept(n_shot=[1, 5], seed=range(3), rate=[0.0, 0.1])])
    differences = list(results.paired(found))
    # the episodes depend on shots and seed: rates can be compared, shots cannot
    assert [row["method"] for row in differences] == 2 * ["Half: rate=0.1 − rate=0.0"]
    for row in differences:
        assert row["kind"] == "difference" and row["seeds"] == 3
        assert row["mean"] == pytest.approx(0.1) and row["ci_high"] - row["ci_low"] == pytest.approx(
            0, abs=1e-6
        )


def test_one_seed_keeps_the_interval_over_its_episodes_and_a_pair_of_one_has_none(swept):
    found, _ = results.load([swept(rate=[0.0, 0.1])])
    assert [(r["seeds"], r["ci_low"], r["ci_high"]) for r in results.over_seeds(found)] == 2 * [(1, 0.4, 0.6)]
    (difference,) = results.paired(found)
    assert difference["ci_low"] is None and not math.isnan(difference["mean"])


def test_what_papermill_executed_is_joined_and_a_name_that_the_notebook_lacks_makes_no_new_point(
    swept, tmp_path
):
    out = swept(seed=[0, 1])
    notebook = nbformat.read(next(out.rglob("*.ipynb")), 4)
    notebook.metadata.pop("fewshot_run", None)
    for name, given in {"new": {"seed": 7}, "same": {"seed": 1, "sede": 3}}.items():
        times = {"start_time": "2100-01-01", "end_time": "2100-01-02", "exception": None}
        notebook.metadata["papermill"] = {"input_path": "01_tiny.ipynb", "parameters": given} | times
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    found, left_out = results.load([out, tmp_path])
    assert sorted(point["parameters"]["seed"] for point in found) == [0, 1, 7]
    assert "1 older runs" in left_out[0]


def test_what_failed_is_left_out_and_named_and_nothing_finished_is_an_error(swept, tmp_path):
    text = results.join([swept(seed=[0, 99])], tmp_path / "joined")
    assert "Left out:\n- 01_tiny seed=99: cell 3" in text and "1 points, 1 rows" in text
    with pytest.raises(ValueError, match="No point is finished in .*: run `fewshot sweep` first"):
        results.join([tmp_path / "nothing"], tmp_path)


def test_sweeps_and_runs_are_joined_and_of_one_point_the_newest_counts(swept, tiny, tmp_path):
    one, two = swept("one", seed=[0, 1]), swept("two", seed=[1, 2])
    found, left_out = results.load([one, two])
    assert sorted(point["parameters"]["seed"] for point in found) == [0, 1, 2]
    assert "1 older runs" in left_out[0]


def test_what_fewshot_run_executed_stands_beside_the_points(swept, planned, tmp_path):
    out = swept(seed=[0, 1])
    (point,) = planned("other", seed=[2])
    ended = points.run_point(point)
    notebook = nbformat.read(f"{point.folder}/01_tiny.ipynb", as_version=4)
    notebook.metadata["fewshot_run"]["parameters"] = {"seed": 2}  # a run stamps what it was given
    (tmp_path / "run").mkdir()
    nbformat.write(notebook, tmp_path / "run" / "01_tiny.ipynb")
    found, left_out = results.load([out, tmp_path / "run"])
    assert [facts["parameters"]["seed"] for facts in found] == [0, 1, 2] and not left_out
    assert found[2]["parameters"] == ended.facts["parameters"]
    (row,) = results.over_seeds(found)
    assert row["seeds"] == 3


def test_tables_of_somebody_else_are_not_replaced(swept):
    out = swept(seed=[0])
    (out / "results.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"holds results\.csv, which the course did not write"):
        results.join([out], out)
