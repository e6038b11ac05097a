"""Augmentations change an episode, and leave its question as it was."""

from dataclasses import replace

import pytest
import torch

from fewshot_lib.multitask import ClassMixup, NameDropout, RandomRotation
from fewshot_lib.multitask.augmentation import haar, mix_ways
from fewshot_lib.multitask.tasks import JointEpisodes
from fewshot_lib.prototypes import cosine_prototypes

E, N, K, Q, D = 6, 4, 2, 3, 5
ROWS = torch.arange(E).unsqueeze(1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def joint(named=True):
    """Random episodes; queries are shuffled, and those of a way lie near its centre."""
    g = generator(1)
    centres = 3 * torch.randn(E, N, D, generator=g)
    query_labels = torch.stack([torch.randperm(N * Q, generator=g) % N for _ in range(E)])
    query = centres[ROWS, query_labels] + torch.randn(E, N * Q, D, generator=g)
    support = centres.unsqueeze(2) + torch.randn(E, N, K, D, generator=g)
    names = centres + torch.randn(E, N, D, generator=g) if named else None
    return JointEpisodes(support, query, names, query_labels, torch.arange(E) % 2)


def parts(episodes):
    return [getattr(episodes, name) for name in ("support", "query", "names", "query_labels", "groups")]


def same(a, b, **tolerance):
    torch.testing.assert_close(a, b, **tolerance)


def all_nodes(episodes):
    return torch.cat([episodes.support.flatten(1, 2), episodes.query, episodes.names], 1)


@pytest.mark.parametrize("augment", [NameDropout(0.5), RandomRotation(), ClassMixup(1.0)], ids=str)
def test_the_same_generator_gives_the_same_and_nothing_else_is_touched(augment):
    before, default = [part.clone() for part in parts(joint())], torch.get_rng_state()
    episodes = joint()
    a, b, c = augment(episodes, generator()), augment(episodes, generator()), augment(episodes, generator(1))
    same(parts(a), parts(b), rtol=0, atol=0)
    assert not torch.equal(all_nodes(a), all_nodes(c)) and not torch.equal(all_nodes(a), all_nodes(episodes))
    same(parts(episodes), before, rtol=0, atol=0)
    same(parts(a)[3:], before[3:], rtol=0, atol=0)  # what is asked, with which others
    assert torch.equal(torch.get_rng_state(), default)
    unnamed = augment(joint(named=False), generator())
    assert unnamed.names is None and unnamed.support.shape == (E, N, K, D)


def test_name_dropout_puts_class_means_in_the_place_of_names():
    episodes = joint()
    assert torch.equal(NameDropout(0)(episodes, generator()).names, episodes.names)
    means = episodes.support.mean(2)
    assert torch.equal(NameDropout(1)(episodes, generator()).names, means)
    some = NameDropout(0.5)(episodes, generator()).names
    dropped, kept = (some == means).all(-1), (some == episodes.names).all(-1)
    assert (dropped ^ kept).all() and 0.25 < dropped.float().mean() < 0.75  # of 24


def test_rotation_keeps_all_lengths_and_cosines():
    episodes = joint()
    rotated = RandomRotation()(episodes, generator())
    before, after = all_nodes(episodes), all_nodes(rotated)
    same(after @ after.mT, before @ before.mT, rtol=1e-4, atol=1e-4)
    same(*(cosine_prototypes(e.support, e.query) for e in (rotated, episodes)), rtol=1e-4, atol=1e-4)


def test_episodes_of_one_group_are_rotated_alike():
    episodes = joint()
    rotated = RandomRotation()(episodes, generator())
    found = [torch.linalg.lstsq(all_nodes(episodes)[e], all_nodes(rotated)[e]).solution for e in range(E)]
    for e in range(E):
        same(found[e] @ found[e].T, torch.eye(D), rtol=1e-4, atol=1e-4)
        same(found[e], found[e % 2], rtol=1e-3, atol=1e-3)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_rotations_are_uniform():
    """One more rotation of them all changes nothing: first and second moments are those of Haar."""
    q = haar(4000, 3, generator())
    same(q @ q.mT, torch.eye(3).expand(4000, 3, 3), rtol=1e-4, atol=1e-5)
    same(q.mean(0), torch.zeros(3, 3), rtol=0, atol=0.04)
    same(q.square().mean(0), torch.full((3, 3), 1 / 3), rtol=0, atol=0.02)
    traces = q.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(traces.square().mean() - 1) < 0.08  # not so for Q alone
    assert 0.45 < (torch.linalg.det(q) > 0).float().mean() < 0.55


def test_mixup_with_a_share_of_one_is_the_identity_and_with_zero_the_partner():
    episodes = joint()
    partners = torch.rand(E, N, generator=generator()).argsort(1)
    same(parts(mix_ways(episodes, torch.ones(E, N), partners)), parts(episodes))
    same(parts(ClassMixup(0)(episodes, generator())), parts(episodes))
    mixed = mix_ways(episodes, torch.zeros(E, N), partners)
    same(mixed.support, episodes.support[ROWS, partners])
    same(mixed.names, episodes.names[ROWS, partners])
    for e, labels in enumerate(episodes.query_labels):
        for k, partner in enumerate(partners[e]):
            same(mixed.query[e, labels == k], episodes.query[e, labels == partner])


def test_supports_queries_and_names_of_a_way_have_one_share_and_one_partner():
    episodes = joint()
    centres = torch.randn(E, N, D, generator=generator(3))  # now everything of a way is its centre
    everything = {"support": centres.unsqueeze(2).expand(E, N, K, D), "names": centres}
    flat = replace(episodes, **everything, query=centres[ROWS, episodes.query_labels])
    mixed = ClassMixup(1.0)(flat, generator())
    same(mixed.support, mixed.names.unsqueeze(2).expand(E, N, K, D))
    same(mixed.query, mixed.names[ROWS, episodes.query_labels])
    # mixed in terms of the centres, (E, N, N)
    shares = torch.linalg.solve(centres @ centres.mT, (mixed.names @ centres.mT).mT).mT
    same(shares.sum(-1), torch.ones(E, N), rtol=1e-3, atol=1e-3)
    own = shares.diagonal(dim1=1, dim2=2)
    assert (own > 0.49).all() and (own < 1 - 1e-4).all() and len(own.unique()) > E * N // 2
    assert ((shares > 1e-3).sum(-1) <= 2).all()


def test_more_alpha_mixes_more():
    def moved(alpha):
        return (ClassMixup(alpha)(joint(), generator()).names - joint().names).norm(dim=-1).mean()

    assert moved(0.1) < moved(1.0) < moved(20.0)


def test_a_mixed_episode_can_still_be_answered():
    mixed = ClassMixup(0.5)(joint(), generator())
    found = cosine_prototypes(mixed.support, mixed.query).argmax(-1)
    assert (found == mixed.query_labels).float().mean() > 0.7


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`p` is 1.2: it is a probability"):
        NameDropout(1.2)
    with pytest.raises(ValueError, match="`alpha` is -1: it must be 0 or more"):
        ClassMixup(-1)
    uneven = replace(joint(), query_labels=0 * joint().query_labels)
    with pytest.raises(ValueError, match="`joint` has ways with more queries"):
        ClassMixup(1)(uneven, generator())
