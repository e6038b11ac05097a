"""Checkpoints: what an interrupted training needs to go on, and what it belongs to.

A training may go on from a checkpoint only as the very training that wrote it. Weights fit many trainings:
with another class split they would be tested on classes they were trained on. So a checkpoint also holds
*facts*: rates and sizes as they are, examples, labels and splits as checksums. Where one differs, the
checkpoint is refused, and the fact is named.
"""

import copy
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fewshot_lib.core.checks import whole_number
from fewshot_lib.data.cache import CacheError, atomic_write, prove_writable
from fewshot_lib.data.dataset import ClassDataset


class Stateful(Protocol):
    """Anything whose state can be saved: a module, an optimiser, a scheduler, an episode sampler."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


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
class Progress:
    """How far a training is, and the best model so far."""

    step: int = 0
    best: float = -float("inf")
    best_model: dict | None = None
    history: History = field(default_factory=History)


class Settings:
    """The facts that a run depends on, for its ``states``: a checkpoint of other facts is refused.

    Facts are numbers, texts, and lists of them; for what is larger, ``digest`` and ``data_facts``.
    """

    def __init__(self, **values: object) -> None:
        self.values = plain(values)

    def state_dict(self) -> dict:
        return self.values

    def load_state_dict(self, state: dict) -> None:
        different = [name for name in {**self.values, **state} if state.get(name) != self.values.get(name)]
        if different:
            listed = "; ".join(_difference(name, state, self.values) for name in different)
            raise ValueError(f"its settings are not these: {listed}")


def _difference(name: str, theirs: dict, ours: dict) -> str:
    """What a fact is in a checkpoint, and what it is here; a checksum says nothing to a reader."""
    if name not in theirs:
        return f"it says nothing of {name}, as it is of an older version or another training"
    if name not in ours:
        return f"it has {name}, which means nothing here"
    values = theirs[name], ours[name]
    if any(isinstance(value, str) and len(value) == 64 for value in values):
        return f"not the same {name}"
    return "{} is {!r}, here {!r}".format(name, *values)


def digest(*parts: Tensor | str | None) -> str:
    """sha256 over tensors (their shapes, types and numbers) and texts."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{tuple(part.shape)} {part.dtype} ".encode())
            raw = part.detach().cpu().contiguous().flatten().view(torch.uint8)  # NumPy has no bfloat16
            found.update(raw.numpy().tobytes())
        else:
            raw_text = repr(part).encode("utf-8", "surrogatepass")
            found.update(len(raw_text).to_bytes(8, "little") + raw_text)
    return found.hexdigest()


def data_facts(dataset: ClassDataset) -> dict[str, str]:
    """What decides which examples are trained on, and as what: inputs, labels, classes and their splits."""
    splits = {f"{split} split": digest(classes) for split, classes in dataset.splits.items()}
    names = digest(*dataset.class_names)
    return {"data": dataset.fingerprint(), "labels": digest(dataset.labels), "class names": names, **splits}


def plain(state: Any) -> Any:
    """NumPy's scalars as Python's: a checkpoint is read without running code, and theirs would need some."""
    return tree_map(lambda value: value.item() if isinstance(value, np.generic) else value, state)


def save(path: Path, parts: Mapping[str, Stateful], progress: Progress, n_steps: int) -> None:
    """Writes the state of all parts, whole or not at all."""
    state = {
        "n_steps": int(n_steps),
        "parts": {
            name: part.state_dict() if isinstance(part, nn.Module) else plain(part.state_dict())
            for name, part in parts.items()
        },
        "progress": {**vars(progress), "history": vars(progress.history)},
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all(),
    }
    buffer = io.BytesIO()  # torch.save into a file reports a full disk as a RuntimeError
    torch.save(state, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def check_place(path: Path) -> None:
    """Raises ValueError, before any work, for a place where no checkpoint can be written."""
    if path.is_dir():
        raise ValueError(f"`checkpoint` {path} is a folder: name a file in it.")
    try:
        prove_writable(path.parent)
    except CacheError as error:
        why = f"cannot be written ({error.__cause__})"
        raise ValueError(f"`checkpoint` {path} {why}: name another file.") from error


def load(path: Path, parts: Mapping[str, Stateful], n_steps: int) -> Progress:
    """Puts every part where it was; changes none of them where the file cannot be of this run."""
    fix = "delete it to start again, or name another file"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        steps, names = state["n_steps"], [str(name) for name in state["parts"]]
        progress = Progress(**{**state["progress"], "history": History(**state["progress"]["history"])})
        rng, rng_of_gpus = state["torch_rng"], state["cuda_rng"]
        whole_number(1, step=progress.step, left=steps - progress.step + 1)
    except PermissionError:
        raise
    except Exception:  # damaged bytes, or another kind of file: torch.load then raises almost anything
        raise ValueError(f"`checkpoint` {path} is damaged or no checkpoint: {fix}.") from None
    if steps != n_steps or set(names) != set(parts):
        found = f"{steps} steps of {', '.join(names)}; this one has {n_steps} steps of {', '.join(parts)}"
        raise ValueError(f"`checkpoint` {path} belongs to another run ({found}): {fix}.")
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        for name, part in parts.items():
            part.load_state_dict(before[name])
        raise ValueError(f"`checkpoint` {path} belongs to another run ({error}): {fix}.") from error
    torch.set_rng_state(rng)
    if len(rng_of_gpus) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(rng_of_gpus)
    return progress
