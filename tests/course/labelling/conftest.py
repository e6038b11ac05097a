"""A classifier of texts by an encoder that counts words, and pictures of three colours."""

import numpy as np
import pytest
from PIL import Image

from .helpers import CLASSES, Bag, run, write


@pytest.fixture
def bag(monkeypatch):
    encoder = Bag()
    monkeypatch.setattr("fewshot_lib.classifier.inputs.text_encoder", lambda source, max_tokens: encoder)


@pytest.fixture
def model(bag, tmp_path, capsys):
    """A fitted classifier: four classes, three examples each."""
    rows = [
        (f"{word} {i} it", label) for label, words in CLASSES.items() for i in range(3) for word in [words]
    ]
    table = write(tmp_path / "train.csv", [("text", "label"), *rows])
    assert run("fit", table, "--out", tmp_path / "model")
    assert "4 classes" in capsys.readouterr().out
    return tmp_path / "model"


@pytest.fixture
def pictures(tmp_path):
    """Folders of red, green and blue pictures, four of each."""
    for channel, name in enumerate(["red", "green", "blue"]):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 60, (20 + i, 30, 3)).astype(np.uint8)
            pixels[..., channel] = 220
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"
