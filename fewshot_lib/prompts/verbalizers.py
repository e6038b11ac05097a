r"""Verbalizers: from what the model says at the gap to a class.

A verbalizer turns the [MASK] feature h (d,) of a text into a score for each of N classes:

    (1)  words            s_k = e_k · T(h) + b_k       e_k, b_k: means of E_w, b_w over the class's words, and
                                                       over a word's pieces
    (2)  calibrated       s_k = e_k · (T(h) − t)       t: mean of T(h) over other texts
    (3)  label embedding  s_k = cos(T(h) − t, e_k) / τ
    (4)  RepVerb          s_k = cos(h − m, c_k) / τ    c_k: mean of h − m over the class's support
    (5)  mixture          p = Σ_i λ_i Softmax(s⁽ⁱ⁾)    words and examples

(1): the logits of the masked language model (Schick and Schütze 2021, arXiv:2001.07676). (2) is (1) minus its
mean over the other texts, so that no class is likely whatever a text says (Zhao et al. 2021,
arXiv:2102.09690, on prompts in general). (4) and (5): MetaPrompter (Jiang et al. 2023, arXiv:2306.00618). The
texts whose means t and m are may be the support, or any texts that do not belong to the episode;
MetaPrompter's code takes support *and* queries, which makes it transductive.

A verbalizer is also a few-shot *method* on [MASK] features (n, d) as ``mask_features`` computes them:
support (E, N, K, d), query (E, M, d), and as ``names`` the words of the classes (E, N, W, P) -> (E, M, N).
"""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_lib.core import feature_rows, one_of
from fewshot_lib.encoders import MaskedLM, check_texts
from fewshot_lib.prompts.templates import word_ids
from fewshot_lib.prototypes import class_means, cosine_logits

IGNORED = {"the", "and", "of", "a"}


def class_words(
    lm: MaskedLM, class_names: Sequence[str], words: Mapping[str, Sequence[str]] | None = None
) -> Tensor:
    """The words that stand for each class, as ids of their pieces (C, W, P), filled up with −1: ``names``.

    A class is called what its name says ("torch autograd": torch, autograd; without "the", "and", "of", "a"),
    or what ``words`` has for its name: ``{"sci.space": ["space", "orbit"]}``.
    Classes with the same words get the same logits, which a warning says. (MetaPrompting has the first piece
    of a word only.)
    """
    class_names = check_texts(class_names, "class_names")
    words = dict(words or {})
    if unknown := sorted(set(words) - set(class_names)):
        raise ValueError(f"`words` has {unknown[0]!r}, which is no class name: use those in `class_names`.")
    words = {name: check_texts(given, f"words[{name!r}]") for name, given in words.items()}
    classes: list[list[list[int]]] = []
    for name in class_names:
        plain = [word for word in re.findall(r"\w+", name.replace("_", " ").lower()) if word not in IGNORED]
        ids = word_ids(lm, [f" {word}" for word in words.get(name, plain)])
        ids = [each for each in ids if each and lm.tokenizer.unk_token_id not in each]
        if not ids:
            way_out = f"give some as `words={{{name!r}: [...]}}`, or give the class another name in your data"
            raise ValueError(f"`class_names` has {name!r}, which holds no word that is known: {way_out}.")
        classes.append(ids)
    _warn_of_same(class_names, classes)
    longest = max(len(each) for ids in classes for each in ids)
    table = torch.full((len(classes), max(map(len, classes)), longest), -1)
    for c, ids in enumerate(classes):
        for w, each in enumerate(ids):
            table[c, w, : len(each)] = torch.tensor(each)
    return table.to(lm.word_embeddings.device)


def _warn_of_same(class_names: Sequence[str], classes: Sequence[list[list[int]]]) -> None:
    """Says once which classes cannot be told apart by their words."""
    named = defaultdict(list)
    for name, ids in zip(class_names, classes, strict=True):
        named[str(sorted(ids))].append(repr(name))
    if same := [names for names in named.values() if len(names) > 1]:
        found = "; ".join(", ".join(names) for names in same)
        fix = "give them words of their own, as `words={name: [...]}`, or other names in your data"
        warnings.warn(f"Classes with the same words get the same logits ({found}): {fix}.", stacklevel=3)


class Verbalizer(nn.Module):
    """The declarations of a method, and whether it looks at the support.

    ``forward`` takes support (E, N, K, d) (or None), query (E, M, d), and by name, as far as there is one,
    names (E, N, W, P), support_mask (E, N, K) and query_mask (E, M) -> logits (E, M, N).
    """

    transductive = False
    uses_names = False
    uses_support = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def on_support(self) -> Verbalizer:
        """What answers in an inner loop, where texts are their own support: itself, or a part of it."""
        return self


class Centred(Verbalizer):
    """A verbalizer whose features are centred: by ``mean``, what t of (2) and (3) and m of (4) are.

    centre: the mean over the "support", over "both" support and queries (transductive), or over given
    features (n, d) or (d,) of other texts; None: no centring.
    """

    fixed: Tensor | None

    def __init__(self, name: str, centre: str | Tensor | None, d: int | None = None) -> None:
        super().__init__(name)
        fixed = None
        if centre is not None and not isinstance(centre, str):
            centre = feature_rows("centre", centre)
            if not 1 <= centre.dim() <= 2 or not len(centre) or d not in (None, centre.shape[-1]):
                fix = f"it must be (n, {d or 'd'}), the features of at least one text"
                raise ValueError(f"`centre` is {tuple(centre.shape)}: {fix}.")
            fixed, centre = self.transformed(torch.atleast_2d(centre)).mean(0).detach(), None
        one_of("centre", centre, ("support", "both", None))
        self.centre, self.transductive = centre, centre == "both"
        self.register_buffer("fixed", fixed)

    def transformed(self, features: Tensor) -> Tensor:
        """Features (..., d) as they are compared, (..., d): here as they are."""
        return features

    def mean(
        self,
        support: Tensor | None,
        query: Tensor,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """The mean of features (E, N, K, d), (E, M, d) that are real: (E, 1, d), or (d,)."""
        if self.centre is None or support is None:
            return query.new_zeros(query.shape[-1]) if self.fixed is None else self.fixed
        real = torch.ones_like(support[..., 0]) if support_mask is None else support_mask
        features, real = support.flatten(-3, -2), real.flatten(-2)
        if self.centre == "both":
            asked = torch.ones_like(query[..., 0]) if query_mask is None else query_mask
            features, real = torch.cat([features, query], -2), torch.cat([real, asked], -1)
        return class_means(features, real).unsqueeze(-2)


class Words(Centred):
    """Equations (1) and (2): the mean MLM logit of a class's word pieces; only their rows of E are computed.

    centre: None for (1), else what t of (2) is the mean over; without the support in it, for instance over
    features of training classes, this is zero-shot classification.
    """

    lm: MaskedLM
    uses_names = True

    def __init__(self, lm: MaskedLM, centre: str | Tensor | None = None, name: str = "label words") -> None:
        # not registered: ``functional_call`` puts back wrong weights of a module that has two names
        object.__setattr__(self, "lm", lm)
        super().__init__(name, centre, lm.hidden_size)
        self.uses_support = self.centre is not None

    def forward(self, support: Tensor | None, query: Tensor, names: Tensor, **masks: Tensor | None) -> Tensor:
        query = self.transformed(query)
        support = self.transformed(support) if support is not None and self.uses_support else None
        return self.compare(query - self.mean(support, query, **masks), *self.class_rows(names))

    def compare(self, transformed: Tensor, rows: Tensor, biases: Tensor) -> Tensor:
        """T(h) − t (E, M, d), e_k (E, N, d) and b_k (E, N) -> (E, M, N)."""
        products = transformed @ rows.transpose(-1, -2)
        return products + biases.unsqueeze(-2) if self.centre is None and self.fixed is None else products

    def transformed(self, features: Tensor) -> Tensor:
        return self.lm.transform(features)

    def class_rows(self, names: Tensor) -> tuple[Tensor, Tensor]:
        """e_k and b_k: word pieces (..., W, P) -> (..., d), (...)."""
        decoder, known = self.lm.decoder, names >= 0
        of_word = known / known.sum(-1, keepdim=True).clamp_min(1)
        share = of_word / known.any(-1).sum(-1)[..., None, None].clamp_min(1)
        share, ids = share.to(decoder.weight.dtype), names.clamp_min(0)
        rows = (share.unsqueeze(-1) * decoder.weight[ids]).sum((-3, -2))
        return rows, (share * decoder.bias[ids]).sum((-2, -1))


class LabelEmbedding(Words):
    """Equation (3): the cosine with the mean embedding of a class's words, whatever their frequencies."""

    def __init__(self, lm: MaskedLM, centre: str | Tensor | None = None, temperature: float = 0.1) -> None:
        super().__init__(lm, centre, "label embedding")
        self.temperature = temperature

    def compare(self, transformed: Tensor, rows: Tensor, biases: Tensor) -> Tensor:
        return cosine_logits(transformed, rows, self.temperature)


class RepVerb(Centred):
    """Equation (4)."""

    def __init__(self, temperature: float = 0.1, centre: str | Tensor | None = "support") -> None:
        super().__init__("RepVerb", centre)
        self.temperature = temperature

    def forward(self, support: Tensor, query: Tensor, names: object = None, **masks: Tensor | None) -> Tensor:
        m = self.mean(support, query, **masks)
        means = class_means(support - m.unsqueeze(-2), masks.get("support_mask"))
        return cosine_logits(query - m, means, self.temperature)


class Mixture(Verbalizer):
    """Equation (5): the weighted mean of the parts' probabilities; its logits are their logarithm.

    Where a text is its own support, a part that only compares examples is as good as certain of the right
    answer (at one shot the text *is* the mean of its class), and would silence the words: ``on_support`` is
    the mixture of the parts with words.
    """

    def __init__(self, *parts: Verbalizer, weights: Sequence[float] | None = None) -> None:
        super().__init__(" + ".join(part.name for part in parts))
        weights = [1 / len(parts) for _ in parts] if weights is None else list(weights)
        fits = bool(parts) and len(weights) == len(parts) and all(weight > 0 for weight in weights)
        if not fits or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"`weights` are {weights} for {len(parts)} parts: give positive ones of sum 1.")
        self.parts: Any = nn.ModuleList(parts)
        self.weights = weights
        for declared in ("transductive", "uses_names", "uses_support"):
            setattr(self, declared, any(getattr(part, declared) for part in parts))

    @property
    def on_support(self) -> Verbalizer:
        """The parts that know the words of the classes; itself if none does."""
        pairs = zip(self.parts, self.weights, strict=True)
        named = [(part.on_support, weight) for part, weight in pairs if part.uses_names]
        if len(named) < 2:
            return named[0][0] if named else self
        total = sum(weight for _, weight in named)
        return Mixture(*(part for part, _ in named), weights=[weight / total for _, weight in named])

    def forward(self, support: Tensor | None, query: Tensor, **extra: Any) -> Tensor:
        log_p = [
            part(support, query, **extra).log_softmax(-1) + math.log(weight)
            for part, weight in zip(self.parts, self.weights, strict=True)
        ]
        return torch.stack(log_p).logsumexp(0)
