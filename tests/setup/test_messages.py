"""``course.py``: one clear sentence for whatever can go wrong, and what it hands to the Python of .venv."""

import ast
import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fewshot_lib.course.cli import parser

ROOT = Path(__file__).resolve().parents[2]


def test_an_old_python_can_read_it_and_needs_nothing_but_itself():
    nodes = list(ast.walk(ast.parse((ROOT / "course.py").read_text(), feature_version=(3, 7))))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)
    assert {node.module for node in nodes if isinstance(node, ast.ImportFrom)} == {"pathlib"}
    assert not [node for node in nodes if isinstance(node, ast.NamedExpr | ast.AnnAssign)]
    assert not [node for node in nodes if getattr(node, "returns", None)]


def test_a_python_that_cannot_do_is_named_and_a_newer_one_only_warned_about(course, capsys):
    with pytest.raises(course.SetupError, match="Python 3.8.18, but the course needs 3.11"):
        course.check_python((3, 8, 18), True)
    with pytest.raises(course.SetupError, match="32-bit Python 3.12.1"):
        course.check_python((3, 12, 1), False)
    for version, is_warned in (((3, 11, 0), False), ((3, 14, 2), False), ((3, 15, 0), True)):
        course.check_python(version, True)
        assert ("newer than those tested" in capsys.readouterr().err) == is_warned


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_venv_module_names_the_package_to_install(course, steps, monkeypatch, capsys, missing):
    monkeypatch.setattr(course.importlib.util, "find_spec", lambda name: None if name == missing else name)
    assert course.main(["setup"]) == 1
    error = capsys.readouterr().err
    assert missing in error and "apt install python{}.{}-venv".format(*sys.version_info) in error
    assert not course.VENV.exists() and steps == []


def test_a_directory_without_write_permission(course, steps, monkeypatch, capsys):
    def mkdir(path, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(course.Path, "mkdir", mkdir)
    assert course.main(["setup"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"The set-up cannot write to {course.VENV}: ") and "Permission denied" in error


RETRY = (
    "WARNING: Retrying (Retry(total=0)): 'NewConnectionError(...: Temporary failure in name resolution)'\n"
)
MATCHING = """ERROR: Could not find a version (from versions: {})
ERROR: No matching distribution found for torch==2.13.0"""
OS_ERROR = "ERROR: Could not install packages due to an OSError: "


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (RETRY + MATCHING.format("none"), "cannot be reached"),
        (RETRY + MATCHING.format("2.15.0"), "no build of torch==2.13.0"),
        (OS_ERROR + "[Errno 28] No space left on device", "disk is full"),
        (OS_ERROR + "[Errno 122] Disk quota exceeded", "disk is full"),
        ("'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...", "PIP_CERT"),
    ],
)
def test_what_pip_says_becomes_one_sentence(course, monkeypatch, log, words):
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: SimpleNamespace(free=9e9))
    assert words in course.explain(log) and "\n" not in course.explain(log)
    assert course.explain("Collecting torch\nERROR: Something else.") is None
    course.VENV.mkdir()
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    assert "disk is full" in course.explain(""), "it may have swallowed the message"


FAST = ["-m", "not slow", "tests", "--ignore=tests/notebooks"]


@pytest.mark.parametrize(
    ("arguments", "handed_over"),
    [
        (["run", "--profile", "smoke"], ["-m", "fewshot_lib", "run", "--profile", "smoke"]),
        (["results"], ["-m", "fewshot_lib", "results"]),
        (["check", "notebooks"], ["-m", "fewshot_lib", "check", "notebooks"]),
        (["record"], ["-m", "fewshot_lib", "record"]),
        (["test", "-k", "glyphs"], ["-m", "pytest", "-k", "glyphs"]),
        (["test", "--fast", "-x"], ["-m", "pytest", *FAST, "-x"]),
    ],
)
def test_every_command_goes_to_the_python_of_the_venv(course, monkeypatch, arguments, handed_over):
    monkeypatch.setattr(course, "set_up", lambda: None)
    monkeypatch.setattr(course, "hand_over", lambda command: (command, "status"))
    assert course.main(arguments) == (handed_over, "status")
    assert course.COMMANDS["lab"] == ["-m", "jupyterlab", f"--ServerApp.root_dir={course.ROOT / 'notebooks'}"]


def test_every_command_of_fewshot_is_passed_on_and_stands_in_the_readme(course):
    (commands,) = (action.choices for action in parser()._actions if action.choices)
    assert set(commands) == set(course.COMMANDS) - {"lab", "test", "setup"}
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Commands and settings")[2]
    assert not [name for name in commands if not re.search(rf"`(fewshot )?{name}\b", table)]


def test_help_and_unknown_commands_set_nothing_up(course, steps, capsys):
    assert course.main([]) == course.main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(name in usage for name in course.COMMANDS)
    assert course.main(["rum"]) == 2
    assert "'rum'" in (error := capsys.readouterr().err) and all(name in error for name in course.COMMANDS)
    assert steps == []


@pytest.mark.parametrize("status", [0, 7])
def test_the_exit_status_is_passed_on(course, monkeypatch, status):
    monkeypatch.setattr(course, "PYTHON", sys.executable)
    assert course.hand_over(["-c", f"raise SystemExit({status})"]) == status


def test_ctrl_c_is_one_line(course, monkeypatch, capsys):
    class Child:
        returncode = None

        def wait(self):
            self.returncode, before = 3, self.returncode
            if before is None:
                raise KeyboardInterrupt
            return self.returncode

        def poll(self):
            return self.returncode

    monkeypatch.setattr(course.subprocess, "Popen", lambda *args, **kwargs: Child())
    assert course.hand_over(["-m", "pytest"]) == 3
    assert capsys.readouterr().err == "Stopped.\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("with_browser", [False, True])
def test_ci_runs_exactly_the_command_of_the_readme(tmp_path, with_data, with_browser):
    """Whatever comes of the browser: there it cannot be installed, and here its packages cannot."""
    run, bin, data = (tmp_path / name for name in ("clone/.ci/run", "bin", "shared/data"))
    for folder in (run.parent, bin, *([data] if with_data else [])):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", run)
    for name in ("bash", "dirname", "id", "timeout"):
        (bin / name).symlink_to(shutil.which(name))
    fakes = {"python3": 'echo "$PWD|$*|$FEWSHOT_DATA"\nexit 5', "apt-get": "exit 100"}
    for name, text in (fakes | ({"chromium": ""} if with_browser else {})).items():
        (bin / name).write_text(f"#!{shutil.which('sh')}\n{text}\n")
        (bin / name).chmod(0o755)
    answer = subprocess.run(["bash", run], env={"PATH": str(bin)}, capture_output=True, text=True)
    commands = ["course.py setup browser"] * with_browser + ["course.py test"]
    place = data if with_data else ""
    assert answer.stdout.splitlines() == [f"{tmp_path / 'clone'}|{each}|{place}" for each in commands]
    assert answer.returncode == 5 and os.access(ROOT / ".ci" / "run", os.X_OK)


def test_paths_are_meant_where_they_are_typed_and_the_tests_are_at_home(course, tmp_path, monkeypatch):
    where = []
    ended = contextlib.nullcontext(SimpleNamespace(wait=lambda: 0))
    monkeypatch.setattr(course, "child", lambda command, directory: where.append(directory) or ended)
    monkeypatch.chdir(tmp_path.parent)
    for name in ("run", "data", "test"):
        course.hand_over(course.COMMANDS[name])
    assert where == [tmp_path.parent, tmp_path.parent, course.ROOT]
