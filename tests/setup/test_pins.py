"""The versions stand in one place each: the files that name packages agree with each other and the code."""

import ast
import json
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fewshot_lib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GPU_PACKAGES = ("cuda-", "nvidia-", "triton")


def pins(name):
    """The pins of a file, name -> version. Every line that is not a comment must be one."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    matches = {line: re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line) for line in lines}
    assert not [line for line, match in matches.items() if match is None], (
        "only `name==version`: no hash, index, suffix or marker"
    )
    assert len({match[1] for match in matches.values()}) == len(lines), "a package is pinned twice"
    return {match[1]: match[2] for match in matches.values()}


REQUIREMENTS, CONSTRAINTS = pins("requirements.txt"), pins("constraints.txt")
ON_DEMAND = ("site", "browser")  # installed only where they are asked for, and so pinned in constraints.txt
# Every list of bounds; an extra that takes in others names the package itself. mpnet is for who asks: 440 MB.
LISTS = {
    "base": PROJECT["project"]["dependencies"],
    "build": PROJECT["build-system"]["requires"],
    **PROJECT["project"]["optional-dependencies"],
}
del LISTS["mpnet"]
BOUNDS = {
    name: [Requirement(line) for line in lines if not line.startswith("fewshot-lib[")]
    for name, lines in LISTS.items()
}


def imports(source):
    """Top-level names of the packages that a piece of Python imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def sources():
    """All that imports: the modules of the library, and the code cells of the notebooks."""
    yield from (
        (str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "fewshot_lib").rglob("*.py"))
    )
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        cells = [
            cell
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"
        ]
        lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
        yield path.name, "\n".join(line for line in lines if not line.startswith(("%", "!")))


def test_one_line_of_torch_serves_every_machine():
    assert "torch==2.13.0" in (ROOT / "requirements.txt").read_text().splitlines()


def test_a_package_is_pinned_in_one_of_the_two_files():
    assert not set(REQUIREMENTS) & set(CONSTRAINTS)
    assert not [
        name
        for name in {*REQUIREMENTS, *CONSTRAINTS}
        if name.startswith(GPU_PACKAGES) or name in ("pip", "fewshot-lib")
    ]


def named(*lists):
    """The packages that some lists of bounds name."""
    return {canonicalize_name(bound.name) for name in lists for bound in BOUNDS[name]}


def test_requirements_and_pyproject_name_the_same_packages():
    assert named(*set(BOUNDS) - set(ON_DEMAND)) == set(REQUIREMENTS)


def test_what_is_installed_on_demand_is_pinned_among_the_constraints():
    tree = ast.parse((ROOT / "course.py").read_text())
    (extras,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS"
    ]
    assert extras == ON_DEMAND
    assert named(*ON_DEMAND) <= set(CONSTRAINTS) and not named(*ON_DEMAND) & set(REQUIREMENTS)


@pytest.mark.parametrize("bound", [bound for group in BOUNDS.values() for bound in group], ids=str)
def test_bounds_are_lower_bounds_that_the_pins_satisfy(bound):
    assert [clause.operator for clause in bound.specifier] == [">="]
    assert bound.specifier.contains((REQUIREMENTS | CONSTRAINTS)[canonicalize_name(bound.name)])


def test_conda_takes_its_versions_from_the_same_files():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert environment["channels"] == ["conda-forge", "nodefaults"] and pip == "pip"
    # One option a line: of `-r requirements.txt -c constraints.txt` on one line pip drops the second,
    # silently.
    assert packages == {"pip": ["-r requirements.txt", "-c constraints.txt", "-e ."]}
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(
        python.removeprefix("python=")
    )


def test_all_that_the_requirements_bring_along_is_pinned():
    installed = {canonicalize_name(each.name) for each in metadata.distributions()}
    roots = {*REQUIREMENTS, *(named(*ON_DEMAND) & installed)}
    missing, seen, todo = set(), set(), [(name, frozenset()) for name in roots]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or name.startswith(GPU_PACKAGES):
            continue
        seen.add((name, extras))
        missing |= {name} - set(REQUIREMENTS) - set(CONSTRAINTS)
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}
            ):
                todo.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    assert not missing, "add these to constraints.txt"


def test_what_the_course_imports_is_a_direct_requirement():
    distributions = metadata.packages_distributions()
    library = {
        canonicalize_name(bound.name)
        for name in ("base", "text", "parquet", "onnx", "multitask", "course", "cluster", "site")
        for bound in BOUNDS[name]
    }
    unnamed = []
    for name, source in sources():
        for package in set(imports(source)) - set(sys.stdlib_module_names) - {"fewshot_lib"}:
            if not library & {canonicalize_name(owner) for owner in distributions.get(package, [package])}:
                unnamed.append(f"{name} imports {package}")
    assert not unnamed, "name their packages in pyproject.toml and requirements.txt"


def test_the_command_and_the_version_exist():
    module, function = PROJECT["project"]["scripts"]["fewshot"].split(":")
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == fewshot_lib.__version__


def test_a_cell_that_hangs_is_stopped_and_its_noise_is_not_compared():
    assert "--nbval-cell-timeout=300" in PROJECT["tool"]["pytest"]["ini_options"]["addopts"].split()
    rules = re.findall(
        r"^regex: (.*)\nreplace: (.*)$", (ROOT / "tests" / "sanitize.cfg").read_text(), re.MULTILINE
    )
    text = "done in 1.3 s: 0.123456789 at <object 0x7f0011aa>, 5 shots"
    for regex, replacement in rules:
        text = re.sub(regex, replacement, text)
    assert text == "done in TIME: 0.1234 at <object ADDRESS>, 5 shots"
