"""Training, once for all chapters: a loop that shows progress, keeps the best, survives an interruption."""

import copy
import io
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from fewshot_lib.core.checks import whole_number
from fewshot_lib.data.cache import atomic_write
from fewshot_lib.data.reporting import shows_progress


class Stateful(Protocol):
    """Anything whose state can be saved: a module, an optimiser, a scheduler, an episode sampler."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first there is of: CUDA GPU, Apple GPU, CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available.get(name.split(":")[0], False):
        fix = f"use one of {', '.join(repr(kind) for kind, there in available.items() if there)}, or None"
        raise ValueError(f"`device` is {name!r}, which this machine does not have: {fix} to have one chosen.")
    return torch.device(name)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch: initial weights, dropout, whatever uses the default generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in ``eval()`` mode; then every part is back in its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 arithmetic where it pays and is safe (CUDA); ordinary float32 elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@dataclass
class History:
    """What training reported: ``metrics["loss"]`` has a value per step, ``validation`` (step, score)."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def smoothed(self, name: str, window: int = 20) -> tuple[list[int], list[float]]:
        """Steps and running means over ``window`` steps, for a readable curve."""
        values = torch.tensor(self.metrics[name])
        window = min(window, len(values))
        return list(range(window, len(values) + 1)), values.unfold(0, window, 1).mean(-1).tolist()


@dataclass
class Loop:
    """How a training loop runs. Every trainer of the library takes these by name, for ``fit``.

    validate: a score (higher is better) on *validation classes*, taken every ``validate_every`` steps and at
        the end; the model of the best score is what is left.
    checkpoint: a file, written every ``checkpoint_every`` steps, from which an interrupted run with the same
        arguments goes on to the same numbers. resume_with: what else has a state that belongs into it.
    label: of the progress bar.
    """

    validate: Callable[[], float] | None = None
    validate_every: int = 100
    checkpoint: str | Path | None = None
    checkpoint_every: int = 100
    resume_with: Mapping[str, Stateful] = field(default_factory=dict)
    label: str = "training"


@dataclass
class _Progress:
    step: int = 0
    best: float = -float("inf")
    best_model: dict | None = None
    history: History = field(default_factory=History)


def fit(
    step: Callable[[int], dict[str, Tensor]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    n_steps: int,
    *,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    states: Mapping[str, Stateful] | None = None,
    **loop: Any,
) -> History:
    """Runs n_steps optimiser steps on the "loss" of what ``step(i)`` returns, and reports all of it.

    A step that computes its gradient by itself, because it is not that of its loss, adds it to ``p.grad`` of
    the parameters (which is empty when it starts) and returns a loss without a graph. A metric whose name has
    a space in it ("loss of torch") is kept, and not printed. states: what the trainer itself needs to go on
    from a checkpoint, for instance its sampler. loop: see :class:`Loop`.
    """
    whole_number(1, n_steps=n_steps)
    options = Loop(**loop)
    path = Path(options.checkpoint) if options.checkpoint is not None else None
    # what can refuse a checkpoint comes first: a refused one must not have changed the model
    parts = {**(states or {}), **options.resume_with, "model": model, "optimizer": optimizer}
    parts |= {} if scheduler is None else {"scheduler": scheduler}
    progress = _load(path, parts, n_steps) if path and path.exists() else _Progress()
    model.train()
    pending: list[dict[str, Tensor]] = []  # metrics stay on the device: no waiting for it at every step
    for i in _shown(range(progress.step, n_steps), n_steps, options.label, pending, progress.history):
        optimizer.zero_grad(set_to_none=True)
        metrics = step(i)
        if metrics["loss"].requires_grad:
            metrics["loss"].backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        pending.append({name: value.detach() for name, value in metrics.items()})
        progress.step = i + 1
        due = progress.step % options.validate_every == 0 or progress.step == n_steps
        if options.validate is not None and due:
            _keep_best(model, options.validate, progress)
        if path is not None and progress.step % options.checkpoint_every == 0:
            _collect(pending, progress.history)
            _save(path, parts, progress, n_steps)
    _collect(pending, progress.history)
    if progress.best_model is not None:
        model.load_state_dict(progress.best_model)
    model.eval()
    return progress.history


def _shown(steps: range, n_steps: int, label: str, pending: list, history: History) -> Iterator[int]:
    """The steps, with a progress bar; or, without a reader (FEWSHOT_STATIC=1), one printed line per fifth."""
    has_reader = shows_progress()
    every = max(1, n_steps // (50 if has_reader else 5))
    bar = tqdm(steps, initial=steps.start, total=n_steps, desc=label, disable=not has_reader)
    for i in bar:
        yield i
        if (i + 1) % every:
            continue
        _collect(pending, history)
        if has_reader:
            bar.set_postfix(loss=f"{history.metrics['loss'][-1]:.3f}")
        else:
            means = {name: np.mean(values[-every:]) for name, values in history.metrics.items()}
            recent = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items() if " " not in name)
            print(f"{label}: step {i + 1:,} of {n_steps:,}, {recent}", flush=True)


def _collect(pending: list[dict[str, Tensor]], history: History) -> None:
    """Moves the metrics to the host in one transfer per name, and stops a run whose loss is no number."""
    if not pending:
        return
    for name in pending[0]:
        history.metrics.setdefault(name, []).extend(torch.stack([m[name] for m in pending]).float().tolist())
    pending.clear()
    losses = history.metrics["loss"]
    if not np.isfinite(losses[-1]):
        step = f"step {int(np.flatnonzero(~np.isfinite(losses))[0]) + 1}"
        raise FloatingPointError(f"The loss stopped being a number at {step}: use a smaller learning rate.")


def _keep_best(model: nn.Module, validate: Callable[[], float], progress: _Progress) -> None:
    model.eval()
    with torch.no_grad():
        score = float(validate())
    model.train()
    progress.history.validation.append((progress.step, score))
    if score > progress.best:
        progress.best, progress.best_model = score, copy.deepcopy(model.state_dict())


def _save(path: Path, parts: Mapping[str, Stateful], progress: _Progress, n_steps: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "n_steps": n_steps,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "progress": {**vars(progress), "history": vars(progress.history)},
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all(),
    }
    buffer = io.BytesIO()  # torch.save into a file reports a full disk as a RuntimeError
    torch.save(state, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _load(path: Path, parts: Mapping[str, Stateful], n_steps: int) -> _Progress:
    """Puts every part where it was; changes none of them where the file cannot be of this run."""
    fix = "delete it to start again, or name another file"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        steps, names = state["n_steps"], list(state["parts"])
    except PermissionError:
        raise
    except Exception:  # damaged bytes, or another kind of file: torch.load then raises almost anything
        raise ValueError(f"`checkpoint` {path} is damaged or no checkpoint: {fix}.") from None
    if steps != n_steps or set(names) != set(parts):
        found = f"{steps} steps of {', '.join(names)}; this one has {n_steps} steps of {', '.join(parts)}"
        raise ValueError(f"`checkpoint` {path} belongs to another run ({found}): {fix}.")
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"`checkpoint` {path} belongs to another run ({error}): {fix}.") from error
    torch.set_rng_state(state["torch_rng"])
    if len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return _Progress(**{**state["progress"], "history": History(**state["progress"]["history"])})


class Settings:
    """Plain settings of a run, for its ``states``: a checkpoint that was written under others is refused."""

    def __init__(self, **values: object) -> None:
        self.values = values

    def state_dict(self) -> dict:
        return self.values

    def load_state_dict(self, state: dict) -> None:
        if state != self.values:
            raise ValueError(f"its settings are {state}, these are {self.values}")


def train_classifier(
    encoder: nn.Module,
    head: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    n_steps: int,
    *,
    batch_size: int = 64,
    lr: float = 4e-3,
    seed: int = 0,
    **loop: Any,
) -> History:
    """Ordinary supervised training: cross-entropy of ``head(encoder(inputs))`` on random batches, with Adam.

    inputs (n, ...), labels (n,): on the device of the encoder. lr: the peak of one cycle. seed: of the
    batches. loop: see :class:`Loop`.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randint(len(labels), (n_steps, batch_size), generator=generator).to(labels.device)
    model = nn.Sequential(encoder, head)

    def step(i: int) -> dict[str, Tensor]:
        with autocast(labels.device):
            logits = model(inputs[batches[i]]).float()
        target = labels[batches[i]]
        accuracy = (logits.argmax(-1) == target).float().mean()
        return {"loss": F.cross_entropy(logits, target), "accuracy": accuracy}

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loop = {"label": "supervised training"} | loop
    return fit(step, model, optimizer, n_steps, scheduler=one_cycle(optimizer, n_steps), **loop)


def one_cycle(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A rate that rises to the optimiser's own over a third of the steps, and falls to zero over the rest.

    It needs far fewer steps than a constant one (Smith and Topin 2017, arXiv:1708.07120).
    """
    peak = optimizer.param_groups[0]["lr"]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=n_steps)
