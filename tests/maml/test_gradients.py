"""Right meta-gradients for every norm, backbone, member of the family and engine."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_lib.encoders import Conv4
from fewshot_lib.maml import MAML, Classifier, Tasks, inner, meta_loss, norms, prototype_head

from .helpers import (
    WAYS,
    Tied,
    along,
    assert_right,
    by_hand,
    engines,
    gradients,
    image_net,
    mlp,
    randn,
    same,
    tasks,
)

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
# every norm where the gradient passes it in its own way; for the others, those of a task and of a step
COMBINATIONS = [
    *((norm, member) for norm in NORMS for member in ("MAML", "ProtoMAML")),
    *((norm, "MAML++") for norm in ("batch", "support", "running")),
    *((norm, member) for norm in ("support", "running") for member in FAMILY if "MAML" not in member),
]


@pytest.mark.parametrize(("norm", "member"), COMBINATIONS)
def test_engines_agree_with_each_other_and_with_finite_differences(norm, member):
    some_tasks = tasks(1, 6, 6, n_tasks=3)
    schedule = {"progress": 0.4, "multi_step_until": 1.0 if member == "MAML++" else 0.0}
    first, *others = engines(image_net(norm), inner_steps=2, inner_lr=0.3, **FAMILY[member])
    expected = gradients(first, some_tasks, **schedule)
    for other in others:
        same(gradients(other, some_tasks, **schedule), expected)
        same(list(other.buffers()), list(first.buffers()))  # the running averages of every step
    assert_right(first, some_tasks, **schedule)


def test_every_documented_choice_is_tested():
    rates = {options["rates"] for options in FAMILY.values() if "rates" in options}
    assert {"fixed", *rates} == set(inner.RATES) and {member for _, member in COMBINATIONS} == set(FAMILY)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("part", ["", "head"])
def test_a_first_order_gradient_is_that_at_the_adapted_parameters(norm, part):
    some_tasks = tasks(1, 6, 6, n_tasks=3)
    adapted = by_hand(image_net(norm), some_tasks, 2, 0.3, part)
    queries = zip(adapted, some_tasks.support, some_tasks.query, some_tasks.query_labels, strict=True)
    for model, support, query, y in queries:
        model.zero_grad()
        with norms.inside_task(model, 6 if norm == "support" else 0):
            answers = model(torch.cat([support, query]))[6:] if norm == "support" else model(query)
        F.cross_entropy(answers, y).backward()
    of_each = ([p.grad for p in model.parameters()] for model in adapted)
    expected = [torch.stack(found).mean(0) for found in zip(*of_each, strict=True)]
    options = {"inner_steps": 2, "inner_lr": 0.3, "first_order": True, "adapt": part or None}
    for learner in engines(image_net(norm), **options):
        same(gradients(learner, some_tasks), expected)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_to_first_order_the_norms_of_earlier_steps_have_no_part_in_the_loss(engine):
    options = {"per_step_norm": True, "first_order": True, "engine": engine}
    learner = MAML(image_net("batch"), inner_steps=2, inner_lr=0.3, **options)
    gradients(learner, tasks(1, 6, 6))
    for scales in learner.step_norms.parameters():
        assert torch.equal(scales.grad[:2], torch.zeros_like(scales[:2])) and scales.grad[2].abs().max() > 0


@pytest.mark.parametrize("member", ["ANIL", "Meta-SGD", "ProtoMAML", "MAML++"])
def test_engines_agree_on_first_order_gradients(member):
    some_tasks, schedule = tasks(1, 6, 6, n_tasks=3), {"progress": 0.4, "multi_step_until": 1.0}
    options = {"inner_steps": 2, "inner_lr": 0.3, **FAMILY[member]}
    first, *others = (
        gradients(x, some_tasks, **schedule)
        for x in engines(image_net("running"), first_order=True, **options)
    )
    for other in others:
        same(other, first)
    second = gradients(MAML(image_net("running"), **options), some_tasks, **schedule)
    assert any(not torch.allclose(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("norm", ["support", "running"])
def test_the_statistics_of_test_time_have_a_right_gradient(norm):
    some_tasks = tasks(1, 6, 6)
    for learner in engines(image_net(norm), inner_steps=2, inner_lr=0.3):
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


class Bert(nn.Module):
    """A tiny BERT on a dict of token ids and their mask.

    The mask is made here: transformers looks *into* a (n, L) mask to see whether it can be left out, and vmap
    forbids that.
    """

    def __init__(self, attention):
        from transformers import BertConfig, BertModel

        super().__init__()
        torch.manual_seed(0)
        sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 16, "max_position_embeddings": 12}
        config = BertConfig(**sizes, attn_implementation=attention)
        self.bert, self.head = BertModel(config, add_pooling_layer=False).eval(), nn.Linear(8, WAYS)

    def forward(self, batch):
        mask = batch["attention_mask"].to(self.head.weight.dtype)
        hidden = (1 - mask[:, None, None]) * torch.finfo(mask.dtype).min
        tokens = self.bert(input_ids=batch["input_ids"], attention_mask=hidden).last_hidden_state
        return self.head((tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


def texts(n_tasks, n, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(6) < torch.randint(3, 7, (n_tasks, n, 1), generator=generator)).long()
    ids = torch.randint(1, 30, (n_tasks, n, 6), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask}


def tokens_and_mask(n_tasks, n, seed):
    return randn(n_tasks, n, 5, 4, seed=seed), (torch.arange(5) > 2).expand(n_tasks, n, 5)


def conv4(norm):
    torch.manual_seed(0)
    return norms.with_norm(Classifier(Conv4(width=4), 4, WAYS), norm).double()


def text_model(attention):
    return norms.vmap_safe(Bert(attention).double())


# a ReLU's kink is a *jump* of the loss after adaptation: so no jump may be within h
CONV4 = {"shape": (1, 28, 28), "h": 1e-7}
BACKBONES = {
    "MLP": (mlp, {"shape": (4,)}),
    **{f"Conv4, {norm}": (lambda norm=norm: conv4(norm), CONV4) for norm in norms.NORMS},
    "BERT, a dict": (lambda: text_model("eager"), {"inputs": texts}),
    "BERT, fused attention": (lambda: text_model("sdpa"), {"inputs": texts}),
    "attention, a tuple": (lambda: Attention().double(), {"inputs": tokens_and_mask}),
    "tied weights": (Tied, {"shape": (4,)}),
}


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        pytest.param(*case, id=name, marks=[pytest.mark.slow] * ("BERT" in name))
        for name, case in BACKBONES.items()
    ],
)
def test_any_module_that_takes_a_batch(build, kind):
    some_tasks, model = tasks(*kind.get("shape", ()), inputs=kind.get("inputs")), build()
    found = {}
    for first_order in (False, True):
        learners = engines(model, inner_steps=2, inner_lr=0.1, first_order=first_order)
        found[first_order], *others = (gradients(x, some_tasks) for x in learners)
        for other in others:
            same(other, found[first_order])
    assert_right(MAML(model, inner_steps=2, inner_lr=0.1), some_tasks, h=kind.get("h", 1e-5))
    assert not all(torch.allclose(a, b) for a, b in zip(found[False], found[True], strict=True))


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


# --- what torch gets wrong

FUSED = {
    "layer norm": nn.LayerNorm([3, 4, 4]),
    "batch norm": nn.BatchNorm2d(3, track_running_stats=False),
    "instance norm": nn.InstanceNorm2d(3, affine=True),
}
every_fused_norm = pytest.mark.parametrize("fused", FUSED.values(), ids=FUSED)


def images():
    return tasks(1, 6, 6)


@every_fused_norm
def test_torch_still_gets_the_second_derivative_of_fused_norms_wrong_under_vmap(fused):
    """Should this fail, torch is mended: `norms.check` need no longer refuse them (pytorch/functorch#534)."""
    learner = MAML(image_net(fused), inner_steps=2, inner_lr=0.3, engine="loop")
    loss = meta_loss(learner, images())["loss"].item()
    exact, differences = along(learner, images(), h=1e-4)
    assert exact == pytest.approx(differences, rel=1e-7)
    learner.engine = "vmap"  # past the check
    assert meta_loss(learner, images())["loss"].item() == pytest.approx(loss, rel=1e-12)  # the loss is right
    wrong, same_differences = along(learner, images(), h=1e-4)
    assert same_differences == pytest.approx(differences, rel=1e-7) and abs(wrong / differences - 1) > 1e-5


@every_fused_norm
def test_the_named_fixes_work(fused):
    model = image_net(fused)
    message = r"`model` holds \w+Norm\w* as 'encoder.1', and engine='vmap' .*norms.vmap_safe.*engine='loop'"
    with pytest.raises(ValueError, match=message):
        MAML(model)
    assert_right(MAML(norms.vmap_safe(model), inner_steps=2, inner_lr=0.3), images(), h=1e-4)
    assert_right(MAML(model, inner_steps=2, inner_lr=0.3, engine="loop"), images(), h=1e-4)


@every_fused_norm
def test_fused_norms_are_accepted_where_they_are_right(fused):
    """First-order learners, and ANIL, whose inner gradient does not pass the norm."""
    options = {"inner_steps": 2, "inner_lr": 0.3}
    first, *others = engines(image_net(fused), first_order=True, **options)
    for other in others:
        same(gradients(other, images()), gradients(first, images()))
    assert_right(MAML(image_net(fused), adapt="head", **options), images(), h=1e-4)


class AfterTheHead(Classifier):
    """A norm that the inner gradient of the head passes."""

    def __init__(self):
        super().__init__(nn.Flatten(), 36, WAYS)
        self.norm = nn.LayerNorm(WAYS)

    def forward(self, x):
        return self.norm(super().forward(x))


def test_anil_is_refused_where_a_fused_norm_stands_in_what_is_adapted():
    in_the_head = image_net()
    in_the_head.head = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, WAYS)).double()
    for model, name in ((in_the_head, "head.0"), (AfterTheHead(), "norm")):
        with pytest.raises(ValueError, match=f"LayerNorm as '{name}'"):
            MAML(model, adapt="head")


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize(
    "tracked", [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)], ids=["batch", "instance"]
)
def test_averages_that_change_in_place_are_refused_with_either_engine(tracked, engine, first_order):
    message = r"as 'encoder.1', which changes its running averages in place.*use `norms.with_norm"
    with pytest.raises(ValueError, match=message):
        MAML(image_net(tracked), engine=engine, first_order=first_order)


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
    learner = MAML(image_net(Calls(call)))
    with pytest.raises(ValueError, match=r"`model` calls \w+_norm, .*engine='vmap'.*engine='loop'"):
        meta_loss(learner, images())
    for options in ({"engine": "loop"}, {"adapt": "head"}):
        assert_right(MAML(image_net(Calls(call)), inner_lr=0.3, **options), images(), h=1e-4)
    meta_loss(MAML(image_net(Calls(call)), first_order=True), images())


def test_the_guard_ends_with_its_block():
    with norms.RefuseFusedNorms():
        assert torch.equal(F.group_norm(torch.ones(1, 2, 2), 1), torch.zeros(1, 2, 2))
        with pytest.raises(ValueError, match="layer_norm"):
            F.layer_norm(torch.ones(2), (2,))
    assert torch.equal(F.layer_norm(torch.ones(2), (2,)), torch.zeros(2))
