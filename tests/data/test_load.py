"""``load`` finds a data set by its name and own data by its path, and names what it does not know."""

import importlib
import subprocess
import sys

import pytest
from PIL import Image

from fewshot_lib import data

ROWS = [(f"text number {i} about {name}", name) for name in "abcdefghij" for i in range(4)]


@pytest.fixture
def own_csv(tmp_path):
    path = tmp_path / "My Data" / "mine too.CSV"
    path.parent.mkdir()
    path.write_text("text,label\n" + "".join(f"{text},{name}\n" for text, name in ROWS), encoding="utf-8")
    return path


def test_every_known_name_has_a_loader():
    for entry in data.LOADERS.values():
        module, function = entry.split(":")
        assert callable(getattr(importlib.import_module(f"fewshot_lib.data.{module}"), function))


def test_the_package_imports_nothing_that_is_slow_and_no_data_set():
    slow = ("matplotlib", "scipy", "sklearn", "PIL", "pooch", "requests", "fewshot_lib.data.made.glyphs")
    code = f"import sys, fewshot_lib.data; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("glyfs", "glyphs"), ("GLYPHS", "glyphs"), ("Docstring", "docstrings"), ("huff-post", "huffpost")],
)
def test_misspelt_name_gets_a_suggestion_and_a_strange_one_the_list(name, suggestion):
    words = f"`name` is '{name}'.*Did you mean '{suggestion}'.*Known: 'glyphs', 'docstrings'"
    with pytest.raises(ValueError, match=words):
        data.load(name)
    with pytest.raises(ValueError, match="'zzz', which is no data set and no file. Known: 'glyphs'"):
        data.load("zzz")


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("glyphs", "'script', 'random'"),
        ("docstrings", "'package', 'module'"),
        ("omniglot", "'vinyals', 'mamlpp'"),
        ("huffpost", "'bao', 'metaprompting', 'metaprompter'"),
    ],
)
def test_an_unknown_family_is_refused_before_any_file_is_looked_for(name, families, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=f"'lake'; {name} has {families}") as error:
        data.load(name, "lake")
    assert not isinstance(error.value, data.DataError)


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match="drawing_count"):
        data.load("glyphs", drawing_count=3)


def test_own_files_are_loaded_by_their_path_with_their_options(own_csv):
    dataset = data.load(str(own_csv))
    assert (len(dataset), dataset.n_classes, dataset.name, dataset.is_text) == (40, 10, "mine too", True)
    assert data.load(own_csv, seed=1).splits["test"].tolist() != dataset.splits["test"].tolist()
    lines = own_csv.with_name("lines.jsonl")
    lines.write_text("".join(f'{{"body": "{text}", "label": "{name}"}}\n' for text, name in ROWS))
    assert data.load(str(lines), text="body").inputs == dataset.inputs


def test_a_folder_of_pictures_is_loaded_by_its_path(tmp_path):
    for name in "abcdefghij":
        (tmp_path / "own.csv" / name).mkdir(parents=True)
        Image.new("L", (9, 9), 128).save(tmp_path / "own.csv" / name / "1.png")
    assert data.load(tmp_path / "own.csv", size=5).inputs.shape == (10, 1, 5, 5)


def test_a_split_family_may_stand_in_the_name(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr("fewshot_lib.data.made.docstrings.harvest", lambda packages: {"scipy.io": ["text"]})
    assert data.load("docstrings/module").split_family == "module"
    assert data.load("docstrings/module", "module").split_family == "module"
    with pytest.raises(ValueError, match="name one split family"):
        data.load("docstrings/module", split_family="package")
    for name in ("docstrings/", "docstrings/nonsense"):
        with pytest.raises(ValueError, match="'package', 'module'"):
            data.load(name)


def test_own_data_of_another_kind_or_with_a_split_family_is_refused(own_csv):
    with pytest.raises(ValueError, match="is your own data: pass split"):
        data.load(str(own_csv), split_family="bao")
    with pytest.raises(ValueError, match=r"mine too\.txt: give a \.csv or \.jsonl file"):
        data.load(str(own_csv.rename(own_csv.with_suffix(".txt"))))
