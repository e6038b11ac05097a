"""``course.py``: what is installed when, and what happens to an installation that broke off."""

import contextlib
import errno
import os
import sys
from types import SimpleNamespace

import pytest


def break_off(course, monkeypatch, step, error, log="Installing collected packages: torch"):
    """Lets the set-up fail in a step ("-r" for pip, "-e" for the link); returns the exit status."""
    run_step = course.run_step

    def broken(command):
        if step not in command:
            return run_step(command)
        course.LOG.write_text(log)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(course, "run_step", broken)
        return course.main(["setup"])


def test_too_small_a_disk_is_seen_before_anything_is_done(course, steps, monkeypatch, capsys):
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert course.main(["setup"]) == 1
    assert "needs 3 GB" in (error := capsys.readouterr().err) and "1.0 GB left" in error
    assert steps == []


def test_a_failing_step_is_explained_from_the_log_of_pip(course, capfd):
    course.VENV.mkdir()
    python = [sys.executable, "-c"]
    course.run_step([*python, "import tempfile; print(tempfile.gettempdir())"])
    assert str(course.VENV / "tmp") in capfd.readouterr().out, "downloads must pass through .venv"
    with pytest.raises(course.SetupError, match="stands above, and in .*install.log"):
        course.run_step([*python, "raise SystemExit(1)"])
    course.LOG.write_text("Max retries exceeded")
    with pytest.raises(course.SetupError, match="cannot be reached"):
        course.run_step([*python, "raise SystemExit(1)"])


@pytest.mark.parametrize("pins", ["requirements.txt", "constraints.txt", "pyproject.toml"])
def test_the_first_call_installs_the_second_does_nothing_and_new_pins_go_into_the_venv(course, steps, pins):
    for _ in range(2):
        assert course.main(["setup"]) == 0 and steps == ["venv", "pip", "link"]
    with (course.ROOT / pins).open("a") as file:
        file.write("# changed\n")
    assert course.main(["setup"]) == 0 and steps[3:] == ["pip", "link"]


def test_another_python_or_another_place_is_another_installation(course, steps, monkeypatch):
    course.main(["setup"])
    monkeypatch.setattr(course, "venv_version", lambda: (3, 12))
    course.main(["setup"])
    monkeypatch.setattr(course, "ROOT", course.ROOT / ".." / course.ROOT.name)
    course.main(["setup"])
    course.main(["setup"])
    assert steps == ["venv", *["pip", "link"] * 3]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["-r", "-e"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left"), Killed()])
def test_an_installation_that_broke_off_is_made_anew(course, steps, monkeypatch, capsys, step, error):
    with contextlib.suppress(Killed):
        status = break_off(course, monkeypatch, step, error)
        assert status == (130 if isinstance(error, KeyboardInterrupt) else 1)
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    (course.VENV / "half-a-package").mkdir()
    steps.clear()
    assert course.main(["setup"]) == 0
    assert steps == ["venv", "pip", "link"] and not (course.VENV / "half-a-package").exists()


def test_an_update_that_fails_before_it_touched_anything_leaves_the_venv(course, steps, monkeypatch):
    course.main(["setup"])
    (course.ROOT / "constraints.txt").write_text("# newer\n")
    (course.VENV / "package").mkdir()
    no_network = course.SetupError("no network")
    assert break_off(course, monkeypatch, "-r", no_network, log="Collecting torch\n") == 1
    steps.clear()
    assert course.main(["setup"]) == 0
    assert steps == ["pip", "link"] and (course.VENV / "package").exists()


def test_clearing_that_breaks_off_does_not_pass_for_a_venv_made_by_hand(course, steps, monkeypatch):
    (course.VENV / "package").mkdir(parents=True)

    def rmtree(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(course.shutil, "rmtree", rmtree)
    assert course.main(["setup"]) == 130
    assert course.read_stamp() == course.UNFINISHED and steps == []


def test_a_venv_that_does_not_start_is_made_anew_and_one_made_by_hand_is_completed(course, steps):
    course.main(["setup"])
    (course.VENV / "works").unlink()
    steps.clear()
    assert course.main(["setup"]) == 0 and steps == ["venv", "pip", "link"]
    course.STAMP.unlink()
    (course.VENV / "my-package").mkdir()
    assert course.main(["setup"]) == 0 and steps[3:] == ["pip", "link"]
    assert (course.VENV / "my-package").exists()


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


def test_nothing_from_outside_the_venv_gets_in(course, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setenv("PIP_TARGET", "somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = course.environment()
    assert not {"PYTHONPATH", "PIP_TARGET"} & set(environment)
    assert environment["PYTHONUTF8"] == "1" and environment["OMP_NUM_THREADS"] == "7"


def test_two_installations_do_not_run_at_once(course):
    course.VENV.mkdir()
    with course.installation_lock(), course.LOCK.open("w") as other:
        assert not course.try_lock(other)
    with course.LOCK.open("w") as other:
        assert course.try_lock(other)


def test_an_extra_is_installed_when_it_is_first_asked_for(course, steps, capsys):
    for _ in range(2):
        assert course.main(["setup", "site"]) == 0
        assert steps == ["venv", "pip", "link", "link"]  # of all, then of the extra
    assert "Installing what 'site' needs" in capsys.readouterr().out
    with (course.ROOT / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert course.main(["setup", "browser"]) == 0 and steps[4:] == ["pip", "link", "link"]
    assert course.main(["setup", "cluster"]) == 2 and "site, browser" in capsys.readouterr().err
