"""Training, once for all chapters: a loop that shows progress, keeps the best model, and survives an interruption.

What is trained is given as a function ``step(i) -> {"loss": tensor, ...}``; everything else is the same everywhere.
"""

from __future__ import annotations

import copy
import io
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from fewshot_lib.data.cache import atomic_write


class Stateful(Protocol):
    """Anything whose state can be saved: a module, an optimiser, a scheduler, an episode sampler."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first there is of: CUDA GPU, Apple GPU, CPU. ValueError for one this machine lacks."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.split(":")[0]
    if not available.get(kind, False):
        here = ", ".join(repr(k) for k, there in available.items() if there)
        raise ValueError(f"`device` is {name!r}, which this machine does not have: use one of {here}, or None to let the course choose.")
    return torch.device(name)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch: initial weights, dropout, and whatever uses the default generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in ``eval()`` mode; then every part is back in its own: one may have been frozen in eval mode."""
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
    """What training reported: ``metrics["loss"]`` has one value per step; ``validation`` holds (step, score) pairs."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def smoothed(self, name: str, window: int = 20) -> tuple[list[int], list[float]]:
        """Steps and running means over ``window`` steps, for a readable curve."""
        values = torch.tensor(self.metrics[name])
        window = min(window, len(values))
        means = values.unfold(0, window, 1).mean(-1)
        return list(range(window, len(values) + 1)), means.tolist()


@dataclass
class _Progress:
    """Everything a resumed run needs to go on with the same numbers."""

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
    validate: Callable[[], float] | None = None,
    validate_every: int = 100,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    resume_with: dict[str, Stateful] | None = None,
    label: str = "training",
) -> History:
    """Runs n_steps optimiser steps on the loss that ``step(i)`` returns, and reports what else it returns.

    validate: a score (higher is better) on *validation classes*, taken every ``validate_every`` steps and at the end;
    the model of the best score is what is left in ``model``. checkpoint: a file from which an interrupted run with the
    same arguments goes on to the same numbers; ``resume_with`` names what else has a state, for instance the sampler.

    Raises ValueError for n_steps < 1 or a checkpoint that belongs to another run, FloatingPointError when the loss
    stops being a number.
    """
    if n_steps < 1:
        raise ValueError(f"`n_steps` is {n_steps}: train for at least 1 step.")
    checkpoint = Path(checkpoint) if checkpoint is not None else None
    # what can refuse a checkpoint comes first: a refused one must not have changed the model
    parts: dict[str, Stateful] = {**(resume_with or {}), "model": model, "optimizer": optimizer}
    if scheduler is not None:
        parts["scheduler"] = scheduler
    progress = _load(checkpoint, parts, n_steps) if checkpoint and checkpoint.exists() else _Progress()
    model.train()
    pending: list[dict[str, Tensor]] = []  # metrics stay on the device: no waiting for it at every step
    for i in _shown(range(progress.step, n_steps), n_steps, label, pending, progress.history):
        metrics = step(i)
        optimizer.zero_grad(set_to_none=True)
        metrics["loss"].backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        pending.append({name: value.detach() for name, value in metrics.items()})
        progress.step = i + 1
        if validate is not None and (progress.step % validate_every == 0 or progress.step == n_steps):
            _keep_best(model, validate, progress)
        if checkpoint is not None and progress.step % checkpoint_every == 0:
            _collect(pending, progress.history)
            _save(checkpoint, parts, progress, n_steps)
    _collect(pending, progress.history)
    if progress.best_model is not None:
        model.load_state_dict(progress.best_model)
    model.eval()
    return progress.history


def _shown(steps: range, n_steps: int, label: str, pending: list, history: History) -> Iterator[int]:
    """The steps, with a progress bar; or, in a run without a reader (FEWSHOT_STATIC=1), one printed line per fifth."""
    if os.environ.get("FEWSHOT_STATIC") != "1":
        bar = tqdm(steps, initial=steps.start, total=n_steps, desc=label)
        for i in bar:
            yield i
            if (i + 1) % max(1, n_steps // 50) == 0:
                _collect(pending, history)
                bar.set_postfix(loss=f"{history.metrics['loss'][-1]:.3f}")
        return
    every = max(1, n_steps // 5)
    for i in steps:
        yield i
        if (i + 1) % every == 0:
            _collect(pending, history)
            recent = ", ".join(f"{name} {sum(values[-every:]) / len(values[-every:]):.3f}" for name, values in history.metrics.items())
            print(f"{label}: step {i + 1:,} of {n_steps:,}, {recent}")
            sys.stdout.flush()


def _collect(pending: list[dict[str, Tensor]], history: History) -> None:
    """Moves the metrics to the host in one transfer per name, and stops a run whose loss is no number."""
    if not pending:
        return
    for name in pending[0]:
        history.metrics.setdefault(name, []).extend(torch.stack([m[name] for m in pending]).float().tolist())
    pending.clear()
    losses = history.metrics["loss"]
    if not np.isfinite(losses[-1]):
        first = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
        raise FloatingPointError(f"The loss stopped being a number at step {first}: use a smaller learning rate.")


def _keep_best(model: nn.Module, validate: Callable[[], float], progress: _Progress) -> None:
    model.eval()
    with torch.no_grad():
        score = float(validate())
    model.train()
    progress.history.validation.append((progress.step, score))
    if score > progress.best:
        progress.best, progress.best_model = score, copy.deepcopy(model.state_dict())


def _save(path: Path, parts: dict[str, Stateful], progress: _Progress, n_steps: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "n_steps": n_steps,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "progress": {**vars(progress), "history": vars(progress.history)},
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_write(path) as temporary:
        buffer = io.BytesIO()  # torch.save into a file reports a full disk as a RuntimeError
        torch.save(state, buffer)
        temporary.write_bytes(buffer.getbuffer())


def _load(path: Path, parts: dict[str, Stateful], n_steps: int) -> _Progress:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found, names = state["n_steps"], list(state["parts"])
    except PermissionError:
        raise
    except Exception:  # damaged bytes, or another kind of file: torch.load then raises almost anything
        raise ValueError(f"`checkpoint` {path} is damaged or no checkpoint: delete it to start again, or name another file.") from None
    if found != n_steps or set(names) != set(parts):
        raise ValueError(
            f"`checkpoint` {path} belongs to another run ({found} steps of {', '.join(names)}; "
            f"this one has {n_steps} steps of {', '.join(parts)}): delete it, or name another file."
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"`checkpoint` {path} belongs to another run ({error}): delete it, or name another file.") from error
    torch.set_rng_state(state["torch_rng"])
    if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return _Progress(**{**state["progress"], "history": History(**state["progress"]["history"])})


class Settings:
    """Plain settings of a run, for ``resume_with``: a checkpoint that was written under others is refused."""

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
    label: str = "supervised training",
) -> History:
    """Ordinary supervised training: cross-entropy of ``head(encoder(inputs))`` on random batches, with Adam.

    The learning rate rises to ``lr`` and falls to zero (one cycle: Smith and Topin 2017, arXiv:1708.07120), which needs
    far fewer steps than a constant one. inputs (n, ...) and labels (n,) stand on the device of the encoder.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randint(len(labels), (n_steps, batch_size), generator=generator).to(labels.device)
    model = nn.Sequential(encoder, head)

    def step(i: int) -> dict[str, Tensor]:
        with autocast(labels.device):
            logits = model(inputs[batches[i]]).float()
        target = labels[batches[i]]
        return {"loss": F.cross_entropy(logits, target), "accuracy": (logits.argmax(-1) == target).float().mean()}

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    return fit(step, model, optimizer, n_steps, scheduler=one_cycle(optimizer, n_steps), label=label)


def one_cycle(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A learning rate that rises to the optimiser's own over a third of the steps, and falls to zero over the rest."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=n_steps)
