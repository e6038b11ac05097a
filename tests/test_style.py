"""One style for all code: what ruff or mypy finds is an error."""

import subprocess
import sys
from pathlib import Path

import pytest

import fewshot_lib

ROOT = Path(__file__).parents[1]


def finds_nothing(*command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["check"], ["format", "--check", "fewshot_lib", "tests", "benchmarks"]],
    ids=["check", "format"],
)
def test_ruff_finds_nothing(arguments):
    finds_nothing("ruff", *arguments, "--no-cache")


@pytest.mark.slow
def test_types_fit_and_a_checker_sees_the_vocabulary(tmp_path):
    """The library, and a program that uses it: each name has its type there, a misspelt one is an error."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import fewshot_lib\nfrom fewshot_lib import {', '.join(fewshot_lib.__all__)}\n"
        "fewshot_lib.Episode  # type: ignore[attr-defined]\n"
        "episodes: Episodes = EpisodeSampler(0, 0).sample(3)  # type: ignore[arg-type]\n"
    )
    finds_nothing("mypy", "--warn-unused-ignores", "fewshot_lib", str(program))
