"""The training loop: it learns, keeps the best model, resumes to the same numbers, and refuses what cannot work."""

import pytest
import torch
from torch import nn

from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.training import History, evaluation_mode, fit, pick_device, seed_everything, train_classifier

LABELS = torch.arange(4).repeat_interleave(10)
X = torch.eye(4)[LABELS] + 0.3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")


class Run:
    """A small training run with everything that has a state: dropout, momentum, a schedule, a sampler."""

    def __init__(self):
        seed_everything(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.sampler = EpisodeSampler(LABELS, torch.arange(4), 3, 1, 4, seed=3)
        self.stop_at = None

    def step(self, i):
        if i == self.stop_at:
            raise KeyboardInterrupt
        rows = self.sampler.sample(1).query[0]
        return {"loss": nn.functional.cross_entropy(self.model(X[rows]), LABELS[rows])}

    def fit(self, checkpoint=None, n_steps=20):
        return fit(
            self.step,
            self.model,
            self.optimizer,
            n_steps,
            scheduler=self.scheduler,
            checkpoint=checkpoint,
            checkpoint_every=5,
            validate=lambda: -float(self.model(X).square().mean()),
            validate_every=4,
            resume_with={"sampler": self.sampler},
        )


def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path):
    whole = Run()
    history = whole.fit()

    interrupted = Run()
    interrupted.stop_at = 13
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(tmp_path / "run.pt")
    resumed = Run()
    torch.rand(100)  # the random state of the new process is another
    assert resumed.fit(tmp_path / "run.pt") == history
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    Run().fit(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="belongs to another run"):
        Run().fit(tmp_path / "run.pt", n_steps=30)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "run.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"run\.pt is damaged .*: delete it"):
        Run().fit(tmp_path / "run.pt")


def test_the_best_validated_model_is_kept():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    scores = iter([0.1, 0.9, 0.3])
    seen = []

    def validate():
        seen.append(model.weight.item())
        return next(scores)

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    history = fit(lambda i: {"loss": -model.weight.sum()}, model, optimizer, 6, validate=validate, validate_every=2)
    assert history.validation == [(2, 0.1), (4, 0.9), (6, 0.3)]
    assert seen == [2, 4, 6] and model.weight.item() == 4


def test_a_loss_that_is_no_number_stops_with_its_step():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(FloatingPointError, match="at step 3"):
        fit(lambda i: {"loss": model.weight.sum() * (torch.nan if i >= 2 else 1)}, model, optimizer, 10)


def test_no_steps_is_an_error():
    with pytest.raises(ValueError, match="`n_steps` is 0"):
        Run().fit(n_steps=0)


def test_progress_without_a_reader_is_a_few_plain_lines(capsys):
    Run().fit()
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training: step {i} of 20" for i in (4, 8, 12, 16, 20)]


def test_supervised_training_fits_and_depends_only_on_the_seed():
    def run(seed):
        seed_everything(0)
        encoder, head = nn.Linear(4, 8), nn.Linear(8, 4)
        return train_classifier(encoder, head, X, LABELS, 150, batch_size=16, lr=0.03, seed=seed)

    history = run(0)
    assert sum(history.metrics["accuracy"][-20:]) / 20 > 0.9
    assert run(0) == history != run(1)


def test_smoothed_curve_is_the_running_mean():
    steps, means = History({"loss": [1.0, 3.0, 5.0, 7.0]}).smoothed("loss", window=2)
    assert (steps, means) == ([2, 3, 4], [2.0, 4.0, 6.0])


def test_a_device_this_machine_lacks_is_named():
    with pytest.raises(ValueError, match="`device` is 'quantum'.*'cpu'"):
        pick_device("quantum")
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type in ("cpu", "cuda", "mps")


def test_evaluation_mode_gives_every_part_its_own_mode_back_also_after_an_error():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    model[0].eval()  # frozen, inside a model in train mode
    with pytest.raises(RuntimeError, match="on purpose"), evaluation_mode(model):
        assert not any(part.training for part in model.modules())
        raise RuntimeError("on purpose")
    assert [part.training for part in model.modules()] == [True, False, True]
