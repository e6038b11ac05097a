"""Sets the course up from this folder and opens it in JupyterLab: python3 start.py

The first call makes .venv here; what wheels/ holds is not fetched from anywhere. Later calls only open.
"""

import os
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - it is run by whatever Python there is
    sys.exit("The course needs Python 3.11 or newer: https://www.python.org")

ROOT = Path(__file__).resolve().parent
VENV, WHEELS = ROOT / ".venv", ROOT / "wheels"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
READY = VENV / "course-ready"
PINS = ["-c", str(ROOT / "requirements.txt"), "-c", str(ROOT / "constraints.txt")]


def set_up() -> None:
    """The packages of the course in .venv; those in wheels/ come from there."""
    if READY.is_file():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    offline = ["--no-index"] if (WHEELS / "complete.txt").is_file() else []
    pip = [str(PYTHON), "-m", "pip", "install", "--no-input", *offline, "--find-links", str(WHEELS), *PINS]
    subprocess.run([*pip, "fewshot-lib[course]"], check=True)
    READY.touch()


def main() -> int:
    """Sets up, then opens the notebooks; further arguments are JupyterLab's."""
    try:
        set_up()
    except subprocess.CalledProcessError as error:
        print(f"The set-up stopped, for the reason above ({error.returncode}).", file=sys.stderr)
        return 1
    environment = dict(os.environ)
    if (ROOT / "cache").is_dir():
        environment.setdefault("FEWSHOT_CACHE", str(ROOT / "cache"))
    lab = [str(PYTHON), "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", *sys.argv[1:]]
    return subprocess.run(lab, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
