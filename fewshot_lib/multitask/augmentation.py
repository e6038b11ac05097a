r"""Against remembering the training classes: episodes that never come twice the same.

A model that projects features learns *where* the training classes lie, and fails on others. Three changes to
an episode take that away, and leave its question as it was:

    name dropout      a class loses its name: the mean of its supports stands in
    random rotation   x → Qx for supports, queries and names, Q orthogonal and uniformly (Haar) distributed:
                      all lengths and cosines stay, so what is left to learn from are relations
    class mixup       way k becomes λ_k x_k + (1 − λ_k) x_π(k), λ_k ~ Beta(α, α), π a permutation of the ways:
                      supports, queries and names of classes that do not exist (Zhang et al. 2018,
                      arXiv:1710.09412; in episodes: Yao et al. 2021, arXiv:2106.02695)

An augmentation is a function (joint episodes, generator) -> joint episodes that prints as its name.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.core import positive
from fewshot_lib.multitask.tasks import JointEpisodes


@dataclass(frozen=True)
class NameDropout:
    """Each class loses its name with probability p. Episodes without names stay as they are."""

    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"`p` is {self.p}: it is a probability, 0 to 1.")

    def __call__(self, joint: JointEpisodes, generator: torch.Generator) -> JointEpisodes:
        if joint.names is None:
            return joint
        dropped = (torch.rand(joint.names.shape[:2], generator=generator) < self.p).to(joint.names.device)
        return replace(joint, names=torch.where(dropped.unsqueeze(-1), joint.support.mean(2), joint.names))


@dataclass(frozen=True)
class RandomRotation:
    """One random orthogonal matrix for every group: episodes dealt together must stay in one space."""

    def __call__(self, joint: JointEpisodes, generator: torch.Generator) -> JointEpisodes:
        groups = joint.groups.unique(return_inverse=True)[1]
        rotations = haar(int(groups.max()) + 1, joint.support.shape[-1], generator)
        rotations = rotations.to(joint.support)[groups]  # (E, d, d)
        support = torch.einsum("enkd,edf->enkf", joint.support, rotations)
        names = None if joint.names is None else joint.names @ rotations
        return replace(joint, support=support, query=joint.query @ rotations, names=names)


def haar(n: int, d: int, generator: torch.Generator) -> Tensor:
    """n orthogonal matrices (n, d, d), uniform (Mezzadri 2007, arXiv:math-ph/0609050, section 5).

    Q of a matrix of normal numbers is not uniform without the signs that make the diagonal of R positive.
    """
    q, r = torch.linalg.qr(torch.randn(n, d, d, generator=generator))
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


@dataclass(frozen=True)
class ClassMixup:
    """Every way is mixed with another of its episode; the larger share, max(λ, 1 − λ), is its own.

    alpha = 0 changes nothing, 1 draws shares evenly from ½ … 1, more alpha mixes more.
    """

    alpha: float

    def __post_init__(self) -> None:
        positive(or_zero=True, alpha=self.alpha)

    def __call__(self, joint: JointEpisodes, generator: torch.Generator) -> JointEpisodes:
        shape = tuple(joint.support.shape[:2])
        order = torch.rand(shape, generator=generator).argsort(1)
        partners = order.scatter(1, order, order.roll(1, 1))  # one circle: no way is its own partner
        # torch's Beta takes no generator
        numbers = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        shares = numbers.beta(self.alpha, self.alpha, shape) if self.alpha else np.ones(shape)
        return mix_ways(joint, torch.from_numpy(np.maximum(shares, 1 - shares)).float(), partners)


def mix_ways(joint: JointEpisodes, shares: Tensor, partners: Tensor) -> JointEpisodes:
    """Way k becomes ``shares[k]`` of itself and the rest of way ``partners[k]``; both (E, N).

    The j-th support (query) of a way is mixed with the j-th support (query) of its partner.
    """
    e, n_way = joint.support.shape[:2]
    if (torch.nn.functional.one_hot(joint.query_labels, n_way).sum(1) * n_way != joint.query.shape[1]).any():
        fix = "mixing pairs the queries of two ways. Deal as many of every way"
        raise ValueError(f"`joint` has ways with more queries than others: {fix}.")
    shares, partners = shares.to(joint.support), partners.to(joint.support.device)
    rows = torch.arange(e, device=partners.device).unsqueeze(1)

    def mixed(ways: Tensor) -> Tensor:  # (E, N, ...)
        share = shares.view(e, n_way, *[1] * (ways.dim() - 2))
        return share * ways + (1 - share) * ways[rows, partners]

    places = joint.query_labels.argsort(dim=1, stable=True)  # the queries, way after way
    ways = mixed(joint.query[rows, places].unflatten(1, (n_way, -1))).flatten(1, 2)
    names = None if joint.names is None else mixed(joint.names)
    return replace(joint, support=mixed(joint.support), query=ways[rows, places.argsort(1)], names=names)
