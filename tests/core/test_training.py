"""The training loop: it learns, keeps the best model, resumes to the same numbers, refuses the impossible."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from fewshot_lib.core import (
    EpisodeSampler,
    History,
    autocast,
    bfloat16_asked,
    evaluation_mode,
    fit,
    one_cycle,
    pick_device,
    seed_everything,
    train_classifier,
)

LABELS = torch.arange(4).repeat_interleave(10)
X = torch.eye(4)[LABELS] + 0.3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")


def small_run(step=None, n_steps=5, model=None, lr=0.1, **loop):
    """SGD on one weight; the loss is ``step(model, i)``, or the weight itself."""
    model = model or nn.Linear(1, 1)
    loss = step or (lambda model, i: model.weight.sum())
    optimizer = torch.optim.SGD(model.parameters(), lr)
    return fit(lambda i: {"loss": loss(model, i)}, model, optimizer, n_steps, **loop)


def from_zero():
    """A model whose weight counts the steps, where the loss is minus the weight, at a rate of 1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


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
            states={"sampler": self.sampler},
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


@pytest.mark.parametrize("other", ["n_steps", "model", "states"])
def test_a_checkpoint_of_another_length_architecture_or_with_other_parts_is_refused(tmp_path, other):
    loop = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 5}
    sampler = EpisodeSampler(LABELS, torch.arange(4), 2, 1, 1)
    changed = {"n_steps": 30, "model": nn.Linear(1, 2), "states": {"sampler": sampler}}[other]
    small_run(**{other: changed}, **loop)
    with pytest.raises(ValueError, match="belongs to another run"):
        small_run(**loop)


class Code:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


@pytest.mark.parametrize(
    "content",
    [{"weight": torch.ones(2)}, [1, 2], {"n_steps": 5, "parts": Code()}],
    ids=["weights", "a list", "code"],
)
def test_a_file_that_is_no_checkpoint_is_named_and_never_run(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="c.pt is damaged or no checkpoint: delete it"):
        small_run(checkpoint=tmp_path / "c.pt")


def test_no_damage_to_a_checkpoint_ends_in_another_error(tmp_path):
    loop = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 5}
    small_run(**loop)
    whole = (tmp_path / "c.pt").read_bytes()
    for end in range(0, len(whole), 97):
        (tmp_path / "c.pt").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="is damaged"):
            small_run(**loop)


def test_a_checkpoint_is_written_whole_into_a_folder_that_is_made(tmp_path, monkeypatch):
    path = tmp_path / "new" / "run.pt"
    small_run(checkpoint=path, checkpoint_every=5)
    before = path.read_bytes()

    def half(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        small_run(checkpoint=path.with_name("other.pt"), checkpoint_every=5)
    assert list(path.parent.iterdir()) == [path] and path.read_bytes() == before


@pytest.mark.parametrize(("scores", "best"), [([0.1, 0.9, 0.3, 0.9], 4), ([0.5, 0.5, 0.5, 0.5], 2)])
def test_the_first_of_the_best_validated_models_is_kept_and_the_last_validated_too(scores, best):
    model, left, seen = from_zero(), iter(scores), []

    def validate():
        seen.append(model.weight.item())
        return next(left)

    loop = {"validate": validate, "validate_every": 2}
    history = small_run(lambda model, i: -model.weight.sum(), 7, model, lr=1.0, **loop)
    assert history.validation == list(zip([2, 4, 6, 7], scores, strict=True))
    assert seen == [2, 4, 6, 7] and model.weight.item() == best


def test_steps_run_in_training_mode_and_validation_in_evaluation_mode_without_a_graph():
    model, modes = nn.Linear(1, 1).eval(), []

    def step(model, i):
        modes.append(("step", model.training, torch.is_grad_enabled()))
        return model.weight.square().sum()

    def validate():
        modes.append(("validate", model.training, torch.is_grad_enabled()))
        return 0.0

    small_run(step, 3, model, validate=validate, validate_every=2)
    trained, validated = ("step", True, True), ("validate", False, False)
    assert modes == [trained, trained, validated, trained, validated] and not model.training


def test_a_step_may_bring_its_own_gradient():
    """It finds ``p.grad`` empty, and what it puts there is what moves the parameters, in every step anew."""
    model = from_zero()

    def step(model, i):
        assert model.weight.grad is None
        model.weight.grad = torch.full_like(model.weight, -1.0)
        return torch.tensor(float(i))

    history = small_run(step, 4, model, lr=1.0)
    assert model.weight.item() == 4 and history.metrics["loss"] == [0, 1, 2, 3]


def test_a_loss_that_is_no_number_stops_with_its_step_and_no_steps_are_an_error():
    with pytest.raises(FloatingPointError, match="at step 3"):
        small_run(lambda model, i: model.weight.sum() * (torch.nan if i >= 2 else 1), 10)
    with pytest.raises(ValueError, match="`n_steps` is 0"):
        small_run(n_steps=0)


def test_progress_without_a_reader_is_a_few_plain_lines_with_the_mean_since_the_line_before(capsys):
    model = nn.Linear(1, 1)

    def step(i):
        return {"loss": model.weight.sum() * 0 + i, "loss of a task": torch.tensor(0.0)}

    fit(step, model, torch.optim.SGD(model.parameters(), 0.1), 10)
    lines = capsys.readouterr().out.strip().splitlines()
    means = zip((2, 4, 6, 8, 10), (0.5, 2.5, 4.5, 6.5, 8.5), strict=True)
    assert lines == [f"training: step {i} of 10, loss {mean:.3f}" for i, mean in means]


def test_the_bar_shows_the_last_loss_and_starts_where_the_run_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEWSHOT_STATIC", "0")

    def run(stop=None):
        def step(model, i):
            if i == stop:
                raise KeyboardInterrupt
            return model.weight.sum() * 0 + i

        return small_run(step, 8, checkpoint=tmp_path / "c.pt", checkpoint_every=4, label="mine")

    with pytest.raises(KeyboardInterrupt):
        run(6)
    capsys.readouterr()
    run()
    shown = capsys.readouterr().err
    assert "mine:  50%" in shown and "4/8" in shown and "8/8" in shown and "loss=7.000" in shown


def test_supervised_training_fits_on_one_cycle_moves_the_encoder_and_depends_only_on_the_seed(monkeypatch):
    schedulers = []

    def spy(*args, **options):
        schedulers.append(options.get("scheduler"))
        return fit(*args, **options)

    monkeypatch.setattr("fewshot_lib.core.training.fit", spy)

    def run(seed, noise=0):
        seed_everything(0)
        encoder, head = nn.Linear(4, 8), nn.Linear(8, 4)
        start = encoder.weight.detach().clone()
        torch.manual_seed(noise)
        history = train_classifier(encoder, head, X, LABELS, 150, batch_size=16, lr=0.03, seed=seed)
        assert not torch.equal(start, encoder.weight)
        return history

    history = run(0)
    assert sum(history.metrics["accuracy"][-20:]) / 20 > 0.9
    assert run(0, noise=1) == history != run(1)
    assert isinstance(schedulers[0], torch.optim.lr_scheduler.OneCycleLR) and schedulers[0].total_steps == 150


def test_one_cycle_peaks_at_the_optimisers_rate():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    scheduler, rates = one_cycle(optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.5) and 25 <= rates.index(max(rates)) <= 34 and rates[-1] < 1e-3


def test_smoothed_curve_is_the_running_mean_over_what_there_is():
    steps, means = History({"loss": [1.0, 3.0, 5.0, 7.0]}).smoothed("loss", window=2)
    assert (steps, means) == ([2, 3, 4], [2.0, 4.0, 6.0])
    assert History({"loss": [1.0, 3.0]}).smoothed("loss") == ([2], [2.0])


def test_one_seed_seeds_python_numpy_and_torch():
    def numbers(seed):
        seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert numbers(3) == numbers(3) and not set(numbers(3)) & set(numbers(4))


@pytest.mark.parametrize(
    ("asked", "has", "dtype"),
    [
        ("", {"amx_bf16": True, "avx512_bf16": True}, torch.float32),  # exact results unless asked
        ("1", {"avx512_bf16": True}, torch.bfloat16),
        ("1", {"amx_bf16": True}, torch.bfloat16),
        ("1", {"avx512_f": True}, torch.float32),  # would only be emulated, slower
    ],
)
def test_a_cpu_calculates_in_bfloat16_where_it_is_asked_to_and_has_it(asked, has, dtype, monkeypatch):
    monkeypatch.setenv("FEWSHOT_BF16", asked)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_torch_that_does_not_say_what_the_processor_has_calculates_in_float32(monkeypatch):
    monkeypatch.setenv("FEWSHOT_BF16", "1")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not bfloat16_asked(torch.device("cpu"))


def test_a_device_this_machine_lacks_is_named():
    with pytest.raises(ValueError, match="`device` is 'quantum'.*'cpu'"):
        pick_device("quantum")
    assert pick_device("cpu:0") == torch.device("cpu:0")
    assert pick_device().type in ("cpu", "cuda", "mps")


def test_evaluation_mode_gives_every_part_its_own_mode_back_also_after_an_error():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    model[0].eval()  # frozen, inside a model in train mode

    def fail():
        with evaluation_mode(model):
            assert not any(part.training for part in model.modules())
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert [part.training for part in model.modules()] == [True, False, True]
