r"""A classifier made of a masked language model, a prompt and a verbalizer:  f(x) = verbalizer(h(x; θ)).

What may move is said once, when the model is made: the soft prompt θ alone (the language model is frozen, and
shares its weights with the one that was given), θ and LoRA adapters, or θ and all weights (of a copy).
Everything else follows from ``requires_grad``: ``PromptTuning`` tunes these parameters on the support of
each episode, and chapter 04's ``MAML`` learns where they should start.

For one task the model takes a dict of tensors, to which MAML adds a task axis in front:

    ids (n, L)               tokenised texts, see ``templates``
    classes (1, N, W, P)     the words of the task's classes, see ``verbalizers.class_words``
    support (N, K, L)        the support's texts, for verbalizers that look at them; without it, the n texts
                             *are* the support, in order of class, as the inner loop's loss needs it
    cues, support_cues       where the prompt depends on the text (``meta.PromptPool``): (n, d), (N, K, d)
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_lib.core import feature_rows, one_of
from fewshot_lib.encoders import MaskedLM, add_lora
from fewshot_lib.prompts.templates import mask_features, read_mask, without_soft
from fewshot_lib.prompts.verbalizers import Verbalizer, Words


class SoftPrompt(nn.Module):
    """The same P vectors for every text: the parameter ``tokens`` (P, d)."""

    uses_cues = False

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(start.detach().clone(), requires_grad=len(start) > 0)
        self.n_soft = len(start)

    def forward(self, cues: Tensor | None = None) -> Tensor:
        return self.tokens


class PromptModel(nn.Module):
    """Language model ``lm``, ``prompt`` and ``verbalizer``: {"ids": (n, L), …} -> logits (n, N).

    prompt: where the soft tokens start (P, d), a module that makes them from cues, or None (a hard template).
        It is copied, and lm itself is never changed.
    verbalizer: makes one from the model's lm, as ``Words`` or ``lambda lm: Mixture(Words(lm), RepVerb())``.
    tune: what moves beside the prompt: "prompt" (nothing), "lora" (adapters of this rank, their start drawn
        with seed) or "all".
    """

    def __init__(
        self,
        lm: MaskedLM,
        prompt: Tensor | nn.Module | None,
        verbalizer: Callable[[MaskedLM], Verbalizer] = Words,
        *,
        tune: str = "prompt",
        rank: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one_of("tune", tune, ("prompt", "lora", "all"))
        if not isinstance(prompt, nn.Module):
            self.prompt: Any = SoftPrompt(_vectors(prompt, lm))
        else:
            self.prompt = copy.deepcopy(prompt)
        if self.prompt.uses_cues and tune != "prompt":
            reason = "the prompt depends on features of the *frozen* model"
            raise ValueError(f"`tune` is {tune!r}, but {reason}: use tune='prompt'.")
        self.lm = own_lm(lm, tune, rank, seed)
        self.verbalizer = verbalizer(self.lm)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Logits (n, N) of one task."""
        ids, cues, names = x["ids"], x.get("cues"), x["classes"][:1]
        verbalizer, n_support = self.verbalizer.on_support, 0
        if "support" in x:
            verbalizer, n_support = self.verbalizer, x["support"][..., 0].numel()
            ids = torch.cat([x["support"].flatten(0, 1), ids])
            cues = None if cues is None else torch.cat([x["support_cues"].flatten(0, 1), cues])
        features = self.features(ids, cues)
        support, query = None, features[n_support:].unsqueeze(0)
        if verbalizer.uses_support:
            support = features[: n_support or None].unflatten(0, (names.shape[1], -1)).unsqueeze(0)
        return verbalizer(support, query, names=names)[0]

    def features(self, ids: Tensor, cues: Tensor | None = None) -> Tensor:
        """[MASK] features (n, d) of ids (n, L) in one pass."""
        return read_mask(self.lm, ids, self.prompt(cues))

    @torch.no_grad()
    def cues(self, ids: Tensor) -> Tensor | None:
        """What the prompt is made from: [MASK] features (..., d) of texts without soft tokens, or None."""
        return mask_features(self.lm, without_soft(self.lm, ids)) if self.prompt.uses_cues else None

    def trainable(self, adapt: str | Sequence[str] | None = None) -> list[str]:
        """Names of the parameters that may move, or of those under the given prefixes: "prompt", "lm"."""
        prefixes = (adapt,) if isinstance(adapt, str) else adapt or ("",)
        starts = tuple(f"{prefix}." if prefix else "" for prefix in prefixes)
        names = [n for n, p in self.named_parameters() if p.requires_grad and f"{n}.".startswith(starts)]
        if not names:
            fix = "use 'prompt', 'lm' (with tune='lora' or 'all') or None"
            raise ValueError(f"`adapt` is {adapt!r}, which fits no trainable parameter: {fix}.")
        return names


def _vectors(prompt: Tensor | None, lm: MaskedLM) -> Tensor:
    """Where soft tokens start, (P, d); None: no token."""
    table = lm.word_embeddings
    vectors = table[:0] if prompt is None else feature_rows("prompt", prompt)
    if vectors.shape[1:] != table.shape[1:]:
        raise ValueError(f"`prompt` has shape {tuple(vectors.shape)}: it must be (P, {table.shape[1]}).")
    return vectors


def own_lm(lm: MaskedLM, tune: str, rank: int, seed: int) -> MaskedLM:
    """A language model of one's own: frozen with shared weights, so with new adapters, or a copy to train."""
    memo: dict[int, object] = {id(lm.tokenizer): lm.tokenizer}
    if tune != "all":  # what the memo holds is not copied: the weights are the given model's
        memo |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in lm.parameters()}
    own = copy.deepcopy(lm, memo)
    if tune == "lora":
        distilled = lm.model.config.model_type == "distilbert"
        add_lora(own.model, rank, ("q_lin", "v_lin") if distilled else ("query", "value"), seed)
    elif tune == "all":
        own.requires_grad_(True)
    return own.eval()
