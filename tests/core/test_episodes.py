"""Episodes keep their promises: counts, disjointness, uniform draws, shuffled order, what a seed means."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

from fewshot_lib.core import Episodes, EpisodeSampler, with_fewer_queries
from fewshot_lib.core.episodes import _DRAW_BLOCK, largest_remainder

SIZES = [7, 20, 9, 12, 30, 8, 15, 11]  # examples per class, all different
LABELS = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))[
    torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(9))
]
CLASSES = torch.tensor([6, 1, 3, 4, 7])


def draw(n_episodes=400, **options):
    options = {"n_way": 4, "n_shot": 3, "n_query": 5, "seed": 1, **options}
    return EpisodeSampler(LABELS, CLASSES, **options).sample(n_episodes)


def queries_per_way(episodes):
    """(E, N), of those that are not masked."""
    one_hot = torch.nn.functional.one_hot(episodes.query_labels, episodes.n_way)
    return (one_hot * episodes.query_mask.unsqueeze(-1)).sum(1)


def test_shapes_and_labels():
    episodes = draw()
    assert episodes.support.shape == (400, 4, 3)
    assert episodes.query.shape == episodes.query_labels.shape == (400, 20)
    assert (LABELS[episodes.support] == episodes.classes.unsqueeze(-1)).all()
    assert (LABELS[episodes.query] == episodes.classes.gather(1, episodes.query_labels)).all()
    assert (episodes.n_way, episodes.n_shot, episodes.n_query, len(episodes)) == (4, 3, 5, 400)
    assert (queries_per_way(episodes) == 5).all() and not episodes.is_padded


def test_classes_come_from_the_split_and_neither_they_nor_examples_repeat():
    episodes = draw()
    assert torch.isin(episodes.classes, CLASSES).all()
    for rows in (episodes.classes, torch.cat([episodes.support.flatten(1), episodes.query], 1)):
        assert all(len(set(row)) == rows.shape[1] for row in rows.tolist())


def test_queries_are_shuffled_and_ways_permuted():
    """Neither a query's position nor a way's number says anything about the class (chi-squared)."""
    episodes = draw(2000)
    first_query = torch.bincount(episodes.query_labels[:, 0], minlength=4)
    assert stats.chisquare(first_query).pvalue > 1e-3
    first_way = torch.bincount(episodes.classes[:, 0], minlength=8)[CLASSES]
    assert stats.chisquare(first_way).pvalue > 1e-3


def test_every_example_is_drawn_equally_often():
    episodes = draw(4000, n_shot=1, n_query=1)
    for c in CLASSES.tolist():
        rows = LABELS.eq(c).nonzero().squeeze(1)
        times = torch.bincount(episodes.support[episodes.classes == c].flatten(), minlength=len(LABELS))[rows]
        assert stats.chisquare(times).pvalue > 1e-4


def test_the_seed_alone_decides_and_a_second_call_goes_on():
    torch.manual_seed(0)
    a, other = draw(), draw(seed=2)
    torch.rand(17)
    assert a.fingerprint() == draw().fingerprint() != other.fingerprint()
    sampler = EpisodeSampler(LABELS, CLASSES, 4, 3, 5, seed=1)
    assert sampler.sample(400).fingerprint() == a.fingerprint()
    resumed = EpisodeSampler(LABELS, CLASSES, 4, 3, 5, seed=77)
    resumed.load_state_dict(sampler.state_dict())
    assert a.fingerprint() != resumed.sample(5).fingerprint() == sampler.sample(5).fingerprint()


def test_a_seed_means_these_episodes_for_ever():  # recorded numbers rest on it, and on the size of a block
    episodes = draw(1, n_way=3, n_shot=1, n_query=2)
    assert episodes.classes.tolist() == [[4, 1, 6]]
    assert episodes.query.tolist() == [[33, 14, 100, 109, 92, 104]]
    assert _DRAW_BLOCK == 2_000_000 and draw(20_000).classes[-1].tolist() == [6, 1, 3, 7]


def test_the_fingerprint_covers_every_field():
    episodes = draw(10)
    for name, tensor in vars(episodes).items():
        changed = tensor.clone()
        changed.view(-1)[3] = ~changed.view(-1)[3] if tensor.dtype == torch.bool else changed.view(-1)[3] + 1
        assert replace(episodes, **{name: changed}).fingerprint() != episodes.fingerprint(), name
    assert replace(episodes, support=episodes.support.view(10, 3, 4)).fingerprint() != episodes.fingerprint()


def test_large_draws_are_made_in_blocks(monkeypatch):
    monkeypatch.setattr("fewshot_lib.core.episodes._DRAW_BLOCK", 1000)
    episodes = draw(300)
    assert len(episodes) == 300
    assert (LABELS[episodes.support] == episodes.classes.unsqueeze(-1)).all()
    assert len({tuple(row) for row in episodes.query.tolist()}) == 300


@pytest.mark.parametrize("seed", range(3))
def test_varying_shots_are_masked(seed):
    episodes = draw(n_shot=(1, 4), seed=seed)
    shots = episodes.support_mask.sum(-1)
    assert episodes.is_padded and episodes.query_mask.all()
    assert set(shots.flatten().tolist()) == {1, 2, 3, 4} and (shots == shots[:, :1]).all()
    real = LABELS[episodes.support] == episodes.classes.unsqueeze(-1)
    assert real[episodes.support_mask].all()
    assert (LABELS[episodes.query] == episodes.classes.gather(1, episodes.query_labels)).all()
    assert (episodes.support[~episodes.support_mask] == 0).all()  # padding holds row 0, and is last
    assert (episodes.support_mask.long().diff(dim=-1) <= 0).all()


def test_episodes_are_chosen_by_slices_and_indices_and_come_back_equal_from_a_file(tmp_path):
    episodes = draw(10, n_shot=(1, 3))
    assert torch.equal(episodes[2:5].support, episodes.support[2:5])
    assert torch.equal(episodes[torch.tensor([7, 1])].query, episodes.query[[7, 1]])
    with pytest.raises(TypeError, match=r"use a slice such as \[3:4\]"):
        episodes[3]
    episodes.save(tmp_path / "episodes.safetensors")
    assert Episodes.load(tmp_path / "episodes.safetensors").fingerprint() == episodes.fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_way": 6}, "`n_way` is 6 but there are only 5 classes"),
        ({"n_way": 1}, "`n_way` is 1: use a whole number, 2 or more"),
        ({"n_way": 2.9}, "`n_way` is 2.9: use a whole number"),
        ({"n_shot": 0}, "`n_shot` is 0: use a whole number, 1 or more"),
        ({"n_shot": (3, 2)}, r"`n_shot\[1\]` is 2: use a whole number, 3 or more"),
        ({"n_query": 0}, "`n_query` is 0"),
        ({"n_query": (2, 4)}, r"`n_query` is \(2, 4\)"),
        ({"classes": torch.tensor([1, 1, 2])}, "`classes` holds a class twice"),
        ({"n_shot": 7}, r"Class 7 has 11 examples, but n_shot \+ n_query = 7 \+ 5 = 12"),
    ],
)
def test_bad_input_is_named_before_any_draw(options, message):
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(LABELS, **{"classes": CLASSES, "n_way": 4, "n_shot": 3, "n_query": 5, **options})


def test_more_queries_than_there_are_and_no_episodes_are_errors():
    with pytest.raises(ValueError, match="`n_query` is 6, but the episodes have 5"):
        with_fewer_queries(draw(), 6, balanced=True)
    with pytest.raises(ValueError, match="`n_episodes` is 0"):
        draw(0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_moving_to_a_device_changes_nothing():
    assert draw().to("cuda").fingerprint() == draw().fingerprint()


def test_fewer_balanced_queries():
    fewer = with_fewer_queries(draw(), 2, balanced=True)
    assert (queries_per_way(fewer) == 2).all() and fewer.is_padded and fewer.n_query == 2


def test_unbalanced_queries_have_random_shares_and_never_more_than_there_are():
    episodes = draw(2000, n_shot=1, n_query=6)
    fewer = with_fewer_queries(episodes, 2, balanced=False, seed=3)
    kept = queries_per_way(fewer)
    assert fewer.n_query == 2
    assert (kept <= 6).all() and (kept.sum(1) <= 8).all() and (kept.sum(1) >= 6).all()
    assert stats.chisquare(kept.sum(0)).pvalue > 1e-3, "no way is favoured"
    assert kept.float().std() > 1.5, "shares differ widely within an episode"
    assert torch.equal(with_fewer_queries(episodes, 2, balanced=False, seed=3).query_mask, fewer.query_mask)
    assert torch.equal(fewer.query, episodes.query) and torch.equal(fewer.support, episodes.support)


def test_largest_remainder_keeps_the_sum():
    shares = torch.tensor([[1.5, 1.25, 1.25], [0.1, 0.2, 3.7]])
    assert largest_remainder(shares).tolist() == [[2, 1, 1], [0, 0, 4]]
