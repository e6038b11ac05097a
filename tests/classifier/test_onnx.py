"""A classifier as an ONNX file gives the answers that it gives itself."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from fewshot_lib import FewShotClassifier
from fewshot_lib.classifier import onnx
from fewshot_lib.encoders import Conv4, TextEncoder
from fewshot_lib.finetuning import FineTuning
from fewshot_lib.graphs import RelationalNetwork
from fewshot_lib.prototypes import cosine_prototypes, euclidean_prototypes

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

POINTS = np.random.default_rng(0).normal(size=(24, 6)) + 2 * np.repeat(np.eye(3, 6), 8, 0)
LABELS = np.repeat(["blå", "rot", "green"], 8)
PICTURES = np.random.default_rng(0).random((12, 2, 16, 16), dtype=np.float32)


def trained(network):
    """A network that has something to say: its last layers start at 0."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def answers(path, **inputs):
    """Probabilities, p-values and the facts of the file."""
    session = onnxruntime.InferenceSession(path)
    facts = session.get_modelmeta().custom_metadata_map
    return *session.run(None, inputs), facts


def expected(clf, inputs):
    scores = clf._scores(clf._given(inputs))
    return clf.predict_proba(inputs), clf.held_out_.p_values(scores[1]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [None, cosine_prototypes, euclidean_prototypes, trained(RelationalNetwork())],
    ids=["names as examples", "cosine", "Euclidean", "relational"],
)
def test_features_of_any_number_of_rows(tmp_path, method):
    clf = FewShotClassifier(method).fit(POINTS[:-2], LABELS[:-2])  # 8, 8 and 6 examples
    assert clf.to_onnx(tmp_path / "model.onnx") < 1e-6
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    for rows in (slice(0, 1), slice(3, 20)):
        p, known, facts = answers(tmp_path / "model.onnx", features=POINTS[rows].astype(np.float32))
        assert_allclose(p, expected(clf, POINTS[rows])[0], atol=1e-5)
        assert_allclose(known, expected(clf, POINTS[rows])[1], atol=1e-6)
    assert json.loads(facts["labels"]) == ["blå", "green", "rot"] and facts["kind"] == "features"


@pytest.mark.slow
def test_pictures(tmp_path):
    torch.manual_seed(0)
    clf = FewShotClassifier(encoder=Conv4(in_channels=2)).fit(PICTURES, [3, 1, 2] * 4)
    clf.to_onnx(tmp_path / "model.onnx")
    p, known, facts = answers(tmp_path / "model.onnx", pictures=PICTURES[:5])
    assert_allclose(p, expected(clf, PICTURES[:5])[0], atol=1e-5)
    assert_allclose(known, expected(clf, PICTURES[:5])[1], atol=1e-6)
    assert json.loads(facts["labels"]) == [1, 2, 3]


@pytest.mark.slow
def test_texts_of_many_lengths_by_the_example_of_the_docstring_without_torch(tmp_path):
    texts = ["a refund", "money back please " * 3, "my parcel", "is it late? " * 30, "the wifi", "no network"]
    clf = FewShotClassifier(encoder=TextEncoder(max_tokens=40)).fit(
        texts, np.repeat(["pay", "post", "net"], 2)
    )
    assert clf.to_onnx(tmp_path / "model.onnx") < 1e-5
    new = ["where", "the parcel is lost and nobody knows " * 20, "wifi?", "I want my money"]
    tokenizer = onnx.tokenizer_of(clf.encoder_)
    for part in (new[:1], new[1:4], [*new, *texts]):
        tokens = tokenizer.encode_batch(part)
        ids, mask = (np.array([getattr(t, name) for t in tokens]) for name in ("ids", "attention_mask"))
        assert ids.shape[1] <= 40
        p, known, _ = answers(tmp_path / "model.onnx", input_ids=ids, attention_mask=mask)
        assert_allclose(p, expected(clf, part)[0], atol=1e-5)
        assert (p.argmax(1) == expected(clf, part)[0].argmax(1)).all()
        assert_allclose(known, expected(clf, part)[1], atol=1e-6)

    example = re.search(r"(    import json.*?\n)\n\S", onnx.__doc__, re.DOTALL)[1]
    example = example.replace("\n    ", "\n").strip()
    example += "\nimport sys; assert 'torch' not in sys.modules"
    ran = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    asked = re.search(r"encode_batch\((.*?)\)\n", example)[1]
    labels = clf.predict(json.loads(asked), reject=0.05)
    assert ran.stdout == f"{[None if label is None else str(label) for label in labels]}\n"


class Words(nn.Module):
    def forward(self, texts):
        return torch.tensor([[len(text), text.count("a") + 1.0] for text in texts])


def test_what_has_no_form_in_onnx_is_refused_and_nothing_is_written(tmp_path):
    for method, reason in [
        (RelationalNetwork(transductive=True).eval(), "answers the inputs of a call together"),
        (FineTuning(steps=2), "trains on"),
    ]:
        with pytest.raises(ValueError, match=f"which {reason}.*: it has no form in ONNX"):
            FewShotClassifier(method).fit(POINTS, LABELS).to_onnx(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="`encoder` is a Words, which reads no tokens"):
        FewShotClassifier(encoder=Words()).fit(["a", "bb", "aaa", "b"], [0, 1, 0, 1]).to_onnx(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_place_where_no_file_can_be_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_exported", lambda *args: pytest.fail("it has begun to work"))
    clf = FewShotClassifier().fit(POINTS, LABELS)
    with pytest.raises(ValueError, match="`path` is .*, a folder: name a file, such as .*model.onnx"):
        clf.to_onnx(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="Could not write .*file"):
        clf.to_onnx(tmp_path / "file" / "model.onnx")


@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "AGREED", -1.0)
    with pytest.raises(
        ValueError, match="cannot be exported, its probabilities in ONNX differ from torch's by"
    ):
        FewShotClassifier().fit(POINTS, LABELS).to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
