"""A masked language model in two halves: tokens -> hidden vectors, and the hidden vector of a [MASK] -> words.

    p(word | text with a gap) = softmax(E · T(h) + b)        h (d,): last layer at the gap, T: transform, E: word embeddings

This is the cloze task of BERT (Devlin et al. 2019, arXiv:1810.04805, §3.1). Prompts need the halves apart: soft prompts go
in as embeddings, and of a whole text only one position is read. The model that ships with the course is all-MiniLM-L6-v2
with low-rank corrections (LoRA: Hu et al. 2022, arXiv:2106.09685, eq. 3), which are added to its weights once, on loading:

    W ← W + (α / r) B A                                      A (r, d_in), B (d_out, r)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fewshot_lib.encoders import minilm_path

MINILM_MLM = Path(__file__).resolve().parents[1] / "data" / "minilm-mlm" / "weights.safetensors"
MINILM_MLM_SHA256 = "62dd3accf22cf791c9c9e27c82251015679f070dc9be982eb9f62da95bb0d6a3"

# model type -> the MLM head: hidden vectors (..., d) -> logits (..., n_vocab)
_HEADS = {
    "bert": lambda model, hidden: model.cls(hidden),
    "roberta": lambda model, hidden: model.lm_head(hidden),
    "xlm-roberta": lambda model, hidden: model.lm_head(hidden),
    "distilbert": lambda model, hidden: model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))),
}


class MaskedLM(nn.Module):
    """A transformers model with an MLM head, and its tokenizer; made by :func:`fewshot_lib.encoders.load_masked_lm`.

    In eval mode and without dropout (in ``train()`` mode too: a prompt that is tuned on five texts needs no other noise).
    Attention is the written-out one, because fused attention has no second derivative. Texts are cut to ``max_tokens``.

    Raises ValueError for an architecture that is not supported, or ``max_tokens`` beyond what the model has positions for.
    """

    def __init__(self, model: nn.Module, tokenizer, max_tokens: int = 128) -> None:
        super().__init__()
        kind = model.config.model_type
        if kind not in _HEADS:
            raise ValueError(f"`source` is a {kind!r} model, whose MLM head is not known: use one of {', '.join(map(repr, _HEADS))}.")
        positions = model.config.max_position_embeddings
        if "roberta" in kind:  # counts from the id of the padding token on
            positions -= model.config.pad_token_id + 1
        if not 3 <= max_tokens <= positions:
            raise ValueError(f"`max_tokens` is {max_tokens}: choose 3 to {positions}, as many as this model has positions for.")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.model, self.tokenizer, self.max_tokens = model.eval(), tokenizer, max_tokens
        self.hidden_size: int = model.config.hidden_size
        self.mask_token_id: int = tokenizer.mask_token_id
        self.eval()

    @property
    def word_embeddings(self) -> Tensor:
        """The vectors that go in for tokens, (n_vocab, d): no position, no type, no norm."""
        return self.model.get_input_embeddings().weight

    def tokenise(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, (n, L) int64, padded on the right to the longest of these texts.

        Raises ValueError for a single string, which Python would take for a list of letters.
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"`texts` is {texts!r}: give a list with at least one text.")
        batch = self.tokenizer(
            list(texts), padding=True, padding_side="right", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return {name: batch[name].to(self.word_embeddings.device) for name in ("input_ids", "attention_mask")}

    def hidden(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden layer (n, L, d) of tokens (n, L), or of *word* embeddings (n, L, d): the model adds the positions.

        attention_mask: (n, L), 1 where there is a token; None: everywhere. Raises ValueError unless one input is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"{given} of `input_ids` and `inputs_embeds` given: give one of them.")
        inputs = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        if attention_mask is None:
            attention_mask = torch.ones(next(iter(inputs.values())).shape[:2], device=self.word_embeddings.device)
        # what transformers would make of the mask, without looking into it: torch.vmap can then run over this method
        weights = attention_mask.to(self.word_embeddings.dtype)
        blocked = (1 - weights)[:, None, None, :] * torch.finfo(weights.dtype).min
        return self.model.base_model(**inputs, attention_mask=blocked).last_hidden_state

    def logits_at(self, hidden: Tensor) -> Tensor:
        """The MLM head on chosen positions only, (..., d) -> (..., n_vocab): most of the cost of a full pass is here."""
        return _HEADS[self.model.config.model_type](self.model, hidden)


def from_minilm(max_tokens: int = 128) -> MaskedLM:
    """The model that ships with the course: all-MiniLM-L6-v2 with the corrections and the head of ``data/minilm-mlm``.

    Raises FileNotFoundError where the file is not there, ValueError where it is not the published one.
    """
    if not MINILM_MLM.is_file():
        raise FileNotFoundError(
            f"There is no {MINILM_MLM}: it stands in the course's repository, so install fewshot_lib from a clone with `pip install -e .`."
        )
    found = hashlib.sha256(MINILM_MLM.read_bytes()).hexdigest()
    if found != MINILM_MLM_SHA256:
        raise ValueError(
            f"{MINILM_MLM} has sha256 {found}, not the published {MINILM_MLM_SHA256}: restore it with `git checkout -- data/minilm-mlm`."
        )
    with torch.random.fork_rng(devices=[]):  # the new head draws numbers, which the file then replaces
        lm = untrained(max_tokens)
    with safe_open(MINILM_MLM, framework="pt") as file:
        merge(lm.model, {name: file.get_tensor(name) for name in file.keys()}, scale=float(file.metadata()["scale"]))
    return lm


def untrained(max_tokens: int = 128) -> MaskedLM:
    """all-MiniLM-L6-v2 under a new MLM head that knows nothing yet: where training starts."""
    from transformers import AutoTokenizer, BertForMaskedLM

    path = minilm_path()
    with _quiet():
        model = BertForMaskedLM.from_pretrained(path, use_safetensors=True, attn_implementation="eager")
    return MaskedLM(model, AutoTokenizer.from_pretrained(path), max_tokens)


@torch.no_grad()
def merge(model: nn.Module, tensors: dict[str, Tensor], scale: float) -> None:
    """Adds ``scale`` · B A to the weight of every layer that has "<layer>.lora_A" and "<layer>.lora_B", and copies the rest.

    Raises ValueError for a name that the model does not have.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        target = f"{layer}.weight" if part in ("lora_A", "lora_B") else name
        if target not in parameters:
            raise ValueError(f"`tensors` has {name!r}, but the model has no {target!r}: is it another architecture?")
        if part == "lora_A":
            parameters[target] += scale * tensors[f"{layer}.lora_B"].float() @ tensor.float()
        elif part != "lora_B":
            parameters[target].copy_(tensor)


def from_hub(source: str | Path, max_tokens: int = 128) -> MaskedLM:
    """A model that ``transformers`` can load, with its own MLM head. Errors: see :func:`fewshot_lib.encoders.load_masked_lm`."""
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`source` is {str(source)!r}, which cannot be loaded: give 'minilm-mlm', a hub id such as 'bert-base-uncased' "
            f"(needs a network the first time), or a folder with config.json and model.safetensors. transformers says: {error}"
        ) from error
    if config.model_type not in _HEADS:
        kinds = ", ".join(map(repr, _HEADS))
        raise ValueError(
            f"`source` is {str(source)!r}, a {config.model_type!r} model, which is not supported: use one of the types {kinds}."
        )
    with _quiet(), torch.random.fork_rng(devices=[]):
        model, report = AutoModelForMaskedLM.from_pretrained(
            source, use_safetensors=True, attn_implementation="eager", output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"`source` is {str(source)!r}, which has no trained MLM head (missing: {', '.join(missing)}): "
            "use 'minilm-mlm', or a masked language model such as 'bert-base-uncased'."
        )
    return MaskedLM(model, AutoTokenizer.from_pretrained(source), max_tokens)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and its report on weights that are missing, which the caller judges itself."""
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
