"""Features f(x) of a whole data set, computed once and kept on disk: episodes are then plain look-ups."""

import hashlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fewshot_lib.core import evaluation_mode
from fewshot_lib.data.cache import Contents, cache_dir, cached_tensors
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.reporting import shows_progress

_PART = 2048  # examples per file of the feature cache: what an interruption can cost


def encoder_fingerprint(encoder: nn.Module) -> str:
    """sha256 over the encoder's class, weights and settings: equal fingerprints give equal features."""
    settings = f"{type(encoder).__qualname__} {encoder!r} {getattr(encoder, 'max_tokens', '')}"
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        raw = tensor.cpu().contiguous().flatten().view(torch.uint8)  # numpy has no bfloat16
        digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode(encoder: nn.Module, inputs: Tensor | list[str], batch_size: int = 256, label: str = "") -> Tensor:
    """Features (n, d) of all inputs in evaluation mode, on the encoder's device; no cache.

    label: of the progress bar; without one there is none.
    """
    device = next(encoder.parameters()).device
    with evaluation_mode(encoder):
        if isinstance(inputs, Tensor):
            as_they_come = torch.zeros(len(inputs))
            return by_length(lambda rows: encoder(inputs[rows].to(device)), as_they_come, batch_size, label)
        lengths = torch.tensor([len(text) for text in inputs])
        return by_length(lambda rows: encoder([inputs[row] for row in rows]), lengths, batch_size, label)


def by_length(run: Callable[[Tensor], Tensor], lengths: Tensor, batch_size: int, label: str = "") -> Tensor:
    """``run``, rows (b,) -> (b, ...), for all rows, in batches of about the same length; lengths: (n,)."""
    order = lengths.argsort(stable=True)
    batches = tqdm(order.split(batch_size), desc=label, leave=False, disable=not (label and shows_progress()))
    results = torch.cat([run(rows) for rows in batches])
    return results[order.argsort().to(results.device)]


def extract_features(encoder: nn.Module, dataset: ClassDataset) -> Tensor:
    """Features (n, d) of a whole data set, kept under a key of the data's and the encoder's content.

    Shows progress. Interrupted, it goes on where it stopped: finished parts of 2,048 examples stay.
    """
    key = hashlib.sha256(f"{dataset.fingerprint()} {encoder_fingerprint(encoder)}".encode()).hexdigest()[:24]
    starts = range(0, len(dataset), _PART)

    def part(number: int) -> Contents:
        rows = range(len(dataset))[starts[number] : starts[number] + _PART]
        label = f"features of {dataset.name}, part {number + 1} of {len(starts)}"
        return {"features": encode(encoder, dataset.take(rows), label=label)}, {"dataset": dataset.name}

    files = [cache_dir("features", key) / f"{number:05d}.safetensors" for number in range(len(starts))]
    parts = [cached_tensors(file, partial(part, number))[0]["features"] for number, file in enumerate(files)]
    return torch.cat(parts).to(next(encoder.parameters()).device)


def raw_features(dataset: ClassDataset) -> Tensor:
    """No encoder at all: pixels (n, c·h·w) in 0..1, or, for texts, 4,096 hashed word counts of length 1."""
    if isinstance(dataset.inputs, Tensor):
        return dataset.inputs.flatten(1).float() / (255 if dataset.inputs.dtype == torch.uint8 else 1)
    from sklearn.feature_extraction.text import HashingVectorizer  # a second to import: only texts wait

    counts = HashingVectorizer(n_features=4096, alternate_sign=False, norm="l2").transform(dataset.inputs)
    return torch.from_numpy(counts.toarray()).float()
