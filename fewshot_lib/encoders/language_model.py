"""A masked language model in two halves: tokens -> hidden vectors, and the vector at a gap -> words.

    p(word | text with a gap) = softmax(E · T(h) + b)        h (d,): last layer at the gap, E: word embeddings

This is the cloze task of BERT (Devlin et al. 2019, arXiv:1810.04805, §3.1). Prompts need the halves apart:
soft prompts go in as embeddings, and of a whole text only one position is read. The model that ships with the
course is all-MiniLM-L6-v2 with low-rank corrections (LoRA: Hu et al. 2022, arXiv:2106.09685, eq. 3), which
are added to its weights once, on loading:

    W ← W + (α / r) B A                                      A (r, d_in), B (d_out, r)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.core import extra
from fewshot_lib.data.cache import read_tensors
from fewshot_lib.encoders.features import check_texts, n_cut, warn_of_cut
from fewshot_lib.encoders.installed import shipped_file
from fewshot_lib.encoders.text import check_max_tokens, count, loading, minilm_path, positions_of, quiet

MINILM_MLM = Path(__file__).with_name("minilm_mlm.safetensors")
MINILM_MLM_SHA256 = "62dd3accf22cf791c9c9e27c82251015679f070dc9be982eb9f62da95bb0d6a3"

# model type -> T, the part of the MLM head that comes before the rows of the decoder: (..., d) -> (..., d)
TRANSFORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, h: model.cls.predictions.transform(h),
    "roberta": lambda model, h: model.lm_head.layer_norm(F.gelu(model.lm_head.dense(h))),
    "distilbert": lambda model, h: model.vocab_layer_norm(model.activation(model.vocab_transform(h))),
}
TRANSFORMS["xlm-roberta"] = TRANSFORMS["roberta"]


class MaskedLM(nn.Module):
    """A transformers model with an MLM head, and its tokenizer; made by ``load_masked_lm``.

    In eval mode and without dropout (in ``train()`` mode too: a prompt that is tuned on five texts needs no
    other noise). Attention is the written-out one, because fused attention has no second derivative.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = 128) -> None:
        super().__init__()
        self.n_positions = positions_of(model)
        check_max_tokens(max_tokens, self.n_positions)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, int(max_tokens)
        self.hidden_size: int = model.config.hidden_size
        self.mask_token_id: int = tokenizer.mask_token_id
        self.eval()

    @property
    def word_embeddings(self) -> Tensor:
        """The vectors that go in for tokens, (n_vocab, d): no position, no type, no norm."""
        return self.model.get_input_embeddings().weight

    @property
    def decoder(self) -> nn.Linear:
        """The last layer of the head: E as its weight (n_vocab, d), b as its bias (n_vocab,)."""
        return self.model.get_output_embeddings()

    def tokenise(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``tokens`` and ``attention_mask`` for ``hidden``, (n, L), padded on the right to the longest."""
        texts = check_texts(texts)
        warn_of_cut(n_cut(self, texts), len(texts), self.max_tokens, "load the model with more `max_tokens`")
        cut = {"truncation": True, "max_length": self.max_tokens}
        batch = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", **cut)
        batch = batch.to(self.word_embeddings.device)
        return {"tokens": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def count_tokens(self, texts: Sequence[str]) -> Tensor:
        """How many tokens each text has, (n,), with the two around it; more than max_tokens are cut."""
        return count(self.tokenizer, texts)

    def hidden(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden layer (n, L, d) of token ids (n, L), or of *word* embeddings (n, L, d).

        The model itself adds the positions. attention_mask: (n, L), 1 where a token is real; None: all are.
        """
        vectors = tokens if tokens.is_floating_point() else self.word_embeddings[tokens]
        if attention_mask is None:
            attention_mask = vectors.new_ones(vectors.shape[:2])
        weights = attention_mask.to(self.word_embeddings.dtype)
        # what transformers would make of the mask, without looking into it: so vmap can run over this method
        blocked = (1 - weights)[:, None, None, :] * torch.finfo(weights.dtype).min
        return self.model.base_model(inputs_embeds=vectors, attention_mask=blocked).last_hidden_state

    def transform(self, hidden: Tensor) -> Tensor:
        """T(h), what the decoder's rows are multiplied with: (..., d) -> (..., d)."""
        return TRANSFORMS[self.model.config.model_type](self.model, hidden)

    def logits_at(self, hidden: Tensor) -> Tensor:
        """The MLM head, the dear part of a full pass, on chosen positions: (..., d) -> (..., n_vocab)."""
        return self.decoder(self.transform(hidden))


def load_masked_lm(source: str | Path = "minilm-mlm", max_tokens: int = 128) -> MaskedLM:
    """A model that fills gaps in texts: tokens or word embeddings -> hidden vectors -> logits over words.

    source: "minilm-mlm" (small, ships with the course: see data/minilm-mlm.md), or a hub id such as
    "bert-base-uncased" or the path of a folder: a BERT, RoBERTa or DistilBERT with a trained MLM head. Texts
    are cut to ``max_tokens`` tokens.
    """
    if source == "minilm":
        raise ValueError("`source` is 'minilm', an encoder, which cannot fill gaps: use 'minilm-mlm'.")
    return _from_minilm(max_tokens) if source == "minilm-mlm" else _from_hub(source, max_tokens)


def _from_minilm(max_tokens: int) -> MaskedLM:
    """all-MiniLM-L6-v2 with the corrections and the head of the shipped file, verified."""
    tensors, metadata = read_tensors(shipped_file(MINILM_MLM, MINILM_MLM_SHA256))
    with torch.random.fork_rng(devices=[]):  # the new head draws numbers, which the file then replaces
        lm = untrained(max_tokens)
    merge(lm.model, tensors, scale=float(metadata["scale"]))
    return lm


def untrained(max_tokens: int = 128) -> MaskedLM:
    """all-MiniLM-L6-v2 under a new MLM head that knows nothing yet: where training starts."""
    with extra("text"):
        from transformers import AutoTokenizer, BertForMaskedLM

    path = minilm_path()
    with quiet():
        model = BertForMaskedLM.from_pretrained(path, use_safetensors=True, attn_implementation="eager")
    return MaskedLM(model, AutoTokenizer.from_pretrained(path), max_tokens)


@torch.no_grad()
def merge(model: nn.Module, tensors: dict[str, Tensor], scale: float) -> None:
    """Adds ``scale`` · B A to every layer with "<layer>.lora_A" and "<layer>.lora_B"; copies the rest."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        target = f"{layer}.weight" if part in ("lora_A", "lora_B") else name
        if target not in parameters:
            missing = f"the model has no {target!r}: is it another architecture?"
            raise ValueError(f"`tensors` has {name!r}, but {missing}")
        if part == "lora_A":
            parameters[target].add_(scale * tensors[f"{layer}.lora_B"].float() @ tensor.float())
        elif part != "lora_B":
            parameters[target].copy_(tensor)


def _from_hub(source: str | Path, max_tokens: int) -> MaskedLM:
    """A model that ``transformers`` can load, with its own MLM head."""
    with extra("text"):
        from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    with loading(source, "'minilm-mlm'") as path:
        kind = AutoConfig.from_pretrained(path).model_type
    if kind not in TRANSFORMS:
        fix = f"use one of the types {', '.join(map(repr, TRANSFORMS))}"
        raise ValueError(f"`source` is a {kind!r} model, which is not supported: {fix}.")
    with loading(source, "'minilm-mlm'") as path, torch.random.fork_rng(devices=[]):
        model, report = AutoModelForMaskedLM.from_pretrained(
            path, use_safetensors=True, attn_implementation="eager", output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    if missing := ", ".join(sorted(report["missing_keys"])):
        fix = "use 'minilm-mlm', or a masked language model such as 'bert-base-uncased'"
        raise ValueError(
            f"`source` is {str(source)!r}, with no trained MLM head (missing: {missing}): {fix}."
        )
    return MaskedLM(model, tokenizer, max_tokens)
