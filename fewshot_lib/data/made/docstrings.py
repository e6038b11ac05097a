"""What the installed scientific packages say about themselves: real English sentences without a download.

A text is the summary of a documented function, method or class, its class is the public module it stands in
(``scipy.signal``), its domain is the package. Nothing is copied into the repository: source files are parsed,
never imported, where pip has put them, so the versions that are installed define the corpus.
"""

import ast
import gc
import hashlib
import importlib.util
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fewshot_lib.data.cache import cache_dir, cached_tensors
from fewshot_lib.data.dataset import ClassDataset, chosen_family, class_ids, splits_of
from fewshot_lib.data.made.summaries import summary
from fewshot_lib.data.reporting import progress

VERSION = 1  # part of the cache's key: raise it with any change that alters a text

# package -> its name on the index, and what prose calls it (a text that names its own package is left out)
PACKAGES = {
    "sympy": ("sympy", "sympy"),
    "torch": ("torch", "torch|pytorch"),
    "matplotlib": ("matplotlib", "matplotlib|mpl|pyplot"),
    "transformers": ("transformers", "transformers|hugging ?face"),
    "sklearn": ("scikit-learn", "sklearn|scikit"),
    "prompt_toolkit": ("prompt-toolkit", "prompt[_ ]toolkit"),
    "IPython": ("ipython", "ipython"),
    "torch_geometric": ("torch-geometric", "torch_geometric|pyg"),
    "numpy": ("numpy", "numpy|np"),
    "narwhals": ("narwhals", "narwhals"),
    "scipy": ("scipy", "scipy"),
    "networkx": ("networkx", "networkx|nx"),
    "fontTools": ("fonttools", "fonttools"),
    "jupyter_server": ("jupyter-server", "jupyter"),
    "mpmath": ("mpmath", "mpmath"),
}
VAL_PACKAGES = ("torch_geometric", "numpy", "narwhals")
TEST_PACKAGES = ("scipy", "networkx", "fontTools", "jupyter_server", "mpmath")
FAMILIES = ["package", "module"]
# Texts of a class; of more, evenly spaced ones are taken: encoding them all is what takes time.
MIN_TEXTS, MAX_TEXTS = 25, 50
# A class is package.module; in these packages of packages it is one level further down.
OPENED = {"networkx.algorithms", "sympy.physics", "torch.nn", "torch_geometric.nn"}
OPENED |= {"IPython.core", "jupyter_server.services"}
CONTAINERS = {"algorithms", "core", "services"}  # of these, and left out of the readable name
# Too much of one thing, or not there on every Python version or system.
SKIPPED = {"transformers.models", "numpy.distutils", "IPython.lib"}
SKIPPED |= {"torch.ao", "torch.xpu", "torch.mtia", "torch.mps"}
# Modules without a topic, and directories that document nothing.
NO_TOPIC = set(
    "utils util utilities misc core base common compat cbook errors external testing_utils".split()
)
NO_DOCS = set("tests test testing conftest examples benchmarks externals vendor __pycache__".split())


def load_docstrings(split_family: str | None = None) -> ClassDataset:
    """The docstring summaries, class by class in the order of their names. Warns of a package not installed.

    split_family: "package" (default; no package stands in two splits) or "module" (the modules of every
    package are divided: for learning many packages as tasks).
    """
    family = chosen_family("docstrings", FAMILIES, split_family)
    versions = {}
    for package, (distribution, _) in PACKAGES.items():
        try:
            versions[package] = version(distribution)
        except PackageNotFoundError:
            missing = f"docstrings: {distribution} is not installed"
            warnings.warn(f"{missing}, so its classes are missing and results differ.", stacklevel=3)
    key = hashlib.sha256(repr((VERSION, versions)).encode()).hexdigest()[:20]
    path = cache_dir("docstrings") / f"{key}.safetensors"
    _, metadata = cached_tensors(path, lambda: ({}, {"texts": json.dumps(harvest(list(versions)))}))
    texts = json.loads(metadata["texts"])
    modules = list(texts)
    return ClassDataset(
        inputs=[text for module in modules for text in texts[module]],
        labels=class_ids([c for c, module in enumerate(modules) for _ in texts[module]]),
        class_names=[readable(module) for module in modules],
        splits=_splits(modules, family),
        domains=[module.split(".")[0] for module in modules],
        name="docstrings",
        split_family=family,
    )


def readable(module: str) -> str:
    """A module's name in plain English: "networkx.algorithms.shortest_paths" -> "networkx shortest paths"."""
    return " ".join(part for part in module.split(".") if part not in CONTAINERS).replace("_", " ").lower()


def _splits(modules: list[str], family: str) -> dict[str, torch.Tensor]:
    """Class ids of train, val and test. The module family cuts each package 60 : 15 : 25, ordered by hash."""
    split_of = {}
    for package in PACKAGES:
        names = [module for module in modules if module.split(".")[0] == package]
        names.sort(key=lambda module: hashlib.sha256(module.encode()).hexdigest())
        n = len(names)
        n_val, n_test = (max(1, round(0.15 * n)), max(1, round(0.25 * n))) if n > 2 else (0, 0)
        if family == "package":
            n_val, n_test = n * (package in VAL_PACKAGES), n * (package in TEST_PACKAGES)
        for i, module in enumerate(names):
            split_of[module] = "val" if i < n_val else "test" if i < n_val + n_test else "train"
    return splits_of([split_of[module] for module in modules])


def harvest(packages: list[str]) -> dict[str, list[str]]:
    """module -> its texts, for every module of these packages with ``MIN_TEXTS`` or more; sorted by name.

    A sentence of two modules (but for numbers and punctuation) says nothing about either: both lose it.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)  # module -> letters of the text -> text
    owners: dict[str, set[str]] = defaultdict(set)
    was_enabled = gc.isenabled()
    gc.disable()  # halves the time to parse: a syntax tree is many objects without cycles, visited in vain
    try:
        for package in progress(packages, "reading the docstrings of installed packages", " packages"):
            own_name = re.compile(rf"(?i)\b({PACKAGES[package][1]})\b")
            for module, path in source_files(package):
                for text in filter(None, map(summary, public_docstrings(path))):
                    if not own_name.search(text):
                        letters = re.sub(r"[^a-z]+", " ", text.lower()).strip()
                        found[module].setdefault(letters, text)
                        owners[letters].add(module)
    finally:
        if was_enabled:
            gc.enable()
    kept = {}
    for module in sorted(found):
        texts = [text for letters, text in found[module].items() if len(owners[letters]) == 1]
        if len(texts) >= MIN_TEXTS:
            n = min(len(texts), MAX_TEXTS)
            kept[module] = [texts[i * len(texts) // n] for i in range(n)]
    return kept


def source_files(package: str) -> Iterator[tuple[str, Path]]:
    """(public module, file) of a package's Python files, in sorted order, but for those without a topic.

    Private files count under the module that they stand in: ``scipy/signal/_czt.py`` is ``scipy.signal``.
    """
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations, f"{package} is no installed package"
    root = Path(spec.submodule_search_locations[0])
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        if NO_DOCS.intersection(parts) or parts[-1].startswith("test_"):
            continue
        parts = parts[:-1] if parts[-1].startswith("_") else parts
        module = parts[: 3 if ".".join(parts[:2]) in OPENED else 2]
        name, is_private = ".".join(module), any(part.startswith("_") for part in module)
        if len(module) > 1 and name not in OPENED | SKIPPED and module[-1] not in NO_TOPIC and not is_private:
            yield name, path


def public_docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a file's public functions, classes and their public methods, in their order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" in somebody else's file
            tree = ast.parse(path.read_bytes())
    except SyntaxError:  # files for another Python version, and templates
        return
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            if docstring := ast.get_docstring(node):
                yield docstring
        if isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try):
            queue.extend(reversed(node.body))
