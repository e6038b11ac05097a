"""Conv4: the published network, on both kinds of images."""

import pytest
import torch

from fewshot_lib.encoders import Conv4


def test_conv4_has_the_published_size_and_takes_both_image_types():
    torch.manual_seed(0)
    encoder = Conv4().eval()
    without_head = 112_261 - (64 * 5 + 5)  # the field's Conv4 less its 5-way head
    assert sum(p.numel() for p in encoder.parameters()) == without_head
    pixels = torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8)
    assert encoder(pixels).shape == (10, 64) and Conv4(width=8).n_features == 8
    assert torch.allclose(encoder(pixels), encoder(pixels.float() / 255))


def test_strides_in_place_of_pooling_have_the_same_weights_and_end_in_a_mean():
    encoder = Conv4(width=8, downsample="stride")
    shapes = {name: p.shape for name, p in Conv4(width=8).named_parameters()}
    assert {name: p.shape for name, p in encoder.named_parameters()} == shapes
    assert encoder(torch.rand(3, 1, 28, 28)).shape == encoder(torch.rand(3, 1, 84, 84)).shape == (3, 8)
    with pytest.raises(ValueError, match="`downsample` is 'half': use one of 'pool', 'stride'"):
        Conv4(downsample="half")
