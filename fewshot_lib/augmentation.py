r"""Against remembering the training classes: episodes that never come twice the same.

A model that projects features learns *where* the training classes lie, and fails on others. Three changes to an episode take
that away, and leave its question as it was:

    label dropout     a class loses its name: the mean of its supports stands in
    random rotation   x → Qx for supports, queries and labels, Q orthogonal and uniformly (Haar) distributed: all lengths and
                      cosines stay, so what is left to learn from are relations
    class mixup       way k becomes λ_k x_k + (1 − λ_k) x_π(k), λ_k ~ Beta(α, α), π a permutation of the ways: supports, queries
                      and labels of classes that do not exist (Zhang et al. 2018, arXiv:1710.09412; in episodes: Yao et al.
                      2021, arXiv:2106.02695)

An augmentation is a function (joint episodes, generator) -> joint episodes with a ``name``; ``chain`` puts several in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fewshot_lib.task_sampling import Augmentation, JointEpisodes


def _named(name: str) -> Callable[[Augmentation], Augmentation]:
    def declare(function: Augmentation) -> Augmentation:
        function.name = name
        return function

    return declare


def label_dropout(p: float) -> Augmentation:
    """Each class loses its name with probability p. Episodes without labels stay as they are. ValueError for p outside 0 … 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"`p` is {p}: it is a probability, 0 to 1.")

    @_named(f"label dropout {p}")
    def augment(joint: JointEpisodes, generator: torch.Generator) -> JointEpisodes:
        if joint.labels is None:
            return joint
        dropped = (torch.rand(joint.labels.shape[:2], generator=generator) < p).to(joint.labels.device)
        return replace(joint, labels=torch.where(dropped.unsqueeze(-1), joint.support.mean(2), joint.labels))

    return augment


def random_rotation() -> Augmentation:
    """One random orthogonal matrix for every group: episodes that were dealt together must stay in one space."""

    @_named("random rotation")
    def augment(joint: JointEpisodes, generator: torch.Generator) -> JointEpisodes:
        groups = joint.groups.unique(return_inverse=True)[1]
        rotations = haar(int(groups.max()) + 1, joint.support.shape[-1], generator).to(joint.support)[groups]  # (E, d, d)
        support, labels = torch.einsum("enkd,edf->enkf", joint.support, rotations), joint.labels
        return replace(joint, support=support, query=joint.query @ rotations, labels=None if labels is None else labels @ rotations)

    return augment


def haar(n: int, d: int, generator: torch.Generator) -> Tensor:
    """n orthogonal matrices (n, d, d) from the uniform distribution (Mezzadri 2007, arXiv:math-ph/0609050, section 5).

    The Q of a matrix of normal numbers, with the signs that make the diagonal of R positive: without them, it is not uniform.
    """
    q, r = torch.linalg.qr(torch.randn(n, d, d, generator=generator))
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def class_mixup(alpha: float) -> Augmentation:
    """Every way is mixed with another of its episode; the larger share, max(λ, 1 − λ), is its own.

    alpha = 0 changes nothing, 1 draws shares evenly from ½ … 1, more alpha mixes more. ValueError for a negative one.
    """
    if alpha < 0:
        raise ValueError(f"`alpha` is {alpha}: use 0 (nothing is mixed) or more.")

    @_named(f"class mixup {alpha}")
    def augment(joint: JointEpisodes, generator: torch.Generator) -> JointEpisodes:
        shape = joint.support.shape[:2]
        order = torch.rand(shape, generator=generator).argsort(1)
        partners = order.scatter(1, order, order.roll(1, 1))  # one circle through all ways: none is its own partner
        numbers = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))  # torch's Beta takes no generator
        shares = numbers.beta(alpha, alpha, tuple(shape)) if alpha else np.ones(tuple(shape))
        return mix_ways(joint, torch.from_numpy(np.maximum(shares, 1 - shares)).float(), partners)

    return augment


def mix_ways(joint: JointEpisodes, shares: Tensor, partners: Tensor) -> JointEpisodes:
    """Way k of each episode becomes ``shares[k]`` of itself and the rest of way ``partners[k]``; shares, partners (E, N).

    The j-th support (query) of a way is mixed with the j-th support (query) of its partner. Every way must have the same
    number of queries: ValueError otherwise.
    """
    e, n_way = joint.support.shape[:2]
    if (torch.nn.functional.one_hot(joint.query_labels, n_way).sum(1) * n_way != joint.query.shape[1]).any():
        raise ValueError("`joint` has ways with more queries than others: mixing pairs the queries of two ways.")
    shares, partners = shares.to(joint.support), partners.to(joint.support.device)
    rows = torch.arange(e, device=partners.device).unsqueeze(1)

    def mixed(ways: Tensor) -> Tensor:  # (E, N, ...)
        own = shares.view(e, n_way, *[1] * (ways.dim() - 2))
        return own * ways + (1 - own) * ways[rows, partners]

    places = joint.query_labels.argsort(dim=1, stable=True)  # the queries, way after way
    ways = mixed(joint.query[rows, places].unflatten(1, (n_way, -1))).flatten(1, 2)
    labels = None if joint.labels is None else mixed(joint.labels)
    return replace(joint, support=mixed(joint.support), query=ways[rows, places.argsort(1)], labels=labels)


def chain(*augmentations: Augmentation) -> Augmentation:
    """One after the other."""

    @_named(", ".join(augmentation.name for augmentation in augmentations))
    def augment(joint: JointEpisodes, generator: torch.Generator) -> JointEpisodes:
        for augmentation in augmentations:
            joint = augmentation(joint, generator)
        return joint

    return augment
