"""One style for all code: what ruff finds is an error."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check", "fewshot_lib", "tests", "benchmarks"]], ids=["check", "format"])
def test_ruff_finds_nothing(arguments):
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_and_functions_are_short():
    """A page of code a person can hold in the head: modules of at most 300 lines."""
    long = {
        path.name: n for path in (ROOT / "fewshot_lib").rglob("*.py") if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert long == {}
