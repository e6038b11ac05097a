"""One pre-trained Conv4 for chapters 02 and 03: the training that 02 shows, done once, loaded afterwards."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_lib import course
from fewshot_lib.core import train_classifier
from fewshot_lib.course import pretraining
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4, encode

CHAPTER_02 = Path(__file__).parents[2] / "notebooks/02_prototype_classifiers.ipynb"


def letters(shade: int) -> ClassDataset:
    """Twelve classes of eight random pictures, of a colour of their own."""
    draw = torch.Generator().manual_seed(shade)
    labels = torch.arange(12).repeat_interleave(8)
    images = torch.randint(0, 40, (96, 1, 16, 16), generator=draw) + 16 * labels.view(-1, 1, 1, 1)
    splits = {"train": torch.arange(6), "val": torch.arange(6, 9), "test": torch.arange(9, 12)}
    names = [f"letter {number}" for number in range(12)]
    return ClassDataset(images.to(torch.uint8), labels, names, splits, name="letters")


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    return course.setup("02_prototype_classifiers", profile="smoke")


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert_close(tensor, other.state_dict()[name], msg=name)


def test_the_second_chapter_trains_nothing_and_shows_the_same_log(lesson, monkeypatch, capsys):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")  # without a reader the training prints its log itself
    first = pretraining.pretrained_conv4(letters(0), lesson)
    trained = capsys.readouterr().out
    monkeypatch.setattr(pretraining, "_train", None)
    assert_same(pretraining.pretrained_conv4(letters(0), lesson), first)
    assert trained == capsys.readouterr().out != ""


def test_texts_are_refused(lesson):
    texts = ClassDataset(
        ["one", "two"], torch.tensor([0, 1]), ["a", "b"], {"train": torch.arange(2)}, name="texts"
    )
    with pytest.raises(ValueError, match="'texts', which holds texts"):
        pretraining.pretrained_conv4(texts, lesson)


def test_other_pictures_seeds_and_sizes_get_a_network_of_their_own(lesson, tmp_path):
    others = [{"seed": 1}, {"n_shot": 2}, {}, {"n_way": 4}]  # the ways of the test do not matter
    for parameters in others:
        size = course.setup("02_prototype_classifiers", profile="smoke", **parameters)
        pretraining.pretrained_conv4(letters(0), size)
    pretraining.pretrained_conv4(letters(1), lesson)
    assert len(list((tmp_path / "pretrained").iterdir())) == 4


def test_chapter_02_shows_the_training_that_is_kept(lesson):
    ds = letters(0)
    cells = nbformat.read(CHAPTER_02, as_version=4).cells
    code = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    asked = ("new_network", "pretrained")
    shown = [node for node in code.body if isinstance(node, ast.FunctionDef) and node.name in asked]
    assert len(shown) == len(asked)
    rows, labels = ds.training_set("train")
    names = {"rows": rows, "labels": labels, "inputs": ds.inputs, "lesson": lesson, "ds": ds}
    names |= {
        "torch": torch,
        "nn": nn,
        "Conv4": Conv4,
        "encode": encode,
        "train_classifier": train_classifier,
    }
    exec(compile(ast.Module(shown, []), str(CHAPTER_02), "exec"), names)
    n_batches = pretraining.plan(ds, lesson).n_batches
    assert_same(names["pretrained"](lesson.seed, n_batches), pretraining.pretrained_conv4(ds, lesson))
