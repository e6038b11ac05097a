"""Episodes: classes that are too small, too many episodes, and damaged files of them."""

import pytest
import torch
from safetensors.torch import save_file

from fewshot_lib.core import Episodes, EpisodeSampler

from .helpers import LABELS, dataset


def test_f4_classes_have_their_own_names_in_messages():
    data = dataset(torch.cat([LABELS[:45], LABELS[:3]]), names=["7", "x", *"cdefgh"])
    message = r"Class 'h' has 3 examples, but n_shot \+ n_query = 1 \+ 5 = 6 are needed"
    with pytest.raises(ValueError, match=message):
        EpisodeSampler.of(data, "test", 2, 1, 5)
    with pytest.raises(ValueError, match="'g' has 6 examples, 'h' has 3, but .*leave them out"):
        EpisodeSampler.of(data, "test", n_way=2, n_shot=2, n_query=5)
    with pytest.raises(ValueError, match="Class 7 has 3 examples"):
        EpisodeSampler(data.labels, data.classes("test"), 2, 1, 5)
    sizes = (2, 1, 2, 5)
    expected = EpisodeSampler(data.labels, data.classes("train"), *sizes).sample(7)
    assert EpisodeSampler.of(data, "train", *sizes).sample(7).fingerprint() == expected.fingerprint()


def test_a14_a_billion_episodes_are_refused_before_any_memory_is_filled():
    sampler = EpisodeSampler(LABELS, torch.arange(8), 5, 1, 5)
    with pytest.raises(ValueError, match=r"`n_episodes` is 1,000,000,000, and .* GB of memory: draw at most"):
        sampler.sample(1_000_000_000)


def episodes_damaged():
    whole = vars(EpisodeSampler(LABELS, torch.arange(8), 3, 1, 2).sample(4))
    return {
        "one is missing": {k: v for k, v in whole.items() if k != "query"},
        "one too many": whole | {"other": torch.ones(1)},
        "a shape": whole | {"support": whole["support"][:, :2]},
        "numbers": whole | {"query": whole["query"].float()},
        "negative": whole | {"query": whole["query"] - 99},
        "a way": whole | {"query_labels": whole["query_labels"] + 1},
        "no example": whole | {"support_mask": ~whole["support_mask"]},
    }


@pytest.mark.parametrize("damage", episodes_damaged())
def test_a14_damaged_episodes_are_named_and_stay(damage, tmp_path):
    path = tmp_path / "e.safetensors"
    save_file({name: t.contiguous() for name, t in episodes_damaged()[damage].items()}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="e.safetensors is damaged or holds no episodes"):
        Episodes.load(path)
    assert path.read_bytes() == before


def test_a14_cut_and_foreign_files_are_no_episodes(tmp_path):
    path = tmp_path / "e.safetensors"
    EpisodeSampler(LABELS, torch.arange(8), 3, 1, 2).sample(4).save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[:-5], b"PK" + whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or holds no episodes"):
            Episodes.load(path)
    with pytest.raises(FileNotFoundError):
        Episodes.load(tmp_path / "nothing")
