import csv
import io
import json
import math

import nbformat
import pytest
import torch

from fewshot_lib.core import EpisodeResults, compare_paired
from fewshot_lib.course import records


def row(results, glyphs, method="A", **changed):
    return records.make_row(method, results(**changed), dataset=glyphs, notebook="02", profile="laptop")


def executed(notebook, code, *rows, error=False):
    cell, out = code("record"), nbformat.v4.new_output
    cell.outputs = [out("display_data", data={records.MIME: r, "text/plain": "recorded"}) for r in rows]
    if error:
        cell.outputs.append(out("error", ename="ValueError", evalue="no", traceback=[]))
    return notebook(cell)


def test_a_row_carries_everything_a_number_is_quoted_with(results, glyphs):
    made = row(results, glyphs, n_seeds=3, transductive=True)
    assert tuple(made) == records.COLUMNS
    expected = {"dataset": "glyphs", "split_family": "scripts", "seeds": 3, "transductive": True}
    expected |= {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    assert expected.items() <= made.items()
    json.dumps(made, allow_nan=False)


def test_a_row_is_valid_json_even_where_there_is_no_interval(results, glyphs):
    made = row(results, glyphs, interval=(-math.inf, math.inf))
    assert json.loads(json.dumps(made, allow_nan=False))["ci_low"] is None
    assert "[–, –]" in records.markdown_table([made])


def test_the_real_results_of_an_evaluation_can_be_recorded(glyphs):
    accuracies = torch.tensor([[0.1, 0.3]]), torch.tensor([[0.2, 0.2]])
    one, two = (EpisodeResults(values, "A", False, 5, 1, 15, "same") for values in accuracies)
    where = {"dataset": glyphs, "notebook": "02", "profile": "smoke"}
    made = records.make_row("A", one, **where)
    assert made["kind"] == "accuracy" and made["ci_low"] < made["mean"] < made["ci_high"]
    assert made["mean"] == pytest.approx(0.2)
    assert records.make_row("A", compare_paired(one, two), **where)["kind"] == "difference"


def test_incomplete_or_impossible_results_are_refused(results, glyphs):
    with pytest.raises(TypeError, match=r"`results` is a float without \.n_way"):
        records.make_row("A", 0.5, dataset=glyphs, notebook="02", profile="laptop")
    with pytest.raises(TypeError, match="give the ClassDataset itself"):
        records.make_row("A", results(), dataset="glyphs", notebook="02", profile="laptop")
    with pytest.raises(ValueError, match="nan"):
        row(results, glyphs, mean=math.nan)


def test_rows_are_found_again_in_the_notebook(results, glyphs, notebook, code):
    rows = [row(results, glyphs, "A"), row(results, glyphs, "B")]
    saved = nbformat.reads(nbformat.writes(executed(notebook, code, *rows)), as_version=4)
    assert records.rows_of(saved) == [row | {"run": ""} for row in rows]


def test_a_row_says_which_run_it_is_of_and_whether_that_stopped(results, glyphs, notebook, code):
    stopped = executed(notebook, code, row(results, glyphs))
    stopped.metadata[records.STAMP] = {"started": "noon", "failure": "it took more than 2 s"}
    (found,) = records.rows_of(stopped)
    assert found["run"] == "noon" and "stopped" in found["note"]
    stopped.metadata["papermill"] = {"start_time": "one", "end_time": "two", "exception": None}
    (found,) = records.rows_of(stopped)  # papermill came later: `fewshot run` takes its stamp away
    assert found["run"] == "one" and not found["note"]


@pytest.mark.parametrize(
    ("stamp", "run"),
    [
        ({"start_time": "t", "end_time": "u", "exception": None}, {"run": "t", "stopped": False}),
        ({"start_time": "t", "end_time": "u", "exception": True}, {"run": "t", "stopped": True}),
        ({"start_time": "t", "end_time": None, "exception": None}, {"run": "t", "stopped": True}),
        ({"input_path": "x.ipynb", "parameters": {}}, None),  # prepared, and not executed
        ({}, None),
    ],
)
def test_what_papermill_executed_is_known_by_its_times(notebook, code, stamp, run):
    assert records.run_of(notebook(code("1"), papermill=stamp)) == run


def test_of_the_same_measurement_the_last_row_counts_and_says_if_the_notebook_stopped(
    results, glyphs, notebook, code
):
    changes = {"mean": 0.1}, {"n_shot": 5}, {"mean": 0.2}
    rows = [row(results, glyphs, **changed) for changed in changes]
    assert [r["mean"] for r in records.rows_of(executed(notebook, code, *rows))] == [0.2, 0.5]
    assert all("stopped" in r["note"] for r in records.rows_of(executed(notebook, code, *rows, error=True)))


def test_the_table_for_people_speaks_of_percent_and_points(results, glyphs):
    accuracy = row(results, glyphs, "A|B", mean=0.8512, interval=(0.84, 0.86), transductive=True)
    difference = row(results, glyphs, kind="difference", mean=-0.034, interval=(-0.05, -0.02))
    table = records.markdown_table([accuracy, difference]).splitlines()
    for part in ("85.1 % [84.0, 86.0]", "transductive", "A\\|B", "glyphs/scripts"):
        assert part in table[2]
    assert "-3.4 points [-5.0, -2.0]" in table[3] and "inductive" in table[3]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_the_table_for_programs_has_every_column(results, glyphs):
    rows = [row(results, glyphs, 'A, "B"'), row(results, glyphs)]
    read = list(csv.DictReader(io.StringIO(records.csv_table(rows))))
    assert tuple(read[0]) == records.TABLE_COLUMNS
    assert read[0]["method"] == 'A, "B"' and float(read[1]["mean"]) == 0.5


def test_a_row_is_stored_under_its_own_type_and_unseen(displayed, results, glyphs):
    made = row(results, glyphs)
    records.store_row(made)
    assert displayed[0][0] == {records.MIME: made, "text/html": "", "text/plain": ""}
