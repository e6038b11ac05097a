"""Training by two processes is the training of one: weights, averages, metrics, checkpoints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewshot_lib.core import in_shares, mean_over_processes, processes

PROGRAM = Path(__file__).with_name("four_trainings.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]  # on a free port


def run(folder, *launcher):
    """What each process has found, and what was printed."""
    folder.mkdir()
    threads = {"OMP_NUM_THREADS": "1", "FEWSHOT_STATIC": "1"}
    path = os.pathsep.join([str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *launcher, str(PROGRAM), str(folder)]
    environment = os.environ | threads | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(path) for path in sorted(folder.glob("*.pt"))], done.stdout


@pytest.mark.slow
def test_two_processes_under_torchrun_learn_what_one_learns(tmp_path):
    (one,), printed = run(tmp_path / "one")
    both, printed_by_both = run(tmp_path / "two", *TORCHRUN)
    assert len(both) == 2 and printed.count("\n") == printed_by_both.count("\n") > 10  # one of them prints
    for name, expected in one.items():
        for found in both:
            torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-9, equal_nan=True, msg=name)
    for found in both:  # the checkpoint of process 0 serves both
        torch.testing.assert_close(found["prototypes, stopped"], found["prototypes"], rtol=0, atol=0)


def test_without_torchrun_there_is_one_process_and_nothing_is_shared():
    x, gradient = torch.arange(3.0, requires_grad=True), torch.ones(2)
    with processes():
        y = in_shares(lambda x, _: 2 * x, x, None)
        mean_over_processes([gradient, None])
    y.sum().backward()
    assert y.tolist() == [0, 2, 4] and x.grad.tolist() == [2, 2, 2] and gradient.tolist() == [1, 1]
