"""What the README promises a reader who types it in."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fewshot_lib.course.cli import parser
from fewshot_lib.course.running.times import load_costs

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "benchmarks/README.md", "data/README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_IN_THE_BASE = ["transformers", "peft", "torchjd", "torch_geometric", "IPython", "ipywidgets", "nbformat"]
TEXTS, IMAGES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.partition(" #")[0] for line in README.splitlines() if line.startswith("python3 course.py ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a program on an unpacked wheel outside the clone, without some packages; returns its output."""
    clone, site = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, clone)
    shutil.copytree(ROOT / "fewshot_lib", clone / "fewshot_lib", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run(build, cwd=clone, check=True, capture_output=True)
    shutil.unpack_archive(next(clone.glob("*.whl")), site, format="zip")

    def run(program, without=()):
        head = f"import sys\nsys.modules.update(dict.fromkeys({without}))\nsys.path[0] = {str(site)!r}\n"
        place = f"import fewshot_lib\nassert fewshot_lib.__file__.startswith({str(site)!r})\n"
        command = [sys.executable, "-c", head + place + program]
        done = subprocess.run(command, cwd=site, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_with_the_extra_text_the_five_lines_run_and_the_language_model_is_there(run):
    assert len(ast.parse(TEXTS).body) == 5
    result, model = run(
        f"{TEXTS}\nprint(type(fewshot_lib.load_masked_lm('minilm-mlm')).__name__)"
    ).splitlines()
    assert re.match(r"prototypes, cosine: \d\d\.\d% ± .*\(5-way 1-shot, .* 1,000 episodes, ", result)
    assert model == "MaskedLM"


@pytest.mark.slow
def test_in_a_base_installation_the_lines_on_images_run_and_text_encoders_say_what_they_need(run):
    few = IMAGES.replace("n_steps=100", "n_steps=3")
    assert few != IMAGES
    program = f"""
import torch
torch.manual_seed(0)  # the same network every time, whose features are then in the cache
{few}
from fewshot_lib import *
for make in (TextEncoder, load_masked_lm):
    try:
        make()
    except ModuleNotFoundError as error:
        print(error)
"""
    mean, difference, *errors = run(program, without=NOT_IN_THE_BASE).splitlines()[-4:]
    assert re.match(r"prototypes, Euclidean: \d\d\.\d% ± ", mean)
    assert re.match(r"prototypes, Euclidean is .* prototypes, cosine: .* points", difference)
    assert errors == 2 * ["The package transformers is missing: pip install 'fewshot-lib[text]'."]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert len(targets) > 5
    assert not [target for target in targets if not ((ROOT / page).parent / target).exists()]
    named = re.findall(r"`((?:notebooks|benchmarks|data|fewshot_lib|tests)/[^`]*)`", text)
    named += re.findall(r"python3? (\w[\w/]*\.py)", text)
    assert not [path for path in named if not (ROOT / re.split("[ <]", path)[0]).exists()]


def test_every_chapter_benchmark_and_extra_stands_in_its_table():
    assert all(f"notebooks/{path.name}" in README for path in (ROOT / "notebooks").glob("*.ipynb"))
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert all(f"\n| [{path.name}]({path.name}) |" in table for path in (ROOT / "benchmarks").glob("*.py"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert all(f'| `pip install ".[{extra}]"` |' in README for extra in project["optional-dependencies"])


def test_no_notebook_took_longer_than_its_head_says_nor_all_of_them_than_the_readme():
    taken = {name: cost["seconds"] / 60 for name, cost in load_costs(ROOT / "notebooks")["laptop"].items()}
    sums = {"chapters": 0.0, "optional notebooks": 0.0}
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        head = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        assert taken[path.stem] < int(re.findall(r"under (\d+) minutes? \|", head)[-1]), path.stem
        sums["optional notebooks" if path.parent.name == "extra" else "chapters"] += taken[path.stem]
    for what, minutes in sums.items():
        low, high = re.search(rf"(\d+) to (\d+) (?:minutes|more) for the {what}", README).groups()
        assert int(low) <= minutes <= int(high), what


@pytest.mark.parametrize("page", PAGES)
def test_code_fits_on_the_page(page):
    blocks = re.findall(r"```.*?\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert not [line for block in blocks for line in block.splitlines() if len(line) > 110]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command):
    name, *arguments = shlex.split(command)[2:]
    if name not in ("test", "lab", "setup"):  # which course.py hands on to others
        assert parser().parse_args([name, *arguments]).function


def test_files_that_pages_and_notebooks_name_are_there():
    folders = (
        "README.md",
        "RESULTS.md",
        "benchmarks/*.md",
        "data/*.md",
        "teaching/**/*.md",
        "notebooks/**/*.ipynb",
    )
    pages = [page for pattern in folders for page in ROOT.glob(pattern)]
    named = re.compile(
        r"(?<![\w/.-])((?:benchmarks|data|fewshot_lib|notebooks|results|teaching|tests)/[\w/.-]*\w\.(?:csv|ipynb|jsonl?|md|py))\b"
    )
    missing = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in named.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    }
    assert len(pages) > 40 and not missing
