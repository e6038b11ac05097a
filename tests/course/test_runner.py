import csv
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import nbformat
import pytest

from fewshot_lib.course import parameters, runner, times
from fewshot_lib.course.execution import kernel_environment

FIGURE = """import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(2, 1))
course.show(fig, alt="Nothing but axes.")
course.explore(lambda k: plt.figure(figsize=(1, 1)), k=(1, [1, 2]), alt="An empty square.", frames=[dict(k=2)])"""
FAILS = 'lesson.record("Before", results, dataset=SimpleNamespace(name="x", split_family="y"))\nraise RuntimeError("on purpose")'


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(tmp_path, lines):
    def run_it(*paths, out="out", threads=1, **values):
        options = {name: values.pop(name) for name in ("timeout", "solutions", "keep_times") if name in values}
        return runner.run(paths, values, tmp_path / out, threads=threads, say=lines.append, **options)

    return run_it


def rows(directory):
    with open(directory / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_notebooks_pages_and_one_table(run, lines, course_notebook, code, written, tmp_path):
    path = written(course_notebook(code(FIGURE)))
    before = path.read_bytes()
    assert run(path, profile="smoke", n_shot=3, keep_times=True)
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["01_tiny.html", "01_tiny.ipynb", "results.csv", "results.md"]
    assert path.read_bytes() == before
    # the parameter took effect, and the row carries it
    (row,) = rows(out)
    assert (row["notebook"], row["profile"], row["n_shot"], row["n_way"], row["episodes"]) == ("tiny", "smoke", "3", "5", "100")
    assert "| tiny | Half | glyphs/scripts | smoke | 5-way 3-shot" in (out / "results.md").read_text(encoding="utf-8")
    # every figure of the page can be read by ear, and comes from the page itself
    page = (out / "01_tiny.html").read_text(encoding="utf-8")
    images = re.findall(r"<img[^>]{0,200}", page)
    assert len(images) == 3 and all(re.search(r'alt="(Nothing|An empty)[^"]+"', image) and "data:image/png" in image for image in images)
    executed = nbformat.read(out / "01_tiny.ipynb", as_version=4)
    assert "widgets" not in executed.metadata
    assert executed.metadata.fewshot_run == {"parameters": {"profile": "smoke", "n_shot": 3}, "profile": "smoke", "threads": 1}
    assert set(times.load_times(path.parent)["smoke"]) == {"01_tiny"}
    assert lines[1].startswith("[1/1] 01_tiny: ok, ")


def test_a_failing_notebook_is_named_and_the_others_run(run, lines, course_notebook, code, written, tmp_path):
    paths = [written(course_notebook(code(FAILS)), "01_bad"), written(course_notebook(), "02_good")]
    assert not run(*paths, profile="smoke", keep_times=True)
    report = "\n".join(lines)
    number = len(course_notebook(code(FAILS)).cells) - 3
    assert "[1/2] 01_bad: FAILED, " in report and "[2/2] 02_good: ok, " in report
    assert f"01_bad: cell {number}, under 'Exercise 3', at `raise RuntimeError(\"on purpose\")`: RuntimeError: on purpose" in lines[-1]
    assert "left" in next(line for line in lines if "01_bad: FAILED" in line)  # an estimate, once one notebook has run
    notes = {row["method"]: row["note"] for row in rows(tmp_path / "out") if row["note"]}
    assert notes.keys() == {"Half", "Before"} and "stopped with an error" in notes["Before"]
    assert len(rows(tmp_path / "out")) == 3
    assert (tmp_path / "out" / "01_bad.html").exists() and times.load_times(paths[0].parent) == {}


def test_solutions_pass_a_strict_run_and_stubs_do_not(run, lines, course_notebook, written, tmp_path, monkeypatch):
    path = written(course_notebook())
    assert run(path, profile="smoke", out="stubs")
    assert (tmp_path / "stubs" / "01_tiny.ipynb").read_text(encoding="utf-8").count("[todo]") == 3
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    assert run(path, profile="smoke", solutions=True, out="solved")
    assert (tmp_path / "solved" / "01_tiny.ipynb").read_text(encoding="utf-8").count("[ok] 2 cases") == 3
    assert not run(path, profile="smoke", out="strict")
    assert "ExerciseFailed: add_1: [todo]" in lines[-1]


@pytest.mark.parametrize("values", [{"n_ways": 5}, {"n_way": 1}, {"profile": "fast"}])
def test_bad_parameters_are_refused_before_anything_is_written(run, lines, course_notebook, written, tmp_path, values):
    with pytest.raises(ValueError):
        run(written(course_notebook()), **values)
    assert not lines and not (tmp_path / "out").exists()


def test_a_notebook_without_parameters_or_solution_is_refused_before_the_others_run(run, lines, course_notebook, notebook, code, written):
    good, bare = written(course_notebook(), "01_good"), written(notebook(code("a = 1")), "02_bare")
    with pytest.raises(ValueError, match="02_bare: 0 cells"):
        run(good, bare)
    unsolved = course_notebook()
    unsolved.cells = [cell for cell in unsolved.cells if "solution" not in parameters.tags(cell)]
    with pytest.raises(ValueError, match="03_unsolved, cell 6: the exercise is not followed"):
        run(good, written(unsolved, "03_unsolved"), solutions=True)
    assert not lines


def test_results_of_an_earlier_run_stay_in_the_table(run, course_notebook, written, tmp_path):
    for name in ("01_one", "02_two"):
        notebook = course_notebook()
        notebook.cells[2].source = notebook.cells[2].source.replace('"tiny"', repr(name))
        assert run(written(notebook, name), profile="smoke")
    assert [row["notebook"] for row in rows(tmp_path / "out")] == ["01_one", "02_two"]


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process")
def test_ctrl_c_keeps_what_has_finished_and_stops_the_kernel(course_notebook, code, written, tmp_path):
    marker = tmp_path / "kernel.pid"
    slow = code(f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)")
    paths = [written(course_notebook(), "01_quick"), written(course_notebook(slow), "02_slow")]
    options = ["--profile", "smoke", "--threads", "1", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "fewshot_lib", "run", *map(str, paths), *options]
    heeds = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # where the tests run in the background, SIGINT is ignored, and inherited so
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=kernel_environment(1), preexec_fn=heeds, **pipes)
    try:
        deadline = time.monotonic() + 120
        while not (marker.exists() and marker.read_text()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130
    assert output.splitlines()[-1].startswith("Stopped after 1 of 2 notebooks") and "Traceback" not in output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["01_quick.html", "01_quick.ipynb", "results.csv", "results.md"]
    assert len(rows(tmp_path / "out")) == 1
    with pytest.raises(ProcessLookupError):  # no kernel is left behind
        os.kill(int(marker.read_text()), 0)
