r"""Names as examples: a class name is one more training example of a logistic regression.

What a class is called goes through the same encoder as its examples and gives a vector l_k. The mix of
``baselines`` adds it to the mean of the examples; here it joins the *training set* of a multinomial logistic
regression on features of length 1,

    (1)  min over W, b of  ½‖W‖² + C Σ_i s_i CrossEntropy(y_i, Softmax(W x_i + b))

in which an example of class k, of K_k, has the weight s_i = K̄/K_k with K̄ the mean of all K_k: 1 where classes
have as many, and else each class counts as much as any other, for how many examples somebody had says nothing
of how often a class occurs. The name of class k has the weight s_i = w r_k: it counts as much as w examples,
and for less and less of all there is, the more examples there are. r_k says how far it is to be trusted. A
name may promise what its class does not hold, or what another holds as well, and the examples know.
With l_k the name and μ_k the mean of the examples of class k, both of features of length 1, and l̄, μ̄
their means over the classes (what all names share, "this is about …", says nothing),

    (2)  p_k = Softmax_j( cos(l_k − l̄, μ_j − μ̄) / τ )_k,    r_k = p_k / (p_k + 1/N)

p_k is the probability of class k at the name of k, and r_k the chance that the name is right, if the odds
were even before and a wrong one may lie anywhere. Without names, (1) is plain logistic regression.

The heads of E episodes are found at once, by Newton's method: its equations are solved by conjugate
gradients, which only multiply by the Hessian, so that no matrix of (N d)² numbers is ever made. (1) is
convex, so what is found is *the* solution; scikit-learn finds the same (of two classes with twice our C: it
learns one vector w where (1) has ±w/2). At the solution

    (3)  w_k = C Σ_i s_i (1[y_i = k] − p_ik) x_i

so every answer is a sum over the training set: (3) says what each example, and each name, did for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import check_axes, check_shapes, positive
from fewshot_lib.prototypes.means import class_means

NEWTON_STEPS, CG_STEPS, HALVINGS = 50, 100, 30


class SoftmaxHead(NamedTuple):
    """The solutions of (1) for E episodes: weights (E, N, d), biases (E, N)."""

    weights: Tensor
    biases: Tensor

    def __call__(self, query: Tensor) -> Tensor:
        """Features (E, M, d), of any length -> logits (E, M, N)."""
        unit = F.normalize(query.to(self.weights), dim=-1)
        return unit @ self.weights.mT + self.biases.unsqueeze(-2)


@dataclass(frozen=True)
class NamesAsExamples:
    """A method: support (E, N, K, d), query (E, M, d), names (E, N, d) -> logits (E, M, N), by equation (1).

    weight: w, of a name. C: of the examples against ½‖W‖², as in scikit-learn; None is √N, since the more
    classes there are, the larger logits have to be to tell them apart. temperature: τ of equation (2). The
    defaults were chosen once, for all numbers of shots and 5 to 64 ways, on *validation* classes (HuffPost,
    Reuters, 20 Newsgroups, Amazon, docstrings; ``benchmarks/own_data.md`` says why these). For the names of
    fewer classes see ``name_weight``.
    uses_names: whether ``evaluate`` has to give names; without them a call is plain logistic regression.
    """

    weight: float = 3.0
    C: float | None = None
    temperature: float = 0.2
    uses_names: bool = True

    transductive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(weight=self.weight, C=1.0 if self.C is None else self.C, temperature=self.temperature)

    @property
    def name(self) -> str:
        return "names as examples" if self.uses_names else "logistic regression, batched"

    def __call__(
        self, support: Tensor, query: Tensor, names: Tensor | None = None, support_mask: Tensor | None = None
    ) -> Tensor:
        check_shapes(support, query, support_mask)
        return self.fit(support, names, support_mask)(query).to(query.dtype)

    def fit(
        self, support: Tensor, names: Tensor | None = None, support_mask: Tensor | None = None
    ) -> SoftmaxHead:
        """The heads of E episodes: support (E, N, K, d), names (E, N, d), support_mask (E, N, K)."""
        training_set = self.training_set(support, names, support_mask)
        return fit_softmax(*training_set, self.C_of(support.shape[1]))

    def C_of(self, n_way: int) -> float:
        """C of episodes with so many classes."""
        return n_way**0.5 if self.C is None else self.C

    def training_set(
        self, support: Tensor, names: Tensor | None = None, support_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What (1) sums over: unit features (E, N, S, d), weights (E, N, S); S = K, or K + 1 with names."""
        check_axes(support=(support, "ENKd"), names=(names, "ENd"), support_mask=(support_mask, "ENK"))
        mask = support.new_ones(support.shape[:3]) if support_mask is None else support_mask.to(support)
        features = F.normalize(support.masked_fill(mask.unsqueeze(-1) == 0, 0), dim=-1)
        counts = mask.sum(-1, keepdim=True)
        weights = mask * counts.mean(1, keepdim=True) / counts
        if names is None:
            return features, weights
        names = F.normalize(names, dim=-1)
        of_names = self.weight * trust(class_means(features, mask), names, self.temperature)
        with_names = torch.cat([features, names.unsqueeze(2)], 2)
        return with_names, torch.cat([weights, of_names.unsqueeze(-1)], -1)


def trust(means: Tensor, names: Tensor, temperature: float) -> Tensor:
    """r_k of equation (2), between 0 and 1: means of unit examples and unit names (E, N, d) -> (E, N)."""
    names, means = (F.normalize(x - x.mean(1, keepdim=True), dim=-1) for x in (names, means))
    p = (names @ means.mT / temperature).softmax(-1).diagonal(dim1=1, dim2=2)
    return p / (p + 1 / names.shape[1])


names_as_examples = NamesAsExamples()


def fit_softmax(features: Tensor, weights: Tensor, C: float, tolerance: float = 1e-6) -> SoftmaxHead:
    """Solves (1): features (E, N, S, d) of S examples of each of N classes, their weights s_i (E, N, S).

    tolerance: of the largest entry of the gradient; ‖W‖² makes W at most as far from the solution as the
    gradient is long. In float64, where the device has it.
    """
    exact = torch.float32 if features.device.type == "mps" else torch.float64
    (E, N, S), C_s = features.shape[:3], C * weights.flatten(1).to(exact)
    used = (C_s != 0).any(0)  # without what only fills up classes with fewer examples than others
    C_s, y = C_s[:, used], torch.arange(N, device=features.device).repeat_interleave(S)[used]
    basis, x = _in_their_span(features.flatten(1, 2)[:, used].to(exact))  # (E, d, r), (E, n, r)
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)  # the last row of θ is the bias
    ridge = torch.ones_like(x[:1, 0]).unsqueeze(-1)
    ridge[:, -1] = 0
    problem = _Problem(x, y, C_s, ridge)
    theta = x.new_zeros(E, x.shape[-1], N)
    loss, gradient, p = problem.at(theta)
    tolerance = max(tolerance, 10 * torch.finfo(exact).eps * float(C_s.sum(-1).amax()))
    for _ in range(NEWTON_STEPS):
        unsolved = gradient.abs().amax((1, 2), keepdim=True) > tolerance
        if not unsolved.any():
            break
        # an episode that is solved rests: what is left of its gradient is rounding, of no direction
        theta, loss, gradient, p = _newton_step(problem, theta, loss, gradient * unsolved, p)
    return SoftmaxHead((basis @ theta[:, :-1]).mT.contiguous(), theta[:, -1].contiguous())


class _Problem(NamedTuple):
    """(1) for E episodes, of θ (E, r + 1, N): x (E, n, r + 1), y (n,), C s (E, n), ridge (1, r + 1, 1)."""

    x: Tensor
    y: Tensor
    C_s: Tensor
    ridge: Tensor

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (E,), gradient (E, r + 1, N), probabilities (E, n, N)."""
        log_p = (self.x @ theta).log_softmax(-1)
        own = log_p[:, torch.arange(len(self.y)), self.y]
        loss = (self.ridge * theta.square()).sum((1, 2)) / 2 - (self.C_s * own).sum(-1)
        p = log_p.exp()
        error = self.C_s.unsqueeze(-1) * (p - F.one_hot(self.y, p.shape[-1]))
        return loss, self.ridge * theta + self.x.mT @ error, p

    def hessian_times(self, v: Tensor, p: Tensor) -> Tensor:
        """H v, with H = Xᵀ C s (diag(p) − p pᵀ) X + the ridge."""
        p_xv = p * (self.x @ v)
        change = self.C_s.unsqueeze(-1) * (p_xv - p * p_xv.sum(-1, keepdim=True))
        return self.ridge * v + self.x.mT @ change


def _newton_step(
    problem: _Problem, theta: Tensor, loss: Tensor, gradient: Tensor, p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """θ − t H⁻¹ g of every episode, its t halved until the loss falls as a convex one should."""
    direction = _conjugate_gradients(lambda v: problem.hessian_times(v, p), gradient)
    slope = (direction * gradient).sum((1, 2))
    t = torch.ones_like(loss)
    for _ in range(HALVINGS):
        moved = theta - t.view(-1, 1, 1) * direction
        after = problem.at(moved)
        too_far = after[0] > loss - 1e-4 * t * slope + 1e-12 * loss.abs()
        if not too_far.any():
            break
        t = torch.where(too_far, t / 2, t)
    return moved, *after


def _conjugate_gradients(multiply: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """H⁻¹ g of E episodes to a part of |g| that shrinks with |g|: far away, a rough direction will do."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    tiny = torch.finfo(target.dtype).tiny
    solution, residual = torch.zeros_like(target), target
    direction, size = residual, dot(residual, residual)
    enough = size * size.sqrt().clamp(max=1e-2)
    for _ in range(CG_STEPS):
        active = size > enough
        if not active.any():
            break
        product = multiply(direction)
        length = torch.where(active, size / dot(direction, product).clamp_min(tiny), 0)
        solution, residual = solution + length * direction, residual - length * product
        smaller = dot(residual, residual)
        direction = residual + torch.where(active, smaller / size.clamp_min(tiny), 0) * direction
        size = torch.where(active, smaller, size)
    return solution


def _in_their_span(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (E, n, d) = x' Bᵀ with B (E, d, r), r = min(n, d): the solution lies in the span of few examples."""
    if x.shape[1] >= x.shape[2]:
        return torch.eye(x.shape[2]).to(x).expand(len(x), -1, -1), x
    basis, coordinates = torch.linalg.qr(x.mT)
    return basis, coordinates.mT
