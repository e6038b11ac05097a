r"""Many losses, one model: how the gradients of T tasks become one step.

Task t has the loss L_t(θ) of the shared parameters θ, and the gradient g_t = ∇L_t. Two tasks *conflict* where
cos(g_s, g_t) < 0: what helps one harms the other. Every method here steps along

    d = Σ_t w_t g_t

and they differ in w. From the losses alone (one backward pass):

    sum        w_t = 1
    random     w = T · Softmax(z), z_t ~ N(0, 1)                         Lin et al. 2021, arXiv:2111.10603
    uw         minimise Σ_t ½ e^{−s_t} L_t + ½ s_t in θ and s            Kendall et al. 2018, arXiv:1705.07115
    dwa        w = T · Softmax(r/τ), r_t = L_t(e−1)/L_t(e−2)             Liu et al. 2019, arXiv:1803.10704

and from the gradients (T backward passes):

    gradnorm   minimise Σ_t |w_t‖g_t‖ − G ρ_t^α| in w, Σ_t w_t = T       Chen et al. 2018, arXiv:1711.02257
    pcgrad     off every g_t its part against each g_s it conflicts with Yu et al. 2020, arXiv:2001.06782
    mgda       the shortest Σ_t w_t g_t, w ≥ 0, Σ_t w_t = 1              Sener, Koltun 2018, arXiv:1810.04650
    cagrad     maximise min_t g_t·d, ‖d − ḡ‖ ≤ c‖ḡ‖, ḡ the mean gradient Liu et al. 2021, arXiv:2110.14048
    upgrad     the mean of all g_t, each at its nearest d: g_s·d ≥ 0 ∀s  Quinton, Rey 2024, arXiv:2406.16232

A plain sum with a tuned learning rate and regularisation is hard to beat: Kurin et al. (2022,
arXiv:2201.04122) and Xin et al. (2022, arXiv:2209.11379) found no gain of the methods over it on the usual
benchmarks. "sum" and "random" are therefore the controls of every comparison. (The methods differ in the size
of d, too; a constant factor does not change a step of Adam.)
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_lib.core import extra, mean_over_processes, one_of, random_numbers

_TINY = 1e-8  # a loss of 0 has no ratio to another


def task_gradients(losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """losses (T,), parameters with P numbers in all -> gradients (T, P), zeros where a loss is free of them.

    The graph is kept: the losses can still be used.
    """
    rows = [
        torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True) for loss in losses
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


class Balancer(nn.Module):
    """The plain sum, and what all balancers share: they differ in ``weigh``.

    Numbers are drawn from its own generator. What it learns with the model's optimiser is in ``parameters()``
    (no weight decay belongs on it).
    """

    needs_gradients = False

    def __init__(self, n_tasks: int, seed: int = 0) -> None:
        super().__init__()
        self.n_tasks, self.generator = n_tasks, random_numbers(seed)

    def weigh(self, losses: Tensor, gradients: Tensor) -> Tensor:
        """Weights (T,) for losses (T,) and gradients (T, P); (T, 0) will do where they are not needed."""
        return torch.ones_like(losses)

    def backward(self, losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Adds the balanced gradient of losses (T,) to ``.grad``, of what the balancer learns, too.

        Returns the weights (T,).
        """
        if losses.shape != (self.n_tasks,):
            found = f"`losses` has the shape {tuple(losses.shape)}, but there are {self.n_tasks} tasks"
            raise ValueError(f"{found}: give one loss per task.")
        none = losses.new_empty(self.n_tasks, 0)
        gradients = task_gradients(losses, parameters) if self.needs_gradients else none
        mean_over_processes([gradients])
        weights = self.weigh(losses.detach(), gradients).to(losses)
        if self.needs_gradients:
            parts = (weights @ gradients).split([p.numel() for p in parameters])
            d = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
            torch.autograd.backward(parameters, d)
        else:
            torch.autograd.backward((weights * losses).sum(), inputs=parameters)
        return weights

    def get_extra_state(self) -> Tensor:  # the generator belongs to the state_dict, too
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


class RandomWeights(Balancer):
    """Weights that mean nothing, new in every step: what a method with reasons has to beat."""

    def weigh(self, losses: Tensor, gradients: Tensor) -> Tensor:
        return self.n_tasks * torch.randn(self.n_tasks, generator=self.generator).softmax(0)


class UncertaintyWeighting(Balancer):
    """Each task has a learnt log-variance s_t: noisy tasks, which keep a high loss, weigh less.

    For fixed losses the best s_t is log L_t, where every task contributes ½ to Σ_t w_t L_t.
    """

    def __init__(self, n_tasks: int, seed: int = 0) -> None:
        super().__init__(n_tasks, seed)
        self.log_variances = nn.Parameter(torch.zeros(n_tasks))

    def weigh(self, losses: Tensor, gradients: Tensor) -> Tensor:
        """Also adds the gradient of the objective in s to that of the log-variances."""
        s = self.log_variances
        (0.5 * (-s).exp() * losses + 0.5 * s).sum().backward()
        return 0.5 * (-s).exp().detach()


class DynamicWeightAverage(Balancer):
    """Tasks whose loss falls slowly weigh more, by mean losses over 20 steps, the "epochs" of episodes."""

    every, temperature = 20, 2.0

    def __init__(self, n_tasks: int, seed: int = 0) -> None:
        super().__init__(n_tasks, seed)
        self.steps: Tensor = nn.Buffer(torch.tensor(0))
        self.sums: Tensor = nn.Buffer(torch.zeros(n_tasks))  # of this epoch's losses
        self.means: Tensor = nn.Buffer(torch.zeros(2, n_tasks))  # of the last two epochs; 0: not known yet

    def weigh(self, losses: Tensor, gradients: Tensor) -> Tensor:
        older, newer = self.means
        ratios = torch.where(older > 0, newer / older.clamp_min(_TINY), 1.0)  # 1 until there are two epochs
        self.sums += losses.to(self.sums).clamp_min(_TINY)
        self.steps += 1
        if int(self.steps) % self.every == 0:
            self.means = torch.stack([newer, self.sums / self.every])
            self.sums = torch.zeros_like(self.sums)
        return self.n_tasks * (ratios / self.temperature).softmax(0)


class GradNorm(Balancer):
    """Weights that give all w_t g_t a like norm, and a larger one to the tasks that learn more slowly.

    They make a gradient step of their own in every step, its rate ``lr`` in units of the mean norm ‖g_t‖;
    then Σ_t w_t = T again. alpha: how strongly the slower tasks are preferred. All given parameters count as
    the shared layer W of the paper.
    """

    needs_gradients = True
    alpha, lr = 1.5, 0.025

    def __init__(self, n_tasks: int, seed: int = 0) -> None:
        super().__init__(n_tasks, seed)
        self.weights: Tensor = nn.Buffer(torch.ones(n_tasks))
        self.first_losses: Tensor = nn.Buffer(torch.zeros(n_tasks))  # 0: not known yet

    def weigh(self, losses: Tensor, gradients: Tensor) -> Tensor:
        """The weights before their step."""
        weights, losses, first = self.weights, losses.to(self.weights), self.first_losses
        norms = gradients.norm(dim=1).to(weights)
        self.first_losses = torch.where(first > 0, first, losses.clamp_min(_TINY))
        slope = gradnorm_slope(weights, norms, losses / self.first_losses, self.alpha)
        changed = (weights - self.lr * slope / norms.mean().clamp_min(_TINY)).clamp_min(0.01)
        self.weights = changed * weights.sum() / changed.sum()
        return weights


def gradnorm_slope(weights: Tensor, norms: Tensor, ratios: Tensor, alpha: float) -> Tensor:
    """The gradient (T,) of Σ_t |w_t‖g_t‖ − G ρ_t^α| in w (equation 2 of the paper), the target fixed.

    norms (T,): ‖g_t‖. ratios (T,): L_t/L_t(0), small for a task that has learnt much. G is the mean of
    w_t‖g_t‖, and ρ_t the ratio divided by the mean ratio.
    """
    scaled = weights * norms
    target = scaled.mean() * (ratios / ratios.mean().clamp_min(_TINY)) ** alpha
    return norms * (scaled - target).sign()


class GradientSurgery(Balancer):
    """Weights (T,) by one of the functions below, from the scalar products of all gradients (T, T)."""

    needs_gradients = True

    def __init__(self, weighting: Callable[[Tensor, torch.Generator], Tensor], n_tasks: int, seed: int = 0):
        super().__init__(n_tasks, seed)
        self.weighting = weighting

    def weigh(self, losses: Tensor, gradients: Tensor) -> Tensor:
        return self.weighting((gradients @ gradients.T).cpu().double(), self.generator)


def pcgrad_weights(products: Tensor, generator: torch.Generator) -> Tensor:
    """PCGrad (algorithm 1), each gradient meeting the others in a random order, from products (T, T)."""
    shares = torch.eye(len(products), dtype=products.dtype)  # row i: what is left of g_i, in terms of all g
    for i, share in enumerate(shares):
        for j in torch.randperm(len(products), generator=generator).tolist():
            product = share @ products[j]
            if i != j and product < 0:
                share[j] -= product / products[j, j]
    return shares.sum(0)


def mgda_weights(products: Tensor, generator: torch.Generator) -> Tensor:
    """MGDA, by the Frank-Wolfe steps of torchjd."""
    with extra("multitask"):  # a second to import: only those who use it wait
        from torchjd.aggregation import MGDAWeighting
    return MGDAWeighting()(products)


def cagrad_weights(products: Tensor, generator: torch.Generator, c: float = 0.5) -> Tensor:
    """CAGrad (equation 3): d = ḡ + c‖ḡ‖ g_v/‖g_v‖, where v solves the dual problem, with g_v = Σ_t v_t g_t:

    min_v g_v·ḡ + c‖ḡ‖‖g_v‖ over v ≥ 0, Σ_t v_t = 1. Where g_v vanishes, no direction is better than the mean.
    """
    from scipy.optimize import minimize

    G = (products / products.trace().clamp_min(_TINY**2)).numpy()
    mean = np.full(len(G), 1 / len(G))
    radius = c * np.sqrt(max(mean @ G @ mean, 0))

    def dual(v: np.ndarray) -> tuple[float, np.ndarray]:
        norm = np.sqrt(max(v @ G @ v, 0) + _TINY**2)
        return v @ G @ mean + radius * norm, G @ mean + radius * (G @ v) / norm

    simplex = {"type": "eq", "fun": lambda v: v.sum() - 1, "jac": np.ones_like}
    options = {"method": "SLSQP", "options": {"ftol": 1e-14, "maxiter": 500}}
    v = minimize(dual, mean, jac=True, bounds=[(0, 1)] * len(G), constraints=simplex, **options).x
    norm = np.sqrt(max(v @ G @ v, 0))
    return torch.from_numpy(mean + radius / norm * v if norm > 1e-4 else mean)


def upgrad_weights(products: Tensor, generator: torch.Generator) -> Tensor:
    """UPGrad: the mean of all projected gradients."""
    n_tasks = len(products)
    return project(torch.eye(n_tasks, dtype=products.dtype) / n_tasks, products).sum(0)


def project(U: Tensor, G: Tensor) -> Tensor:
    """Rows of weights u (S, T), products (T, T) -> v (S, T), the nearest that conflict with no g_t.

    That is Σ_t v_t g_t with the v ≥ u of the smallest vᵀGv. With v = u + z and G = RᵀR: ‖Rz + Ru‖ → min
    over z ≥ 0: non-negative least squares. (torchjd's solver does not run on every platform.)
    """
    from scipy.optimize import nnls

    values, vectors = torch.linalg.eigh(G.double() / G.trace().clamp_min(_TINY**2))
    R = (values.clamp_min(0).sqrt().unsqueeze(1) * vectors.T).numpy()
    return torch.stack([u + torch.from_numpy(nnls(R, -R @ u.numpy())[0]) for u in U.double()])


BALANCERS: dict[str, Callable[[int, int], Balancer]] = {
    "sum": Balancer,
    "random": RandomWeights,
    "uw": UncertaintyWeighting,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
    "pcgrad": partial(GradientSurgery, pcgrad_weights),
    "mgda": partial(GradientSurgery, mgda_weights),
    "cagrad": partial(GradientSurgery, cagrad_weights),
    "upgrad": partial(GradientSurgery, upgrad_weights),
}


def balancer(balance: str, n_tasks: int, seed: int = 0) -> Balancer:
    """The balancer of this name, one of BALANCERS."""
    one_of("balance", balance, list(BALANCERS))
    return BALANCERS[balance](n_tasks, seed)
