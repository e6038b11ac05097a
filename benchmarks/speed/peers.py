"""The libraries that are measured beside this one, fetched from the package index."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

# optree is what torchopt needs besides torch; torch itself is the one that is there
PACKAGES = {
    "easyfsl": "1.5.0",
    "higher": "0.2.1",
    "torchopt": "0.7.3",
    "optree": "0.20.0",
    "graphviz": "0.21",
}
TORCHVISION = ("torchvision", "torchvision.models", "torchvision.models.resnet", "torchvision.datasets")


def fetch(folder: Path) -> None:
    """Installs what is missing, and lets it be imported; without an index the peers are left out."""
    missing = [f"{name}=={v}" for name, v in PACKAGES.items() if not (folder / name).exists()]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *missing]
        subprocess.run(pip, check=False)
    sys.path.append(str(folder))  # at the end: it replaces nothing


@cache
def peer(name: str) -> ModuleType | None:
    """The module, or None where it isn't installed or doesn't run with this torch (which is printed).

    easyfsl imports torchvision for its plots and its ResNets, which take no part here: a stand-in will do.
    """
    stand_ins = {} if importlib.util.find_spec("torchvision") else {n: MagicMock() for n in TORCHVISION}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever an old package says to a new torch
        print(f"{name} is left out: {error!r}", flush=True)
        return None
    finally:
        for stand_in in stand_ins:
            del sys.modules[stand_in]
