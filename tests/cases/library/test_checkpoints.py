"""A checkpoint of another training, or a damaged one, is refused and changes nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fewshot_lib.core import EpisodeSampler, train_classifier
from fewshot_lib.maml import MAML, Classifier, meta_train
from fewshot_lib.maml.outer import episode_tasks
from fewshot_lib.multitask import Task, TaskSampler, train_jointly
from fewshot_lib.prototypes import cosine_prototypes, train_prototypical

from .helpers import LABELS, ROWS, SIZES, dataset, with_maml, with_prototypes


def a2_changes():
    """The data set with another fact, and what the refusal calls it."""
    swapped = {"train": [4, 5, 6, 7], "val": [0, 1], "test": [2, 3]}
    shuffled = LABELS[torch.randperm(48, generator=torch.Generator().manual_seed(1))]
    return {
        "train split": dataset(**swapped),
        "labels": dataset(shuffled),
        "class names": dataset(names="abcdefgx"),
        "data": dataset(inputs=ROWS + 1),
        "val split": dataset(val=[4, 6], test=[5, 7]),
    }


class Joint(nn.Module):
    uses_names, transductive, name = False, False, "joint"

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, support, query):
        return cosine_prototypes(self.layer(support), self.layer(query))


def jointly(data, **loop):
    model, sampler = Joint(), TaskSampler([Task("t", data, data.inputs)], 2, 1, 2, 2)
    train_jointly(model, sampler, 4, n_validation=2, **loop)
    return model


@pytest.mark.parametrize("train", [with_prototypes, with_maml, jointly])
def test_a2_a_checkpoint_of_other_labels_or_splits_is_refused_by_name(train, tmp_path):
    loop = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 4}
    train(dataset(), **loop)
    train(dataset(), **loop)  # its own
    for fact, other in a2_changes().items():
        if train is jointly and fact == "class names":  # it reads none; features of names are its own
            continue
        fact = "features" if train is jointly and fact == "data" else fact
        with pytest.raises(ValueError, match=rf"c.pt belongs to another run .*not the same {fact}"):
            train(other, **loop)


def test_a2_the_classifier_on_other_labels_is_refused_and_a_sampler_knows_its_own(tmp_path):
    loop = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 2, "n_steps": 2, "lr": np.float32(0.1)}
    train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS, LABELS, **loop)
    train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS, LABELS, **loop)
    with pytest.raises(ValueError, match="not the same labels"):
        train_classifier(nn.Linear(5, 3), nn.Linear(3, 8), ROWS, LABELS.flip(0), **loop)

    def own_loop(labels, classes):
        """A training of one's own: the sampler is all that it hands on."""
        sampler = EpisodeSampler(labels, classes, 2, 1, 2)
        learner = MAML(Classifier(nn.Identity(), 5, 2))
        checkpoint = {"checkpoint": tmp_path / "own.pt", "checkpoint_every": 2}
        tasks = lambda _: episode_tasks(sampler.sample(2), ROWS)  # noqa: E731
        meta_train(learner, tasks, 2, states={"sampler": sampler}, **checkpoint)

    own_loop(LABELS, [0, 1, 2])
    own_loop(LABELS, torch.tensor([0, 1, 2]))
    for labels, classes in ((LABELS, [3, 4, 5]), (LABELS.flip(0), [0, 1, 2])):
        with pytest.raises(ValueError, match="belongs to another run .*another"):
            own_loop(labels, classes)


def test_a2_a_refused_checkpoint_leaves_the_model_and_one_of_an_older_version_is_named(tmp_path):
    path = tmp_path / "c.pt"
    with_prototypes(dataset(), checkpoint=path, checkpoint_every=4)
    model = nn.Linear(5, 3)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="not the same labels"):
        train_prototypical(model, a2_changes()["labels"], 4, **SIZES, checkpoint=path)
    assert torch.equal(model.weight, before)
    state = torch.load(path, weights_only=True)
    del state["parts"]["settings"]["labels"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="it says nothing of labels, as it is of an older version"):
        with_prototypes(dataset(), checkpoint=path)
    del state["parts"]["sampler"]["settings"]
    torch.save(state | {"parts": state["parts"] | {"settings": {}}}, path)
    with pytest.raises(ValueError, match="c.pt belongs to another run"):
        with_prototypes(dataset(), checkpoint=path)


def damaged_checkpoints():
    """What is done to a checkpoint of the same training, which could still be read."""
    return {
        "no step": lambda state: state["progress"].pop("step"),
        "a step too far": lambda state: state["progress"].update(step=99),
        "no number": lambda state: state["progress"].update(step="x"),
        "no random numbers": lambda state: state.pop("torch_rng"),
        "other parts": lambda state: state.update(parts=[1]),
        "the last part": lambda state: state["parts"].update(scheduler=3),
    }


@pytest.mark.parametrize("damage", damaged_checkpoints())
def test_a2_a_damaged_checkpoint_is_refused_and_leaves_the_model_as_it_was(damage, tmp_path):
    path = tmp_path / "c.pt"
    with_prototypes(dataset(), checkpoint=path, checkpoint_every=2)
    state = torch.load(path, weights_only=True)
    damaged_checkpoints()[damage](state)
    torch.save(state, path)
    model = nn.Linear(5, 3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="`checkpoint` .*c.pt (is damaged|belongs to another run)"):
        train_prototypical(model, dataset(), 4, **SIZES, checkpoint=path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a2_where_no_checkpoint_can_lie_is_said_before_the_first_step(tmp_path, capsys):
    (tmp_path / "file").touch()
    for place, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "c.pt", "cannot be written")):
        with pytest.raises(ValueError, match=f"`checkpoint` .* {message}"):
            with_prototypes(dataset(), checkpoint=place)
    assert "step 1" not in capsys.readouterr().out and (tmp_path / "file").is_file()
