"""Rows of any shape: the same as brackets, for values of any shape, and gradients of rows asked twice."""

import pytest
import torch

from fewshot_lib.core import look_up


@pytest.mark.parametrize("shape", [(), (3,), (1, 4, 4)])
@pytest.mark.parametrize("rows", [(6,), (2, 3), (2, 5, 0), (2, 3, 4)])
def test_rows_are_those_of_brackets(shape, rows):
    generator = torch.Generator().manual_seed(0)
    for values in (torch.rand(7, *shape, generator=generator), torch.arange(7)):
        asked = torch.randint(7, rows, generator=generator)
        assert torch.equal(look_up(values, asked), values[asked])


def test_a_row_that_is_asked_twice_gets_both_gradients():
    values = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: look_up(v, torch.tensor([[0, 2], [2, 2]])), values)
