"""The networks that ship: verified, complete, and of use to a classifier of any size."""

import numpy as np
import pytest
import torch

from fewshot_lib.classifier import FewShotClassifier
from fewshot_lib.graphs import load_relational, shipped
from fewshot_lib.prototypes import names_as_examples

KINDS = pytest.mark.parametrize("transductive", [False, True])


def clusters(n_classes, sizes, d=16, seed=0):
    """Features (n, d) around n_classes directions, so many of each, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), sizes)
    return generator.normal(size=(n_classes, d))[labels] + 0.3 * generator.normal(
        size=(len(labels), d)
    ), labels


@KINDS
def test_it_is_what_was_trained_and_loading_changes_nothing(transductive):
    state = torch.get_rng_state()
    first, second = (load_relational(transductive=transductive) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.transductive == transductive
    assert not first.training
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.abs().sum() > 0
        assert not a.requires_grad
    support, query, names = (torch.randn(2, *size, 8) for size in ((3, 2), (4,), (3,)))
    answers = names_as_examples(support, query, names)
    assert not torch.allclose(first(support, query, names), answers, atol=1e-3)


def test_a_changed_or_missing_file_is_refused(tmp_path, monkeypatch):
    damaged = tmp_path / "relational.safetensors"
    damaged.write_bytes(shipped.FILE.read_bytes()[:-1] + b"\x00\x01")
    monkeypatch.setattr(shipped, "FILE", damaged)
    with pytest.raises(ValueError, match=r"relational\.safetensors has sha256 \w+, not the published"):
        load_relational()
    damaged.unlink()
    with pytest.raises(FileNotFoundError, match="it comes with fewshot_lib, so install it again"):
        load_relational()


@KINDS
@pytest.mark.parametrize(
    ("n_classes", "sizes"), [(2, [1, 500]), (7, [1, 2, 3, 4, 5, 6, 7]), (3, 1), (500, 1)]
)
def test_a_classifier_takes_it_for_few_and_many_classes_of_unequal_size(n_classes, sizes, transductive):
    """Without names; clusters this far apart are told apart by whatever method works at all."""
    method = load_relational(transductive=transductive)
    X, y = clusters(n_classes, sizes, d=64)
    fitted = FewShotClassifier(method=method).fit(X, y)
    asked, expected = clusters(n_classes, 2, d=64)
    probabilities = fitted.predict_proba(asked)
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == expected).mean() > 0.95
