"""The written-out norms compute what torch's do, and keep what they replace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from fewshot_lib.maml import norms

from .helpers import randn, same

# --- the same numbers as torch's


@pytest.mark.parametrize(
    ("torchs", "shape"),
    [(nn.BatchNorm1d, (7, 3)), (nn.BatchNorm1d, (7, 3, 4)), (nn.BatchNorm2d, (2, 3, 4, 5))],
)
@pytest.mark.parametrize("tracks", [True, False], ids=["running", "batch"])
def test_batch_norm_is_torchs(torchs, shape, tracks):
    theirs = torchs(3, eps=0.01, momentum=0.3, track_running_stats=tracks).double()
    with torch.no_grad():
        theirs.weight.copy_(randn(3)), theirs.bias.copy_(randn(3, seed=1))
    ours = norms.vmap_safe(theirs)
    for step in range(3):
        x = randn(*shape, seed=step).mul(step + 1).requires_grad_()
        mine, yours = ours(x), theirs(x)
        torch.testing.assert_close(mine, yours)
        weights = randn(*shape, seed=9)
        slopes, expected = (
            torch.autograd.grad((y * weights).sum(), [x, *norm.parameters()])
            for y, norm in ((mine, ours), (yours, theirs))
        )
        torch.testing.assert_close(slopes, expected)
    averages = {name: value for name, value in theirs.named_buffers() if value.dim()}
    torch.testing.assert_close(dict(ours.named_buffers()), averages)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    torch.testing.assert_close(norms.vmap_safe(theirs)(x), theirs(x))  # the averages are taken over


def test_one_number_per_channel_has_a_variance_of_0_and_not_nan():
    norm = norms.BatchNorm(3, "running")
    assert torch.equal(norm(torch.ones(1, 3)), torch.zeros(1, 3))
    assert norm.running_var.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("over", [(4,), (3, 4)], ids=str)
def test_layer_norm_is_torchs(over, options):
    theirs = nn.LayerNorm(over, eps=0.01, **options).double()
    for i, p in enumerate(theirs.parameters()):
        p.data = randn(*over, seed=i)
    ours, x = norms.vmap_safe(theirs), randn(5, 2, 3, 4)
    assert isinstance(ours, norms.LayerNorm) and type(ours) is not type(theirs)
    torch.testing.assert_close(ours(x), theirs(x))
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_the_group_norm_of_single_channels(affine):
    theirs = nn.InstanceNorm2d(3, affine=affine).double()
    if affine:
        theirs.weight.data, theirs.bias.data = randn(3), randn(3, seed=1)
    ours, x = norms.vmap_safe(theirs), randn(2, 3, 4, 5)
    assert isinstance(ours, nn.GroupNorm)
    torch.testing.assert_close(ours(x), theirs(x))


# --- replacing


class Mixed(nn.Module):
    """Every kind of norm, some parts frozen, some in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, momentum=0.5, eps=0.02), nn.InstanceNorm2d(6, affine=True)
        )
        self.plain = nn.BatchNorm2d(6, affine=False, momentum=0.0)
        self.last = nn.LayerNorm(16)
        for i, p in enumerate(self.parameters()):
            p.data = randn(*p.shape, seed=i)
        for i, b in enumerate(b for b in self.buffers() if b.dim()):
            b.data = randn(*b.shape, seed=i).abs() + 0.1
        self.body[1].weight.requires_grad_(False)
        self.plain.eval()

    def forward(self, x):
        return self.last(self.plain(self.body(x)).flatten(2))


def test_vmap_safe_computes_the_same_and_loses_nothing():
    model, x = Mixed().double(), randn(4, 1, 6, 6)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    safe = norms.vmap_safe(model)
    assert not any(isinstance(m, norms.FUSED) and not isinstance(m, norms.LayerNorm) for m in safe.modules())
    assert {t.dtype for t in [*safe.parameters(), *safe.buffers()]} == {torch.float64}
    # nothing frozen thaws, and nothing new is learnt
    learnt, still = ({n for n, p in m.named_parameters() if p.requires_grad} for m in (model, safe))
    assert learnt == still
    assert [m.training for m in (safe.body[1], safe.plain, safe)] == [True, False, True]
    assert (safe.body[1].momentum, safe.body[1].eps, safe.plain.momentum) == (0.5, 0.02, 0.0)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    torch.testing.assert_close(safe(x), model(x))
    torch.testing.assert_close(safe.eval()(x), model.eval()(x))
    torch.testing.assert_close(safe.body[1].running_mean, model.body[1].running_mean)


def test_what_is_replaced_is_a_copy():
    model = Mixed()
    for copy in (norms.vmap_safe(model), norms.with_norm(model, "batch")):
        with torch.no_grad():
            for p in copy.parameters():
                p.zero_()
        assert all(p.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("norm", norms.NORMS)
def test_with_norm_replaces_batch_norms_alone_and_keeps_scales(norm):
    old = Mixed().double()
    new = norms.with_norm(old, norm)
    kind = nn.GroupNorm if norm == "group" else norms.BatchNorm
    assert isinstance(new.body[1], kind) and isinstance(new.plain, kind)
    assert isinstance(new.last, nn.LayerNorm) and isinstance(new.body[2], nn.InstanceNorm2d)
    assert all(torch.equal(*(getattr(m.body[1], part) for m in (old, new))) for part in ("weight", "bias"))
    assert (new.body[1].weight.requires_grad, new.body[1].bias.requires_grad) == (False, True)
    assert not any(p.requires_grad for p in new.plain.parameters()) and not new.plain.training
    assert {t.dtype for t in [*new.parameters(), *new.buffers()]} <= {torch.float64, torch.int64}
    assert new.body[1].eps == 0.02
    if norm == "group":
        assert [new.body[1].num_groups, norms.with_norm(nn.BatchNorm2d(64), "group").num_groups] == [2, 8]
    else:
        assert new.body[1].statistics == norm and new.body[1].momentum == 0.5
    if norm == "running":  # averages start anew
        assert new.body[1].running_mean.eq(0).all() and new.body[1].running_var.eq(1).all()
    again = norms.with_norm(norms.with_norm(old, "running"), norm)  # a written-out norm is replaced, too
    assert isinstance(again.body[1], kind) and torch.equal(again.body[1].weight, old.body[1].weight)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_whose_statistics_a_norm_uses(norm):
    """Whether a row of the output changes when the other rows do, in training and at test time."""
    layer, x = norms.with_norm(nn.BatchNorm2d(6), norm), randn(4, 6, 3, 3).float()
    others = torch.cat([x[:1], 3 * x[1:] + 1])
    mixes = []
    for training in (True, False):
        layer.train(training)
        mixes.append(not torch.allclose(layer(x)[0], layer(others)[0], atol=1e-5))
    assert mixes == [norm != "group", norm in ("batch", "support")]


@pytest.mark.parametrize("training", [True, False])
def test_inside_a_task_queries_are_normalised_as_the_choice_says(training):
    """Two supports and three queries: by themselves, by the supports, or (at test time) by the averages."""
    x, normalised = randn(5, 3), {}
    support, query = x[:2], x[2:]
    for norm in ("batch", "support", "running"):
        layer = norms.BatchNorm(3, norm).double().train(training)
        if norm == "running":
            layer.running_mean, layer.running_var = randn(3, seed=1), randn(3, seed=2).square() + 0.1
        averages = list(layer.buffers())
        with norms.inside_task(layer, None):  # the inner loop, whatever the choice: the support set by itself
            torch.testing.assert_close(layer(support), F.batch_norm(support, None, None, training=True))
        assert not training or norm != "running" or not torch.equal(layer.running_mean, averages[0])
        for name, old in zip(("running_mean", "running_var"), averages, strict=False):
            setattr(layer, name, old)
        with norms.inside_task(layer, 2 if norms.needs_support(layer) else 0):
            normalised[norm] = layer(x)[2:] if norms.needs_support(layer) else layer(query)
    torch.testing.assert_close(normalised["batch"], F.batch_norm(query, None, None, training=True))
    torch.testing.assert_close(
        normalised["support"], (query - support.mean(0)) / (support.var(0, correction=0) + 1e-5).sqrt()
    )
    by_averages = (query - averages[0]) / (averages[1] + 1e-5).sqrt()
    torch.testing.assert_close(normalised["running"], normalised["batch"] if training else by_averages)


def test_after_a_task_a_norm_is_an_ordinary_one_again_even_after_an_error():
    layer, x = norms.BatchNorm(3, "support").double(), randn(5, 3)
    with pytest.raises(KeyError), norms.inside_task(layer, 2):
        raise KeyError
    torch.testing.assert_close(layer(x), F.batch_norm(x, None, None, training=True))
    layer = norms.BatchNorm(3, "running").double().eval()
    with norms.inside_task(layer, None):
        assert not torch.allclose(layer(x), x / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(layer(x), x / (1 + 1e-5) ** 0.5)


def test_other_statistics_with_the_weights_as_they_are():
    model = norms.with_norm(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "running").double()
    model(randn(5, 3))
    for statistics in ("batch", "support", "running"):
        other = norms.with_statistics(model, statistics).eval()
        assert (other[1].statistics, model[1].statistics) == (statistics, "running")
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
        assert norms.mixes_examples(other[1]) == (statistics == "batch")
        assert norms.needs_support(other) == (statistics == "support")
        assert torch.allclose(other(randn(5, 3)), model.eval()(randn(5, 3))) == (statistics == "running")
    again = norms.with_statistics(norms.with_statistics(model, "batch"), "running")
    torch.testing.assert_close(again.eval()(randn(5, 3)), model(randn(5, 3)))


def test_which_norms_mix_examples():
    mixing = [norms.BatchNorm(3), nn.BatchNorm2d(3, track_running_stats=False)]
    others = [norms.BatchNorm(3, "support"), norms.BatchNorm(3, "running"), norms.GroupNorm(1, 3)]
    others += [nn.BatchNorm2d(3), nn.InstanceNorm2d(3), nn.LayerNorm(3)]
    assert all(map(norms.mixes_examples, mixing)) and not any(map(norms.mixes_examples, others))


def test_group_norm_takes_channels_last_images_under_vmap():
    x, ours, theirs = randn(2, 4, 6, 5, 5), norms.GroupNorm(2, 6).double(), nn.GroupNorm(2, 6).double()
    channels_last = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(vmap(ours)(channels_last), torch.stack([theirs(t) for t in x]))
    torch.testing.assert_close(ours(channels_last[0]), theirs(x[0]))


def test_running_averages_are_assigned_and_so_pass_through_a_transform():
    layer, x = norms.BatchNorm(3, "running").double(), randn(5, 4, 3)
    start = layer.running_mean

    def averages(rows):
        state = dict(layer.named_buffers())
        functional_call(layer, state, (rows,))
        return state["running_mean"]

    torch.testing.assert_close(vmap(averages)(x), 0.1 * x.mean(1))
    assert layer.running_mean is start and start.eq(0).all()  # in place: changed, or refused


def test_written_out_norms_have_right_second_derivatives_under_vmap_by_themselves():
    """The Hessian of sum(w · norm(x)) at three points: vmap = one by one."""
    w = randn(4, 3, seed=5)
    for layer in (norms.BatchNorm(3), norms.LayerNorm(3), nn.GroupNorm(1, 3)):
        layer = layer.double()

        def curvature(x, layer=layer):
            return grad(lambda y: (grad(lambda z: (w * layer(z)).sum())(y) ** 2).sum())(x)

        points = randn(3, 4, 3, seed=6)
        same(vmap(curvature)(points), torch.stack([curvature(x) for x in points]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: norms.BatchNorm(3, "layer"),
            "`statistics` is 'layer': use one of 'batch', 'support', 'running'",
        ),
        (
            lambda: norms.with_norm(nn.BatchNorm2d(3), "layer"),
            "`norm` is 'layer': use one of 'batch', 'support', 'running', 'group'",
        ),
        (
            lambda: norms.with_norm(nn.Linear(2, 2), "batch"),
            r"`model` \(Linear\) has no normalisation layer to",
        ),
        (
            lambda: norms.with_statistics(norms.BatchNorm(3), "running"),
            "`statistics` is 'running': use 'batch' or 'support', or train",
        ),
        (lambda: norms.with_statistics(norms.BatchNorm(3), "group"), "`statistics` is 'group'"),
        (lambda: norms.vmap_safe(norms.LayerNorm(2)), r"`model` \(LayerNorm\) has no normalisation layer to"),
        (
            lambda: norms.vmap_safe(nn.InstanceNorm2d(3, track_running_stats=True)),
            "instance norm with running statistics.*nn.GroupNorm",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
