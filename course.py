"""Sets up the course and runs it.

    python3 course.py run      run every notebook; pages and a table of results under build/course/
    python3 course.py lab      open the notebooks in JupyterLab
    python3 course.py test     run the test suite
    python3 course.py setup    only the set-up

Also: results, check, record, data, as `fewshot` has them. What follows is passed on: python3 course.py run --profile smoke

The first call makes .venv beside this file and installs the pinned packages there and nowhere else; later calls reuse it.
"""

# Standard library only, and readable by Python 3.6: a Python that is too old must be able to say so.
import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "course-stamp"  # UNFINISHED, or the fingerprint of the installation that was completed
PYTHON = str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
LOCK = VENV / "course-lock"
LOG = VENV / "install.log"
UNFINISHED = "unfinished"
NEEDED_GB = 3  # with the CPU build of torch: .venv 1.8, downloads on their way 0.5, and some air

COMMANDS = {name: ["-m", "fewshot_lib", name] for name in ("run", "results", "check", "record", "data")}
COMMANDS.update(lab=["-m", "jupyterlab", f"--ServerApp.root_dir={ROOT / 'notebooks'}"], test=["-m", "pytest"], setup=[])

# What a failure says -> what to do. The first that matches counts: without a network pip also ends in "No matching".
AGAIN = "then run the same command again."
EXPLANATIONS = {
    r"No space left on device|not enough space on the disk|Disk quota exceeded|Errno 28\b": "The disk is full (the GPU build of torch, "
    "which is what Linux gets by default, takes several GB): free some space, " + AGAIN,
    r"Permission denied|Read-only file system|Errno 13\b": "The set-up may not write to {venv}: copy the course elsewhere, " + AGAIN,
    r"CERTIFICATE_VERIFY_FAILED": "A proxy shows its own certificate: set PIP_CERT to the certificate file of your network, " + AGAIN,
    r"(?s)(NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|ConnectionResetError|ProtocolError|"
    r"Max retries exceeded|Download failed|Network is unreachable|name resolution|getaddrinfo)(?!.*from versions: \d)": "The package "
    "index cannot be reached: check the network (behind a proxy, set HTTPS_PROXY), " + AGAIN,
    r"No matching distribution found for (?P<package>\S+)": "There is no build of {package} for this machine ({machine}) where pip looks: "
    "the course needs 64-bit Linux, Windows, or macOS 14 on Apple silicon, and Python 3.11 to 3.14.",
    r"Errno 17\b|Errno 20\b": "{venv} is in the way, and it is not a folder: delete it, " + AGAIN,
    r"Long Path support": "A file name became too long for Windows: move the course to a folder such as C:\\course, " + AGAIN,
}


class SetupError(Exception):
    """The set-up cannot go on; the message is one sentence: what is wrong and what to do."""


def check_python(version=sys.version_info, is_64bit=sys.maxsize > 2**32):
    """Raises SetupError for a Python that is too old or a 32-bit one; only warns about one that is newer than tested."""
    name = ".".join(str(part) for part in version[:3])
    if tuple(version[:2]) < (3, 11):
        raise SetupError(f"This is Python {name}, but the course needs 3.11 or newer: https://www.python.org/downloads")
    if not is_64bit:
        raise SetupError(f"This is a 32-bit Python {name}, and PyTorch needs a 64-bit one: https://www.python.org/downloads")
    if tuple(version[:2]) > (3, 14):
        print(f"Note: Python {name} is newer than those that the course is tested with (3.11 to 3.14).", file=sys.stderr)


def check_venv_module():
    """Debian and Ubuntu ship Python without the module that puts pip into a virtual environment."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        raise SetupError(f"This Python lacks the module {missing[0]}, which makes .venv: on Debian or Ubuntu, sudo apt install {package}")


def environment(**extra):
    """The environment of every child: UTF-8, and nothing that would mix in packages from outside .venv or put some there."""
    outside = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    return dict({name: value for name, value in os.environ.items() if name not in outside}, PYTHONUTF8="1", PIP_USER="0", **extra)


def venv_version():
    """(major, minor) of the Python inside .venv, or None where there is none that is supported, starts and has pip."""
    probe = [PYTHON, "-c", "import pip, sys; print(*sys.version_info[:2])"]
    try:
        answer = subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
    except OSError:
        return None
    version = tuple(int(part) for part in answer.stdout.split()) if answer.returncode == 0 else ()
    return version if version >= (3, 11) else None


def fingerprint(version):
    """Hash of what an installation depends on: the Python in .venv, the pins, the place (fewshot_lib is linked, not copied)."""
    pins = [(ROOT / name).read_bytes() for name in ("requirements.txt", "constraints.txt", "pyproject.toml")]
    return hashlib.sha256(repr((version, str(ROOT), pins)).encode()).hexdigest()


def read_stamp():
    """What the last installation left behind; None where .venv was made by hand or is not there."""
    return STAMP.read_text().strip() if STAMP.is_file() else None


def is_complete():
    """Whether .venv works and holds a finished installation of the present pins."""
    version = venv_version()
    return version is not None and read_stamp() == fingerprint(version)


def try_lock(handle):
    """Whether the lock was free. A file system without locks counts as free."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def installation_lock():
    """One installation at a time. pip inherits the lock, so that one whose course.py was killed is still waited for."""
    with LOCK.open("w") as handle:
        if not try_lock(handle):
            print("Another installation into .venv is under way; waiting for it ...", flush=True)
            while not try_lock(handle):
                time.sleep(1)
        os.set_inheritable(handle.fileno(), True)
        yield


@contextlib.contextmanager
def child(command, **options):
    """A running child process that does not outlive the block."""
    process = subprocess.Popen(command, cwd=str(ROOT), **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def set_up():
    """Makes or finishes .venv, and returns at once where that is done; raises SetupError where it cannot be done."""
    if is_complete():
        return
    check_venv_module()
    try:
        VENV.mkdir(exist_ok=True)
        with installation_lock():
            if not is_complete():
                install()
    except OSError as error:
        raise SetupError(explain(str(error))) from error


def install():
    """Brings a working .venv up to date. One whose installation broke off may hold half a package: it is made anew."""
    started = time.time()
    if read_stamp() == UNFINISHED or venv_version() is None:
        if Path(sys.prefix).resolve() == VENV:
            raise SetupError("The .venv must be made anew but is in use: run `deactivate`, " + AGAIN)
        print("Setting up .venv: about 160 packages, a few minutes, only this once.", flush=True)
        STAMP.write_text(UNFINISHED)
        clear_venv()
        free = shutil.disk_usage(str(VENV)).free / 1e9
        if free < NEEDED_GB:
            raise SetupError(f"The set-up needs {NEEDED_GB} GB, but {VENV} has {free:.1f} GB left on its disk: free some space, {AGAIN}")
        logged([sys.executable, "-m", "venv", str(VENV)], "making .venv")
    before = read_stamp()
    STAMP.write_text(UNFINISHED)
    LOG.write_text("")
    # Modules are compiled when they are first imported, not all of them now: that halves the time.
    pip = [PYTHON, "-m", "pip", "install", "--no-input", "--progress-bar=off", "--disable-pip-version-check", "--no-compile"]
    try:
        logged(pip + ["--only-binary=:all:", "-r", "requirements.txt", "-c", "constraints.txt"], "looking for packages")
    finally:
        if b"Installing collected packages" not in LOG.read_bytes():  # nothing was touched: what worked before works still
            STAMP.write_text(before or "")
    # Without build isolation: an isolated build fetches a setuptools that is not pinned and that an offline mirror may lack.
    logged(pip + ["--no-deps", "--no-build-isolation", "-e", "."], "linking fewshot_lib")
    shutil.rmtree(str(VENV / "tmp"), ignore_errors=True)
    STAMP.write_text(fingerprint(venv_version()))
    print(f"The set-up is complete ({clock(started)}).", flush=True)


def clear_venv():
    """Empties .venv, except for the lock that is being held and the stamp: were this to break off, it must not pass for finished."""
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(str(entry))
        elif entry not in (LOCK, STAMP):
            entry.unlink()


def logged(command, task):
    """Runs one step of the installation with its output in the log and a sign of life here; SetupError if it fails."""
    # Downloads go through .venv too: one disk to check, and no small temporary folder to fill or to leave things in.
    (VENV / "tmp").mkdir(exist_ok=True)
    env = environment(PYTHONUNBUFFERED="1", **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(VENV / "tmp")))
    with LOG.open("ab") as output, LOG.open("rb") as log:
        log.seek(0, os.SEEK_END)
        with child(command, stdout=output, stderr=subprocess.STDOUT, env=env, close_fds=os.name == "nt") as process:
            watch(process, log, task)
    if process.returncode:
        raise SetupError(explain(LOG.read_text(encoding="utf-8", errors="replace")))


def watch(process, log, task):
    """Shows what pip is doing until it ends: one line that changes on a terminal, a line now and then elsewhere."""
    every, end = (1, "\r") if sys.stdout.isatty() else (20, "\n")
    started = shown = time.time()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        for line in log:
            task = doing(line.decode("utf-8", "replace")) or task
        if time.time() - shown >= every:
            print(f"  [{clock(started)}] {task}".ljust(78 if end == "\r" else 0)[:78], end=end, flush=True)
            shown = time.time()
    if sys.stdout.isatty():
        print(" " * 78, end="\r", flush=True)


def doing(line):
    """What a line of pip's output means to the reader, or None: "downloading torch-2.13.0 (190.1 MB)"."""
    found = re.match(r"\s*Downloading (?:\S*/)?([^/\s]+?)(?:-(?:cp|py)\d\S*)? (\([^)]*B\))", line)
    if found:
        return "downloading {} {}".format(*found.groups())
    if line.startswith("Installing collected packages:"):
        return "unpacking {} packages".format(line.count(",") + 1)
    return None


def explain(log):
    """One sentence on why a step failed, from its output, and where to read the rest."""
    if VENV.is_dir() and shutil.disk_usage(str(VENV)).free < 0.3e9:
        log += "No space left on device"  # a full disk may have swallowed pip's own words
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    details = f" Details: {LOG}" if LOG.is_file() else ""
    for pattern, sentence in EXPLANATIONS.items():
        found = re.search(pattern, log)
        if found:
            return sentence.format(machine=machine, venv=VENV, **found.groupdict()) + details
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it gave no reason."]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return f"The installation failed: {(errors or lines)[-1]}{details}"


def clock(started):
    """The time since then in minutes and seconds: "2:05"."""
    return "{}:{:02d}".format(*divmod(int(time.time() - started), 60))


def hand_over(command):
    """Runs a command with the Python of .venv and returns its exit status. What Ctrl-C means is for the child to say first."""
    with child([PYTHON] + command, env=environment()) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            status = process.wait()
            print("Stopped.", file=sys.stderr)
    return status if status >= 0 else 128 - status


def main(arguments):
    """Exit status: that of the command; 1 where the set-up fails, 2 for an unknown command."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    if arguments[0] not in COMMANDS:
        print(f"There is no command {arguments[0]!r}; there are: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        check_python()
        set_up()
        return hand_over(COMMANDS[arguments[0]] + arguments[1:]) if arguments[0] != "setup" else 0
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command starts again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
