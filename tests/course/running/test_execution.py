import asyncio
import os
import re
import sys
import threading
from pathlib import Path

import nbformat
import psutil
import pytest
from jupyter_client.channels import HBChannel

import fewshot_lib
from fewshot_lib.course.running import execution
from fewshot_lib.course.running.execution import execute, find_notebooks, kernel_environment

REPORT = """import os, sys, fewshot_lib
print(sys.executable, os.getcwd(), fewshot_lib.__file__)
print(*(os.environ.get(name) for name in ("FEWSHOT_STATIC", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GONE")))"""
FAILS = "def f():\n    return 1 / 0\n\ny = 2\nf()"
BROKEN_SPEC = '{"argv": ["no-such-python", "{connection_file}"], "display_name": "x", "language": "python"}'


@pytest.fixture
def run(notebook, tmp_path):
    def run_it(*cells, timeout=60, **options):
        environment = kernel_environment(1, GONE=None)
        return execute(notebook(*cells), tmp_path, environment=environment, timeout=timeout, **options)

    return run_it


def test_the_kernel_is_this_interpreter_whatever_is_installed(run, code, tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(BROKEN_SPEC)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("GONE", "yes")
    seen = []
    outcome = run(code(REPORT), code("1 + 1"), on_cell=seen.append)
    assert not outcome.failure and seen == [0, 1]
    where, settings = outcome.notebook.cells[0].outputs[0].text.splitlines()
    assert where == f"{sys.executable} {tmp_path} {fewshot_lib.__file__}"
    assert settings == "1 1 1 None"
    assert outcome.notebook.cells[1].outputs[0].data["text/plain"] == "2"
    assert "execution" not in outcome.notebook.cells[0].metadata


def test_a_notebook_runs_where_a_loop_is_running_already_as_in_jupyter(run, code):
    async def in_a_loop():
        return run(code("1 + 1"))

    assert not asyncio.run(in_a_loop()).failure


def test_a_failure_names_cell_heading_line_and_error(run, code, text):
    before = [text("# Title"), code("a = 1", "parameters"), code("a = 2", "injected-parameters")]
    after = code("b = 1")
    failure = run(*before, text("## Toy\n\nwords"), code(FAILS), after).failure
    # counted as in the file on disk, which has no injected cell
    assert failure == "cell 4, under 'Toy', at `f()`: ZeroDivisionError: division by zero"
    assert after.execution_count is None


def test_a_cell_that_takes_too_long_is_stopped(run, code):
    outcome = run(code("x = 1"), code("# wait\nimport time; time.sleep(60)"), timeout=1)
    assert outcome.failure.startswith("cell 2, at `import time; time.sleep(60)`: it took more than 1 s")
    assert outcome.seconds < 50


def test_what_an_earlier_run_left_is_cleared(run, code):
    cells = code("1 / 0"), code("2")
    for cell in cells:
        cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="old\n")], 9
        cell.metadata["papermill"] = {"exception": True}
    outcome = run(*cells)
    assert [output.output_type for output in cells[0].outputs] == ["error"]
    assert cells[1].outputs == [] and cells[1].execution_count is None
    assert all("papermill" not in cell.metadata for cell in outcome.notebook.cells)


def test_no_thread_and_no_process_is_left(run, code):
    pid = int(run(code("import os; os.getpid()")).notebook.cells[0].outputs[0].data["text/plain"])
    assert not [thread for thread in threading.enumerate() if isinstance(thread, HBChannel)]
    assert not psutil.pid_exists(pid)


def test_what_neither_goes_on_nor_stops_is_given_up(monkeypatch):
    monkeypatch.setattr(execution, "GRACE", 0.1)
    release, ended = threading.Event(), threading.Event()

    async def blocks():  # not even a cancellation reaches it
        release.wait(60)
        ended.set()

    def gives_up():
        raise execution.NoSignOfLife

    with pytest.raises(execution.NoSignOfLife):
        execution._interruptible(blocks(), watch=gives_up)
    assert not ended.is_set()
    release.set()


def test_a_kernel_that_dies_is_noticed(run, code):
    failure = run(code("import os; os._exit(1)")).failure
    assert failure.startswith("cell 1, at") and "died" in failure


def test_threads_and_library_reach_the_kernel_and_nothing_else_changes():
    before = dict(os.environ)
    made = kernel_environment(3, FEWSHOT_PROFILE=None, PYTHONHASHSEED="0")
    assert made["OMP_NUM_THREADS"] == made["MKL_NUM_THREADS"] == "3" and made["PYTHONHASHSEED"] == "0"
    first = Path(made["PYTHONPATH"].split(os.pathsep)[0])
    assert first / "fewshot_lib" == Path(fewshot_lib.__file__).resolve().parent
    assert dict(os.environ) == before
    assert 1 <= execution.cores() <= os.cpu_count()


def test_notebooks_are_found_by_path_directory_and_beginning(written, notebook, code, monkeypatch, tmp_path):
    paths = [written(notebook(code("a")), name) for name in ("02_b", "00_a", "01_c")]
    monkeypatch.chdir(tmp_path)
    assert [path.stem for path in find_notebooks()] == ["00_a", "01_c", "02_b"]
    assert [path.stem for path in find_notebooks(["02", "notebooks"])] == ["02_b", "00_a", "01_c"]
    assert find_notebooks([str(paths[0])]) == [paths[0]]
    (tmp_path / "notebooks" / "extra").mkdir()
    optional = written(notebook(code("a")), "extra/vmap")
    for names in (["extra/vmap"], ["vm"], ["extra"], ["notebooks/extra"], [str(optional)]):
        assert [path.stem for path in find_notebooks(names)] == ["vmap"], names
    assert [path.stem for path in find_notebooks()] == ["00_a", "01_c", "02_b", "vmap"]
    with pytest.raises(ValueError, match=r"no notebook '03'.*00_a, 01_c, 02_b, vmap"):
        find_notebooks(["01", "03"])


NO_NOTEBOOKS = [
    "not json", "", "{}", "[]", "3", "null", '"x"', "[" * 100_000, '{"nbformat": 4, "nbformat_minor": 5}',
    '{"nbformat": 4, "nbformat_minor": 5, "cells": 5, "metadata": {}}',
    '{"nbformat": "4"}', '{"nbformat": 99}',
    '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [\n<<<<<<< HEAD\n]}',
]  # fmt: skip


@pytest.mark.parametrize("content", NO_NOTEBOOKS, ids=range(len(NO_NOTEBOOKS)))
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "x.ipynb"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a notebook")):
        execution.read_notebook(path)
