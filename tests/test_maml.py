"""The inner loop: right gradients for every norm, backbone and member of the family, with both engines; what it refuses."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_lib import maml, norms
from fewshot_lib.encoders import Conv4
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.maml import MAML, Classifier, Tasks, prototype_head
from fewshot_lib.meta_training import meta_loss
from fewshot_lib.prototypes import euclidean_prototypes

WAYS = 3


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks(*shape, n_tasks=2, n_support=6, n_query=4, inputs=None):
    """Tasks with random inputs of this shape, or those that ``inputs(T, n, seed)`` makes; two supports of each of 3 classes."""
    make = inputs or (lambda t, n, seed: randn(t, n, *shape, seed=seed))
    labels = torch.arange(WAYS).repeat(n_support // WAYS).expand(n_tasks, -1)
    answers = torch.randint(WAYS, (n_tasks, n_query), generator=torch.Generator().manual_seed(3))
    return Tasks(make(n_tasks, n_support, 1), labels, make(n_tasks, n_query, 2), answers)


def net(norm="none"):
    """A convolution, a norm, a smooth activation, a linear head, in float64: 6 x 6 images -> 3 classes."""
    torch.manual_seed(0)
    layer = {"none": nn.Identity(), "layer": nn.LayerNorm([3, 4, 4])}.get(norm, nn.BatchNorm2d(3))
    model = Classifier(nn.Sequential(nn.Conv2d(1, 3, 3), layer, nn.Tanh(), nn.Flatten()), 48, WAYS).double()
    return {"none": lambda m: m, "layer": norms.vmap_safe}.get(norm, lambda m: norms.with_norm(m, norm))(model)


def mlp(n_in=4, hidden=5):
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Linear(n_in, hidden), nn.Tanh()), hidden, WAYS).double()


def learnt(learner):
    return [p for p in learner.parameters() if p.requires_grad]


def gradients(learner, some_tasks, **options):
    """The meta-gradient of all that is learnt; zeros where a parameter has no part in the loss."""
    loss = meta_loss(learner, some_tasks, **options)["loss"]
    found = torch.autograd.grad(loss, learnt(learner), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(learnt(learner), found, strict=True)]


def assert_right(learner, some_tasks, h=1e-5, **options):
    """The meta-gradient is that of fourth-order central differences, along two random directions of all parameters."""
    exact, parameters = gradients(learner, some_tasks, **options), learnt(learner)
    for seed in (0, 100):
        direction = [randn(*p.shape, seed=seed + i) for i, p in enumerate(parameters)]
        differences = 0.0
        for steps, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=steps * h)
                differences += weight * meta_loss(learner, some_tasks, **options)["loss"].item() / (12 * h)
                torch._foreach_add_(parameters, direction, alpha=-steps * h)
        along = sum((g * d).sum() for g, d in zip(exact, direction, strict=True)).item()
        assert along == pytest.approx(differences, rel=1e-7, abs=1e-9)
        assert abs(along) > 1e-3  # there is something to compare


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def engines(model, **options):
    """The same learner with both engines, and with chunks of two tasks."""
    kinds = itertools.product(("loop", "vmap"), (None, 2))
    return [MAML(copy.deepcopy(model), engine=engine, chunk_size=chunk, **options) for engine, chunk in kinds]


def by_hand(model, some_tasks, inner_steps, inner_lr, part=""):
    """Each task's own copy of the model after SGD steps of (a part of) it on its support, in plain PyTorch."""
    adapted = []
    for support, labels in zip(some_tasks.support, some_tasks.support_labels, strict=True):
        mine = copy.deepcopy(model)
        optimizer = torch.optim.SGD(mine.get_submodule(part).parameters(), lr=inner_lr)
        for _ in range(inner_steps):
            optimizer.zero_grad()
            F.cross_entropy(mine(support), labels).backward()
            optimizer.step()
        adapted.append(mine)
    return adapted


# --- vmap = loop = finite differences

FAMILY = {
    "MAML": {},
    "ANIL": {"adapt": "head"},
    "body only": {"adapt": ("encoder.0",)},
    "Meta-SGD": {"rates": "per_parameter"},
    "rates per step": {"rates": "per_tensor_per_step"},
    "ProtoMAML": {"start": prototype_head},
    "MAML++": {"rates": "per_tensor_per_step", "per_step_norm": True},
}
NORMS = ("none", "layer", *norms.NORMS)
COMBINATIONS = [(n, f) for n in NORMS for f in FAMILY if f != "MAML++" or n in ("batch", "support", "running")]


@pytest.mark.parametrize(("norm", "member"), COMBINATIONS)
def test_engines_agree_with_each_other_and_with_finite_differences(norm, member):
    some_tasks, schedule = tasks(1, 6, 6, n_tasks=3), {"progress": 0.4, "multi_step_until": 1.0 if member == "MAML++" else 0.0}
    first, *others = engines(net(norm), inner_steps=2, inner_lr=0.3, **FAMILY[member])
    expected = gradients(first, some_tasks, **schedule)
    for other in others:
        same(gradients(other, some_tasks, **schedule), expected)
        same(list(other.buffers()), list(first.buffers()))  # the running averages of every step
    assert_right(first, some_tasks, **schedule)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("part", ["", "head"])
def test_a_first_order_gradient_is_that_at_the_adapted_parameters(norm, part):
    some_tasks = tasks(1, 6, 6, n_tasks=3)
    adapted = by_hand(net(norm), some_tasks, 2, 0.3, part)
    for model, support, query, y in zip(adapted, some_tasks.support, some_tasks.query, some_tasks.query_labels, strict=True):
        model.zero_grad()
        with norms.inside_task(model, 6 if norm == "support" else 0):
            answers = model(torch.cat([support, query]))[6:] if norm == "support" else model(query)
        F.cross_entropy(answers, y).backward()
    expected = [torch.stack(grads).mean(0) for grads in zip(*([p.grad for p in m.parameters()] for m in adapted), strict=True)]
    for learner in engines(net(norm), inner_steps=2, inner_lr=0.3, first_order=True, adapt=part or None):
        same(gradients(learner, some_tasks), expected)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_to_first_order_the_norms_of_earlier_steps_have_no_part_in_the_loss(engine):
    learner = MAML(net("batch"), inner_steps=2, inner_lr=0.3, per_step_norm=True, first_order=True, engine=engine)
    meta_loss(learner, tasks(1, 6, 6))["loss"].backward()
    for scales in learner.step_scales.values():
        assert torch.equal(scales.grad[:2], torch.zeros_like(scales[:2])) and scales.grad[2].abs().max() > 0


@pytest.mark.parametrize("member", ["ANIL", "Meta-SGD", "ProtoMAML", "MAML++"])
def test_engines_agree_on_first_order_gradients(member):
    some_tasks, schedule = tasks(1, 6, 6, n_tasks=3), {"progress": 0.4, "multi_step_until": 1.0}
    first, *others = engines(net("running"), inner_steps=2, inner_lr=0.3, first_order=True, **FAMILY[member])
    expected = gradients(first, some_tasks, **schedule)
    for other in others:
        same(gradients(other, some_tasks, **schedule), expected)
    second = gradients(MAML(net("running"), inner_steps=2, inner_lr=0.3, **FAMILY[member]), some_tasks, **schedule)
    assert any(not torch.allclose(a, b) for a, b in zip(expected, second, strict=True))


@pytest.mark.parametrize("norm", ["support", "running"])
def test_the_statistics_of_test_time_have_a_right_gradient(norm):
    some_tasks = tasks(1, 6, 6)
    for learner in engines(net(norm), inner_steps=2, inner_lr=0.3):
        meta_loss(learner, some_tasks)
        assert_right(learner.eval(), some_tasks)


# --- any module that takes a batch


class Attention(nn.Module):
    """Fused attention, which has no second derivative of its own; two inputs, as a tuple."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, WAYS)

    def forward(self, both):
        tokens, mask = both
        mixed, _ = self.attention(tokens, tokens, tokens, key_padding_mask=mask, need_weights=False)
        return self.head(mixed.mean(1))


class Tied(nn.Module):
    """The same weights at both ends."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, WAYS, bias=False), nn.Linear(4, WAYS)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.first(x) @ self.first.weight)


class Bert(nn.Module):
    """A tiny BERT on a dict of token ids and their mask.

    The mask is made here: transformers looks *into* a (n, L) mask to see whether it can be left out, and vmap forbids that.
    """

    def __init__(self, attention):
        from transformers import BertConfig, BertModel

        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=30,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=12,
            attn_implementation=attention,
        )
        self.bert, self.head = BertModel(config, add_pooling_layer=False).eval(), nn.Linear(8, WAYS)

    def forward(self, batch):
        mask = batch["attention_mask"].to(self.head.weight.dtype)
        hidden = (1 - mask[:, None, None]) * torch.finfo(mask.dtype).min
        tokens = self.bert(input_ids=batch["input_ids"], attention_mask=hidden).last_hidden_state
        return self.head((tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


def texts(n_tasks, n, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(6) < torch.randint(3, 7, (n_tasks, n, 1), generator=generator)).long()
    return {"input_ids": torch.randint(1, 30, (n_tasks, n, 6), generator=generator) * mask, "attention_mask": mask}


def tokens_and_mask(n_tasks, n, seed):
    return randn(n_tasks, n, 5, 4, seed=seed), (torch.arange(5) > 2).expand(n_tasks, n, 5)


def conv4(norm):
    torch.manual_seed(0)
    return norms.with_norm(Classifier(Conv4(width=4), 4, WAYS), norm).double()


def text_model(attention):
    return norms.vmap_safe(Bert(attention).double())


CONV4 = {"shape": (1, 28, 28), "h": 1e-7}  # a ReLU's kink is a *jump* of the loss after adaptation: so no jump may be within h
BACKBONES = {
    "MLP": (mlp, {"shape": (4,)}),
    "Conv4, batch": (lambda: conv4("batch"), CONV4),
    "Conv4, support": (lambda: conv4("support"), CONV4),
    "Conv4, running": (lambda: conv4("running"), CONV4),
    "Conv4, group": (lambda: conv4("group"), CONV4),
    "BERT, a dict": (lambda: text_model("eager"), {"inputs": texts}),
    "BERT, fused attention": (lambda: text_model("sdpa"), {"inputs": texts}),
    "attention, a tuple": (lambda: Attention().double(), {"inputs": tokens_and_mask}),
    "tied weights": (lambda: Tied().double(), {"shape": (4,)}),
}


@pytest.mark.parametrize(("build", "kind"), BACKBONES.values(), ids=BACKBONES)
def test_any_module_that_takes_a_batch(build, kind):
    some_tasks = tasks(*kind.get("shape", ()), inputs=kind.get("inputs"))
    model = build()
    first, *others = engines(model, inner_steps=2, inner_lr=0.1)
    expected = gradients(first, some_tasks)
    for other in others:
        same(gradients(other, some_tasks), expected)
    assert_right(first, some_tasks, h=kind.get("h", 1e-5))
    first_order = [gradients(x, some_tasks) for x in engines(model, inner_steps=2, inner_lr=0.1, first_order=True)]
    for other in first_order[1:]:
        same(other, first_order[0])
    assert not all(torch.allclose(a, b) for a, b in zip(first_order[0], expected, strict=True))


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("build", [mlp, lambda: Tied().double()], ids=["MLP", "tied weights"])
def test_the_inner_loop_is_sgd_on_a_copy(build, engine):
    """Of tied weights too: both ends move."""
    some_tasks, model = tasks(4), build()
    adapted = by_hand(model, some_tasks, 3, 0.3)
    outputs = MAML(model, inner_steps=3, inner_lr=0.3, engine=engine)(*some_tasks[:3])
    same(outputs, torch.stack([mine(x) for mine, x in zip(adapted, some_tasks.query, strict=True)]))


def test_a_loss_of_its_own_and_real_numbers_as_answers():
    """Regression: outputs and labels (n, 1), squared error, no accuracy."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x, q = randn(3, 5, 1), randn(3, 4, 1, seed=1)
    some_tasks = Tasks(x, x.sin(), q, q.sin())
    first, *others = engines(model, inner_steps=2, inner_lr=0.1, loss=F.mse_loss)
    assert_right(first, some_tasks)
    for other in others:
        same(gradients(other, some_tasks), gradients(first, some_tasks))
    assert "accuracy" not in meta_loss(first, some_tasks)


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


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_quadratic_tasks_have_closed_forms(steps, engine):
    """φ_S − c = (I − αA)^S (θ − c), and the meta-gradient is (I − αA)^S A' (φ_S − c'), without the power to first order."""
    t, alpha, model = bowls(), 0.1, Point()
    c, a, c2, a2 = (leaf.squeeze(1) for leaf in (t.support, t.support_labels, t.query, t.query_labels))
    power = torch.linalg.matrix_power(torch.eye(2) - alpha * a, steps)
    phi = c + (power @ (model.phi.detach() - c).unsqueeze(-1)).squeeze(-1)
    at_query = a2 @ (phi - c2).unsqueeze(-1)  # (T, 2, 1)
    learner = MAML(model, inner_steps=steps, inner_lr=alpha, loss=quadratic, engine=engine)
    same(learner.run(t.support, t.support_labels, t.query, [steps])[1]["phi"], phi)
    same(learner(t.support, t.support_labels, t.query), (phi - c2).unsqueeze(1))
    same(gradients(learner, t), [(power @ at_query).mean(0).squeeze(-1)])
    learner.first_order = True
    same(gradients(learner, t), [at_query.mean(0).squeeze(-1)])


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_learnt_rates_belong_to_their_step_and_their_tensor(engine):
    """φ_S − c = Π (I − α_s A)(θ − c), and one step's rate has the meta-gradient −∇L_s · ∇L_q."""
    t, model = bowls(), Point()
    learner = MAML(model, inner_steps=3, inner_lr=0.1, rates="per_tensor_per_step", loss=quadratic, engine=engine)
    rates = torch.tensor([0.05, 0.2, 0.1], dtype=torch.float64)
    learner.rates["phi"].data = rates
    away = (model.phi.detach() - t.support).mT  # (T, 2, 1)
    for rate in [*rates, rates[-1]]:  # a fourth step goes on at the last rate
        away = away - rate * t.support_labels.squeeze(1) @ away
    same(learner.run(t.support, t.support_labels, t.query, [4])[1]["phi"], (away.mT + t.support).squeeze(1))

    sgd = MAML(model, inner_steps=1, rates="per_parameter", loss=quadratic, engine=engine)
    sgd.rates["phi"].data = rates[:2]
    a, a2 = t.support_labels.squeeze(1), t.query_labels.squeeze(1)
    slope = (a @ (model.phi.detach() - t.support).mT).squeeze(-1)
    phi = model.phi.detach() - rates[:2] * slope
    same(sgd.run(t.support, t.support_labels, t.query, [1])[1]["phi"], phi)
    at_query = (a2 @ (phi.unsqueeze(1) - t.query).mT).squeeze(-1)
    same(gradients(sgd, t)[1], (-slope * at_query).mean(0))


@pytest.mark.parametrize("rates", ["per_parameter", "per_tensor_per_step"])
def test_learnt_rates_start_as_maml(rates):
    some_tasks = tasks(1, 6, 6)
    plain, learning = (MAML(net("batch"), inner_steps=2, inner_lr=0.3, rates=r) for r in ("fixed", rates))
    shapes = {n: tuple(p.shape) if rates == "per_parameter" else (2,) for n, p in plain.model.named_parameters()}
    assert {n.replace("/", "."): tuple(p.shape) for n, p in learning.rates.items()} == shapes
    same(meta_loss(learning, some_tasks)["loss"], meta_loss(plain, some_tasks)["loss"])
    same(gradients(learning, some_tasks)[: len(shapes)], gradients(plain, some_tasks))
    assert all(g.abs().max() > 0 for g in gradients(learning, some_tasks)[len(shapes) :] if g.numel())


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_no_inner_step_is_ordinary_learning_from_the_queries(engine):
    some_tasks, model = tasks(1, 6, 6), net("group")
    loss = F.cross_entropy(model(some_tasks.query.flatten(0, 1)), some_tasks.query_labels.flatten())
    same(gradients(MAML(model, inner_steps=0, engine=engine), some_tasks), list(torch.autograd.grad(loss, list(model.parameters()))))


def test_first_order_tends_to_second_order_with_the_inner_rate():
    some_tasks, gaps = tasks(1, 6, 6), []
    for rate in (1e-3, 1e-4):
        exact, first = (gradients(MAML(net("batch"), inner_steps=3, inner_lr=rate, first_order=f), some_tasks) for f in (False, True))
        gaps.append(max((a - b).abs().max().item() for a, b in zip(exact, first, strict=True)))
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05) and gaps[0] > 1e-5


def test_proto_maml_starts_as_prototypes_and_does_not_care_for_the_order_of_classes():
    some_tasks, model = tasks(1, 6, 6), net("none")
    learner = MAML(model, inner_steps=2, inner_lr=0.1, start=prototype_head)
    logits = learner(some_tasks.support, some_tasks.support_labels, some_tasks.query, n_steps=0)
    order = some_tasks.support_labels[0].argsort(stable=True)
    features = model.encoder(some_tasks.support.flatten(0, 1)).unflatten(0, (2, 6))[:, order].unflatten(1, (WAYS, 2))
    distances = (
        (model.encoder(some_tasks.query.flatten(0, 1)).unflatten(0, (2, 4)).unsqueeze(2) - features.mean(2).unsqueeze(1)).square().sum(-1)
    )
    offset = logits + distances
    same(offset, offset[..., :1].expand_as(offset))  # − ‖f(x) − c_k‖² up to a constant per query
    assert torch.equal(
        logits.argmax(-1), euclidean_prototypes(features, model.encoder(some_tasks.query.flatten(0, 1)).unflatten(0, (2, 4))).argmax(-1)
    )
    support = some_tasks.support[:, order].unflatten(1, (WAYS, 2))
    run, permutation = learner.as_method(), torch.tensor([2, 0, 1])
    same(run(support[:, permutation], some_tasks.query), run(support, some_tasks.query)[..., permutation])


# --- a step's own norms


def in_turn(learner, some_tasks, stack, step):
    """Which numbers of inner steps give other outputs once the step's row of a stack has changed."""
    at = list(range(learner.inner_steps + 1))
    before = learner.run(*some_tasks[:3], at)[0].detach()
    with torch.no_grad():
        stack[step] += 0.5
    after = learner.run(*some_tasks[:3], at)[0].detach()
    return [s for s in at if not torch.allclose(before[:, s], after[:, s], atol=1e-6)]


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_the_averages_of_a_step_are_used_for_the_queries_after_it(step, engine):
    """And nowhere else: the inner loop keeps to the statistics of its support set."""
    learner = MAML(net("running"), inner_steps=2, inner_lr=0.3, engine=engine).eval()
    for part in ("running_mean", "running_var"):
        stack = getattr(learner.step_averages, f"encoder/1/{part}")
        assert in_turn(learner, tasks(1, 6, 6), stack, step) == [step]
    learner.train()  # in training they are moved, not used
    assert in_turn(learner, tasks(1, 6, 6), stack, step) == []


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("norm", ["batch", "running"])
def test_the_scales_and_shifts_of_a_step_are_used_at_that_step(step, norm):
    learner = MAML(net(norm), inner_steps=2, inner_lr=0.3, per_step_norm=True)
    assert "encoder.1.weight" not in learner.adapted and "encoder.1.bias" not in learner.adapted
    for part in ("weight", "bias"):
        assert in_turn(learner, tasks(1, 6, 6), learner.step_scales[f"encoder/1/{part}"], step) == list(range(step, 3))
    assert in_turn(learner, tasks(1, 6, 6), [learner.model.encoder[1].weight] * 3, step) == []  # the model's own have given way


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("at_all_steps", [False, True])
def test_averages_are_those_of_the_networks_on_the_way(engine, at_all_steps):
    """Worked out with plain copies of the model: at each step over the queries, or, where they were not asked, the supports."""
    some_tasks, model = tasks(1, 6, 6), net("running")
    learner = MAML(model, inner_steps=2, inner_lr=0.3, engine=engine)
    old = [b.clone() for b in learner.step_averages.buffers()]
    schedule = {"progress": 0.2, "multi_step_until": 1.0} if at_all_steps else {}
    adapted = [by_hand(model, some_tasks, s, 0.3) for s in range(3)]
    meta_loss(learner, some_tasks, **schedule)
    for s in range(3):
        asked = some_tasks.query if s == 2 or (at_all_steps and s == 1) else some_tasks.support
        outputs = [model.encoder[0](x) for model, x in zip(adapted[s], asked, strict=True)]
        seen = [(x.mean((0, 2, 3)), x.var((0, 2, 3))) for x in outputs]
        for part, buffer, before in zip(zip(*seen, strict=True), learner.step_averages.buffers(), old, strict=True):
            same(buffer[s], 0.9 * before[s] + 0.1 * torch.stack(part).mean(0))
    same(model.encoder[1].running_mean, getattr(learner.step_averages, "encoder/1/running_mean")[0])  # the model itself is φ_0


def test_steps_beyond_the_trained_ones_use_the_last_averages():
    learner = MAML(net("running"), inner_steps=1, inner_lr=0.3).eval()
    stack = getattr(learner.step_averages, "encoder/1/running_mean")
    some_tasks = tasks(1, 6, 6)
    before = learner(*some_tasks[:3], n_steps=4)
    stack[1] += 0.5
    assert not torch.allclose(before, learner(*some_tasks[:3], n_steps=4))


# --- what moves, and what does not


def test_only_what_is_adapted_moves_in_the_inner_loop():
    some_tasks, model = tasks(1, 6, 6), net("batch")
    for adapt, names in (
        ("head", {"head.weight", "head.bias"}),
        (("encoder.1", "head.bias"), {"encoder.1.weight", "encoder.1.bias", "head.bias"}),
    ):
        learner = MAML(model, inner_steps=1, inner_lr=0.3, adapt=adapt)
        phi = learner.run(*some_tasks[:3], [1])[1]
        assert set(phi) == names
        assert all(not torch.allclose(value, model.get_parameter(name).expand_as(value)) for name, value in phi.items())
    assert set(MAML(model).adapted) == {n for n, _ in model.named_parameters()}
    head = MAML(model, inner_steps=1, inner_lr=0.3, adapt="encoder", start=prototype_head).run(*some_tasks[:3], [0, 1])[1]
    start = MAML(model, inner_steps=1, inner_lr=0.3, start=prototype_head).run(*some_tasks[:3], [0])[1]
    same(head["head.weight"], start["head.weight"])  # a start may set what is not adapted: it stays there


def test_a_prefix_is_a_name_and_not_its_beginning():
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "header": nn.Linear(2, 2)})
    assert MAML(model, adapt="head").adapted == ["head.weight", "head.bias"]


def test_frozen_parameters_neither_move_nor_have_a_gradient():
    model, some_tasks = net("batch"), tasks(1, 6, 6)
    model.encoder.requires_grad_(False)
    for options in ({}, {"rates": "per_parameter"}, {"first_order": True}, {"per_step_norm": True}, {"chunk_size": 1}):
        learner = MAML(copy.deepcopy(model), inner_steps=2, inner_lr=0.3, **options)
        assert set(learner.adapted) == {"head.weight", "head.bias"}
        assert {n for n, p in learner.named_parameters() if p.requires_grad and "head" not in n} == set()
        meta_loss(learner, some_tasks)["loss"].backward()
        assert all((p.grad is not None) == p.requires_grad for p in learner.parameters())
    model.encoder[0].bias.requires_grad_(True)
    assert_right(MAML(model, inner_steps=2, inner_lr=0.3), some_tasks)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_run_does_not_change_the_model(engine):
    model, some_tasks = net("running"), tasks(1, 6, 6)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    learner = MAML(model, inner_steps=2, inner_lr=0.3, per_step_norm=True, engine=engine)
    stacks = [b.clone() for b in learner.step_averages.buffers()]
    learner.run(*some_tasks[:3], [0, 2])
    learner(*some_tasks[:3])
    learner.as_method()(some_tasks.support.unflatten(1, (WAYS, 2)), some_tasks.query)
    with torch.no_grad():
        meta_loss(learner.eval(), some_tasks)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    same(list(learner.step_averages.buffers()), stacks)
    assert all(p.grad is None for p in learner.parameters())


def test_outputs_stand_in_the_order_that_was_asked_for():
    learner, some_tasks = MAML(net("batch"), inner_steps=2, inner_lr=0.3), tasks(1, 6, 6)
    outputs = learner.run(*some_tasks[:3], [2, 0, 2])[0]
    for i, steps in enumerate([2, 0, 2]):
        same(outputs[:, i], learner(*some_tasks[:3], n_steps=steps))


# --- dropout


@pytest.mark.parametrize("engine", ["loop", "vmap"])
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


class Ops(TorchDispatchMode):
    """Counts the operations that reach the device."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] = self.counts.get(str(function), 0) + 1
        return function(*args, **(kwargs or {}))


def ops(model, some_tasks, **options):
    learner = MAML(model, inner_lr=0.1, **options)
    with Ops() as seen:
        meta_loss(learner, some_tasks)["loss"].backward()
    return seen.counts


def test_a_vmapped_meta_step_has_as_many_operations_for_8_tasks_as_for_2():
    for options in ({"inner_steps": 3}, {"inner_steps": 3, "first_order": True}):
        assert ops(mlp(), tasks(4, n_tasks=8), **options) == ops(mlp(), tasks(4), **options)
        few, many = (sum(ops(mlp(), tasks(4, n_tasks=t), engine="loop", **options).values()) for t in (2, 8))
        assert 3.5 < many / few < 4.5
    image_tasks = {t: tasks(1, 28, 28, n_tasks=t) for t in (2, 8)}
    for options in ({"inner_steps": 1}, {"inner_steps": 3, "first_order": True}):
        assert ops(conv4("running"), image_tasks[8], **options) == ops(conv4("running"), image_tasks[2], **options)


def test_what_grows_with_the_tasks_is_a_loop_over_groups_inside_torch():
    """From the second step on, weights differ by task and vmap makes grouped convolutions; torch's double backward takes those
    one group at a time: a convolution and two slices, for each task, further step, and layer but the first."""
    few, many = (ops(conv4("batch"), tasks(1, 28, 28, n_tasks=t), inner_steps=3) for t in (2, 8))
    more = {name: many[name] - few[name] for name in many if many[name] != few[name]}
    per_task = 6 * (3 - 1) * 3
    assert many.keys() == few.keys()
    assert all(
        more[name] <= calls * per_task for name, calls in (("aten.convolution.default", 1), ("aten.slice.Tensor", 2)) if name in more
    )
    assert set(more) <= {"aten.convolution.default", "aten.slice.Tensor"}


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

    first, second = ([nodes(MAML(mlp(), inner_steps=s, first_order=f, engine="loop")) for s in (1, 5)] for f in (True, False))
    assert first[1] - first[0] <= 4 * 4 * 2 * 2  # one subtraction for each of 4 tensors, 4 more steps, 2 tasks; with its slices
    assert second[1] - second[0] > 4 * (first[1] - first[0])


# --- as a few-shot method


def images():
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(12, 1, 6, 6, generator=generator)
    labels = torch.arange(12).repeat_interleave(20)
    return prototypes[labels] + 0.05 * torch.rand(240, 1, 6, 6, generator=generator), labels


def draw(n_episodes=7, n_way=WAYS, n_shot=2):
    return EpisodeSampler(images()[1], torch.arange(12), n_way, n_shot, 4, seed=0).sample(n_episodes)


@pytest.mark.parametrize("norm", norms.NORMS)
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_batch_of_episodes_is_the_episodes_one_by_one(norm, engine):
    features, episodes = images()[0].double(), draw()
    run = MAML(net(norm), inner_steps=3, inner_lr=0.3, engine=engine).as_method(batch_size=3)
    logits = run(features[episodes.support], features[episodes.query])
    assert logits.shape == (7, 12, WAYS) and not logits.requires_grad
    for e in range(7):
        same(run(features[episodes.support[e : e + 1]], features[episodes.query[e : e + 1]])[0], logits[e])


def test_as_a_method_it_adapts_to_raw_inputs():
    inputs, labels = images()
    torch.manual_seed(0)
    learner = MAML(Classifier(nn.Flatten(), 36, WAYS), inner_steps=1, inner_lr=0.5, name="mine")
    before, after = (evaluate(learner.as_method(n_steps=s), draw(50), inputs) for s in (0, 100))
    assert after.mean > 0.95 > 0.5 > before.mean
    assert (after.method, after.transductive) == ("mine, 100 steps", False)
    pictures = (255 * torch.rand(240, 1, 28, 28, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    learner = MAML(norms.with_norm(Classifier(Conv4(width=4), 4, WAYS), "batch"))
    results = evaluate(learner.as_method(name="on pictures"), draw(), pictures)
    assert (results.method, results.transductive, results.n_episodes) == ("on pictures", True, 7)


def test_as_a_method_it_restores_every_mode_even_when_it_fails():
    learner = MAML(net("running"))
    learner.model.encoder[1].eval()
    modes = [m.training for m in learner.modules()]
    run, support = learner.as_method(), randn(2, WAYS, 2, 1, 6, 6)
    run(support, randn(2, 4, 1, 6, 6))
    assert [m.training for m in learner.modules()] == modes
    with pytest.raises(RuntimeError):
        run(support, randn(2, 4, 5, 6, 6))
    assert [m.training for m in learner.modules()] == modes


@pytest.mark.parametrize("norm", NORMS)
def test_transduction_is_declared(norm):
    learner, transductive = MAML(net(norm)), norm == "batch"
    assert learner.transductive == learner.as_method().transductive == transductive
    assert learner.train().transductive == learner.eval().transductive == transductive  # it is about test time


def test_fused_batch_statistics_are_transductive_too():
    model = Classifier(nn.BatchNorm1d(4, track_running_stats=False), 4, WAYS)
    assert MAML(model, engine="loop").transductive


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
        ({"rates": "per_layer"}, "`rates` is 'per_layer': use one of 'fixed', 'per_parameter', 'per_tensor_per_step'"),
        ({"engine": "map"}, "`engine` is 'map': use 'vmap' or 'loop'"),
        ({"chunk_size": 0}, "`chunk_size` is 0: use None, or 1 or more"),
        ({"chunk_size": 1.5}, r"`chunk_size` is 1\.5"),
        ({"adapt": "tail"}, "`adapt` names 'tail', which fits no trainable parameter: the model has encoder, head"),
        ({"adapt": ("head", "enc")}, "`adapt` names 'enc'"),
        ({"adapt": ()}, r"`adapt` is \(\): this leaves nothing trainable to adapt"),
        ({"per_step_norm": True}, "`per_step_norm` is True: the model has no norms.BatchNorm: see norms.with_norm"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MAML(mlp(), **options)


def test_a_model_that_is_all_frozen_has_nothing_to_adapt():
    with pytest.raises(ValueError, match="`adapt` is None: this leaves nothing trainable"):
        MAML(mlp().requires_grad_(False))


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_bad_tasks_are_named(engine):
    learner, t = MAML(mlp(), engine=engine), tasks(4)
    for parts in (
        (t.support[:1], t.support_labels, t.query),
        (t.support, t.support_labels[:1], t.query),
        (t.support, t.support_labels, t.query[:1]),
    ):
        with pytest.raises(ValueError, match=r"`tasks` is \[1, 2\]: supports, labels and queries have different numbers of tasks"):
            learner(*parts)
    for at in ([], [-1]):
        with pytest.raises(ValueError, match=r"`at` is \[.*\]: give numbers of inner steps, 0 or more"):
            learner.run(*t[:3], at)


def test_episodes_that_do_not_fit_are_named():
    learner, features = MAML(net("batch")), images()[0].double()
    with pytest.raises(ValueError, match="`episodes` are padded, and MAML needs a fixed n_way and n_shot: sample with numbers"):
        evaluate(learner.as_method(), draw(n_shot=(1, 3)), features)
    for n_way in (2, 5):
        with pytest.raises(ValueError, match=f"`n_way` is {n_way}: the model's head has 3 ways; sample as many, or build it for {n_way}"):
            evaluate(learner.as_method(), draw(n_way=n_way), features)
    MAML(Point(), loss=quadratic).check_ways(7)  # another model's outputs need not be ways
    for options, message in (
        ({"n_steps": -1}, "`n_steps` is -1"),
        ({"n_steps": 1.5}, "`n_steps` is 1.5"),
        ({"batch_size": 0}, "`batch_size` is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.as_method(**options)


def test_every_documented_choice_of_rates_is_tested():
    assert set(maml.RATES) == {"fixed", *(options["rates"] for options in FAMILY.values() if "rates" in options)}
