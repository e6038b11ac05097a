r"""Verbalizers: from what the model says at the gap to a class.

A verbalizer turns the [MASK] feature h (d,) of a text into a score for each of N classes:

    (1)  words            s_k = e_k · T(h) + b_k,       e_k, b_k: means over the class's words, and a word's pieces, of E_w, b_w
    (2)  calibrated       s_k = e_k · (T(h) − t)        t: mean of T(h) over other texts, so that no class is likely anyway
    (3)  label embedding  s_k = cos(T(h) − t, e_k) / τ
    (4)  RepVerb          s_k = cos(h − m, c_k) / τ,    c_k = mean over the support of class k of h − m: examples, no words
    (5)  ProtoVerb        s_k = cos(V h, c_k) / τ,      V and the c_k trained on the support
    (6)  mixture          p = Σ_i λ_i Softmax(s⁽ⁱ⁾)     words and examples

(1): the logits of the masked language model (Schick and Schütze 2021, arXiv:2001.07676). (2) is (1) minus its mean over the
other texts (Zhao et al. 2021, arXiv:2102.09690, on prompts in general). (4) and (6): MetaPrompter (Jiang et al. 2023,
arXiv:2306.00618). (5): Cui et al. 2022, arXiv:2203.09770. The texts whose means t and m are may be the support, or any
texts that do not belong to the episode; MetaPrompter's code takes support *and* queries, which makes it transductive.

A verbalizer is also a few-shot *method* on [MASK] features (n, d) as ``prompts.mask_features`` computes them: support
(E, N, K, d), query (E, M, d), and as ``labels`` the words of the classes (E, N, W, P) -> logits (E, M, N).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.finetune import check_steps, descend, masked_mean, one_of
from fewshot_lib.masked_lm import MaskedLM
from fewshot_lib.prompts import word_ids
from fewshot_lib.prototypes import class_means, cosine_logits, mask_ways

IGNORED = {"the", "and", "of", "a"}

# model type -> the T of equation (1)
_TRANSFORMS = {
    "bert": lambda model, h: model.cls.predictions.transform(h),
    "roberta": lambda model, h: model.lm_head.layer_norm(F.gelu(model.lm_head.dense(h))),
    "distilbert": lambda model, h: model.vocab_layer_norm(model.activation(model.vocab_transform(h))),
}


def class_words(lm: MaskedLM, class_names: Sequence[str], words: Mapping[str, Sequence[str]] | None = None, pieces: str = "all") -> Tensor:
    """The words that stand for each class, as ids of their pieces (C, W, P), filled up with −1: what ``evaluate`` gets as labels.

    A class is called what its name says ("torch autograd": torch, autograd; without "the", "and", "of", "a"), or what
    ``words`` has for its name: ``{"sci.space": ["space", "orbit"]}``. pieces: "all" of a word, or its "first", as in
    MetaPrompting. Raises ValueError for a class without a word, and for words of a class that does not exist.
    """
    one_of("pieces", pieces, ("all", "first"))
    words = dict(words or {})
    if foreign := sorted(set(words) - set(class_names)):
        raise ValueError(f"`words` has {foreign[0]!r}, which is no class name: use the names as they stand in `class_names`.")
    found = []
    for name in class_names:
        chosen = words.get(name, [w for w in re.findall(r"\w+", name.replace("_", " ").lower()) if w not in IGNORED])
        ids = [each for each in (word_ids(lm, f" {word}") for word in chosen) if each and lm.tokenizer.unk_token_id not in each]
        if not ids:
            raise ValueError(f"`class_names` has {name!r}, which holds no word that is known: give some as `words={{{name!r}: [...]}}`.")
        ids = [each[:1] for each in ids] if pieces == "first" else ids
        found.append(ids)
    table = torch.full((len(found), max(map(len, found)), max(len(p) for ids in found for p in ids)), -1)
    for c, ids in enumerate(found):
        for w, parts in enumerate(ids):
            table[c, w, : len(parts)] = torch.tensor(parts)
    return table.to(lm.word_embeddings.device)


class Verbalizer(nn.Module):
    """What all verbalizers share: the declarations of a method; whether they look at the support, and at the language model's
    head; and whether a gradient can pass through them to the features."""

    transductive = False
    uses_labels = False
    uses_support = True
    uses_head = False
    differentiable = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def inner(self) -> Verbalizer:
        """What answers in an inner loop, where the texts are their own support: itself, or a part of it, see ``Mixture``."""
        return self


class Centred(Verbalizer):
    """A verbalizer whose features are centred. centre: their mean over the "support", over "both" support and queries
    (transductive), or over given features (n, d) or (d,) of other texts; None: they are not.

    ValueError for another centre, or one of another width than d.
    """

    def __init__(self, name: str, centre: str | Tensor | None, d: int | None = None) -> None:
        super().__init__(name)
        given = isinstance(centre, Tensor)
        if not given:
            one_of("centre", centre, ("support", "both", None))
        elif not 1 <= centre.dim() <= 2 or not len(centre) or d not in (None, centre.shape[-1]):
            raise ValueError(f"`centre` is {tuple(centre.shape)}: it must be (n, {d or 'd'}), the features of at least one text.")
        self.over, self.transductive = None if given else centre, not given and centre == "both"
        self.register_buffer("fixed", self.transformed(torch.atleast_2d(centre)).mean(0).detach() if given else None)

    def transformed(self, features: Tensor) -> Tensor:
        """Features (..., d) as they are compared, (..., d): here as they are."""
        return features

    def mean(self, support: Tensor | None, query: Tensor, support_mask: Tensor | None, query_mask: Tensor | None) -> Tensor:
        """The mean of features (E, N, K, d), (E, M, d) that are real: (E, 1, d), or (d,)."""
        if self.over is None:
            return query.new_zeros(query.shape[-1]) if self.fixed is None else self.fixed
        examples, masks = [support.flatten(-3, -2)], [None if support_mask is None else support_mask.flatten(-2)]
        if self.over == "both":
            examples, masks = [*examples, query], [*masks, query_mask]
        masks = [x.new_ones(x.shape[:-1]) if mask is None else mask.to(x.dtype) for x, mask in zip(examples, masks, strict=True)]
        weights = torch.cat(masks, -1).unsqueeze(-1)
        return (torch.cat(examples, -2) * weights).sum(-2, keepdim=True) / weights.sum(-2, keepdim=True)


class Words(Centred):
    """Equations (1) and (2): the mean MLM logit of a class's word pieces. Only their rows of the decoder are computed.

    centre: None for (1), else what t of (2) is the mean over, see ``Centred``; features of other texts are, for instance,
    those of training classes. Without the support in it, this is zero-shot classification.
    """

    uses_labels, uses_support, uses_head = True, False, True

    def __init__(self, lm: MaskedLM, centre: str | Tensor | None = None, name: str = "label words") -> None:
        self.__dict__["lm"] = lm  # not registered: ``functional_call`` puts back wrong weights of a module that has two names
        super().__init__(name, centre, lm.hidden_size)
        self.uses_support = self.over is not None

    def forward(
        self,
        support: Tensor | None,
        query: Tensor,
        labels: Tensor,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """support (E, N, K, d), query (E, M, d), labels (E, N, W, P) -> logits (E, M, N)."""
        query, support = self.transformed(query), self.transformed(support) if self.uses_support else None
        centred = query - self.mean(support, query, support_mask, query_mask)
        return mask_ways(self.compare(centred, *self.class_rows(labels)), support_mask)

    def compare(self, transformed: Tensor, rows: Tensor, biases: Tensor) -> Tensor:
        """T(h) − t (E, M, d), e_k (E, N, d) and b_k (E, N) -> (E, M, N)."""
        products = transformed @ rows.transpose(-1, -2)
        return products + biases.unsqueeze(-2) if self.over is None and self.fixed is None else products

    def transformed(self, features: Tensor) -> Tensor:
        """T(h), which the decoder's rows are multiplied with: (..., d) -> (..., d)."""
        return _TRANSFORMS[self.lm.model.config.model_type.removeprefix("xlm-")](self.lm.model, features)

    def class_rows(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """e_k and b_k: word pieces (..., W, P) -> (..., d), (...)."""
        decoder = self.lm.model.get_output_embeddings()
        there = labels >= 0
        share = there / there.sum(-1, keepdim=True).clamp_min(1) / there.any(-1).sum(-1)[..., None, None].clamp_min(1)
        share = share.to(decoder.weight.dtype)
        ids = labels.clamp_min(0)
        return (share.unsqueeze(-1) * decoder.weight[ids]).sum((-3, -2)), (share * decoder.bias[ids]).sum((-2, -1))


class LabelEmbedding(Words):
    """Equation (3): the cosine with the mean embedding of the class's words. How frequent a word is plays no part."""

    def __init__(self, lm: MaskedLM, centre: str | Tensor | None = None, temperature: float = 0.1, name: str = "label embedding") -> None:
        super().__init__(lm, centre, name)
        self.temperature = temperature

    def compare(self, transformed: Tensor, rows: Tensor, biases: Tensor) -> Tensor:
        """T(h) − t (E, M, d) and e_k (E, N, d) -> (E, M, N)."""
        return cosine_logits(transformed, rows, self.temperature)


class RepVerb(Centred):
    """Equation (4); what m is the mean over, see ``Centred``."""

    def __init__(self, temperature: float = 0.1, centre: str | Tensor | None = "support", name: str = "RepVerb") -> None:
        super().__init__(name, centre)
        self.temperature = temperature

    def forward(
        self,
        support: Tensor,
        query: Tensor,
        labels: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """support (E, N, K, d), query (E, M, d) -> logits (E, M, N)."""
        m = self.mean(support, query, support_mask, query_mask)
        means = class_means(support - m.unsqueeze(-2), support_mask)
        return mask_ways(cosine_logits(query - m, means, self.temperature), support_mask)


class ProtoVerb(Verbalizer):
    """Equation (5): in each episode V (dim, d) and c (N, dim) descend a contrastive loss on the support, from V random, c the means.

    Three terms, with cosines over τ: an example finds its class, a class finds its examples, and examples of a class find
    each other (none of the last at one shot). dim=None: no V, and only the c_k are trained. All episodes at once, by Adam.
    """

    differentiable = False

    def __init__(
        self, dim: int | None = 128, steps: int = 50, lr: float = 0.01, temperature: float = 0.1, seed: int = 0, name: str = "ProtoVerb"
    ) -> None:
        super().__init__(name)
        check_steps("steps", [steps])
        self.dim, self.steps, self.lr, self.temperature, self.seed = dim, steps, lr, temperature, seed

    def forward(self, support: Tensor, query: Tensor, labels: Tensor | None = None, support_mask: Tensor | None = None) -> Tensor:
        """support (E, N, K, d), query (E, M, d) -> logits (E, M, N). Features are taken as given: no gradient goes into them."""
        support, query = F.normalize(support.detach(), dim=-1), F.normalize(query.detach(), dim=-1)
        e, n, _, d = support.shape
        learnt = [class_means(support, support_mask)]
        if self.dim is not None:
            drawn = torch.randn(self.dim, d, generator=torch.Generator().manual_seed(self.seed)).to(support) / d**0.5
            learnt = [learnt[0] @ drawn.T, drawn.repeat(e, 1, 1)]
        learnt = [tensor.requires_grad_() for tensor in learnt]
        mask = torch.ones(support.shape[:3], dtype=torch.bool, device=support.device) if support_mask is None else support_mask
        for _ in descend([lambda: self.loss(learnt, support, mask)], torch.optim.Adam(learnt, lr=self.lr), self.steps):
            pass
        with torch.no_grad():
            return mask_ways(cosine_logits(self._projected(learnt, query), learnt[0], self.temperature), support_mask)

    def _projected(self, learnt: list[Tensor], features: Tensor) -> Tensor:
        return features @ learnt[1].transpose(-1, -2) if self.dim is not None else features

    def loss(self, learnt: list[Tensor], support: Tensor, mask: Tensor) -> Tensor:
        """The sum of the three terms in each episode (E,). learnt: c (E, N, dim) and V (E, dim, d), if there is one."""
        n, k = support.shape[1:3]
        z, mask = self._projected(learnt, support.flatten(1, 2)), mask.flatten(1)
        way = torch.arange(n, device=z.device).repeat_interleave(k)
        own = way.unsqueeze(1) == torch.arange(n, device=z.device)  # (S, N)
        empty = ~(own & mask.unsqueeze(-1)).any(1)  # (E, N): ways that are padding
        scores = cosine_logits(z, learnt[0], self.temperature)
        to_class = scores.masked_fill(empty.unsqueeze(1), -torch.inf).log_softmax(-1)[:, own]
        to_examples = scores.masked_fill(~mask.unsqueeze(-1), -torch.inf).log_softmax(1)[:, own]
        loss = masked_mean(-to_class - to_examples, mask)
        others = ~torch.eye(n * k, dtype=torch.bool, device=z.device) & mask.unsqueeze(1)
        pairs = (way.unsqueeze(1) == way) & others & mask.unsqueeze(-1)
        if pairs.any():
            among = cosine_logits(z, z, self.temperature).masked_fill(~others, -torch.inf).log_softmax(-1)
            loss = loss - among.masked_fill(~pairs, 0).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
        return loss


class Mixture(Verbalizer):
    """Equation (6): the weighted mean of the parts' probabilities; its logits are their logarithm.

    Where a text is its own support, a part that only compares examples is as good as certain of the right answer (at one shot
    the text *is* the mean of its class), and would silence the words: ``inner`` is the mixture of the parts with words.
    """

    def __init__(self, *parts: Verbalizer, weights: Sequence[float] | None = None, name: str | None = None) -> None:
        super().__init__(name or " + ".join(part.name for part in parts))
        weights = [1 / max(1, len(parts))] * len(parts) if weights is None else list(weights)
        if not parts or len(weights) != len(parts) or not all(w > 0 for w in weights) or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"`weights` are {weights} for {len(parts)} verbalizers: give one each, positive, with the sum 1.")
        self.parts, self.weights = nn.ModuleList(parts), weights
        for what in ("transductive", "uses_labels", "uses_support", "uses_head"):
            setattr(self, what, any(getattr(part, what) for part in parts))
        self.differentiable = all(part.differentiable for part in parts)

    @property
    def inner(self) -> Verbalizer:
        """The parts that know the words of the classes, with their weights; itself if none does."""
        kept = [(part.inner, weight) for part, weight in zip(self.parts, self.weights, strict=True) if part.uses_labels]
        if len(kept) < 2:
            return kept[0][0] if kept else self
        return Mixture(*(part for part, _ in kept), weights=[weight / sum(w for _, w in kept) for _, weight in kept])

    def forward(self, support: Tensor, query: Tensor, **extra: Tensor | None) -> Tensor:
        """support (E, N, K, d), query (E, M, d), and what the parts need -> log p, (E, M, N)."""
        log_p = []
        for part, weight in zip(self.parts, self.weights, strict=True):
            wanted = {"support_mask"} | ({"labels"} if part.uses_labels else set()) | ({"query_mask"} if part.transductive else set())
            given = {name: value for name, value in extra.items() if name in wanted}
            log_p.append(part(support, query, **given).log_softmax(-1) + math.log(weight))
        log_p = torch.stack(log_p)
        absent = log_p.isneginf().all(0)  # ways that are padding, through which no gradient could pass
        return log_p.masked_fill(absent, 0).logsumexp(0).masked_fill(absent, -torch.inf)
