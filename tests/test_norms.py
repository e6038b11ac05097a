"""The written-out norms compute what torch's do, keep what they replace, and are right where torch's are wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from fewshot_lib import norms
from fewshot_lib.maml import MAML, Classifier, Tasks
from fewshot_lib.meta_training import meta_loss


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(norm, n_features=48):
    """One convolution, a norm, a smooth activation, a linear head, in float64: 6 x 6 images -> 3 classes."""
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.Tanh(), nn.Flatten()), n_features, 3).double()


def tasks():
    labels = torch.arange(3).repeat(2).expand(2, -1)
    return Tasks(randn(2, 6, 1, 6, 6, seed=1), labels, randn(2, 4, 1, 6, 6, seed=2), torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]]))


def both_gradients(learner):
    """The loss, and the meta-gradient along a random direction: by autograd, and by fourth-order differences of the loss."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    direction = [randn(*p.shape, seed=i) for i, p in enumerate(parameters)]
    loss = meta_loss(learner, tasks())["loss"]
    exact = sum((g * d).sum() for g, d in zip(torch.autograd.grad(loss, parameters), direction, strict=True)).item()
    differences, h = 0.0, 1e-4
    for steps, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=steps * h)
            differences += weight * meta_loss(learner, tasks())["loss"].item() / (12 * h)
            torch._foreach_add_(parameters, direction, alpha=-steps * h)
    return loss.item(), exact, differences


# --- the same numbers as torch's


@pytest.mark.parametrize(("torchs", "shape"), [(nn.BatchNorm1d, (7, 3)), (nn.BatchNorm1d, (7, 3, 4)), (nn.BatchNorm2d, (2, 3, 4, 5))])
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
        torch.testing.assert_close(
            *(torch.autograd.grad((y * weights).sum(), [x, *m.parameters()]) for y, m in ((mine, ours), (yours, theirs)))
        )
    if tracks:
        torch.testing.assert_close((ours.running_mean, ours.running_var), (theirs.running_mean, theirs.running_var))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    if tracks:
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
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, momentum=0.5, eps=0.02), nn.InstanceNorm2d(6, affine=True))
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
    learnt = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learnt == {n for n, p in safe.named_parameters() if p.requires_grad}  # nothing frozen thaws, and nothing new is learnt
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
    assert torch.equal(new.body[1].weight, old.body[1].weight) and torch.equal(new.body[1].bias, old.body[1].bias)
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
    layer, x = norms.with_norm(nn.BatchNorm2d(6), norm), torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    others = torch.cat([x[:1], 3 * x[1:] + 1])
    mixes = [not torch.allclose(layer(x)[0], layer(others)[0], atol=1e-5)]
    layer.eval()
    mixes.append(not torch.allclose(layer(x)[0], layer(others)[0], atol=1e-5))
    assert mixes == {"batch": [True, True], "support": [True, True], "running": [True, False], "group": [False, False]}[norm]


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
    torch.testing.assert_close(normalised["support"], (query - support.mean(0)) / (support.var(0, correction=0) + 1e-5).sqrt())
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
        assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))
        assert norms.mixes_examples(other[1]) == (statistics == "batch") and norms.needs_support(other) == (statistics == "support")
        assert torch.allclose(other(randn(5, 3)), model.eval()(randn(5, 3))) == (statistics == "running")
    again = norms.with_statistics(norms.with_statistics(model, "batch"), "running")
    torch.testing.assert_close(again.eval()(randn(5, 3)), model(randn(5, 3)))


def test_which_norms_mix_examples():
    def fused(**options):
        return nn.BatchNorm2d(3, **options)

    assert norms.mixes_examples(fused(track_running_stats=False)) and not norms.mixes_examples(fused())
    for layer in (
        norms.BatchNorm(3, "support"),
        norms.BatchNorm(3, "running"),
        norms.GroupNorm(1, 3),
        nn.InstanceNorm2d(3),
        nn.LayerNorm(3),
    ):
        assert not norms.mixes_examples(layer)
    assert norms.mixes_examples(norms.BatchNorm(3))


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
    assert layer.running_mean is start and start.eq(0).all()  # in place, it would have been changed, or refused


# --- what torch gets wrong

FUSED = {
    "layer norm": nn.LayerNorm([3, 4, 4]),
    "batch norm": nn.BatchNorm2d(3, track_running_stats=False),
    "instance norm": nn.InstanceNorm2d(3, affine=True),
}


@pytest.mark.parametrize("fused", FUSED.values(), ids=FUSED)
def test_torch_still_gets_the_second_derivative_of_fused_norms_wrong_under_vmap(fused):
    """Should this fail, torch has been mended: then `norms.check` need no longer refuse them (pytorch/functorch#534)."""
    learner = MAML(net(fused), inner_steps=2, inner_lr=0.3, engine="loop")
    loss, exact, differences = both_gradients(learner)
    assert exact == pytest.approx(differences, rel=1e-7)
    learner.engine = "vmap"  # past the check
    wrong_loss, wrong, same_differences = both_gradients(learner)
    assert wrong_loss == pytest.approx(loss, rel=1e-12) and same_differences == pytest.approx(differences, rel=1e-7)  # the loss is right
    assert abs(wrong / differences - 1) > 1e-5


@pytest.mark.parametrize("fused", FUSED.values(), ids=FUSED)
def test_the_named_fixes_work(fused):
    model = net(fused)
    with pytest.raises(ValueError, match=r"`model` holds \w+Norm\w* as 'encoder.1', and engine='vmap' .*norms.vmap_safe.*engine='loop'"):
        MAML(model)
    for learner in (MAML(norms.vmap_safe(model), inner_steps=2, inner_lr=0.3), MAML(model, inner_steps=2, inner_lr=0.3, engine="loop")):
        loss, exact, differences = both_gradients(learner)
        assert exact == pytest.approx(differences, rel=1e-7)


@pytest.mark.parametrize("fused", FUSED.values(), ids=FUSED)
def test_fused_norms_are_accepted_where_they_are_right(fused):
    """First-order learners, and ANIL, whose inner gradient does not pass the norm."""
    gradients = {}
    for engine in ("loop", "vmap"):
        learner = MAML(net(fused), inner_steps=2, inner_lr=0.3, first_order=True, engine=engine)
        gradients[engine] = torch.autograd.grad(meta_loss(learner, tasks())["loss"], list(learner.parameters()))
    torch.testing.assert_close(gradients["vmap"], gradients["loop"], rtol=1e-10, atol=1e-12)
    loss, exact, differences = both_gradients(MAML(net(fused), inner_steps=2, inner_lr=0.3, adapt="head"))
    assert exact == pytest.approx(differences, rel=1e-7)


def test_anil_is_refused_where_a_fused_norm_stands_in_what_is_adapted():
    model = net(nn.Identity())
    model.head = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 3)).double()
    with pytest.raises(ValueError, match=r"LayerNorm as 'head.0'"):
        MAML(model, adapt="head")

    class AfterTheHead(Classifier):
        def __init__(self):
            super().__init__(nn.Flatten(), 36, 3)
            self.norm = nn.LayerNorm(3)

        def forward(self, x):
            return self.norm(super().forward(x))

    with pytest.raises(ValueError, match=r"LayerNorm as 'norm'"):
        MAML(AfterTheHead(), adapt="head")


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("tracked", [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)], ids=["batch", "instance"])
def test_averages_that_change_in_place_are_refused_with_either_engine(tracked, engine, first_order):
    with pytest.raises(ValueError, match=r"as 'encoder.1', which changes its running averages in place.*use `norms.with_norm"):
        MAML(net(tracked), engine=engine, first_order=first_order)


class Calls(nn.Module):
    """A model that calls a norm itself, where no module tells of it."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


CALLS = {
    "F.layer_norm": lambda x: F.layer_norm(x, (3, 4, 4)),
    "F.batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "F.instance_norm": lambda x: F.instance_norm(x),
    "torch.layer_norm": lambda x: torch.layer_norm(x, (3, 4, 4)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_inside_forward_is_refused_when_it_comes(call):
    learner = MAML(net(Calls(call)), inner_steps=1)
    with pytest.raises(ValueError, match=r"`model` calls \w+_norm, .*engine='vmap'.*engine='loop'"):
        meta_loss(learner, tasks())
    for options in ({"engine": "loop"}, {"adapt": "head"}):
        loss, exact, differences = both_gradients(MAML(net(Calls(call)), inner_lr=0.3, **options))
        assert exact == pytest.approx(differences, rel=1e-7)
    meta_loss(MAML(net(Calls(call)), first_order=True), tasks())


def test_the_guard_ends_with_its_block():
    with norms.RefuseFusedNorms():
        assert torch.equal(F.group_norm(torch.ones(1, 2, 2), 1), torch.zeros(1, 2, 2))
        with pytest.raises(ValueError, match="layer_norm"):
            F.layer_norm(torch.ones(2), (2,))
    assert torch.equal(F.layer_norm(torch.ones(2), (2,)), torch.zeros(2))


def test_written_out_norms_have_right_second_derivatives_under_vmap_by_themselves():
    """The Hessian of sum(w · norm(x)) at three points: vmap = one by one."""
    w = randn(4, 3, seed=5)
    for layer in (norms.BatchNorm(3), norms.LayerNorm(3), nn.GroupNorm(1, 3)):
        layer = layer.double()

        def curvature(x, layer=layer):
            return grad(lambda y: (grad(lambda z: (w * layer(z)).sum())(y) ** 2).sum())(x)

        points = randn(3, 4, 3, seed=6)
        torch.testing.assert_close(vmap(curvature)(points), torch.stack([curvature(x) for x in points]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norms.BatchNorm(3, "layer"), "`statistics` is 'layer': use 'batch', 'support', 'running'"),
        (lambda: norms.with_norm(nn.BatchNorm2d(3), "layer"), "`norm` is 'layer': use one of 'batch', 'support', 'running', 'group'"),
        (lambda: norms.with_statistics(norms.BatchNorm(3), "running"), "`statistics` is 'running': use 'batch' or 'support', or train"),
        (lambda: norms.with_statistics(norms.BatchNorm(3), "group"), "`statistics` is 'group'"),
        (lambda: norms.with_norm(nn.Linear(2, 2), "batch"), r"`model` \(Linear\) has no normalisation layer to replace"),
        (lambda: norms.vmap_safe(norms.vmap_safe(nn.LayerNorm(2))), r"`model` \(LayerNorm\) has no normalisation layer to replace: use it"),
        (lambda: norms.vmap_safe(nn.InstanceNorm2d(3, track_running_stats=True)), "instance norm with running statistics.*nn.GroupNorm"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
