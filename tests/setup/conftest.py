"""``course.py`` as a module with a .venv of its own. Nothing is installed in these tests."""

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def course(tmp_path):
    """course.py as a module, loaded from a copy with its pins, so that its .venv is one of this test."""
    for name in ["course.py", "requirements.txt", "constraints.txt", "pyproject.toml"]:
        shutil.copy(ROOT / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("course", tmp_path / "course.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def steps(course, monkeypatch):
    """A set-up whose steps are only written down: "venv" makes a .venv that works, the others do nothing."""
    done = []

    def run_step(command):
        step = "venv" if "venv" in command else "link" if "-e" in command else "pip"
        done.append(step)
        if step == "venv":
            (course.VENV / "works").touch()
        if step == "pip":
            course.LOG.write_text("Installing collected packages: torch")

    monkeypatch.setattr(course, "run_step", run_step)
    monkeypatch.setattr(course, "venv_version", lambda: (3, 11) if (course.VENV / "works").exists() else None)
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: SimpleNamespace(free=9e9))
    return done
