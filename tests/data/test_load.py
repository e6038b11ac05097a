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
    words = f"`source` is '{name}'.*Did you mean '{suggestion}'.*Known: 'glyphs', 'docstrings'"
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
    with pytest.raises(ValueError, match="`drawing` is no option: did you mean `drawings`"):
        data.load("glyphs", drawing=3)


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


def test_own_data_with_a_split_family_is_refused(own_csv):
    with pytest.raises(ValueError, match="is your own data: pass split"):
        data.load(str(own_csv), split_family="bao")


def test_a_mapping_says_the_same_as_the_keyword_arguments(own_csv):
    by_words = data.load(own_csv, split="0.5/0.5", seed=3)
    for mapping in (
        {"source": str(own_csv), "split": "0.5/0.5", "seed": 3},
        {"source": own_csv, "split": {"train": 0.5, "test": 0.5}, "seed": 3, "text": None},
    ):
        loaded = data.load(mapping)
        assert repr(loaded) == repr(by_words) and loaded.inputs == by_words.inputs
    again = data.load({"source": str(own_csv), "seed": 3}, split="0.5/0.5", seed=3)
    assert again.splits["test"].tolist() == by_words.splits["test"].tolist()
    with pytest.raises(ValueError, match="`seed` is 3 in the description and 4 beside it"):
        data.load({"source": str(own_csv), "seed": 3}, seed=4)
    data.describe({"source": str(own_csv), "split": "0.5/0.5"})


def test_a_set_of_the_course_can_be_split_anew_and_lose_its_small_classes(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    texts = {"scipy.io": ["a", "b"], "scipy.fft": ["c", "d"], "numpy.ma": ["e"]}
    monkeypatch.setattr("fewshot_lib.data.made.docstrings.harvest", lambda packages: texts)
    whole = data.load("docstrings", split={"train": ["scipy io"], "test": ["scipy fft", "numpy ma"]})
    assert whole.split_family == "by list" and len(whole.classes("test")) == 2
    with pytest.warns(UserWarning, match="1 of 3 classes have fewer than 2 examples"):
        assert data.load("docstrings", min_examples=2).n_classes == 2
    data.write_split(tmp_path / "split.json", whole)
    again = data.load("docstrings", split=str(tmp_path / "split.json"))
    assert again.splits["test"].tolist() == whole.splits["test"].tolist()
    assert data.load("docstrings", split="module").split_family == "module"


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("glyphs", {"text": "a"}, "`text` is an option of a table of texts, and 'glyphs' is a data set"),
        ("OWN", {"size": 3}, "`size` is an option of a folder of pictures, and .* is a table of texts"),
        ("OWN", {"lable": "x"}, "`lable` is no option: did you mean `label`"),
        ("OWN", {"drawings": 3}, "`drawings` is no option"),
        ("OWN", {"drop_empty": "yes"}, "`drop_empty` is 'yes': give True or False"),
        ("OWN", {"min_examples": 0}, "`min_examples` is 0"),
        ("OWN", {"seed": True}, "`seed` is True"),
        ("OWN", {"text": 3}, "`text` is 3"),
        ("FOLDER", {"label": "a"}, "`label` is an option of a table of texts, and .* is a folder"),
        ({"text": "a"}, {}, "which names no data: add 'source'"),
        ({"source": "OWN", 3: 4, "b": 5}, {}, "no data set and no file"),
        ({"source": "glyphs", 3: 4, "b": 5}, {}, "`3` is no option"),
        (
            {"source": "glyphs", "split_family": "a", "split": "b"},
            {},
            "`split_family` says 'a' but `split` says 'b'",
        ),
        ({"source": {"source": "glyphs"}}, {}, "must be a name or a path"),
        (3, {}, "`source` is 3"),
        ("", {}, "`source` is ''"),
        ([1, 2], {}, "`source` is list: .*from_arrays"),
        ("x" * 5000, {}, "`source` is 'xxx"),
        ("/dev/null", {}, "neither a file nor a folder"),
        ("https://example.org/my.csv", {}, "Download it first"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(
    own_csv, source, options, words, monkeypatch
):
    monkeypatch.setattr("fewshot_lib.data.from_table", None)
    monkeypatch.setattr("fewshot_lib.data.from_folder", None)
    source = (
        {"OWN": str(own_csv), "FOLDER": str(own_csv.parent)}.get(source, source)
        if isinstance(source, str)
        else source
    )
    for function, argument in ((data.load, "source"), (data.describe_parameter, "dataset")):
        with pytest.raises(ValueError, match=words.replace("`source`", f"`{argument}`")):
            function(source, **options)


def test_a_file_that_is_misspelt_gets_a_suggestion(own_csv):
    with pytest.raises(ValueError, match="Did you mean '.*mine too.CSV'"):
        data.load(str(own_csv.with_name("mine to.csv")))


def test_a_description_means_the_same_in_another_directory(own_csv, monkeypatch):
    (own_csv.parent / "split.csv").write_text("class,split\na,train\nb,test\n", encoding="utf-8")
    monkeypatch.chdir(own_csv.parent)
    options = {"split": "split.csv", "text": "text"}
    elsewhere = data.describe("mine too.CSV", **options).absolute()
    assert elsewhere == {"source": str(own_csv), "split": str(own_csv.parent / "split.csv"), "text": "text"}
    assert data.describe("mine too.CSV").absolute() == str(own_csv)
    assert data.describe("mine too.CSV", split="0.8/0.2").absolute()["split"] == "0.8/0.2"
    assert (
        data.describe("huffpost/bao").absolute()
        == data.describe("huffpost", "bao").absolute()
        == "huffpost/bao"
    )
    monkeypatch.chdir("/")
    assert data.load(elsewhere).split_family == "file split.csv"
