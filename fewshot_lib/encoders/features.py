"""Features f(x) of a whole data set, computed once and kept on disk: episodes are then plain look-ups."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fewshot_lib.core import (
    a_list,
    bfloat16_asked,
    digest,
    evaluation_mode,
    feature_rows,
    for_model,
    whole_number,
)
from fewshot_lib.data.cache import Contents, cache_dir, cached_tensors
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.reporting import shows_progress

_PART = 2048  # examples per file of the feature cache: what an interruption can cost
_VERSION = 3  # of what is computed here: raise it where the same encoder would give other features


def encoder_fingerprint(encoder: nn.Module) -> str:
    """sha256 over the encoder's class, weights, tokenizer and settings: equal ones give equal features."""
    settings = [getattr(encoder, name, "") for name in ("max_tokens", "padding")]
    settings += [type(encoder).__qualname__, repr(encoder), _of_tokenizer(encoder)]
    found = hashlib.sha256(repr(settings).encode("utf-8", "surrogatepass"))
    for name, tensor in sorted(encoder.state_dict().items()):
        found.update(name.encode() + digest(tensor).encode())
    return found.hexdigest()


def _of_tokenizer(encoder: nn.Module) -> str:
    """All that decides which tokens a text becomes, and nothing that a call leaves behind."""
    tokenizer = getattr(encoder, "tokenizer", None)
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        rules = json.loads(fast.to_str())
        return json.dumps(
            {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}
        )
    if (vocabulary := getattr(tokenizer, "get_vocab", None)) is not None:
        return repr([type(tokenizer).__qualname__, sorted(vocabulary().items())])
    return "" if tokenizer is None else repr(tokenizer)


def check_texts(texts: Any, name: str = "texts") -> list[str]:
    """Texts as a list, from a list, an array or a pandas column.

    Raises ValueError, with the row, for what is no text, and for halves of characters (lone surrogates),
    which a tokenizer cannot read.
    """
    a_list(**{name: texts})
    is_list = isinstance(texts, Sequence) or getattr(texts, "ndim", 0) == 1
    if not is_list or not len(texts):
        found = texts if is_list else f"of type {type(texts).__name__}"
        raise ValueError(f"`{name}` is {found}: give a list with at least one text.")
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"`{name}` has {text!r} in row {row}: give texts, and leave missing ones out.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"half a character ({text[error.start]!a} at {error.start}, a lone surrogate)"
            fix = "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') mends it"
            raise ValueError(f"`{name}` has {half} in row {row}: {fix}.") from None
    return texts


def n_cut(encoder: nn.Module, texts: Sequence[str]) -> int:
    """How many texts have more tokens than the encoder reads; 0 where it does not say how many it reads."""
    most, count = getattr(encoder, "max_tokens", None), getattr(encoder, "count_tokens", None)
    if most is None or count is None:
        return 0
    # a token has at least a byte, so that most texts need not be tokenised for this
    long = [text for text in texts if len(text) + 2 > most // 4 and len(text.encode()) + 2 > most]
    return int((count(long) > most).sum()) if long else 0


class TextsCut(UserWarning):
    """Says that n of ``total`` texts are longer than an encoder reads; ``what``: the rest of the sentence."""

    def __init__(self, n: int, total: int, what: str) -> None:
        super().__init__(f"{n:,} of {total:,} {what}")
        self.n, self.what = n, what


def warn_of_cut(n: int, total: int, most: int, fix: str, stacklevel: int = 3) -> None:
    """Says that n of ``total`` texts are longer than ``most`` tokens, unless it is less than one in 1,000."""
    if n * 1000 >= max(total, 1):
        what = f"texts are longer than {most} tokens, and the rest of them is not read: {fix}."
        warnings.warn(TextsCut(n, total, what), stacklevel=stacklevel)


def _warn_of_cut(encoder: nn.Module, n: int, total: int) -> None:
    most = getattr(encoder, "max_tokens", 0)
    room = getattr(encoder, "n_positions", None) or most
    fix = f", or raise `max_tokens`, here up to {room}" if room > most else ""
    warn_of_cut(n, total, most, f"give the part of the texts that matters{fix}", 4)


def encode(encoder: nn.Module, inputs: Any, batch_size: int | None = None, label: str = "") -> Tensor:
    """Features (n, d) of all inputs in evaluation mode, on the encoder's device; no cache.

    inputs: a tensor (n, ...), n texts, or an array or a pandas column of them. Warns of texts that are cut.
    batch_size: None takes 32 on a CPU, 256 elsewhere. label: of the progress bar; without one there is none.
    """
    if batch_size is not None:
        whole_number(1, batch_size=batch_size)
    inputs = _checked(inputs)
    if not isinstance(inputs, Tensor):
        _warn_of_cut(encoder, n_cut(encoder, inputs), len(inputs))
    return _encode(encoder, inputs, batch_size, label)


def _checked(inputs: Any) -> Tensor | list[str]:
    """A tensor, from a tensor or an array of numbers; else a list of texts."""
    a_list(inputs=inputs)
    if isinstance(inputs, Tensor) or (np.size(inputs) and np.asarray(inputs).dtype.kind in "biuf"):
        return feature_rows("inputs", inputs)
    return check_texts(inputs)


@torch.no_grad()
def _encode(
    encoder: nn.Module, inputs: Tensor | list[str], batch_size: int | None = None, label: str = ""
) -> Tensor:
    if isinstance(inputs, Tensor):
        lengths = torch.zeros(len(inputs))  # as they come
    else:
        lengths = torch.tensor([len(text) for text in inputs])

    def run(rows: Tensor) -> Tensor:
        if isinstance(inputs, Tensor):
            return encoder(for_model(inputs[rows], encoder))
        return encoder([inputs[row] for row in rows])

    device, fast = _device_and_bfloat16(encoder)
    with evaluation_mode(encoder), torch.autocast(device.type, torch.bfloat16, enabled=fast):
        features = by_length(run, lengths, batch_size or _at_once(device), label)
    return features.float() if fast else features


def _at_once(device: torch.device) -> int:
    """How many inputs are quickest: on a CPU so few that what a layer makes of them mostly stays below 32 MB.

    Larger blocks the system maps anew, page by page, each time, and they leave the processor's caches.
    """
    return 32 if device.type == "cpu" else 256


def _device_and_bfloat16(encoder: nn.Module) -> tuple[torch.device, bool]:
    """Where an encoder computes, and whether in bfloat16: features are exact unless FEWSHOT_BF16=1 asks."""
    device = next(encoder.parameters(), torch.empty(0)).device
    return device, bfloat16_asked(device)


def by_length(run: Callable[[Tensor], Tensor], lengths: Tensor, batch_size: int, label: str = "") -> Tensor:
    """``run``, rows (b,) -> (b, ...), for all rows, in batches of about the same length; lengths: (n,)."""
    order = lengths.argsort(stable=True)
    batches = tqdm(order.split(batch_size), desc=label, leave=False, disable=not (label and shows_progress()))
    results = torch.cat([run(rows) for rows in batches])
    return results[order.argsort().to(results.device)]


def extract_features(encoder: nn.Module, dataset: ClassDataset) -> Tensor:
    """Features (n, d) of a whole data set, kept under a key of the data's and the encoder's content.

    Shows progress, and warns of texts that are cut. Interrupted, it goes on where it stopped: finished parts
    of 2,048 examples stay.
    """
    device, fast = _device_and_bfloat16(encoder)
    content = f"{_VERSION} {dataset.fingerprint()} {encoder_fingerprint(encoder)}{' bfloat16' * fast}"
    key = hashlib.sha256(content.encode()).hexdigest()[:24]
    starts = range(0, len(dataset), _PART)
    if not isinstance(dataset.inputs, Tensor):
        check_texts(dataset.inputs)

    def part(number: int) -> Contents:
        rows = range(len(dataset))[starts[number] : starts[number] + _PART]
        label = f"features of {dataset.name}, part {number + 1} of {len(starts)}"
        inputs = dataset.take(rows)
        features = _encode(encoder, inputs, label=label)
        feature_rows(
            f"features` of {dataset.name} (part {number + 1}), by `{type(encoder).__name__}", features
        )
        cut = 0 if isinstance(inputs, Tensor) else n_cut(encoder, inputs)
        kept = features.bfloat16() if fast else features  # no more digits than were computed
        return {"features": kept}, {"dataset": dataset.name, "key": key, "cut": str(cut)}

    def check(number: int, kept: Contents) -> None:
        tensors, facts = kept
        needed = min(_PART, len(dataset) - starts[number])
        if facts.get("key") != key or "cut" not in facts or len(tensors.get("features", ())) != needed:
            raise ValueError(f"does not hold the features of the {needed:,} examples it is for")

    parts, n_of_cut = [], 0
    for number in range(len(starts)):
        file = cache_dir("features", key) / f"{number:05d}.safetensors"
        tensors, facts = cached_tensors(file, partial(part, number), partial(check, number))
        parts.append(tensors["features"].float() if fast else tensors["features"])
        n_of_cut += int(facts["cut"])
    _warn_of_cut(encoder, n_of_cut, len(dataset))
    return torch.cat(parts).to(device)


def raw_features(dataset: ClassDataset) -> Tensor:
    """No encoder at all: pixels (n, c·h·w) in 0..1, or, for texts, 4,096 hashed word counts of length 1."""
    if isinstance(dataset.inputs, Tensor):
        return dataset.inputs.flatten(1).float() / (255 if dataset.inputs.dtype == torch.uint8 else 1)
    from sklearn.feature_extraction.text import HashingVectorizer  # a second to import: only texts wait

    counts = HashingVectorizer(n_features=4096, alternate_sign=False, norm="l2").transform(dataset.inputs)
    return torch.from_numpy(counts.toarray()).float()
