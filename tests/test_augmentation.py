"""Augmentations change an episode, and leave its question as it was."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fewshot_lib.augmentation import chain, class_mixup, haar, label_dropout, mix_ways, random_rotation
from fewshot_lib.multitask import JointEpisodes
from fewshot_lib.prototypes import cosine_prototypes

E, N, K, Q, D = 6, 4, 2, 3, 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def joint(labels=True):
    """Random episodes; queries are shuffled, and those of a way lie near its centre."""
    g = generator(1)
    centres = 3 * torch.randn(E, N, D, generator=g)
    query_labels = torch.stack([torch.arange(N).repeat_interleave(Q)[torch.randperm(N * Q, generator=g)] for _ in range(E)])
    query = centres[torch.arange(E).unsqueeze(1), query_labels] + torch.randn(E, N * Q, D, generator=g)
    support = centres.unsqueeze(2) + torch.randn(E, N, K, D, generator=g)
    names = centres + torch.randn(E, N, D, generator=g) if labels else None
    return JointEpisodes(support, query, names, query_labels, torch.arange(E) // 2, torch.arange(E) % 2)


def parts(episodes):
    return [getattr(episodes, name) for name in ("support", "query", "labels", "query_labels", "task", "groups")]


def same(a, b, **tolerance):
    torch.testing.assert_close(a, b, **tolerance)


def all_nodes(episodes):
    return torch.cat([episodes.support.flatten(1, 2), episodes.query, episodes.labels], 1)


ALL = [label_dropout(0.5), random_rotation(), class_mixup(1.0), chain(label_dropout(0.3), class_mixup(0.5), random_rotation())]


@pytest.mark.parametrize("augment", ALL, ids=lambda augment: augment.name)
def test_the_same_generator_gives_the_same_and_nothing_else_is_touched(augment):
    before, default = [part.clone() for part in parts(joint())], torch.get_rng_state()
    episodes = joint()
    a, b, c = augment(episodes, generator()), augment(episodes, generator()), augment(episodes, generator(1))
    same(parts(a), parts(b), rtol=0, atol=0)
    assert not torch.equal(all_nodes(a), all_nodes(c)) and not torch.equal(all_nodes(a), all_nodes(episodes))
    same(parts(episodes), before, rtol=0, atol=0)
    same(parts(a)[3:], before[3:], rtol=0, atol=0)  # what is asked, of which task, with which others
    assert torch.equal(torch.get_rng_state(), default)
    unnamed = augment(joint(labels=False), generator())
    assert unnamed.labels is None and unnamed.support.shape == (E, N, K, D)


# --- label dropout


def test_label_dropout_puts_class_means_in_the_place_of_names():
    episodes = joint()
    assert torch.equal(label_dropout(0)(episodes, generator()).labels, episodes.labels)
    means = episodes.support.mean(2)
    assert torch.equal(label_dropout(1)(episodes, generator()).labels, means)
    some = label_dropout(0.5)(episodes, generator()).labels
    dropped, kept = (some == means).all(-1), (some == episodes.labels).all(-1)
    assert (dropped ^ kept).all() and 0.25 < dropped.float().mean() < 0.75  # of 24


# --- rotation


def test_rotation_keeps_all_lengths_and_cosines():
    episodes = joint()
    rotated = random_rotation()(episodes, generator())
    before, after = all_nodes(episodes), all_nodes(rotated)
    same(after @ after.mT, before @ before.mT, rtol=1e-4, atol=1e-4)
    same(*(cosine_prototypes(e.support, e.query) for e in (rotated, episodes)), rtol=1e-4, atol=1e-4)


def test_episodes_of_one_group_are_rotated_alike():
    episodes = joint()
    rotated = random_rotation()(episodes, generator())
    found = [torch.linalg.lstsq(all_nodes(episodes)[e], all_nodes(rotated)[e]).solution for e in range(E)]
    for e in range(E):
        same(found[e] @ found[e].T, torch.eye(D), rtol=1e-4, atol=1e-4)
        same(found[e], found[e % 2], rtol=1e-3, atol=1e-3)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_rotations_are_uniform():
    """Turning all of them by one more rotation changes nothing in distribution: first and second moments are those of Haar."""
    q = haar(4000, 3, generator())
    same(q @ q.mT, torch.eye(3).expand(4000, 3, 3), rtol=1e-4, atol=1e-5)
    same(q.mean(0), torch.zeros(3, 3), rtol=0, atol=0.04)
    same(q.square().mean(0), torch.full((3, 3), 1 / 3), rtol=0, atol=0.02)
    same(q.diagonal(dim1=1, dim2=2).sum(1).square().mean(), torch.tensor(1.0), rtol=0, atol=0.08)  # the trace: 1 for Haar, not for Q alone
    assert 0.45 < (torch.linalg.det(q) > 0).float().mean() < 0.55


# --- mixup


def test_mixup_with_a_share_of_one_is_the_identity():
    episodes = joint()
    partners = torch.rand(E, N, generator=generator()).argsort(1)
    same(parts(mix_ways(episodes, torch.ones(E, N), partners)), parts(episodes))
    same(parts(class_mixup(0)(episodes, generator())), parts(episodes))


def test_mixup_with_a_share_of_zero_puts_the_partner_in_the_place_of_the_way():
    episodes = joint()
    partners = torch.rand(E, N, generator=generator()).argsort(1)
    mixed = mix_ways(episodes, torch.zeros(E, N), partners)
    for e in range(E):
        same(mixed.support[e], episodes.support[e, partners[e]])
        same(mixed.labels[e], episodes.labels[e, partners[e]])
        for k in range(N):
            same(mixed.query[e, episodes.query_labels[e] == k], episodes.query[e, episodes.query_labels[e] == partners[e, k]])


def test_supports_queries_and_labels_of_a_way_have_one_share_and_one_partner():
    episodes = joint()
    centres = torch.randn(E, N, D, generator=generator(3))  # now everything of a way is its centre
    flat = replace(
        episodes,
        support=centres.unsqueeze(2).expand(E, N, K, D),
        labels=centres,
        query=centres[torch.arange(E).unsqueeze(1), episodes.query_labels],
    )
    mixed = class_mixup(1.0)(flat, generator())
    same(mixed.support, mixed.labels.unsqueeze(2).expand(E, N, K, D))
    same(mixed.query, mixed.labels[torch.arange(E).unsqueeze(1), episodes.query_labels])
    shares = torch.linalg.solve(centres @ centres.mT, (mixed.labels @ centres.mT).mT).mT  # (E, N, N): mixed in terms of the centres
    same(shares.sum(-1), torch.ones(E, N), rtol=1e-3, atol=1e-3)
    own = shares.diagonal(dim1=1, dim2=2)
    assert (own > 0.49).all() and (own < 1 - 1e-4).all() and len(own.unique()) > E * N // 2
    assert ((shares > 1e-3).sum(-1) <= 2).all()


def test_more_alpha_mixes_more():
    def moved(alpha):
        return (class_mixup(alpha)(joint(), generator()).labels - joint().labels).norm(dim=-1).mean()

    assert moved(0.1) < moved(1.0) < moved(20.0)


def test_a_mixed_episode_can_still_be_answered():
    mixed = class_mixup(0.5)(joint(), generator())
    assert (cosine_prototypes(mixed.support, mixed.query).argmax(-1) == mixed.query_labels).float().mean() > 0.7


# --- chain, bad arguments


def test_a_chain_is_one_after_the_other():
    first, second, g = label_dropout(1), random_rotation(), generator()
    chained = chain(first, second)(joint(), generator())
    same(parts(chained), parts(second(first(joint(), g), g)))
    assert chain(first, second).name == "label dropout 1, random rotation"
    same(chained.labels, chained.support.mean(2))
    assert not torch.allclose(F.normalize(chained.labels, dim=-1), F.normalize(joint().labels, dim=-1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_dropout(1.2), "`p` is 1.2: it is a probability"),
        (lambda: class_mixup(-1), "`alpha` is -1: use 0"),
        (
            lambda: class_mixup(1)(replace(joint(), query_labels=0 * joint().query_labels), generator()),
            "`joint` has ways with more queries",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
