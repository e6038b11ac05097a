"""Sets up the course and runs it.

    python3 course.py run      run every notebook; pages and a table of results under build/course/
    python3 course.py lab      open the notebooks in JupyterLab
    python3 course.py test     run the test suite; with --fast without notebooks and slow tests
    python3 course.py site     build the course as a web site that needs no network, under build/site/
    python3 course.py setup    only the set-up; setup browser: with what the tests in a browser need

Also: sweep, results, class, students, grade, slides, check, record, data, fit, predict, suggest, evaluate,
export, as `fewshot` has them. What follows is passed on: run --profile smoke

The first call makes .venv beside this file and installs the pinned packages there; later calls reuse it.
In the students' edition (`fewshot students --zip`) they come from the folder wheels, as far as it has them.
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
LOCK = VENV / "course-lock"
LOG = VENV / "install.log"
WHEELS = ROOT / "wheels"  # of the students' edition; a clone has none
COMPLETE = WHEELS / "complete.txt"  # for which machine every package is there; without it, some are fetched
PYTHON = str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
UNFINISHED = "unfinished"
NEEDED_GB = 3  # with the CPU build of torch: .venv 1.8, downloads on their way 0.5, and some air

OF_FEWSHOT = "run sweep results class check record data fit predict suggest evaluate site".split()
OF_FEWSHOT += ["students", "grade", "slides", "export"]
COMMANDS = {name: ["-m", "fewshot_lib", name] for name in OF_FEWSHOT}
COMMANDS["lab"] = ["-m", "jupyterlab", "--ServerApp.root_dir={}".format(ROOT / "notebooks")]
COMMANDS["test"] = ["-m", "pytest"]
COMMANDS["setup"] = []
IN_CLONES = "test site".split()  # what the students' edition does not hold
EXTRAS = ("site", "browser")  # of pyproject.toml, which few need: installed when they are first asked for
FAST = ["-m", "not slow", "tests", "--ignore=tests/notebooks"]  # what `test --fast` stands for

# What pip says -> what to do. The first that matches counts: without a network there is a "No matching" too.
AGAIN = "then run the same command again."
EXPLANATIONS = {
    r"No space left on device|not enough space on the disk|Disk quota exceeded|Errno 28\b": "The disk is "
    "full (the GPU build of torch, the default on Linux, takes several GB): free some space, " + AGAIN,
    r"(?s)(\w+ConnectionError|\w+TimeoutError|NameResolutionError|ProxyError|ProtocolError|Max retries|"
    r"CERTIFICATE_VERIFY_FAILED)(?!.*from versions: \d)": "The package index cannot be reached: check the "
    "network (behind a proxy, set HTTPS_PROXY, and PIP_CERT to its certificate), " + AGAIN,
    "Windows Long Path": "The path of this folder is too long for Windows: give it a short one, such as "
    r"C:\course, " + AGAIN,
    r"No matching distribution found for (?P<package>\S+)": "There is no build of {package} for this machine "
    "({machine}) where pip looks: the course needs 64-bit Linux, Windows, or macOS 14 on Apple silicon, and "
    "Python 3.11 to 3.14.",
}


class SetupError(Exception):
    """The set-up cannot go on; the message is one sentence: what is wrong and what to do."""


def check_python(version=sys.version_info, is_64bit=sys.maxsize > 2**32):
    """Raises SetupError for a Python that is too old or 32-bit; only warns about one newer than tested."""
    name = ".".join(str(part) for part in version[:3])
    if tuple(version[:2]) < (3, 11):
        raise SetupError(f"This is Python {name}, but the course needs 3.11 or newer: https://www.python.org")
    if not is_64bit:
        raise SetupError(f"This is a 32-bit Python {name}, and PyTorch needs 64 bits: https://www.python.org")
    if tuple(version[:2]) > (3, 14):
        print(f"Note: Python {name} is newer than those tested (3.11 to 3.14).", file=sys.stderr)


def machine():
    """What a wheel is made for: the Python, the system, the processor."""
    return "Python {}.{}, {} {}".format(*sys.version_info[:2], platform.system(), platform.machine())


def check_wheels():
    """Raises SetupError where the packages of the students' edition are for another machine or Python."""
    needed = COMPLETE.read_text().strip() if COMPLETE.is_file() else machine()
    if needed == machine():
        return
    version = needed.split(",")[0].replace("Python ", "")
    fix = f"start with that Python: python{version} start.py (Windows: py -{version} start.py)"
    if needed.split(",")[1] != machine().split(",")[1]:
        fix = "ask for the edition for your system"
    raise SetupError(f"The packages in this folder are for {needed}, but this is {machine()}: {fix}")


def check_venv_module():
    """Debian and Ubuntu ship Python without the module that puts pip into a virtual environment."""
    for name in ("venv", "ensurepip"):
        if importlib.util.find_spec(name) is None:
            package = "python{}.{}-venv".format(*sys.version_info[:2])
            fix = f"on Debian or Ubuntu, sudo apt install {package}"
            raise SetupError(f"This Python lacks the module {name}, which makes .venv: {fix}")


def environment(**variables):
    """The environment of every child: UTF-8, and nothing that would mix in packages from outside .venv."""
    outside = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    inherited = {name: value for name, value in os.environ.items() if name not in outside}
    if WHEELS.is_dir() and (ROOT / "cache").is_dir():
        inherited.setdefault("FEWSHOT_CACHE", str(ROOT / "cache"))
    return dict(inherited, PYTHONUTF8="1", PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", **variables)


def venv_version():
    """(major, minor) of the Python inside .venv; None where there is none that is supported and has pip."""
    probe = [PYTHON, "-c", "import pip, sys; print(*sys.version_info[:2])"]
    try:
        answer = subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
    except OSError:
        return None
    version = tuple(int(part) for part in answer.stdout.split()) if answer.returncode == 0 else ()
    return version if version >= (3, 11) else None


def fingerprint(version):
    """Hash of what an installation depends on: the Python in .venv, the pins, the place (it is linked)."""
    files = [ROOT / name for name in ("requirements.txt", "constraints.txt", "pyproject.toml")]
    pins = [file.read_bytes() for file in [*files, *library()] if file.is_file()]
    return hashlib.sha256(repr((version, str(ROOT), pins)).encode()).hexdigest()


def library():
    """The wheel of fewshot_lib in the students' edition, in a list; a clone has none."""
    return sorted(WHEELS.glob("fewshot_lib-*.whl"))


def read_stamp():
    """What the last installation left behind; "" where .venv was made by hand or is not there."""
    return STAMP.read_text().strip() if STAMP.is_file() else ""


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
    """One installation at a time. pip inherits the lock, so that one that was orphaned is waited for."""
    with LOCK.open("w") as handle:
        if not try_lock(handle):
            print("Another installation into .venv is under way; waiting for it ...", flush=True)
            while not try_lock(handle):
                time.sleep(1)
        os.set_inheritable(handle.fileno(), True)
        yield


def set_up():
    """Makes .venv, or brings it up to date; returns at once where that is done."""
    if is_complete():
        return
    check_wheels()
    check_python()
    check_venv_module()
    try:
        VENV.mkdir(exist_ok=True)
        with installation_lock():
            if is_complete():
                return
            if venv_version() is None or read_stamp() == UNFINISHED:  # it may hold half a package
                make_venv()
            install()
    except OSError as error:
        cannot = f"The set-up cannot write to {VENV}: {error}; copy the folder to a place where you may write"
        raise SetupError(explain(str(error)) or cannot) from error


def make_venv():
    """An empty .venv in place of whatever is there."""
    if Path(sys.prefix).resolve() == VENV:
        raise SetupError("The .venv must be made anew but is in use: run `deactivate`, " + AGAIN)
    print("Setting up .venv: about 160 packages, a few minutes, only this once.", flush=True)
    STAMP.write_text(UNFINISHED)  # and this stays: were the rest to break off, it must not pass for finished
    for entry in set(VENV.iterdir()) - {STAMP, LOCK}:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(str(entry))
        else:
            entry.unlink()
    free = shutil.disk_usage(str(VENV)).free / 1e9
    if free < NEEDED_GB:
        found = f"The set-up needs {NEEDED_GB} GB, but {VENV} has {free:.1f} GB left on its disk"
        raise SetupError(f"{found}: free some space, {AGAIN}")
    run_step([sys.executable, "-m", "venv", str(VENV)])


def install():
    """The pinned packages, and fewshot_lib (a link to it). pip shows its own progress and its own errors."""
    # Without build isolation: an isolated build fetches a setuptools that is not pinned.
    packages, own = ["-r", "requirements.txt"], ["--no-build-isolation", "-e", "."]
    for wheel in library():  # by its file: an index may have something else under its name
        name = str(wheel.relative_to(ROOT))
        packages, own = ["-c", "requirements.txt", "--find-links", "wheels", name + "[course]"], [name]
        packages += ["--no-index"] if COMPLETE.is_file() else []
        own += ["--force-reinstall", "--no-index"]  # a second edition has the version of the first
    before = read_stamp()
    STAMP.write_text(UNFINISHED)
    LOG.write_text("")
    # Modules are compiled when they are first imported, not all of them now: that halves the time.
    pip = [PYTHON, "-m", "pip", "install", "--no-compile", "--no-input", "--log", str(LOG)]
    try:
        run_step([*pip, "--only-binary=:all:", *packages, "-c", "constraints.txt"])
    finally:
        if b"Installing collected packages" not in LOG.read_bytes():  # what worked before works still
            STAMP.write_text(before)
    run_step([*pip, "--no-deps", *own])
    STAMP.write_text(fingerprint(venv_version()))
    print("The set-up is complete.", flush=True)


def add_extra(name):
    """Installs an extra of pyproject.toml, pinned by the same files; returns at once where that is done."""
    stamp, wanted = VENV / f"course-extra-{name}", fingerprint(venv_version())
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"Installing what {name!r} needs, only this once.", flush=True)
    pip = [PYTHON, "-m", "pip", "install", "--no-compile", "--no-input", "--log", str(LOG)]
    pins = ["-c", "requirements.txt", "-c", "constraints.txt"]
    with installation_lock():
        run_step([*pip, *pins, "--no-build-isolation", "-e", f".[{name}]"])
        stamp.write_text(wanted)


def run_step(command):
    """Runs one step of the set-up; raises SetupError if it fails."""
    # Downloads go through .venv too: one disk to check, and no small temporary folder to fill.
    (VENV / "tmp").mkdir(exist_ok=True)
    with child(command, TMPDIR=str(VENV / "tmp")) as process:
        process.wait()
    if process.returncode:
        log = LOG.read_text(encoding="utf-8", errors="replace") if LOG.is_file() else ""
        raise SetupError(explain(log) or f"The set-up failed; the reason stands above, and in {LOG}")


def explain(log):
    """One sentence on why a step failed, from what was written about it, or None."""
    if VENV.is_dir() and shutil.disk_usage(str(VENV)).free < 0.3e9:
        log += "No space left on device"  # a full disk may have swallowed pip's own words
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    for pattern, sentence in EXPLANATIONS.items():
        found = re.search(pattern, log)
        if found:
            return sentence.format(machine=machine, **found.groupdict())
    return None


@contextlib.contextmanager
def child(command, directory=ROOT, **variables):
    """A running child process that does not outlive the block."""
    process = subprocess.Popen(
        command, cwd=str(directory), env=environment(**variables), close_fds=os.name == "nt"
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def hand_over(command):
    """Runs a command with the Python of .venv; returns its exit status. Ctrl-C is for the child to answer."""
    # Paths for `fewshot` are meant where they are typed; the tests and the lab are at home here.
    directory = Path.cwd() if "fewshot_lib" in command else ROOT
    with child([PYTHON, *command], directory) as process:
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
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"There is no command {command!r}; there are: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    if WHEELS.is_dir() and command in IN_CLONES:
        print(f"{command!r} needs a clone of the course: this is the students' edition.", file=sys.stderr)
        return 2
    if command == "setup" and set(rest) - set(EXTRAS):
        print("After setup may stand: {}.".format(", ".join(EXTRAS)), file=sys.stderr)
        return 2
    if command == "test" and "--fast" in rest:
        rest = FAST + [argument for argument in rest if argument != "--fast"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        set_up()
        for extra in rest if command == "setup" else {command}.intersection(EXTRAS):
            add_extra(extra)
        return hand_over(COMMANDS[command] + rest) if command != "setup" else 0
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command starts again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
