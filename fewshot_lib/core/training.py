"""Training, once for all chapters: a loop that shows progress, keeps the best, survives an interruption."""

import copy
import ctypes
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from fewshot_lib.core.checkpoints import (
    History,
    Progress,
    Settings,
    Stateful,
    check_place,
    digest,
    load,
    save,
)
from fewshot_lib.core.checks import feature_rows, random_numbers, rate, whole_number, whole_numbers
from fewshot_lib.core.distributed import leads, mean_over_processes, start_alike
from fewshot_lib.data.reporting import shows_progress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h has them


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """The named device, or the first there is of: CUDA GPU, Apple GPU, CPU."""
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    available = [kind for kind, count in counts.items() if count]
    if name is None:
        return torch.device(available[0])
    try:
        device = torch.device(str(name))
    except RuntimeError:  # no name of a device
        device = torch.device("meta")
    if (device.index or 0) >= counts.get(device.type, 0):
        fix = f"use one of {', '.join(map(repr, available))}, or None to have one chosen"
        raise ValueError(f"`device` is {str(name)!r}, which this machine does not have: {fix}.")
    return device


def keep_memory() -> None:
    """From here on this process keeps the memory that it frees, up to blocks of 1 GB, for what comes next.

    Else glibc gives large blocks back to the system, which hands them out anew, page by page and filled with
    zeros: on a CPU up to a third of the time of a training step. Before glibc 2.35 the largest that is kept
    is 32 MB; where there is no glibc nothing changes.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25)


def for_model(inputs: Tensor, model: nn.Module) -> Tensor:
    """Inputs on the model's device and, where they are real numbers, in its precision."""
    if (weights := next(model.parameters(), None)) is None:
        return inputs
    return inputs.to(weights if inputs.is_floating_point() else weights.device)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch: initial weights, dropout, whatever uses the default generators."""
    seed = random_numbers(seed).initial_seed()
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


def bfloat16_asked(device: torch.device) -> bool:
    """Whether FEWSHOT_BF16=1 asks for bfloat16 and the device multiplies matrices faster with it.

    Of CPUs those do that have AMX or AVX512-BF16 (three times as fast); the others would only emulate it.
    """
    if os.environ.get("FEWSHOT_BF16") != "1":
        return False
    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    has = ask()  # an older torch does not say
    able = {"cuda": True, "cpu": has.get("amx_bf16", False) or has.get("avx512_bf16", False)}
    return able.get(device.type, False)


def autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 arithmetic in training, where it pays and is safe: on CUDA, and where FEWSHOT_BF16=1 asks."""
    enabled = device.type == "cuda" or bfloat16_asked(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@dataclass
class Loop:
    """How a training loop runs. Every trainer of the library takes these by name, for ``fit``.

    validate: a score (higher is better) on *validation classes*, taken every ``validate_every`` steps and at
        the end; the model of the best score is what is left.
    checkpoint: a file, written every ``checkpoint_every`` steps, from which an interrupted run with the same
        arguments goes on to the same numbers. resume_with: what else has a state to be kept there.
    label: of the progress bar; with an empty one nothing is shown.
    """

    validate: Callable[[], float] | None = None
    validate_every: int = 100
    checkpoint: str | Path | None = None
    checkpoint_every: int = 100
    resume_with: Mapping[str, Stateful] = field(default_factory=dict)
    label: str = "training"

    def __post_init__(self) -> None:
        whole_number(1, validate_every=self.validate_every, checkpoint_every=self.checkpoint_every)


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

    Several processes that torchrun started train as one: see ``distributed``.
    """
    whole_number(1, n_steps=n_steps)
    options = Loop(**loop)
    path = Path(options.checkpoint) if options.checkpoint is not None else None
    # what can refuse a checkpoint comes first: a refused one must not have changed the model
    parts = {**(states or {}), **options.resume_with, "model": model, "optimizer": optimizer}
    parts |= {} if scheduler is None else {"scheduler": scheduler}
    progress = load(path, parts, n_steps) if path and path.is_file() else Progress()
    if path is not None and progress.step < n_steps:
        check_place(path)
    start_alike(model)
    model.train()
    pending: list[dict[str, Tensor]] = []  # metrics stay on the device: no waiting for it at every step
    for i in _shown(range(progress.step, n_steps), n_steps, options.label, pending, progress.history):
        optimizer.zero_grad(set_to_none=True)
        metrics = step(i)
        if metrics["loss"].requires_grad:
            metrics["loss"].backward()
        mean_over_processes(p.grad for group in optimizer.param_groups for p in group["params"])
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
            if leads():
                save(path, parts, progress, n_steps)
    _collect(pending, progress.history)
    if progress.best_model is not None:
        model.load_state_dict(progress.best_model)
    model.eval()
    return progress.history


def _shown(steps: range, n_steps: int, label: str, pending: list, history: History) -> Iterator[int]:
    """The steps, with a progress bar; or, without a reader (FEWSHOT_STATIC=1), one printed line per fifth."""
    has_reader = shows_progress() and bool(label)
    every = max(1, n_steps // (50 if has_reader else 5))
    bar = tqdm(steps, initial=steps.start, total=n_steps, desc=label, disable=not (has_reader and leads()))
    for i in bar:
        yield i
        if (i + 1) % every:
            continue
        _collect(pending, history)
        if has_reader:
            bar.set_postfix(loss=f"{history.metrics['loss'][-1]:.3f}")
        elif label and leads():
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


def _keep_best(model: nn.Module, validate: Callable[[], float], progress: Progress) -> None:
    model.eval()
    with torch.no_grad():
        score = float(validate())
    if np.isnan(score):
        raise FloatingPointError(f"`validate` gives NaN at step {progress.step}: it is to be a score.")
    model.train()
    progress.history.validation.append((progress.step, score))
    if score > progress.best:
        progress.best, progress.best_model = score, copy.deepcopy(model.state_dict())


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

    inputs (n, ...), labels (n,): classes 0 to C - 1, of as many logits. lr: the peak of one cycle. seed: of
    the batches. loop: see :class:`Loop`.
    """
    whole_number(1, n_steps=n_steps, batch_size=batch_size)
    inputs, labels, lr = feature_rows("inputs", inputs), whole_numbers("labels", labels), rate(lr=lr)
    if not len(inputs) == len(labels) > 0:
        found = f"`inputs` has {len(inputs)} rows and `labels` {len(labels)}"
        raise ValueError(f"{found}: give one label per example, and at least one.")
    inputs = for_model(inputs, encoder)
    labels = labels.to(inputs.device)
    lowest, highest = int(labels.min()), int(labels.max())
    facts = {"data": digest(inputs), "labels": digest(labels)}
    settings = Settings(batch_size=batch_size, lr=lr, seed=seed, **facts)
    batches = torch.randint(len(labels), (n_steps, batch_size), generator=random_numbers(seed))
    batches = batches.to(labels.device)
    model = nn.Sequential(encoder, head)

    def step(i: int) -> dict[str, Tensor]:
        with autocast(labels.device):
            logits = model(inputs[batches[i]]).float()
        if lowest < 0 or highest >= logits.shape[-1]:  # a GPU would be lost to it
            found = f"`labels` run from {lowest} to {highest}, and `head` has {logits.shape[-1]} classes"
            raise ValueError(f"{found}: count them from 0, as `dataset.training_set()` does.")
        target = labels[batches[i]]
        accuracy = (logits.argmax(-1) == target).float().mean()
        return {"loss": F.cross_entropy(logits, target), "accuracy": accuracy}

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loop = {"label": "supervised training", "states": {"settings": settings}} | loop
    return fit(step, model, optimizer, n_steps, scheduler=one_cycle(optimizer, n_steps), **loop)


def one_cycle(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A rate that rises to the optimiser's own over a third of the steps, and falls to zero over the rest.

    It needs far fewer steps than a constant one (Smith and Topin 2017, arXiv:1708.07120).
    """
    whole_number(1, n_steps=n_steps)
    peak = optimizer.param_groups[0]["lr"]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=int(n_steps))
