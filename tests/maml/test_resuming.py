"""Meta-training goes on from its checkpoint to the same numbers, and from no other's."""

import copy
from functools import partial

import pytest
import torch

from fewshot_lib.maml import MAML, meta_loss, plus_plus_loss, train_on_episodes

from .helpers import WAYS, randn, same
from .helpers import vector_net as net
from .training_helpers import BestModels, dataset, scored


class Run:
    """Meta-training with all that has a state: dropout, averages, rates, a schedule, the k best models."""

    def __init__(self, stop_at=None, **changes):
        options = {"inner_lr": 0.3, "rates": "per_tensor_per_step", "per_step_norm": True, **changes}
        self.learner = MAML(net(dropout=0.2), **{"inner_steps": 2, **options})
        self.best = BestModels(self.learner, scored(self.learner, 5), k=3)
        self.stop_at, self.validations = stop_at, 0

    def validate(self):
        if self.validations == self.stop_at:
            raise KeyboardInterrupt
        self.validations += 1
        return self.best.validate()

    def train(self, n_steps, checkpoint=None, **options):
        options = {"objective": plus_plus_loss, "n_way": WAYS, "n_tasks": 2, "lr": 0.01, **options}
        loop = {"validate": self.validate, "validate_every": 15, "resume_with": {"best": self.best}}
        loop |= {"checkpoint": checkpoint, "checkpoint_every": 50}
        return train_on_episodes(self.learner, dataset(), n_steps, **loop, **options)


def test_interrupted_meta_training_goes_on_to_the_same_numbers(tmp_path):
    whole = Run()
    history = whole.train(70)
    with pytest.raises(KeyboardInterrupt):
        Run(stop_at=3).train(70, tmp_path / "run.pt")  # at step 60: the checkpoint is of step 50
    resumed = Run()
    torch.rand(100)  # the random state of the new process is another
    assert resumed.train(70, tmp_path / "run.pt") == history
    assert (whole.validations, resumed.validations) == (5, 2)  # it went on from step 50
    assert [step for step, _ in history.validation] == [15, 30, 45, 60, 70]
    assert len(history.metrics["loss"]) == 70
    assert [score for score, _ in whole.best.kept] == [score for score, _ in resumed.best.kept]
    states = [(run.learner.state_dict(), *(state for _, state in run.best.kept)) for run in (whole, resumed)]
    for a, b in zip(*states, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    support, query = randn(3, WAYS, 1, 4, seed=8), randn(3, 5, 4, seed=9)
    assert torch.equal(whole.best.as_method()(support, query), resumed.best.as_method()(support, query))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("maml") / "settings.pt"
    Run().train(50, path)
    return path


@pytest.mark.parametrize(
    ("of_learner", "of_training"),
    [
        ({"inner_lr": 0.2}, {}),
        ({"inner_steps": 3}, {}),
        ({"first_order": True}, {}),
        ({"rates": "fixed"}, {}),
        ({"adapt": "head"}, {}),
        ({}, {"objective": meta_loss}),
        ({}, {"objective": partial(meta_loss, multi_step_until=0.1, first_order_until=0.2)}),
        ({}, {"lr": 0.02}),
        ({}, {"schedule": None}),
        ({}, {"optimizer": lambda p: torch.optim.SGD(p, lr=0.01)}),
        ({}, {"n_shot": 2}),
        ({}, {"n_query": 3}),
        ({}, {"n_tasks": 3}),
        ({}, {"seed": 1}),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_leaves_the_learner_alone(
    checkpoint, of_learner, of_training
):
    other = Run(**of_learner)
    before = copy.deepcopy(other.learner.state_dict())
    with pytest.raises(ValueError, match="belongs to another run"):
        other.train(50, checkpoint, **of_training)
    same(other.learner.state_dict(), before)


def test_a_checkpoint_does_not_depend_on_the_engine(tmp_path):
    history = Run().train(50, tmp_path / "run.pt")
    # what is finished is taken as it is
    assert Run(engine="loop", chunk_size=1).train(50, tmp_path / "run.pt") == history
