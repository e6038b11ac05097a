"""What the tests of fine-tuning share: batches of random episodes."""

import pytest
import torch


@pytest.fixture
def batch():
    """Makes support (E, N, K, d) and query (E, M, d), in float64."""

    def make(e=3, n=4, k=2, m=6, d=5):
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((e, n, k, d), (e, m, d))]

    return make
