"""The inner loop: closed forms, a step's own norms, what moves and what does not, and its cost."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_lib.core import EpisodeSampler, evaluate
from fewshot_lib.encoders import Conv4
from fewshot_lib.maml import MAML, Classifier, Tasks, meta_loss, norms, prototype_head

from .helpers import (
    WAYS,
    Tied,
    assert_right,
    benchmark,
    by_hand,
    gradients,
    image_net,
    mlp,
    randn,
    same,
    tasks,
)

both_engines = pytest.mark.parametrize("engine", ["loop", "vmap"])


@both_engines
@pytest.mark.parametrize("build", [mlp, Tied])
def test_the_inner_loop_is_sgd_on_a_copy(build, engine):
    """Of tied weights too: both ends move."""
    some_tasks, model = tasks(4), build()
    adapted = by_hand(model, some_tasks, 3, 0.3)
    outputs = MAML(model, inner_steps=3, inner_lr=0.3, engine=engine)(*some_tasks[:3])
    same(outputs, torch.stack([mine(x) for mine, x in zip(adapted, some_tasks.query, strict=True)]))


# --- closed forms


class Point(nn.Module):
    """A parameter φ in the plane; on "inputs" c (n, 2) it answers φ − c."""

    def __init__(self):
        super().__init__()
        self.phi = nn.Parameter(randn(2, seed=7))

    def forward(self, c):
        return self.phi - c


def quadratic(differences, curvatures):
    """½ (φ − c)ᵀ A (φ − c), with A (n, 2, 2) as the labels."""
    return 0.5 * torch.einsum("ni,nij,nj->n", differences, curvatures, differences).mean()


def bowls(n_tasks=3):
    """Support and query losses of tasks: centres (T, 1, 2) and positive definite A (T, 1, 2, 2)."""
    roots = randn(2, n_tasks, 1, 2, 2, seed=1)
    a = roots @ roots.mT + 0.5 * torch.eye(2, dtype=torch.float64)
    centres = randn(2, n_tasks, 1, 2, seed=2)
    return Tasks(centres[0], a[0], centres[1], a[1])


@both_engines
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_quadratic_tasks_have_closed_forms(steps, engine):
    """φ_S − c = (I − αA)^S (θ − c); gradient (I − αA)^S A' (φ_S − c'), A' (φ_S − c') to first order."""
    t, alpha, model = bowls(), 0.1, Point()
    c, a, c2, a2 = (leaf.squeeze(1) for leaf in (t.support, t.support_labels, t.query, t.query_labels))
    power = torch.linalg.matrix_power(torch.eye(2) - alpha * a, steps)
    phi = c + (power @ (model.phi.detach() - c).unsqueeze(-1)).squeeze(-1)
    at_query = a2 @ (phi - c2).unsqueeze(-1)  # (T, 2, 1)
    learner = MAML(model, inner_steps=steps, inner_lr=alpha, loss=quadratic, engine=engine)
    same(learner.run(t.support, t.support_labels, t.query, [steps]).parameters["phi"], phi)
    same(learner(t.support, t.support_labels, t.query), (phi - c2).unsqueeze(1))
    same(gradients(learner, t), [(power @ at_query).mean(0).squeeze(-1)])
    learner.first_order = True
    same(gradients(learner, t), [at_query.mean(0).squeeze(-1)])


@both_engines
def test_learnt_rates_belong_to_their_step_and_their_tensor(engine):
    """φ_S − c = Π (I − α_s A)(θ − c), and one step's rate has the meta-gradient −∇L_s · ∇L_q."""
    t, model = bowls(), Point()
    options = {"loss": quadratic, "engine": engine}
    learner = MAML(model, inner_steps=3, rates="per_tensor_per_step", **options)
    rates = torch.tensor([0.05, 0.2, 0.1], dtype=torch.float64)
    learner.rates["phi"].data = rates
    away = (model.phi.detach() - t.support).mT  # (T, 2, 1)
    for rate in [*rates, rates[-1]]:  # a fourth step goes on at the last rate
        away = away - rate * t.support_labels.squeeze(1) @ away
    same(learner.run(*t[:3], [4]).parameters["phi"], (away.mT + t.support).squeeze(1))

    sgd = MAML(model, inner_steps=1, rates="per_parameter", **options)
    sgd.rates["phi"].data = rates[:2]
    a, a2 = t.support_labels.squeeze(1), t.query_labels.squeeze(1)
    slope = (a @ (model.phi.detach() - t.support).mT).squeeze(-1)
    phi = model.phi.detach() - rates[:2] * slope
    same(sgd.run(*t[:3], [1]).parameters["phi"], phi)
    at_query = (a2 @ (phi.unsqueeze(1) - t.query).mT).squeeze(-1)
    same(gradients(sgd, t)[1], (-slope * at_query).mean(0))


@pytest.mark.parametrize("rates", ["per_parameter", "per_tensor_per_step"])
def test_learnt_rates_start_as_maml(rates):
    some_tasks, options = tasks(1, 6, 6), {"inner_steps": 2, "inner_lr": 0.3}
    plain, learning = MAML(image_net("batch"), **options), MAML(image_net("batch"), rates=rates, **options)
    named = plain.model.named_parameters()
    shapes = {name: tuple(p.shape) if rates == "per_parameter" else (2,) for name, p in named}
    assert {name.replace("/", "."): tuple(p.shape) for name, p in learning.rates.items()} == shapes
    same(meta_loss(learning, some_tasks)["loss"], meta_loss(plain, some_tasks)["loss"])
    found = gradients(learning, some_tasks)
    same(found[: len(shapes)], gradients(plain, some_tasks))
    assert all(g.abs().max() > 0 for g in found[len(shapes) :])


@both_engines
def test_no_inner_step_is_ordinary_learning_from_the_queries(engine):
    some_tasks, model = tasks(1, 6, 6), image_net("group")
    loss = F.cross_entropy(model(some_tasks.query.flatten(0, 1)), some_tasks.query_labels.flatten())
    expected = list(torch.autograd.grad(loss, list(model.parameters())))
    same(gradients(MAML(model, inner_steps=0, engine=engine), some_tasks), expected)


def test_first_order_tends_to_second_order_with_the_inner_rate():
    some_tasks, gaps = tasks(1, 6, 6), []
    for rate in (1e-3, 1e-4):
        learners = [MAML(image_net("batch"), 3, rate, first_order=f) for f in (False, True)]
        pairs = zip(*(gradients(learner, some_tasks) for learner in learners), strict=True)
        gaps.append(max((a - b).abs().max().item() for a, b in pairs))
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05) and gaps[0] > 1e-5


def test_proto_maml_starts_as_prototypes():
    """−‖f(x) − c_k‖² up to a constant per query."""
    some_tasks, model = tasks(1, 6, 6), image_net()
    logits = MAML(model, start=prototype_head)(*some_tasks[:3], n_steps=0)
    support, query = (model.encoder(x.flatten(0, 1)).unflatten(0, (2, -1)) for x in some_tasks[::2])
    means = support.unflatten(1, (2, WAYS)).mean(1)  # the supports are of the classes in turn
    offset = logits + torch.cdist(query, means).square()
    same(offset, offset[..., :1].expand_as(offset))


# --- a step's own norms


def stacks(learner):
    """The running averages of every step, by name."""
    return dict(learner.step_norms.named_buffers())


def changed_by(learner, stack, step):
    """Which numbers of inner steps give other outputs once the step's row of a stack has changed."""
    some_tasks, at = tasks(1, 6, 6), list(range(learner.inner_steps + 1))
    before = learner.run(*some_tasks[:3], at).outputs.detach()
    with torch.no_grad():
        stack[step] += 0.5
    after = learner.run(*some_tasks[:3], at).outputs.detach()
    return [s for s in at if not torch.allclose(before[:, s], after[:, s], atol=1e-6)]


@pytest.mark.parametrize("step", [0, 1, 2])
@both_engines
def test_the_averages_of_a_step_are_used_for_the_queries_after_it(step, engine):
    """And nowhere else: the inner loop keeps to the statistics of its support set."""
    learner = MAML(image_net("running"), inner_steps=2, inner_lr=0.3, engine=engine).eval()
    assert set(stacks(learner)) == {"encoder/1/running_mean", "encoder/1/running_var"}
    for stack in stacks(learner).values():
        assert changed_by(learner, stack, step) == [step]
    learner.train()  # in training they are moved, not used
    assert changed_by(learner, stack, step) == []


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("norm", ["batch", "running"])
def test_the_scales_and_shifts_of_a_step_are_used_at_that_step(step, norm):
    learner = MAML(image_net(norm), inner_steps=2, inner_lr=0.3, per_step_norm=True)
    scales = dict(learner.step_norms.named_parameters())
    assert set(scales) == {"encoder/1/weight", "encoder/1/bias"}
    assert not {"encoder.1.weight", "encoder.1.bias"} & set(learner.adapted)
    for stack in scales.values():
        assert changed_by(learner, stack, step) == list(range(step, 3))
    own = learner.model.encoder[1].weight
    assert changed_by(learner, [own] * 3, step) == []  # the model's own have given way


@both_engines
@pytest.mark.parametrize("at_all_steps", [False, True])
def test_averages_are_those_of_the_networks_on_the_way(engine, at_all_steps):
    """By copies of the model: at each step over the queries, or, where they were not asked, the supports."""
    some_tasks, model = tasks(1, 6, 6), image_net("running")
    learner = MAML(model, inner_steps=2, inner_lr=0.3, engine=engine)
    old = [b.clone() for b in stacks(learner).values()]
    adapted = [by_hand(model, some_tasks, s, 0.3) for s in range(3)]
    meta_loss(learner, some_tasks, **({"progress": 0.2, "multi_step_until": 1.0} if at_all_steps else {}))
    for s in range(3):
        asked = some_tasks.query if s == 2 or (at_all_steps and s == 1) else some_tasks.support
        outputs = [mine.encoder[0](x) for mine, x in zip(adapted[s], asked, strict=True)]
        means, variances = (
            torch.stack(list(of_each)).mean(0)
            for of_each in zip(*((x.mean((0, 2, 3)), x.var((0, 2, 3))) for x in outputs), strict=True)
        )
        for new, buffer, before in zip((means, variances), stacks(learner).values(), old, strict=True):
            same(buffer[s], 0.9 * before[s] + 0.1 * new)
    same(
        model.encoder[1].running_mean, stacks(learner)["encoder/1/running_mean"][0]
    )  # the model itself is φ_0


def test_steps_beyond_the_trained_ones_use_the_last_averages():
    learner, some_tasks = MAML(image_net("running"), inner_lr=0.3).eval(), tasks(1, 6, 6)
    before = learner(*some_tasks[:3], n_steps=4)
    stacks(learner)["encoder/1/running_mean"][1] += 0.5
    assert not torch.allclose(before, learner(*some_tasks[:3], n_steps=4))


# --- what moves, and what does not


def test_only_what_is_adapted_moves_in_the_inner_loop():
    some_tasks, model = tasks(1, 6, 6), image_net("batch")
    for adapt, names in (
        ("head", {"head.weight", "head.bias"}),
        (("encoder.1", "head.bias"), {"encoder.1.weight", "encoder.1.bias", "head.bias"}),
        (None, {name for name, _ in model.named_parameters()}),
    ):
        phi = MAML(model, inner_lr=0.3, adapt=adapt).run(*some_tasks[:3], [1]).parameters
        assert set(phi) == names
        moved = {n for n, value in phi.items() if not torch.allclose(value, model.get_parameter(n))}
        assert moved >= names - {"encoder.0.bias"}  # which the norm takes out again
    started = MAML(model, inner_lr=0.3, start=prototype_head).run(*some_tasks[:3], [0]).parameters
    body = MAML(model, inner_lr=0.3, adapt="encoder", start=prototype_head)
    # a start may set what is not adapted: it stays there
    same(body.run(*some_tasks[:3], [0, 1]).parameters["head.weight"], started["head.weight"])


def test_a_prefix_is_a_name_and_not_its_beginning():
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "header": nn.Linear(2, 2)})
    assert MAML(model, adapt="head").adapted == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    "options",
    [{}, {"rates": "per_parameter"}, {"first_order": True}, {"per_step_norm": True}, {"chunk_size": 1}],
    ids=str,
)
def test_frozen_parameters_neither_move_nor_have_a_gradient(options):
    model, some_tasks = image_net("batch"), tasks(1, 6, 6)
    model.encoder.requires_grad_(False)
    learner = MAML(model, inner_steps=2, inner_lr=0.3, **options)
    assert set(learner.adapted) == {"head.weight", "head.bias"}
    assert {n for n, p in learner.named_parameters() if p.requires_grad and "head" not in n} == set()
    gradients(learner, some_tasks)
    assert all((p.grad is not None) == p.requires_grad for p in learner.parameters())
    model.encoder[0].bias.requires_grad_(True)
    assert_right(MAML(model, inner_steps=2, inner_lr=0.3), some_tasks)


@both_engines
def test_a_run_does_not_change_the_model(engine):
    some_tasks = tasks(1, 6, 6)
    options = {"per_step_norm": True, "engine": engine}
    learner = MAML(image_net("running"), inner_steps=2, inner_lr=0.3, **options)
    before = copy.deepcopy(learner.state_dict())
    learner.run(*some_tasks[:3], [0, 2])
    learner.as_method()(some_tasks.support.unflatten(1, (WAYS, 2)), some_tasks.query)
    with torch.no_grad():
        meta_loss(learner.eval(), some_tasks)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


def test_outputs_stand_in_the_order_that_was_asked_for():
    learner, some_tasks = MAML(image_net("batch"), inner_steps=2, inner_lr=0.3), tasks(1, 6, 6)
    outputs = learner.run(*some_tasks[:3], [2, 0, 2]).outputs
    for i, steps in enumerate([2, 0, 2]):
        same(outputs[:, i], learner(*some_tasks[:3], n_steps=steps))


@both_engines
def test_dropout_is_drawn_anew_for_every_task_and_is_off_at_test_time(engine):
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5)), 40, WAYS).double()
    learner, one = MAML(model, inner_steps=2, engine=engine), tasks(4, n_tasks=1)
    twice = Tasks(*(leaf.expand(2, *leaf.shape[1:]) for leaf in one))
    outputs = learner(*twice[:3])
    assert not torch.allclose(outputs[0], outputs[1])
    assert all(g.isfinite().all() for g in gradients(learner, twice))
    outputs = learner.eval()(*twice[:3])
    same(outputs[0], outputs[1])


# --- the cost


def operations(model, *shape, n_tasks=2, **options):
    """How often a meta-step calls each operation of the device."""
    learner, some_tasks = MAML(model, **options), tasks(*shape, n_tasks=n_tasks)
    with benchmark("speed/operations").Operations() as seen:
        meta_loss(learner, some_tasks)["loss"].backward()
    return seen.counts


def conv4(norm):
    return norms.with_norm(Classifier(Conv4(width=4), 4, WAYS), norm).double()


def test_a_vmapped_meta_step_has_as_many_operations_for_8_tasks_as_for_2():
    for options in ({"inner_steps": 3}, {"inner_steps": 3, "first_order": True}):
        assert operations(mlp(), 4, n_tasks=8, **options) == operations(mlp(), 4, **options)
        few, many = (operations(mlp(), 4, n_tasks=t, engine="loop", **options).total() for t in (2, 8))
        assert 3.5 < many / few < 4.5
    for options in ({"inner_steps": 1}, {"inner_steps": 3, "first_order": True}):
        few, many = (operations(conv4("running"), 1, 28, 28, n_tasks=t, **options) for t in (2, 8))
        assert few == many


def test_what_grows_with_the_tasks_is_a_loop_over_groups_inside_torch():
    """From the second step on, weights differ by task and vmap makes grouped convolutions; torch's double
    backward takes those one group at a time: a convolution and two slices, for each task, further step, and
    layer but the first."""
    few, many = (operations(conv4("batch"), 1, 28, 28, n_tasks=t, inner_steps=3) for t in (2, 8))
    more, per_task = many - few, 6 * (3 - 1) * 3
    assert many.keys() == few.keys() and not few - many
    assert set(more) <= {"aten.convolution.default", "aten.slice.Tensor"}
    assert more["aten.convolution.default"] <= per_task and more["aten.slice.Tensor"] <= 2 * per_task


def test_a_first_order_graph_does_not_grow_with_the_inner_steps():
    """Counted in nodes that backward visits: the inner loop has no part in them."""

    def nodes(learner):
        seen, stack = set(), [meta_loss(learner, tasks(4))["loss"].grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack.extend(following for following, _ in node.next_functions)
        return len(seen)

    grown = {}
    for first_order in (True, False):
        one, five = (nodes(MAML(mlp(), s, first_order=first_order, engine="loop")) for s in (1, 5))
        grown[first_order] = five - one
    # one subtraction for each of 4 tensors, 4 more steps, 2 tasks; with its slices
    assert grown[True] <= 4 * 4 * 2 * 2 and grown[False] > 4 * grown[True]


# --- as a few-shot method


def images():
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(12, 1, 6, 6, generator=generator)
    labels = torch.arange(12).repeat_interleave(20)
    return prototypes[labels] + 0.05 * torch.rand(240, 1, 6, 6, generator=generator), labels


def draw(n_episodes=7, n_way=WAYS, n_shot=2):
    return EpisodeSampler(images()[1], torch.arange(12), n_way, n_shot, 4, seed=0).sample(n_episodes)


def test_as_a_method_it_adapts_to_raw_inputs():
    inputs, _ = images()
    torch.manual_seed(0)
    learner = MAML(Classifier(nn.Flatten(), 36, WAYS), inner_lr=0.5, name="mine")
    before, after = (evaluate(learner.as_method(n_steps=s), draw(50), inputs) for s in (0, 100))
    assert after.mean > 0.95 > 0.5 > before.mean
    assert (after.method, after.transductive) == ("mine, 100 steps", False)
    pictures = (255 * torch.rand(240, 1, 28, 28, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    learner = MAML(norms.with_norm(Classifier(Conv4(width=4), 4, WAYS), "batch"))
    results = evaluate(learner.as_method(name="on pictures"), draw(), pictures)
    assert (results.method, results.transductive, results.n_episodes) == ("on pictures", True, 7)


def test_as_a_method_it_restores_every_mode_even_when_it_fails():
    learner = MAML(image_net("running"))
    learner.model.encoder[1].eval()
    modes = [m.training for m in learner.modules()]
    run, support = learner.as_method(), randn(2, WAYS, 2, 1, 6, 6)
    run(support, randn(2, 4, 1, 6, 6))
    assert [m.training for m in learner.modules()] == modes
    with pytest.raises(RuntimeError, match="channels"):
        run(support, randn(2, 4, 5, 6, 6))
    assert [m.training for m in learner.modules()] == modes


def test_transduction_is_declared_for_test_time():
    fused = Classifier(nn.BatchNorm1d(4, track_running_stats=False), 4, WAYS)
    assert MAML(fused, engine="loop").transductive
    for norm in ("none", "layer", *norms.NORMS):
        learner = MAML(image_net(norm))
        found = [learner.as_method().transductive, learner.train().transductive, learner.eval().transductive]
        assert found == 3 * [norm == "batch"]


# --- bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": -1}, "`inner_steps` is -1: use a whole number, 0 or more"),
        ({"inner_steps": 2.0}, r"`inner_steps` is 2\.0: use a whole number"),
        ({"inner_steps": "3"}, "`inner_steps` is '3'"),
        ({"inner_lr": -0.1}, r"`inner_lr` is -0\.1: use a number, 0 or more"),
        ({"inner_lr": float("nan")}, "`inner_lr` is nan"),
        ({"inner_lr": "0.1"}, "`inner_lr` is '0.1'"),
        ({"rates": "each"}, "`rates` is 'each': use one of 'fixed', 'per_parameter', 'per_tensor_per_step'"),
        ({"engine": "map"}, "`engine` is 'map': use one of 'vmap', 'loop'"),
        ({"chunk_size": 0}, "`chunk_size` is 0: use a whole number, 1 or more"),
        ({"chunk_size": 1.5}, r"`chunk_size` is 1\.5"),
        ({"adapt": "tail"}, "`adapt` names 'tail', which fits no trainable parameter: .* encoder, head"),
        ({"adapt": ("head", "enc")}, "`adapt` names 'enc'"),
        ({"adapt": ()}, r"`adapt` is \(\): this leaves nothing trainable to adapt"),
        (
            {"per_step_norm": True},
            "`per_step_norm` is True: the model has no norms.BatchNorm: see norms.with",
        ),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MAML(mlp(), **options)


def test_a_model_that_is_all_frozen_has_nothing_to_adapt():
    with pytest.raises(ValueError, match="`adapt` is None: this leaves nothing trainable"):
        MAML(mlp().requires_grad_(False))


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="chunks"):
        MAML(mlp(), chunks=2)


@both_engines
def test_bad_tasks_are_named(engine):
    learner, t = MAML(mlp(), engine=engine), tasks(4)
    for short in range(3):
        parts = [leaf[:1] if i == short else leaf for i, leaf in enumerate(t[:3])]
        with pytest.raises(ValueError, match=r"`tasks` is \[1, 2\]: supports, labels and queries have diff"):
            learner(*parts)
    for at in ([], [-1]):
        with pytest.raises(ValueError, match=r"`at` is \[.*\]: give whole numbers of steps, 0 or more"):
            learner.run(*t[:3], at)


def test_episodes_that_do_not_fit_are_named():
    learner, features = MAML(image_net("batch")), images()[0].double()
    with pytest.raises(ValueError, match="`episodes` are padded, and MAML needs a fixed n_shot"):
        evaluate(learner.as_method(), draw(n_shot=(1, 3)), features)
    for n_way in (2, 5):
        message = f"`n_way` is {n_way}: the model's head has 3 ways; sample as many, or build it for {n_way}"
        with pytest.raises(ValueError, match=message):
            evaluate(learner.as_method(), draw(n_way=n_way), features)
    MAML(Point(), loss=quadratic).check_ways(7)  # another model's outputs need not be ways
    for options in ({"n_steps": -1}, {"n_steps": 1.5}, {"batch_size": 0}):
        (found,) = options.items()
        with pytest.raises(ValueError, match="`{}` is {}".format(*found)):
            learner.as_method(**options)
