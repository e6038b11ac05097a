import numpy as np
import pytest
import torch

from fewshot_lib.course.comparison import close, copied, describe, form, has_ellipsis

SAME = [
    (1.0, torch.tensor(1.0)),
    (3, np.int64(3)),
    (torch.ones(2, 3), np.ones((2, 3))),
    (torch.ones(2, dtype=torch.float16), torch.ones(2)),
    ([torch.zeros(2), 1], (torch.zeros(2), 1.0)),
    ({"a": 1, "b": (2, None)}, {"b": (2, None), "a": 1}),
    (float("nan"), torch.tensor(float("nan"))),
    (torch.ones(2, requires_grad=True), torch.ones(2)),
    ("word", "word"),
    (None, None),
]
DIFFERENT_FORM = [
    (torch.ones(2), torch.ones(3)),
    (torch.ones(1), 1.0),
    ((1, 2), (1, 2, 3)),
    ({"a": 1}, {"b": 1}),
    ({0: 1}, [1]),
    (None, torch.ones(2)),
    (1, None),
    ("1", 1),
]
DIFFERENT_VALUE = [
    (1.0, 1.001),
    (torch.tensor([1, 2]), torch.tensor([1, 3])),
    (((1, 2.0), "a"), ((1, 2.5), "a")),
    ({"a": "x"}, {"a": "y"}),
    (2**53, 2**53 + 1),
]


CASES = [(SAME, True, True), (DIFFERENT_VALUE, True, False), (DIFFERENT_FORM, False, False)]


@pytest.mark.parametrize(
    ("a", "b", "same_form", "same"), [(*pair, *verdict) for pairs, *verdict in CASES for pair in pairs]
)
def test_form_first_and_then_values(a, b, same_form, same):
    assert (form(a) == form(b)) == same_form and close(a, b) == close(b, a) == same


def test_tolerances_are_relative_and_absolute():
    assert close(1000.0, 1000.05) and not close(1.0, 1.05)
    assert close(0.0, 1e-7) and not close(0.0, 1e-5)


@pytest.mark.parametrize("value", [..., (1, ...), {"a": [...]}])
def test_a_placeholder_is_found_anywhere(value):
    assert has_ellipsis(value)
    assert not has_ellipsis([1, None, torch.ones(2)])


def test_descriptions_name_shapes_lengths_and_keys():
    assert describe(torch.ones(3, 4)) == "a tensor of shape (3, 4)"
    assert describe((torch.ones(2), 1)) == "a tuple of 2 (a tensor of shape (2,), an int)"
    assert describe([1, 2, 3, 4, 5]) == "a list of 5 (an int, an int, an int, an int, …)"
    assert describe(()) == "a tuple of 0" and describe([[]]) == "a list of 1 (a list of 0)"
    assert describe({"loss": 1}) == "a dict with the keys 'loss'"
    assert describe(None) == "None"


def test_a_copy_shares_nothing_that_can_be_changed():
    original = {"x": torch.ones(2, requires_grad=True), "parts": [np.ones(2), (torch.zeros(1),)]}
    original["g"] = torch.Generator().manual_seed(1)
    copy = copied(original)
    with torch.no_grad():
        copy["x"].add_(1)
    copy["parts"][0][:] = 5
    copy["parts"][1][0].add_(1)
    torch.rand(1, generator=copy["g"])
    assert torch.equal(original["x"], torch.ones(2)) and copy["x"].requires_grad
    assert original["parts"][0].tolist() == [1, 1] and original["parts"][1][0].item() == 0
    fresh = torch.Generator().manual_seed(1)
    assert torch.equal(original["g"].get_state(), fresh.get_state())
