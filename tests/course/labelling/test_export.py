"""`export` writes a classifier, once, for programs without torch."""

import re

import pytest

from .helpers import run


@pytest.mark.slow
def test_export_writes_a_file_once(pictures, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run("fit", pictures, "--out", tmp_path / "seen", "--size", "6x8", "--color")
    assert run("export", tmp_path / "seen", "--out", tmp_path / "seen.onnx")
    assert re.search(
        r"seen.onnx. Its probabilities are those of `predict` to \de-\d\d", capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="exists: name another file"):
        run("export", tmp_path / "seen", "--out", tmp_path / "seen.onnx")
