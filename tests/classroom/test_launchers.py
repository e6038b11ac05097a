"""Binder, Colab and the devcontainer, as far as they can be tried without them."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from types import ModuleType

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from fewshot_lib.course.classroom.edition import for_students

from .helpers import ROOT

URL = "https://example.org/course.git"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_binder_installs_the_pins_of_the_course():
    lines = (ROOT / ".binder" / "requirements.txt").read_text().splitlines()
    for line in lines:
        if line.startswith(("-r ", "-c ")):
            assert (ROOT / ".binder" / line[3:]).resolve().parent == ROOT
    assert {"-r ../requirements.txt", "-c ../constraints.txt"} <= set(lines)
    wanted = (ROOT / ".binder" / "runtime.txt").read_text().strip()
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert wanted.replace("python-", "python=") in conda


def test_binders_script_is_right_as_far_as_it_can_be_tried():
    script = ROOT / ".binder" / "postBuild"
    assert os.name == "nt" or os.access(script, os.X_OK), "Binder runs it only then"
    code = re.search(r'python -c "(.*?)"\n', script.read_text(), re.DOTALL)[1]
    (names,) = (node.names for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom))
    lacking = f"[n for n in {[n.name for n in names]!r} if not hasattr(fewshot_lib, n)]"
    code = f"import fewshot_lib; assert not {lacking}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_devcontainer_sets_up_with_a_command_that_exists(monkeypatch):
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert settings["image"].startswith("mcr.microsoft.com/devcontainers/python:3.")
    program, file, *arguments = settings["postCreateCommand"].split()
    assert program == "python3" and (ROOT / file).is_file()
    text = (ROOT / file).read_text()
    assert f'COMMANDS["{arguments[0]}"]' in text
    known = "name image hostRequirements containerEnv postCreateCommand forwardPorts portsAttributes"
    assert set(settings) <= {*known.split(), "customizations"}


@pytest.fixture
def colab_cell():
    students = for_students(nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", 4), URL)
    first = next(cell for cell in students.cells if cell.cell_type == "code")
    assert first.metadata.tags == ["colab"]
    return first.source


def test_the_first_cell_on_colab_fetches_and_installs_and_goes_to_the_notebooks(
    colab_cell, tmp_path, monkeypatch
):
    calls = []

    def run(command, check):
        calls.append(command)
        if command[0] == "git":
            (tmp_path / command[-1] / "notebooks").mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", run)
    exec(colab_cell, {})
    assert os.getcwd() == str(tmp_path / "course" / "notebooks")
    exec(colab_cell, {})  # run again, as people do
    assert os.getcwd() == str(tmp_path / "course" / "notebooks")
    clone, install = calls
    assert clone[:2] == ["git", "clone"] and URL in clone
    folder, _, name = install[-2].rpartition("/")
    assert folder == ".", "without a path, pip would ask the index for a package of this name"
    extras = Requirement(name).extras
    assert extras <= set(PROJECT["optional-dependencies"])
    notebook_tools = {"ipykernel", "ipython", "jupyterlab"}
    for extra in extras:
        wanted = {Requirement(line).name for line in PROJECT["optional-dependencies"][extra]}
        assert not wanted & notebook_tools, "Colab's own kernel would break"


def test_elsewhere_the_cell_does_nothing(colab_cell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it ran something"))
    exec(colab_cell, {})
    assert os.getcwd() == str(tmp_path)
