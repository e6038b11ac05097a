"""Sweeps with real kernels and engines, whose processes are killed."""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from fewshot_lib.course import cli, sweeps
from fewshot_lib.course.running.execution import kernel_environment
from fewshot_lib.course.sweeps import engines, points, results
from fewshot_lib.course.sweeps.points import read_all

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="sends signals to processes")]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
GRID = {"n_shot": [1, 5], "seed": range(6)}  # 12 points


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def is_complete(out, n):
    """Whether there are n points, each in one row, and nothing beside them."""
    results.join([out], out)
    with (out / "results.csv").open(newline="") as file:
        rows = [(row["p_n_shot"], row["p_seed"]) for row in csv.DictReader(file)]
    places = [path.name for path in (out / "points").iterdir()]
    return len(rows) == len(set(rows)) == len(places) == len(read_all(out)) == n


# A process that is told to run a sweep is killed at a random moment, and told so again; 20 times. In place of
# a kernel, which would make it take minutes, the cells run here: all the rest is as it is.
ROUNDS = """
import os, random, signal, sys, time
from pathlib import Path
import nbformat
from fewshot_lib.course import records, sweeps
from fewshot_lib.course.running.execution import Outcome
from fewshot_lib.course.sweeps import points

def execute(notebook, directory, *, environment, timeout, stopped):
    time.sleep(0.02)
    scope = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source.split("from IPython")[0], scope)
    data = {records.MIME: scope["row"], "text/plain": ""}
    notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", data=data)]
    return Outcome(notebook, 0.02, "", 1)

def start(out):
    if process := os.fork():
        return process
    grid = {"n_shot": [1, 5], "seed": range(6), "profile": ["smoke"]}
    made = sweeps.plan([Path(sys.argv[1])], grid, out, say=lambda line: None)
    with sweeps.LocalKernels(2) as executor:
        good = sweeps.run(made, executor, say=lambda line: None)
    os._exit(0 if good else 1)

points.execute, points.html_page = execute, lambda notebook, path: 300_000 * "x"
draw = random.Random(0)
begin = time.monotonic()
assert os.waitpid(start(Path(sys.argv[2]) / "whole"), 0)[1] == 0
whole = time.monotonic() - begin
for number in range(20):
    out = Path(sys.argv[2]) / str(number)
    process = start(out)
    time.sleep(draw.uniform(0, whole))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    killed_at = len(list((out / "points").glob("[!.]*")))
    assert os.waitpid(start(out), 0)[1] == 0
    print(killed_at)
"""


def test_killed_at_a_random_moment_and_started_again_20_times_in_a_row(tiny, tmp_path):
    command = [sys.executable, "-c", ROUNDS, str(tiny), str(tmp_path / "rounds")]
    done = subprocess.run(command, env=kernel_environment(1), **PIPES)
    assert done.returncode == 0, done.stdout
    killed_at = [int(line) for line in done.stdout.split()]
    assert len(killed_at) == 20 and len(set(killed_at)) > 3  # at many different moments
    for number in range(20):
        assert is_complete(tmp_path / "rounds" / str(number), 12), number


def test_two_kernels_at_a_time_killed_and_started_again(tiny, tmp_path):
    out = tmp_path / "out"
    grid = ["-p", "n_shot=1,5", "-p", "seed=0..5", "--profile", "smoke", "--out", str(out)]
    command = [sys.executable, "-m", "fewshot_lib", "sweep", str(tiny), *grid]
    process = subprocess.Popen(command, env=kernel_environment(1), **PIPES)
    wait_for(lambda: len(read_all(out)) >= 3)
    process.kill()
    process.communicate()
    had = read_all(out)
    done = subprocess.run(command, env=kernel_environment(1), **PIPES)
    assert done.returncode == 0, done.stdout
    assert f"{len(had)} finished already" in done.stdout or len(had) == 12
    assert is_complete(out, 12)
    assert {key: read_all(out)[key]["started"] for key in had} == {k: f["started"] for k, f in had.items()}
    assert all(facts["peak_memory"] > 10**7 for facts in read_all(out).values())


def test_ctrl_c_stops_the_kernels(code, quick_notebook, written, tmp_path):
    marker, out = tmp_path / "kernel.pid", tmp_path / "out"
    slow = code(f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)")
    command = [
        sys.executable,
        "-m",
        "fewshot_lib",
        "sweep",
        str(written(quick_notebook(slow))),
        "--out",
        str(out),
    ]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, env=kernel_environment(1), preexec_fn=heeds, **PIPES)
    try:
        wait_for(lambda: marker.exists() and marker.read_text())
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == "Stopped after 0 of 1 points; the same command goes on with the others."
    assert list((out / "points").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_a_notebook_that_hangs_is_one_failure_with_its_cell(code, quick_notebook, written, tmp_path):
    path = written(quick_notebook(code("while True: pass")))
    (point,) = sweeps.plan([path], {"profile": ["smoke"]}, tmp_path / "out", timeout=0.5)
    facts = points.run_point(point).facts
    limit = "it took more than 0.5 s, the time limit of a cell (--timeout)"
    assert facts["failure"] == f"cell 4, under 'Quick', at `while True: pass`: {limit}"


def test_a_chapter_over_two_seeds(tmp_path, capsys):
    command = ["run", "00", "--seeds", "0,1", "--profile", "smoke", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert "2 points" in capsys.readouterr().out and len(read_all(tmp_path)) == 2


def test_a_dask_cluster_of_three_workers_of_which_one_is_killed(tiny, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
    out, lines = tmp_path / "out", []
    monkeypatch.setenv("PYTHONPATH", kernel_environment(1)["PYTHONPATH"])
    made = sweeps.plan([tiny], {**GRID, "profile": ["smoke"]}, out)
    cluster = {"n_workers": 3, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    killed = []

    def say(line):
        lines.append(line)
        if len(read_all(out)) >= 2 and not killed:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    with distributed.LocalCluster(**cluster) as local:
        address = local.scheduler_address.replace("tcp://", "dask://")
        with engines.engine(address, jobs=None, threads=1, folder=out, slurm={}) as (executor, at_a_time):
            workers = list(executor._client.run(os.getpid).values())
            assert at_a_time == 3 and len(workers) == 3
            assert sweeps.run(made, executor, say=say), lines
    assert killed and is_complete(out, 12)


def test_jobs_of_submitit_and_a_worker_without_the_package(tiny, tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit", reason="the extra cluster is not installed")
    out, executor = tmp_path / "out", submitit.LocalExecutor(tmp_path / "jobs")
    monkeypatch.setenv("PYTHONPATH", kernel_environment(1)["PYTHONPATH"])
    assert sweeps.run(sweeps.plan([tiny], {"seed": [0], "profile": ["smoke"]}, out), executor)
    assert is_complete(out, 1)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "fewshot_lib.py").write_text("raise ModuleNotFoundError(\"No module named 'fewshot_lib'\")")
    monkeypatch.setenv("PYTHONPATH", str(bare))
    monkeypatch.chdir(bare)
    with pytest.raises(OSError, match="workers have no package fewshot_lib: install it where"):
        sweeps.run(sweeps.plan([tiny], {"seed": [1], "profile": ["smoke"]}, out), executor)
    assert is_complete(out, 1)


# What SLURM does, as far as submitit sees it: each task of the array runs, at once and here.
SBATCH = """#!/bin/bash
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for task in $(seq 0 "${last:-0}"); do
    SLURM_JOB_ID=7$task SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_PROCID=0 \\
        SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1 bash "$1" > /dev/null 2>&1 &
done
echo Submitted batch job 7
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done
exec "$@"
"""
SACCT = "#!/bin/bash\necho 'JobID|State|NodeList'\n"


def test_slurm_gets_one_array_of_jobs_as_asked_for(tiny, tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit", reason="the extra cluster is not installed")
    commands, out = tmp_path / "bin", tmp_path / "out"
    commands.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", kernel_environment(1)["PYTHONPATH"])
    command = f"sweep {tiny} -p seed=0,1 --profile smoke --where slurm --out {out}".split()
    assert cli.main([*command, "--slurm", "partitio=gpu"]) == 2
    assert "`--slurm`: Unavailable parameter(s): ['partitio']" in capsys.readouterr().err
    assert cli.main([*command, "--slurm", "partition=gpu", "--slurm", "time=60"]) == 0
    asked = next((out / "slurm").glob("*submission*.sh")).read_text()
    assert "--array=0-1" in asked and "--partition=gpu" in asked and "--time=60" in asked
    assert is_complete(out, 2)
    (commands / "sbatch").write_text("#!/bin/bash\necho 'sbatch: invalid partition' >&2\nexit 1\n")
    assert cli.main([*command, "-p", "rate=0.5"]) == 1
    assert "The engine took no points" in capsys.readouterr().err


def test_an_address_where_nobody_answers_and_a_machine_without_slurm_are_one_sentence(
    monkeypatch, capsys, tiny
):
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    monkeypatch.setattr(engines, "SECONDS", 1)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    for where, message in (
        ("dask://127.0.0.1:9", "No dask scheduler answers at 127.0.0.1:9"),
        ("slurm", "There is no `sbatch` here"),
    ):
        assert cli.main(["sweep", str(tiny), "--where", where, "--dry-run"]) == 2
        assert message in capsys.readouterr().err
