"""``course.py``: what is installed when, and what happens to an installation that broke off."""

import errno
import os
import sys
from types import SimpleNamespace

import pytest


def break_off(course, monkeypatch, at, error, log="Installing collected packages: torch"):
    """Lets the set-up fail in step ``at`` ("-r" for pip, "-e" for the link); returns the exit status of the command."""
    logged = course.logged

    def broken(command, task):
        if at not in command:
            return logged(command, task)
        course.LOG.write_text(log)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(course, "logged", broken)
        return course.main(["setup"])


def test_too_small_a_disk_is_seen_before_anything_is_done(course, steps, monkeypatch, capsys):
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert course.main(["setup"]) == 1
    assert "needs 3 GB" in (error := capsys.readouterr().err) and "1.0 GB left" in error
    assert steps == []


def test_a_failing_step_is_explained_from_its_output(course):
    course.VENV.mkdir()
    with pytest.raises(course.SetupError, match="cannot be reached.*install.log"):
        course.logged([sys.executable, "-c", "print('Max retries exceeded'); raise SystemExit(1)"], "looking for packages")
    course.logged([sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], "looking for packages")
    assert str(course.VENV / "tmp") in course.LOG.read_text(), "downloads must pass through .venv"


def test_the_first_call_installs_and_the_second_does_nothing(course, steps):
    assert course.main(["setup"]) == 0
    assert steps == ["venv", "pip", "link"]
    assert course.main(["setup"]) == 0
    assert steps == ["venv", "pip", "link"]


@pytest.mark.parametrize("pins", ["requirements.txt", "constraints.txt", "pyproject.toml"])
def test_changed_pins_are_installed_into_the_venv_that_is_there(course, steps, pins):
    course.main(["setup"])
    with (course.ROOT / pins).open("a") as file:
        file.write("# changed\n")
    assert course.main(["setup"]) == 0
    assert steps[3:] == ["pip", "link"]


def test_another_python_or_another_place_is_another_installation(course, steps, monkeypatch):
    course.main(["setup"])
    assert course.is_complete()
    with monkeypatch.context() as patch:
        patch.setattr(course, "venv_version", lambda: (3, 12))
        assert not course.is_complete()
    monkeypatch.setattr(course, "ROOT", course.ROOT / ".." / course.ROOT.name)
    assert not course.is_complete()


@pytest.mark.parametrize("at", ["-r", "-e"])
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left on device"), 1)])
def test_an_installation_that_broke_off_is_made_anew(course, steps, monkeypatch, capsys, at, error, status):
    assert break_off(course, monkeypatch, at, error) == status
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    (course.VENV / "half-a-package").mkdir()
    steps.clear()
    assert course.main(["setup"]) == 0
    assert steps == ["venv", "pip", "link"] and not (course.VENV / "half-a-package").exists()


def test_a_killed_installation_is_made_anew(course, steps, monkeypatch):
    class Killed(BaseException):
        pass

    with pytest.raises(Killed):
        break_off(course, monkeypatch, "-r", Killed())
    assert course.read_stamp() == course.UNFINISHED
    steps.clear()
    course.main(["setup"])
    assert steps == ["venv", "pip", "link"]


def test_an_update_that_fails_before_it_touched_anything_leaves_the_venv(course, steps, monkeypatch):
    course.main(["setup"])
    (course.ROOT / "constraints.txt").write_text("# newer\n")
    (course.VENV / "package").mkdir()
    assert break_off(course, monkeypatch, "-r", course.SetupError("no network"), log="Collecting torch\n") == 1
    assert not course.is_complete()
    steps.clear()
    assert course.main(["setup"]) == 0
    assert steps == ["pip", "link"] and (course.VENV / "package").exists()


def test_clearing_that_breaks_off_does_not_pass_for_a_venv_made_by_hand(course, steps, monkeypatch):
    break_off(course, monkeypatch, "-r", KeyboardInterrupt())
    course.clear_venv()
    assert course.read_stamp() == course.UNFINISHED


def test_a_venv_that_does_not_start_is_made_anew(course, steps):
    course.main(["setup"])
    (course.VENV / "works").unlink()
    steps.clear()
    assert course.main(["setup"]) == 0
    assert steps == ["venv", "pip", "link"]


def test_a_venv_made_by_hand_is_completed_and_not_deleted(course, steps):
    course.VENV.mkdir()
    (course.VENV / "works").touch()
    (course.VENV / "my-package").mkdir()
    assert course.main(["setup"]) == 0
    assert steps == ["pip", "link"] and (course.VENV / "my-package").exists()


def test_the_venv_is_not_deleted_under_the_python_that_runs(course, steps, monkeypatch, capsys):
    course.VENV.mkdir()
    (course.VENV / "kept").mkdir()
    monkeypatch.setattr(course.sys, "prefix", str(course.VENV))
    assert course.main(["setup"]) == 1
    assert "deactivate" in capsys.readouterr().err and (course.VENV / "kept").exists()


def test_whether_a_venv_works_is_asked_of_its_python(course, monkeypatch):
    assert course.venv_version() is None
    monkeypatch.setattr(course, "PYTHON", sys.executable)
    assert course.venv_version() == sys.version_info[:2]
    monkeypatch.setattr(course, "environment", lambda: {**os.environ, "PYTHONPATH": str(course.ROOT)})
    (course.ROOT / "pip.py").write_text("raise ImportError('half a pip')")
    assert course.venv_version() is None


def test_two_installations_do_not_run_at_once(course):
    course.VENV.mkdir()
    with course.installation_lock(), course.LOCK.open("w") as other:
        assert not course.try_lock(other)
    with course.LOCK.open("w") as other:
        assert course.try_lock(other)


def test_nothing_from_outside_the_venv_gets_in(course, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setenv("PIP_TARGET", "somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = course.environment()
    assert not {"PYTHONPATH", "PIP_TARGET"} & set(environment)
    assert environment["PYTHONUTF8"] == "1" and environment["OMP_NUM_THREADS"] == "7"
