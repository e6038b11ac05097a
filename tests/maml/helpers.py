"""What the tests of this room share: small tasks, networks in float64, and how meta-gradients are checked."""

import copy
import importlib.util
import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_lib.maml import MAML, Classifier, Tasks, meta_loss, norms

WAYS = 3
both_engines = pytest.mark.parametrize("engine", ["loop", "vmap"])


def benchmark(name):
    """A script in benchmarks/, as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def tasks(*shape, n_tasks=2, n_support=6, n_query=4, seed=0, inputs=None):
    """Tasks of 3 classes with random inputs of this shape, or those that ``inputs(T, n, seed)`` makes."""
    make = inputs or (lambda t, n, seed: randn(t, n, *shape, seed=seed))
    labels = torch.arange(WAYS).repeat(n_support // WAYS).expand(n_tasks, -1)
    answers = torch.randint(WAYS, (n_tasks, n_query), generator=torch.Generator().manual_seed(seed + 3))
    return Tasks(make(n_tasks, n_support, seed + 1), labels, make(n_tasks, n_query, seed + 2), answers)


vector_tasks = partial(tasks, 4, n_tasks=4, n_query=5)


def image_net(norm="none"):
    """A convolution, a norm (a name, or a layer), a smooth activation, a head: 6 x 6 images -> 3 classes."""
    torch.manual_seed(0)
    named = {"none": nn.Identity(), "layer": norms.LayerNorm([3, 4, 4])}
    layer = norm if isinstance(norm, nn.Module) else named.get(norm, nn.BatchNorm2d(3))
    model = Classifier(nn.Sequential(nn.Conv2d(1, 3, 3), layer, nn.Tanh(), nn.Flatten()), 48, WAYS).double()
    return norms.with_norm(model, norm) if norm in norms.NORMS else model


def vector_net(norm="running", dropout=0.0):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(dropout))
    return norms.with_norm(Classifier(encoder, 6, WAYS), norm).double()


def mlp():
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), 5, WAYS).double()


class Tied(nn.Module):
    """The same weights at both ends."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, WAYS, bias=False), nn.Linear(4, WAYS)
        self.last.weight = self.first.weight
        self.double()

    def forward(self, x):
        return self.last(self.first(x) @ self.first.weight)


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


def engines(model, **options):
    """The same learner with both engines, and with chunks of two tasks."""
    kinds = itertools.product(("loop", "vmap"), (None, 2))
    return [MAML(copy.deepcopy(model), engine=engine, chunk_size=chunk, **options) for engine, chunk in kinds]


def learnt(learner):
    return [p for p in learner.parameters() if p.requires_grad]


def gradients(learner, some_tasks, *progress, objective=meta_loss, **options):
    """The meta-gradient of all that is learnt; zeros where a parameter has no part in the loss."""
    learner.zero_grad()
    loss = objective(learner, some_tasks, *progress, **options)["loss"]
    if loss.requires_grad:
        loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learnt(learner)]


def along(learner, some_tasks, h=1e-5, seed=0, **options):
    """The meta-gradient along a random direction: by autograd, and by fourth-order central differences."""
    exact, parameters = gradients(learner, some_tasks, **options), learnt(learner)
    direction = [randn(*p.shape, seed=seed + i) for i, p in enumerate(parameters)]
    differences = 0.0
    for steps, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=steps * h)
            differences += weight * meta_loss(learner, some_tasks, **options)["loss"].item() / (12 * h)
            torch._foreach_add_(parameters, direction, alpha=-steps * h)
    return sum((g * d).sum() for g, d in zip(exact, direction, strict=True)).item(), differences


def assert_right(learner, some_tasks, **options):
    """The meta-gradient is that of finite differences, along two directions."""
    for seed in (0, 100):
        exact, differences = along(learner, some_tasks, seed=seed, **options)
        assert exact == pytest.approx(differences, rel=1e-7, abs=1e-9)
        assert abs(exact) > 1e-3  # there is something to compare


def by_hand(model, some_tasks, inner_steps, inner_lr, part=""):
    """Each task's copy of the model after SGD steps of (a part of) it on its support, by plain PyTorch."""
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
