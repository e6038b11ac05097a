"""What vmap cannot run: the refusal names the other engine."""

import pytest
import torch
from torch import nn

from fewshot_lib.maml import MAML, meta_loss

from .helpers import tasks


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.rnn(x.unflatten(-1, (2, 4)))[0][:, -1])


class InPlace(nn.Linear):
    def forward(self, x):
        out = torch.zeros(len(x), 5)
        out += super().forward(x)
        return out


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_f9_recurrent_layers_under_vmap_name_the_other_engine(kind):
    with pytest.raises(ValueError, match=f"holds {kind.__name__} as 'rnn', .*use engine='loop'"):
        MAML(Recurrent(kind))
    assert meta_loss(MAML(Recurrent(kind), engine="loop"), tasks())["loss"].isfinite()


def test_f9_so_does_a_model_that_vmap_cannot_run_and_an_error_of_the_model_stays_its_own():
    with pytest.raises(ValueError, match="cannot run under engine='vmap'.*use engine='loop'"):
        meta_loss(MAML(InPlace(8, 5)), tasks())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        meta_loss(MAML(nn.Linear(7, 5)), tasks())
