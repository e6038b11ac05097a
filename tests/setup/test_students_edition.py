"""``course.py`` and ``start.py`` in the students' edition: packages from its wheels, or a clear word."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fewshot_lib.course.classroom import edition

OTHERS = {
    "Python 3.10, {1}": r"are for Python 3\.10, .*but this is Python {0}, .*python3\.10 start\.py",
    "Python {0}, Plan9 mips": r"are for .*Plan9 mips, but this is .*ask for the edition for your system",
}


def write_wheel(folder, name, code, *about):
    """A wheel of one module, version 0.1.0, which runs with ``python -m``."""
    info = f"{name}-0.1.0.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 0.1.0", *about, ""]
    with zipfile.ZipFile(folder / f"{name}-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def write_library(folder, word):
    extra = ["Provides-Extra: course", 'Requires-Dist: jupyterlab; extra == "course"']
    write_wheel(folder / "wheels", "fewshot_lib", f"word = {word!r}", *extra)


@pytest.fixture
def room(course):
    """An edition with every package: stand-ins for the library and for JupyterLab, which says what it has."""
    (course.ROOT / "pyproject.toml").unlink()
    (course.ROOT / "requirements.txt").write_text("jupyterlab==0.1.0\n")
    course.WHEELS.mkdir()
    course.COMPLETE.write_text(edition.machine() + "\n")
    (course.ROOT / "start.py").write_text(edition.START)
    (course.ROOT / "cache").mkdir()
    write_library(course.ROOT, "first")
    says = "print(f.word, os.environ['FEWSHOT_CACHE'], *sys.argv[1:], sep='|')"
    write_wheel(course.WHEELS, "jupyterlab", f"import os, sys, fewshot_lib as f\n{says}")
    return course


@pytest.mark.slow
def test_a_student_starts_twice_without_network_and_then_unpacks_a_second_edition(room, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "Übung [1] im Raum 3"
    shutil.copytree(room.ROOT, folder)

    def start():
        command = [sys.executable, str(folder / "start.py"), "--no-browser"]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=folder.parent)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    seen = f"{folder / 'cache'}|--ServerApp.root_dir={folder / 'notebooks'}|--no-browser"
    first = start()
    assert first[0].startswith("Setting up .venv") and first[-1] == f"first|{seen}"
    assert start() == [f"first|{seen}"], "the second start only opens"
    write_library(folder, "second")
    assert start()[-1] == f"second|{seen}", "of the same version, yet another library"


def test_another_python_or_system_is_told_before_anything_is_done(room, steps, monkeypatch, capsys):
    python, system = edition.machine().replace("Python ", "").split(", ")
    for other, words in OTHERS.items():
        room.COMPLETE.write_text(other.format(python, system))
        with pytest.raises(room.SetupError, match=words.format(python)):
            room.set_up()
    monkeypatch.setattr(room, "check_python", lambda: pytest.fail("3.11 or newer is not what these need"))
    assert room.main(["lab"]) == 1 and "Plan9" in capsys.readouterr().err
    assert steps == [] and not room.VENV.exists()


def test_once_set_up_any_python_may_start_it(room, steps):
    room.main(["setup"])
    room.COMPLETE.write_text("Python 3.10, Plan9 mips")
    steps.clear()
    assert room.main(["setup"]) == 0 and steps == []


def test_only_an_edition_with_every_package_does_without_the_index(room, steps, monkeypatch):
    commands = []
    monkeypatch.setattr(room, "run_step", lambda command: (commands.append(command), room.LOG.touch()))
    (room.VENV / "works").mkdir(parents=True)
    room.install()
    room.COMPLETE.unlink()
    room.install()
    packages, own, some_fetched, again = commands
    wheel = str(Path("wheels") / "fewshot_lib-0.1.0-py3-none-any.whl")
    for command in (packages, some_fetched):
        assert command[command.index("--find-links") + 1] == "wheels" and f"{wheel}[course]" in command
    assert "--no-index" in packages and "--no-index" not in some_fetched
    assert own == again and wheel in own and "--no-index" in own, "a name could be another package there"


def test_what_an_edition_does_not_hold_is_refused(room, steps, capsys):
    for command in ("test", "site"):
        assert room.main([command]) == 2 and "this is the students' edition" in capsys.readouterr().err
    assert steps == []


def test_start_passes_on_what_stands_after_it(tmp_path):
    (tmp_path / "start.py").write_text(edition.START)
    (tmp_path / "course.py").write_text(
        "def main(arguments): return len(arguments) + 5 * (arguments[0] == 'lab')"
    )
    assert subprocess.run([sys.executable, tmp_path / "start.py", "--no-browser"]).returncode == 7


def test_a_path_too_long_for_windows_is_named(course):
    log = "HINT: ... might have occurred since this system does not have Windows Long Path support enabled."
    assert "too long for Windows" in course.explain(log) and r"C:\course" in course.explain(log)
