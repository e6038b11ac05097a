"""Auxiliary losses, computed by hand where all cosines are 0 or 1."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from fewshot_lib.gat_transformer import GATTransformer
from fewshot_lib.multitask import JointEpisodes, label_alignment_loss, same_class_loss

D = 6


class Scaled(nn.Module):
    """A model that only changes features."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D, dtype=torch.float64))

    def embed(self, support, query, labels):
        return support * self.scale, query * self.scale, None if labels is None else labels * self.scale


def same(found, expected):
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))


def joint_of(support, query, labels, query_labels):
    e = len(support)
    return JointEpisodes(support, query, labels, query_labels, torch.zeros(e), torch.zeros(e))


def test_same_class_loss_by_hand():
    x = torch.eye(D, dtype=torch.float64)
    joint = joint_of(x[:2].view(1, 2, 1, D), x[[1, 0, 1]].unsqueeze(0), None, torch.tensor([[1, 0, 1]]))
    sharp = math.log1p(math.exp(-5))  # all cosines 0 or 1, ½ on average: logits ±½/τ
    same(same_class_loss(Scaled(), joint), sharp)
    wrong = joint_of(joint.support, joint.query, None, 1 - joint.query_labels)
    same(same_class_loss(Scaled(), wrong), sharp + 5)
    alike = joint_of(x[:1].expand(1, 3, 2, D), x[:1].expand(1, 6, D), None, torch.arange(6).unsqueeze(0) % 3)
    same(same_class_loss(Scaled(), alike), math.log(2))  # nothing to tell, few edges or many


def test_pairs_of_one_class_and_of_two_count_equally():
    x = torch.randn(4, 3, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    joint = joint_of(x[:1].unsqueeze(3).mT, x[1:2], None, torch.tensor([[0, 1, 2]]))
    logits = 10 * nn.functional.cosine_similarity(x[1].unsqueeze(1), x[0].unsqueeze(0), dim=-1)
    logits = logits - logits.mean()
    same_class, other = logits.diagonal(), logits[~torch.eye(3, dtype=torch.bool)]
    expected = (nn.functional.softplus(-same_class).mean() + nn.functional.softplus(other).mean()) / 2
    same(same_class_loss(Scaled(), joint), expected.item())


def test_label_alignment_loss_by_hand():
    x = torch.eye(D, dtype=torch.float64)[:3]
    joint = joint_of(x.view(1, 3, 1, D), x.unsqueeze(0), x.unsqueeze(0), torch.zeros(1, 3).long())
    same(label_alignment_loss(Scaled(), joint), math.log(1 + 2 * math.exp(-10)))
    turned = joint_of(joint.support, joint.query, joint.labels.roll(1, 1), joint.query_labels)
    same(label_alignment_loss(Scaled(), turned), 10 + math.log(1 + 2 * math.exp(-10)))


def test_both_shape_the_features_of_the_model():
    x = torch.randn(2, 3, 4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint = joint_of(x[:, :, :2], x[:, :, 2], x[:, :, 3], torch.arange(3).expand(2, -1))
    for loss in (same_class_loss, label_alignment_loss):
        model = Scaled()
        loss(model, joint).sum().backward()
        assert loss(model, joint).shape == (2,) and model.scale.grad.abs().min() > 0


def test_what_cannot_be_asked_is_named():
    x = torch.zeros(1, 3, D)
    with pytest.raises(ValueError, match=r"`model` \(Linear\) has no `embed`"):
        same_class_loss(nn.Linear(1, 1), joint_of(x.unsqueeze(2), x, x, torch.arange(3).unsqueeze(0)))
    with pytest.raises(ValueError, match="`joint` has no labels"):
        label_alignment_loss(Scaled(), joint_of(x.unsqueeze(2), x, None, torch.arange(3).unsqueeze(0)))


def test_the_gat_transformer_can_be_trained_with_them():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    support, query, labels = (torch.randn(*shape, D, generator=generator) for shape in ((2, 3, 2), (2, 5), (2, 3)))
    model = GATTransformer(D, hidden=8, heads=2, n_blocks=1).eval()
    for changed, given in zip(model.embed(support, query, labels)[:2], (support, query), strict=True):
        assert_close(changed, F.normalize(given, dim=-1))  # untrained: as they were, of length 1
    ways = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])
    joint = JointEpisodes(support, query, labels, ways, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    for loss in (same_class_loss, label_alignment_loss):
        value = loss(model, joint)
        assert value.shape == (2,)
        value.sum().backward()
    assert model.to_query.weight.grad.abs().sum() > 0 and model.to_class.weight.grad.abs().sum() > 0
