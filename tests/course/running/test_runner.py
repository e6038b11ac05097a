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

from fewshot_lib.course.running import output, parameters, runner
from fewshot_lib.course.running.execution import kernel_environment

FIGURE = """import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(2, 1))
course.show(fig, alt="Nothing but axes.")
empty = lambda k: plt.figure(figsize=(1, 1))
course.explore(empty, k=(1, [1, 2]), alt="An empty square.", frames=[dict(k=2)])"""
FILES = ["01_tiny.html", "01_tiny.ipynb", "results.csv", "results.md"]


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(tmp_path, lines):
    def run_it(*paths, out="out", solutions=False, **values):
        options = {"threads": 1, "solutions": solutions, "say": lines.append}
        return runner.run(paths, values, tmp_path / out, **options)

    return run_it


def rows(directory):
    with open(directory / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_leaves_notebooks_pages_and_one_table(run, lines, course_notebook, code, written, tmp_path):
    path = written(course_notebook(code(FIGURE)))
    before = path.read_bytes()
    assert run(path, profile="smoke", n_shot=3)
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == FILES and path.read_bytes() == before
    # the parameter took effect, and the row carries it
    (row,) = rows(out)
    assert [row[name] for name in ("notebook", "profile", "n_shot", "n_way")] == ["tiny", "smoke", "3", "5"]
    report = (out / "results.md").read_text(encoding="utf-8")
    assert "| tiny | Half | glyphs/scripts | smoke | 5-way 3-shot" in report
    # every figure of the page can be read by ear, and comes from the page itself
    images = re.findall(r"<img[^>]{0,200}", (out / "01_tiny.html").read_text(encoding="utf-8"))
    assert len(images) == 3 and all("data:image/png" in image for image in images)
    assert all(re.search(r'alt="(Nothing|An empty)[^"]+"', image) for image in images)
    executed = nbformat.read(out / "01_tiny.ipynb", as_version=4)
    assert "widgets" not in executed.metadata
    how = {"parameters": {"profile": "smoke", "n_shot": 3}, "profile": "smoke", "threads": 1}
    assert how.items() <= executed.metadata.fewshot_run.items()
    # the stubs stopped nothing
    assert (out / "01_tiny.ipynb").read_text(encoding="utf-8").count("[todo]") == 3
    assert lines[1].startswith("[1/1] 01_tiny: ok, ")


@pytest.mark.slow
def test_solutions_pass_a_strict_run_and_stubs_do_not(
    run, lines, course_notebook, written, tmp_path, monkeypatch
):
    path = written(course_notebook())
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    assert run(path, profile="smoke", solutions=True)
    assert (tmp_path / "out" / path.name).read_text(encoding="utf-8").count("[ok] 2 cases") == 3
    assert not run(path, profile="smoke", out="strict")
    assert "ExerciseFailed: add_1: [todo]" in lines[-1]


@pytest.mark.slow
def test_a_failing_notebook_is_named_and_the_others_run(
    run, lines, quick_notebook, code, text, written, tmp_path
):
    bad = quick_notebook(text("## Toy"), code("raise RuntimeError('on purpose')"))
    paths = [written(bad, "01_bad"), written(quick_notebook(notebook="good"), "02_good")]
    assert not run(*paths, profile="smoke")
    report = "\n".join(lines)
    assert "[1/2] 01_bad: FAILED, " in report and "[2/2] 02_good: ok, " in report
    where = "cell 5, under 'Toy', at `raise RuntimeError('on purpose')`"
    assert f"01_bad: {where}: RuntimeError: on purpose" in lines[-1]
    # an estimate, once one notebook has run
    assert "left" in next(line for line in lines if "01_bad: FAILED" in line)
    notes = [row["note"] for row in rows(tmp_path / "out")]
    assert "stopped with an error" in notes[0] and notes[1] == ""
    assert (tmp_path / "out" / "01_bad.html").exists()
    # the next run has a table of its own, and the others are a command away
    assert run(written(quick_notebook(notebook="new"), "03_new"), profile="smoke")
    assert [row["notebook"] for row in rows(tmp_path / "out")] == ["new"]
    assert "Other notebooks there: 2" in lines[-1]
    output.write_results(tmp_path / "out", output.collect(sorted((tmp_path / "out").glob("*.ipynb"))).rows)
    assert [row["notebook"] for row in rows(tmp_path / "out")] == ["tiny", "good", "new"]


def test_a_notebook_without_parameters_or_solution_is_refused_before_the_others_run(
    run, lines, course_notebook, notebook, code, written, tmp_path
):
    good, bare = written(course_notebook(), "01_good"), written(notebook(code("a = 1")), "02_bare")
    with pytest.raises(ValueError, match="02_bare: 0 cells"):
        run(good, bare)
    unsolved = course_notebook()
    unsolved.cells = [cell for cell in unsolved.cells if "solution" not in parameters.tags(cell)]
    with pytest.raises(ValueError, match="03_unsolved, cell 7: the exercise is not followed"):
        run(good, written(unsolved, "03_unsolved"), solutions=True)
    assert not lines and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process")
def test_ctrl_c_keeps_what_has_finished_and_stops_the_kernel(quick_notebook, code, written, tmp_path):
    marker, out = tmp_path / "kernel.pid", tmp_path / "out"
    slow = code(f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)")
    paths = [written(quick_notebook()), written(quick_notebook(slow), "02_slow")]
    options = ["--profile", "smoke", "--threads", "1", "--out", str(out)]
    command = [sys.executable, "-m", "fewshot_lib", "run", *map(str, paths), *options]
    # where the tests run in the background, SIGINT is ignored, and inherited so
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=kernel_environment(1), preexec_fn=heeds, **pipes)
    try:
        deadline = time.monotonic() + 120
        while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in output
    assert output.splitlines()[-1].startswith("Stopped after 1 of 2 notebooks")
    assert sorted(p.name for p in out.iterdir()) == FILES and len(rows(out)) == 1
    with pytest.raises(ProcessLookupError):  # no kernel is left behind
        os.kill(int(marker.read_text()), 0)
