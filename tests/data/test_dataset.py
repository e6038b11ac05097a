"""A data set refuses what contradicts itself, and ``load`` what it does not know."""

import importlib
import subprocess
import sys

import pytest
import torch

from fewshot_lib import data
from fewshot_lib.data.dataset import ClassDataset

LABELS = torch.tensor([2, 0, 0, 3, 2, 1])
SPLITS = {"train": torch.tensor([2, 0]), "val": torch.tensor([3]), "test": torch.tensor([1])}


def make(**changes):
    given = dict(inputs=[f"text {i}" for i in range(6)], labels=LABELS, class_names=list("abcd"), splits=SPLITS, name="toy") | changes
    return ClassDataset(**given)


def test_counts_and_rows():
    dataset = make()
    assert (len(dataset), dataset.n_classes, dataset.is_text) == (6, 4, True)
    assert dataset.counts.tolist() == [2, 1, 2, 1]
    assert dataset.domains == [""] * 4
    assert dataset.rows("train").tolist() == [0, 1, 2, 4]
    assert dataset.take(dataset.rows("val")) == ["text 3"]
    assert "toy" in repr(dataset)
    assert "train 2, val 1, test 1" in repr(dataset)


def test_every_row_belongs_to_exactly_one_split():
    dataset = make()
    rows = torch.cat([dataset.rows(split) for split in dataset.splits])
    assert rows.sort().values.tolist() == list(range(6))


def test_training_set_counts_the_classes_of_the_split_from_0():
    rows, targets = make().training_set()
    assert rows.tolist() == [0, 1, 2, 4]
    assert targets.tolist() == [1, 0, 0, 1]


def test_images_are_taken_by_index():
    images = torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2)
    dataset = make(inputs=images)
    assert not dataset.is_text
    assert torch.equal(dataset.take([5, 0]), images[[5, 0]])
    assert "images 1x2x2" in repr(dataset)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(inputs=["one"]), "`inputs` has 1 examples but `labels` has 6"),
        (dict(domains=["x"]), "`domains` has 1 names but there are 4 classes"),
        (dict(labels=LABELS + 1), "`labels` runs from 1 to 4 but `class_names` has 4 names"),
        (dict(labels=LABELS - 1), "`labels` runs from -1 to 2"),
        (dict(splits={"train": torch.tensor([7])}), "names class 7"),
        (dict(splits={"train": torch.tensor([0, 1]), "test": torch.tensor([1])}), "class 1 .'b'. in 'train' and in 'test'"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_unknown_split_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="`split` is 'dev'; toy has 'train', 'val', 'test'"):
        make().classes("dev")


def test_fingerprint_is_of_the_inputs_and_nothing_else():
    assert make().fingerprint() == make(splits={}, class_names=list("wxyz")).fingerprint()
    texts = [make(inputs=t).fingerprint() for t in (["ab", "c"] + ["x"] * 4, ["a", "bc"] + ["x"] * 4, ["ab", "c"] + ["y"] * 4)]
    assert len(set(texts)) == 3
    images = torch.zeros(6, 1, 2, 2)
    changed = [images, images.to(torch.uint8), images.view(6, 1, 1, 4), images + 1]
    assert len({make(inputs=i).fingerprint() for i in changed}) == 4
    assert make(inputs=images).fingerprint() == make(inputs=images.mT.contiguous().mT).fingerprint()


def test_every_known_name_has_a_loader():
    for entry in data.LOADERS.values():
        module, function = entry.split(":")
        assert callable(getattr(importlib.import_module(f"fewshot_lib.data.{module}"), function))


@pytest.mark.parametrize(("name", "suggestion"), [("glyfs", "glyphs"), ("Docstring", "docstrings"), ("huff-post", "huffpost")])
def test_misspelt_name_gets_a_suggestion(name, suggestion):
    with pytest.raises(ValueError, match=f"`name` is '{name}'.*Did you mean '{suggestion}'.*Known: 'glyphs', 'docstrings'"):
        data.load(name)


def test_strange_name_gets_the_list():
    with pytest.raises(ValueError, match="`name` is 'zzz', which is no data set and no file. Known: 'glyphs'"):
        data.load("zzz")


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match="drawing_count"):
        data.load("glyphs", drawing_count=3)


def test_importing_the_package_imports_no_data_set():
    code = "import sys, fewshot_lib.data; print([m for m in ('matplotlib', 'scipy', 'fewshot_lib.data.glyphs') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.fixture
def own_csv(tmp_path):
    lines = ["text,label"] + [f"text number {i} about {name},{name}" for name in "abcdefghij" for i in range(4)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_own_file_is_loaded_by_its_path(own_csv):
    dataset = data.load(str(own_csv))
    assert (len(dataset), dataset.n_classes, dataset.name, dataset.is_text) == (40, 10, "mine", True)
    assert data.load(str(own_csv), seed=1).splits["test"].tolist() != dataset.splits["test"].tolist()


def test_a_split_family_may_stand_in_the_name():
    assert data.load("docstrings/module").split_family == "module"
    with pytest.raises(ValueError, match="name one split family"):
        data.load("docstrings/module", split_family="package")
    with pytest.raises(ValueError, match="'script', 'random'"):
        data.load("glyphs/nonsense")


def test_own_data_of_another_kind_is_refused(own_csv):
    with pytest.raises(ValueError, match=r"mine\.txt: give a \.csv or \.jsonl file"):
        data.load(str(own_csv.rename(own_csv.with_suffix(".txt"))))


def test_own_data_has_no_split_family(own_csv):
    with pytest.raises(ValueError, match="is your own data: pass split"):
        data.load(str(own_csv), split_family="bao")
