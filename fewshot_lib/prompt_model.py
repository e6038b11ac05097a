r"""A classifier made of a masked language model, a prompt and a verbalizer:  f(x) = verbalizer(h(x; θ)).

What may move is said once, when the model is made: the soft prompt θ alone (the language model is frozen, and its weights
are shared with the one that was given), θ and LoRA adapters, or θ and all weights (of a copy). Everything else follows from
``requires_grad``: ``prompt_tuning`` tunes these parameters on the support of each episode, and chapter 04's ``MAML`` learns
where they should start.

For one task the model takes a dict of tensors, to which MAML adds a task axis in front:

    ids (n, L)               tokenised texts, see ``prompts``
    classes (1, N, W, P)     the words of the task's classes, see ``verbalizers.class_words``
    support (N, K, L)        the support's texts, for verbalizers that look at them; without it, the n texts *are* the
                             support, in order of class: so the same model gives the support's loss and the queries' answers
                             (of a mixture of words and examples, the support's loss has the words only: ``PromptModel.inner``)
    cues, support_cues       where the prompt depends on the text (``metaprompter``): (n, d), (N, K, d)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fewshot_lib.episodes import Episodes
from fewshot_lib.finetune import one_of
from fewshot_lib.maml import Tasks
from fewshot_lib.masked_lm import MaskedLM
from fewshot_lib.prompts import Template, check_soft_tokens, mask_features, read_mask, trimmed, without_soft
from fewshot_lib.verbalizers import Verbalizer, Words

TUNE = ("prompt", "lora", "all")


class SoftPrompt(nn.Module):
    """The same P vectors for every text: the parameter ``tokens`` (P, d)."""

    uses_cues = False

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(start.detach().clone(), requires_grad=len(start) > 0)

    @property
    def n_soft(self) -> int:
        """P."""
        return len(self.tokens)

    def forward(self, cues: Tensor | None = None) -> Tensor:
        return self.tokens


class PromptModel(nn.Module):
    """Language model ``lm``, ``prompt`` and ``verbalizer``: {"ids": (n, L), "classes": (1, N, W, P), ...} -> logits (n, N).

    prompt: where the soft tokens start (P, d), a module that makes them from cues, or None for a hard template.
    verbalizer: makes one from the model's lm, for instance ``Words``, or ``lambda lm: Mixture(Words(lm), RepVerb())``.
    tune: what moves beside the prompt: "prompt" (nothing), "lora" (adapters of this rank, their start drawn with seed) or "all".

    ``lm`` and ``prompt`` themselves are never changed. Raises ValueError for another tune, a prompt from cues beside a model
    that moves, and a verbalizer that passes no gradient.
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
        one_of("tune", tune, TUNE)
        if prompt is None:
            prompt = lm.word_embeddings[:0]
        self.prompt = SoftPrompt(prompt) if isinstance(prompt, Tensor) else copy.deepcopy(prompt)
        if self.prompt.uses_cues and tune != "prompt":
            raise ValueError(f"`tune` is {tune!r}, but the prompt depends on features of the *frozen* model: use tune='prompt'.")
        self.lm = own_lm(lm, tune, rank, seed)
        self.verbalizer = verbalizer(self.lm)
        if not self.verbalizer.differentiable:
            raise ValueError(
                f"`verbalizer` is {self.verbalizer.name}, which passes no gradient to a prompt: let `PromptTuning` answer with it."
            )

    def with_verbalizer(self, verbalizer: Callable[[MaskedLM], Verbalizer]) -> PromptModel:
        """The same prompt and language model, not copied, under another verbalizer."""
        other = copy.copy(self)
        other._modules = {**self._modules, "verbalizer": verbalizer(self.lm)}
        return other

    @property
    def inner(self) -> PromptModel:
        """The same model as the inner loop has it, whose texts are their own support: under ``Verbalizer.inner``, not copied."""
        return self.with_verbalizer(lambda _: self.verbalizer.inner)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Logits (n, N) of one task."""
        model = self if "support" in x else self.inner
        classes, n_support = x["classes"][:1], 0
        ids, cues = x["ids"], x.get("cues")
        if "support" in x:
            n_support = x["support"].shape[0] * x["support"].shape[1]
            ids = torch.cat([x["support"].flatten(0, 1), ids])
            cues = None if cues is None else torch.cat([x["support_cues"].flatten(0, 1), cues])
        features = self.features(ids, cues)
        support = None
        if model.verbalizer.uses_support:
            support = features[: n_support or None].unflatten(0, (classes.shape[1], -1)).unsqueeze(0)
        return model.verbalise(support, features[n_support:].unsqueeze(0), {"labels": classes})[0]

    def features(self, ids: Tensor, cues: Tensor | None = None) -> Tensor:
        """[MASK] features (n, d) of ids (n, L) in one pass."""
        return read_mask(self.lm, ids, self.prompt(cues))

    def verbalise(self, support: Tensor | None, query: Tensor, extra: dict[str, Tensor]) -> Tensor:
        """Features (E, N, K, d) and (E, M, d), words of the classes and masks, as far as there are some -> logits (E, M, N)."""
        wanted = {"labels", "support_mask"} | ({"query_mask"} if self.verbalizer.transductive else set())
        return self.verbalizer(support, query, **{name: value for name, value in extra.items() if name in wanted})

    @torch.no_grad()
    def cues(self, ids: Tensor) -> Tensor | None:
        """What the prompt is made from: [MASK] features (..., d) of the texts (..., L) without soft tokens; None if it is not."""
        return mask_features(self.lm, without_soft(self.lm, ids)) if self.prompt.uses_cues else None

    def trainable(self, adapt: str | Sequence[str] | None = None) -> list[str]:
        """Names of the parameters that may move, or of those under the given prefixes: "prompt", "lm"."""
        prefixes = (adapt,) if isinstance(adapt, str) else adapt
        names = [n for n, p in self.named_parameters() if p.requires_grad]
        found = [n for n in names if prefixes is None or n.startswith(tuple(f"{prefix}." for prefix in prefixes))]
        if not found:
            raise ValueError(
                f"`adapt` is {adapt!r}, which fits no trainable parameter: use 'prompt', 'lm' (with tune='lora' or 'all') or None."
            )
        return found


def own_lm(lm: MaskedLM, tune: str = "prompt", rank: int = 8, seed: int = 0) -> MaskedLM:
    """A language model of one's own: frozen and with shared weights, the same with new LoRA adapters, or a copy to train."""
    memo: dict[int, object] = {id(lm.tokenizer): lm.tokenizer}
    if tune != "all":
        memo |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in lm.parameters()}
    own = copy.deepcopy(lm, memo)
    if tune == "lora":
        from peft import LoraConfig, inject_adapter_in_model  # seconds to import: only those who use it wait for it

        targets = ["q_lin", "v_lin"] if lm.model.config.model_type == "distilbert" else ["query", "value"]
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            torch.manual_seed(seed)
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), own.model)
    elif tune == "all":
        own.requires_grad_(True)
    return own.eval()


def prompt_tasks(model: PromptModel, episodes: Episodes, ids: Tensor, class_words: Tensor, cues: Tensor | None = None) -> Tasks:
    """Episodes as tasks for ``MAML``: ids (n, L) and cues (n, d) of the whole data set, class_words (C, W, P).

    Raises ValueError for padded episodes, ids with more soft tokens than the prompt, and where it needs cues that are missing.
    """
    if episodes.is_padded:
        raise ValueError("`episodes` are padded, and tasks that are learnt together have one size: sample with numbers, not ranges.")
    if model.prompt.uses_cues and cues is None:
        raise ValueError("`cues` is missing, and the prompt is made from them: give model.cues(ids).")
    check_soft_tokens(ids, model.prompt.n_soft)
    e, n_way, n_shot = episodes.support.shape
    labels = torch.arange(n_way, device=ids.device).repeat_interleave(n_shot).expand(e, -1)
    support, query = trimmed(model.lm, ids[episodes.support], ids[episodes.query])
    words = {"classes": class_words[episodes.classes].unsqueeze(1)}
    asked, answered = {"ids": support.flatten(1, 2), **words}, {"ids": query, **words}
    if model.prompt.uses_cues:
        asked["cues"], answered["cues"] = cues[episodes.support].flatten(1, 2), cues[episodes.query]
    if model.verbalizer.uses_support:
        answered["support"] = support
        if model.prompt.uses_cues:
            answered["support_cues"] = cues[episodes.support]
    return Tasks(asked, labels, answered, episodes.query_labels)


class MaskEncoder(nn.Module):
    """Texts -> [MASK] features (n, d) in a hard template: an encoder for ``extract_features``, which keeps them in the cache."""

    def __init__(self, lm: MaskedLM, template: Template) -> None:
        super().__init__()
        if template.words(lm):
            raise ValueError(f"`template` is {template.pattern!r}, with soft tokens: use template.hard.")
        self.lm, self.template, self.max_tokens, self.n_features = lm, template, lm.max_tokens, lm.hidden_size
        self.eval()

    def forward(self, texts: Sequence[str]) -> Tensor:
        return mask_features(self.lm, self.template.tokenise(self.lm, texts))

    def extra_repr(self) -> str:
        return repr(self.template.pattern)
