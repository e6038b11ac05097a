r"""Many losses, one model: how the gradients of T tasks become one step.

Task t has the loss L_t(θ) of the shared parameters θ, and the gradient g_t = ∇L_t. Two tasks *conflict* where
cos(g_s, g_t) < 0: what helps one harms the other. Every method here steps along

    d = Σ_t w_t g_t

and they differ in w. From the losses alone (one backward pass):

    sum        w_t = 1
    random     w = T · Softmax(z), z_t ~ N(0, 1)                          Lin et al. 2021, arXiv:2111.10603
    uw         minimise Σ_t ½ e^{−s_t} L_t + ½ s_t in θ and s             Kendall, Gal and Cipolla 2018, arXiv:1705.07115
    dwa        w = T · Softmax(r/τ), r_t = L_t(e−1)/L_t(e−2)              Liu, Johns and Davison 2019, arXiv:1803.10704

and from the gradients (T backward passes):

    gradnorm   minimise Σ_t |w_t‖g_t‖ − G ρ_t^α| in w, Σ_t w_t = T        Chen et al. 2018, arXiv:1711.02257
    pcgrad     off every g_t its part against each g_s it conflicts with  Yu et al. 2020, arXiv:2001.06782
    mgda       the shortest Σ_t w_t g_t, w ≥ 0, Σ_t w_t = 1               Sener and Koltun 2018, arXiv:1810.04650
    cagrad     maximise min_t g_t·d, ‖d − ḡ‖ ≤ c‖ḡ‖, ḡ the mean gradient  Liu et al. 2021, arXiv:2110.14048
    upgrad     the mean of all g_t, each at its nearest d: g_s·d ≥ 0 ∀s   Quinton and Rey 2024, arXiv:2406.16232

A plain sum with a tuned learning rate and regularisation is hard to beat: Kurin et al. (2022, arXiv:2201.04122) and Xin et al.
(2022, arXiv:2209.11379) found no gain of the methods over it on the usual benchmarks. "sum" and "random" are therefore the
controls of every comparison. (The methods differ in the size of d, too; a constant factor does not change a step of Adam.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize, nnls
from torch import Tensor, nn
from torchjd.aggregation import MGDAWeighting, PCGradWeighting, UPGradWeighting
from torchjd.linalg import DualConeProjector

_TINY = 1e-8  # a loss of 0 has no ratio to another


def task_gradients(losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """losses (T,), parameters with P numbers in all -> gradients (T, P), one row per task; zeros where a loss does not depend on them.

    The graph is kept, so that the losses can still be used.
    """
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True) for loss in losses]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def cosine_matrix(gradients: Tensor) -> Tensor:
    """gradients (T, P) -> the cosine of every pair, (T, T); 0 with a gradient that is zero."""
    directions = F.normalize(gradients, dim=-1)
    return directions @ directions.T


def conflicts(cosines: Tensor) -> float:
    """The share of pairs s < t in cosines (T, T) that is negative; 0 where there is no pair."""
    pairs = cosines[tuple(torch.triu_indices(*cosines.shape, 1))]
    return (pairs < 0).float().mean().item() if len(pairs) else 0.0


@dataclass(frozen=True)
class Balance:
    """What a step did: the weights (T,), and the gradients (T, P) of the losses where they were needed or asked for."""

    weights: Tensor
    gradients: Tensor | None


class Balancer(nn.Module):
    """The plain sum, and what all balancers share: ``backward`` for the losses, a state for checkpoints, an own generator.

    n_tasks: T. seed: of the balancer's own generator; the default generators stay untouched. What a balancer learns with
    the model's optimiser is in ``parameters()`` (no weight decay belongs on it).
    """

    needs_gradients = False

    def __init__(self, n_tasks: int, seed: int = 0) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.generator = torch.Generator().manual_seed(seed)

    def weigh(self, losses: Tensor, gradients: Tensor | None, tasks: Tensor) -> Tensor:
        """Weights (T,) for losses (T,) and gradients (T, P) of the tasks with these numbers (T,)."""
        return torch.ones_like(losses)

    def backward(
        self, losses: Tensor, parameters: Sequence[Tensor], tasks: Tensor | None = None, record_gradients: bool = False
    ) -> Balance:
        """Adds the balanced gradient of losses (T,) to ``.grad`` of the parameters, and that of what the balancer learns to its own.

        tasks: the numbers (in 0 … n_tasks − 1) of the tasks that the losses belong to, where they are not all in order.
        record_gradients changes nothing but the answer, and costs T backward passes where the method does not need them.
        """
        tasks = torch.arange(self.n_tasks) if tasks is None else tasks
        if losses.shape != tasks.shape:
            raise ValueError(f"`losses` has the shape {tuple(losses.shape)}, but there are {len(tasks)} tasks: give one loss per task.")
        parameters = list(parameters)
        gradients = task_gradients(losses, parameters) if self.needs_gradients or record_gradients else None
        weights = self.weigh(losses.detach(), gradients, tasks.to(losses.device)).to(losses)
        if self.needs_gradients:
            parts = (weights @ gradients).split([p.numel() for p in parameters])
            for p, part in zip(parameters, parts, strict=True):
                p.grad = part.view_as(p) if p.grad is None else p.grad + part.view_as(p)
        else:
            torch.autograd.backward((weights * losses).sum(), inputs=parameters)
        return Balance(weights, gradients)

    def get_extra_state(self) -> Tensor:  # the generator belongs to the state_dict, too
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


class RandomWeights(Balancer):
    """Weights that mean nothing, new in every step: what a method with reasons has to beat."""

    def weigh(self, losses: Tensor, gradients: Tensor | None, tasks: Tensor) -> Tensor:
        """T · Softmax of T normal numbers."""
        return len(losses) * torch.randn(len(losses), generator=self.generator).softmax(0)


class UncertaintyWeighting(Balancer):
    """Each task has a learnt log-variance s_t: noisy tasks, which keep a high loss, weigh less.

    For fixed losses the best s_t is log L_t, where every task contributes ½ to Σ_t w_t L_t.
    """

    def __init__(self, n_tasks: int, seed: int = 0) -> None:
        super().__init__(n_tasks, seed)
        self.log_variances = nn.Parameter(torch.zeros(n_tasks))

    def weigh(self, losses: Tensor, gradients: Tensor | None, tasks: Tensor) -> Tensor:
        """½ e^{−s}; the gradient of the objective in s is added to that of the log-variances."""
        s = self.log_variances[tasks]
        (0.5 * (-s).exp() * losses + 0.5 * s).sum().backward()
        return 0.5 * (-s).exp().detach()


class DynamicWeightAverage(Balancer):
    """Tasks whose loss falls slowly weigh more. The ratios are of mean losses over ``every`` steps, the "epochs" of episodes."""

    def __init__(self, n_tasks: int, seed: int = 0, every: int = 20, temperature: float = 2.0) -> None:
        super().__init__(n_tasks, seed)
        self.every, self.temperature = every, temperature
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("sums", torch.zeros(2, n_tasks))  # of this epoch's losses, and how many they are
        self.register_buffer("means", torch.zeros(2, n_tasks))  # of the last two epochs; 0 for not known yet

    def weigh(self, losses: Tensor, gradients: Tensor | None, tasks: Tensor) -> Tensor:
        """T · Softmax(r/τ), with a ratio of 1 as long as there are no two epochs."""
        older, newer = self.means
        ratios = torch.where(older > 0, newer / older.clamp_min(_TINY), 1.0)
        weights = self.n_tasks * (ratios / self.temperature).softmax(0)
        seen = losses.to(self.sums).clamp_min(_TINY)
        self.sums[:, tasks] += torch.stack([seen, torch.ones_like(seen)])
        self.steps += 1
        if int(self.steps) % self.every == 0:
            total, count = self.sums
            self.means = torch.stack([newer, torch.where(count > 0, total / count.clamp_min(1), newer)])
            self.sums = torch.zeros_like(self.sums)
        return weights[tasks]


class GradNorm(Balancer):
    """Weights that give all w_t g_t a like norm, and a larger one to the tasks that learn more slowly.

    They make a gradient step of their own in every step, its rate ``lr`` in units of the mean norm ‖g_t‖; then Σ_t w_t = T again.
    alpha: how strongly the slower tasks are preferred. All given parameters count as the shared layer W of the paper.
    """

    needs_gradients = True

    def __init__(self, n_tasks: int, seed: int = 0, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(n_tasks, seed)
        self.alpha, self.lr = alpha, lr
        self.register_buffer("weights", torch.ones(n_tasks))
        self.register_buffer("first_losses", torch.zeros(n_tasks))  # 0 for not known yet

    def weigh(self, losses: Tensor, gradients: Tensor, tasks: Tensor) -> Tensor:
        """The weights before their step."""
        used, losses, norms = self.weights[tasks], losses.to(self.weights), gradients.norm(dim=1).to(self.weights)
        first = self.first_losses[tasks]
        self.first_losses[tasks] = first = torch.where(first > 0, first, losses.clamp_min(_TINY))
        slope = gradnorm_slope(used, norms, losses / first, self.alpha)
        moved = (used - self.lr * slope / norms.mean().clamp_min(_TINY)).clamp_min(0.01)
        self.weights[tasks] = moved * used.sum() / moved.sum()
        return used


def gradnorm_slope(weights: Tensor, norms: Tensor, ratios: Tensor, alpha: float) -> Tensor:
    """The gradient (T,) of Σ_t |w_t‖g_t‖ − G ρ_t^α| in w (equation 2 of the paper), with the target G ρ^α held fixed.

    norms (T,): ‖g_t‖. ratios (T,): L_t/L_t(0), small for a task that has learnt much. G is the mean of w_t‖g_t‖, and ρ_t
    the ratio divided by the mean ratio.
    """
    scaled = weights * norms
    target = scaled.mean() * (ratios / ratios.mean().clamp_min(_TINY)) ** alpha
    return norms * (scaled - target).sign()


class GradientSurgery(Balancer):
    """Weights from all scalar products of the gradients, (T, T), by one of the functions below or of ``torchjd.aggregation``."""

    needs_gradients = True

    def __init__(self, n_tasks: int, weighting: Callable[[Tensor], Tensor], seed: int = 0) -> None:
        super().__init__(n_tasks, seed)
        self.weighting = weighting

    def weigh(self, losses: Tensor, gradients: Tensor, tasks: Tensor) -> Tensor:
        """The weights with which the gradients add up to d."""
        with _default_generator(self.generator):
            return self.weighting((gradients @ gradients.T).cpu().double())


@contextmanager
def _default_generator(generator: torch.Generator) -> Iterator[None]:
    """Inside, the CPU's default generator goes on where this one stands (torchjd draws from it); after, it is as it was."""
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


def pcgrad(gradients: Tensor, generator: torch.Generator) -> Tensor:
    """gradients (T, P) -> the same without their conflicts (T, P), whose sum is PCGrad's step (Yu et al. 2020, algorithm 1).

    From each gradient, its part along every gradient it conflicts with is taken off, in a random order.
    """
    projected = gradients.clone()
    for i in range(len(gradients)):
        for j in torch.randperm(len(gradients), generator=generator).tolist():
            dot = projected[i] @ gradients[j]
            if i != j and dot < 0:
                projected[i] -= dot / gradients[j].square().sum() * gradients[j]
    return projected


def cagrad_weights(products: Tensor, c: float = 0.5) -> Tensor:
    """Scalar products (T, T) of the gradients -> the weights (T,) of CAGrad's step (Liu et al. 2021, equation 3).

    With g_w = Σ_t v_t g_t, the dual problem is min_v g_w·ḡ + c‖ḡ‖‖g_w‖ over v ≥ 0, Σ_t v_t = 1, and d = ḡ + c‖ḡ‖ g_w/‖g_w‖.
    c = 0 gives the mean gradient. Where g_w vanishes, no direction is better than the mean.
    """
    G, mean = (products / products.trace().clamp_min(_TINY**2)).numpy(), np.full(len(products), 1 / len(products))
    radius = c * np.sqrt(max(mean @ G @ mean, 0))

    def dual(v: np.ndarray) -> tuple[float, np.ndarray]:
        norm = np.sqrt(max(v @ G @ v, 0) + _TINY**2)
        return v @ G @ mean + radius * norm, G @ mean + radius * (G @ v) / norm

    simplex = {"type": "eq", "fun": lambda v: v.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-14, "maxiter": 500}
    v = minimize(dual, mean, jac=True, method="SLSQP", bounds=[(0, 1)] * len(G), constraints=simplex, options=options).x
    norm = np.sqrt(max(v @ G @ v, 0))
    return torch.from_numpy(mean + radius / norm * v if norm > 1e-4 else mean)


class NonNegativeProjector(DualConeProjector):
    """UPGrad's projection by scipy: the default of torchjd needs a solver that not every platform has.

    The nearest point to Σ_t u_t g_t that conflicts with no g_t is Σ_t v_t g_t, with the v ≥ u of the smallest vᵀGv. With
    v = u + z and G = RᵀR this is ‖Rz + Ru‖ → min over z ≥ 0: non-negative least squares.
    """

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        """U (T, T), rows of weights u; G (T, T), the scalar products of the gradients -> rows of weights v (T, T)."""
        values, vectors = torch.linalg.eigh(G.double() / G.trace().clamp_min(_TINY**2))
        R = (values.clamp_min(0).sqrt().unsqueeze(1) * vectors.T).numpy()
        return torch.stack([u + torch.from_numpy(nnls(R, -R @ u.numpy())[0]) for u in U.double()])


BALANCERS: dict[str, Callable[[int, int], Balancer]] = {
    "sum": Balancer,
    "random": RandomWeights,
    "uw": UncertaintyWeighting,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
    "pcgrad": lambda n_tasks, seed: GradientSurgery(n_tasks, PCGradWeighting(), seed),
    "mgda": lambda n_tasks, seed: GradientSurgery(n_tasks, MGDAWeighting(), seed),
    "cagrad": lambda n_tasks, seed: GradientSurgery(n_tasks, cagrad_weights, seed),
    "upgrad": lambda n_tasks, seed: GradientSurgery(n_tasks, UPGradWeighting(projector=NonNegativeProjector()), seed),
}


def balancer(name: str, n_tasks: int, seed: int = 0) -> Balancer:
    """The balancer of this name, one of BALANCERS. Raises ValueError for another name."""
    if name not in BALANCERS:
        raise ValueError(f"`name` is {name!r}: use one of {', '.join(map(repr, BALANCERS))}.")
    return BALANCERS[name](n_tasks, seed)
