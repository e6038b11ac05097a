"""Episodes keep their promises: counts, disjointness, uniform draws, shuffled order, the same seed the same episodes."""

import pytest
import torch
from scipy import stats

from fewshot_lib.episodes import Episodes, EpisodeSampler, largest_remainder, with_fewer_queries

SIZES = [7, 20, 9, 12, 30, 8, 15, 11]  # examples per class, all different
LABELS = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))[
    torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(9))
]
CLASSES = torch.tensor([6, 1, 3, 4, 7])


def draw(n_episodes=400, **options):
    return EpisodeSampler(LABELS, CLASSES, **{"n_way": 4, "n_shot": 3, "n_query": 5, "seed": 1, **options}).sample(n_episodes)


def test_shapes_and_labels():
    episodes = draw()
    assert episodes.support.shape == (400, 4, 3)
    assert episodes.query.shape == episodes.query_labels.shape == (400, 20)
    assert (LABELS[episodes.support] == episodes.classes.unsqueeze(-1)).all()
    assert (LABELS[episodes.query] == episodes.classes.gather(1, episodes.query_labels)).all()
    assert (episodes.n_way, episodes.n_shot, episodes.n_query, len(episodes)) == (4, 3, 5, 400)
    assert not episodes.is_padded


def test_classes_come_from_the_split_and_never_repeat():
    episodes = draw()
    assert torch.isin(episodes.classes, CLASSES).all()
    assert all(len(set(row)) == 4 for row in episodes.classes.tolist())


def test_no_example_stands_twice_in_an_episode():
    episodes = draw()
    rows = torch.cat([episodes.support.flatten(1), episodes.query], 1)
    assert all(len(set(row)) == rows.shape[1] for row in rows.tolist())


def test_every_query_class_occurs_n_query_times():
    counts = torch.nn.functional.one_hot(draw().query_labels, 4).sum(1)
    assert (counts == 5).all()


def test_queries_are_shuffled_and_ways_permuted():
    """Neither a query's position nor a way's number says anything about the class (chi-squared, 400 episodes)."""
    episodes = draw(2000)
    first_query = torch.bincount(episodes.query_labels[:, 0], minlength=4)
    assert stats.chisquare(first_query).pvalue > 1e-3
    first_way = torch.bincount(episodes.classes[:, 0], minlength=8)[CLASSES]
    assert stats.chisquare(first_way).pvalue > 1e-3


def test_every_example_is_drawn_equally_often():
    episodes = draw(4000, n_shot=1, n_query=1)
    for c in CLASSES.tolist():
        rows = (LABELS == c).nonzero().squeeze(1)
        times = torch.bincount(episodes.support[episodes.classes == c].flatten(), minlength=len(LABELS))[rows]
        assert stats.chisquare(times).pvalue > 1e-4


def test_the_seed_decides_and_a_second_call_goes_on():
    a, b, other = draw(), draw(), draw(seed=2)
    assert a.fingerprint() == b.fingerprint() != other.fingerprint()
    sampler = EpisodeSampler(LABELS, CLASSES, 4, 3, 5, seed=1)
    assert sampler.sample(400).fingerprint() == a.fingerprint() != sampler.sample(400).fingerprint()


def test_global_random_state_plays_no_part():
    torch.manual_seed(0)
    a = draw()
    torch.rand(17)
    assert a.fingerprint() == draw().fingerprint()


def test_state_dict_continues_the_sequence():
    sampler = EpisodeSampler(LABELS, CLASSES, 4, 3, 5, seed=1)
    sampler.sample(3)
    state = sampler.state_dict()
    expected = sampler.sample(5).fingerprint()
    other = EpisodeSampler(LABELS, CLASSES, 4, 3, 5, seed=77)
    other.load_state_dict(state)
    assert other.sample(5).fingerprint() == expected


def test_large_draws_are_made_in_blocks(monkeypatch):
    monkeypatch.setattr("fewshot_lib.episodes._DRAW_BLOCK", 1000)
    episodes = draw(300)
    assert len(episodes) == 300
    assert (LABELS[episodes.support] == episodes.classes.unsqueeze(-1)).all()
    assert len({tuple(row) for row in episodes.query.tolist()}) == 300


@pytest.mark.parametrize("seed", range(3))
def test_varying_ways_and_shots_are_masked(seed):
    episodes = draw(n_way=(2, 5), n_shot=(1, 4), seed=seed)
    ways = episodes.support_mask.any(-1).sum(-1)
    shots = episodes.support_mask.sum(-1).amax(-1)
    assert episodes.is_padded
    assert set(ways.tolist()) == {2, 3, 4, 5} and set(shots.tolist()) == {1, 2, 3, 4}
    assert (episodes.query_mask.sum(-1) == 5 * ways).all()
    assert (episodes.query_labels < ways.unsqueeze(-1)).all()
    real = LABELS[episodes.support] == episodes.classes.unsqueeze(-1)
    assert real[episodes.support_mask].all()
    correct = LABELS[episodes.query] == episodes.classes.gather(1, episodes.query_labels)
    assert correct[episodes.query_mask].all()


def test_slices_and_masks_choose_episodes():
    episodes = draw(10)
    assert torch.equal(episodes[2:5].support, episodes.support[2:5])
    assert torch.equal(episodes[torch.tensor([7, 1])].query, episodes.query[[7, 1]])
    with pytest.raises(TypeError, match=r"use a slice such as \[3:4\]"):
        episodes[3]


def test_saved_episodes_come_back_equal(tmp_path):
    episodes = draw(n_way=(2, 5))
    episodes.save(tmp_path / "episodes.safetensors")
    assert Episodes.load(tmp_path / "episodes.safetensors").fingerprint() == episodes.fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_way": 6}, "`n_way` is 6 but there are only 5 classes"),
        ({"n_way": 1}, "`n_way` is 1: it must be at least 2"),
        ({"n_shot": 0}, "`n_shot` is 0: it must be at least 1"),
        ({"n_shot": (3, 2)}, r"`n_shot` is \(3, 2\)"),
        ({"n_query": 0}, "`n_query` is 0"),
        ({"n_shot": 7}, r"Class 7 has 11 examples, but n_shot \+ n_query = 7 \+ 5 = 12"),
    ],
)
def test_bad_input_is_named_before_any_draw(options, message):
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(LABELS, CLASSES, **{"n_way": 4, "n_shot": 3, "n_query": 5, **options})


def test_no_episodes_is_an_error():
    with pytest.raises(ValueError, match="`n_episodes` is 0"):
        draw(0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_moving_to_a_device_changes_nothing():
    assert draw().to("cuda").fingerprint() == draw().fingerprint()


def test_fewer_balanced_queries():
    fewer = with_fewer_queries(draw(), 2, balanced=True)
    kept = torch.nn.functional.one_hot(fewer.query_labels, 4) * fewer.query_mask.unsqueeze(-1)
    assert (kept.sum(1) == 2).all() and fewer.is_padded


def test_unbalanced_queries_have_random_shares_and_never_more_than_there_are():
    episodes = draw(2000, n_shot=1, n_query=6)
    fewer = with_fewer_queries(episodes, 2, balanced=False, seed=3)
    kept = (torch.nn.functional.one_hot(fewer.query_labels, 4) * fewer.query_mask.unsqueeze(-1)).sum(1)  # (E, N)
    assert (kept <= 6).all() and (kept.sum(1) <= 8).all() and (kept.sum(1) >= 6).all()
    assert stats.chisquare(kept.sum(0)).pvalue > 1e-3, "no way is favoured"
    assert kept.float().std() > 1.5, "shares differ widely within an episode"
    assert torch.equal(with_fewer_queries(episodes, 2, balanced=False, seed=3).query_mask, fewer.query_mask)
    assert torch.equal(fewer.query, episodes.query) and torch.equal(fewer.support, episodes.support)


def test_more_queries_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="`n_query` is 6, but the episodes have 5"):
        with_fewer_queries(draw(), 6, balanced=True)


def test_largest_remainder_keeps_the_sum():
    shares = torch.tensor([[1.5, 1.25, 1.25], [0.1, 0.2, 3.7]])
    assert largest_remainder(shares).tolist() == [[2, 1, 1], [0, 0, 4]]
