r"""Prompts: classification as a question with a gap, and soft prompts, whose words are learnt vectors.

A **template** turns a text x into a cloze question, for instance T(x) = "x . The topic is [MASK] .", and a masked language
model fills the gap. All later modules need of it is the **[MASK] feature**, the last hidden layer at the gap:

    h(x) = LM(E[T(x)]) at [MASK]                      E: the word embeddings,  h(x) (d,)

In a **soft prompt** some of the vectors that go in are no rows of E but parameters θ = (θ_1 … θ_P), (P, d), which are tuned
while the model stays as it is (Lester et al. 2021, arXiv:2104.08691; anywhere in the template: Liu et al. 2021,
arXiv:2103.10385). Where θ_i is the embedding of a word, the soft prompt *is* the hard one.

A tokenised text is a row of one integer tensor (n, L), so that ``evaluate`` deals texts like any other features:

    id ≥ 0: a row of E         −1 − s: the soft token θ_s         the padding id: nothing
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_lib.finetune import one_of
from fewshot_lib.masked_lm import MaskedLM

SLOT = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
SOFT = re.compile(r"\[SOFT(?:\*([1-9]\d*))?\]")
NO_WORD = re.compile(r"[A-Z]{2,}[\W\d]*|mask|soft|text", re.ASCII)  # what is rather a slot that does not exist
STARTS = ("noise", "vocabulary", "labels", "words")


@dataclass(frozen=True)
class Template:
    """A cloze question around a text: "{text} . The topic is [MASK] .".

    Slots: {text} and [MASK], once each. [SOFT] is a soft token, [SOFT*4] four of them, and a word in brackets, [the],
    a soft token that belongs to this word and may start from it (one for each of its pieces).

    Raises ValueError for a missing, repeated or unknown slot.
    """

    pattern: str

    def __post_init__(self) -> None:
        found = SLOT.findall(self.pattern)
        for slot in ("{text}", "[MASK]"):
            if found.count(slot) != 1:
                raise ValueError(f"`pattern` is {self.pattern!r}, with {found.count(slot)} times {slot}: it must stand there once.")
        for slot in found:
            word = slot[1:-1].strip()
            known = slot in ("{text}", "[MASK]") or SOFT.fullmatch(slot)
            if not known and (slot[0] == "{" or not word or NO_WORD.fullmatch(word)):
                raise ValueError(f"`pattern` has the unknown slot {slot}: use {{text}}, [MASK], [SOFT], [SOFT*4], or a word such as [the].")

    @property
    def hard(self) -> Template:
        """The template without soft tokens: words in brackets become plain words, and [SOFT] goes away."""
        plain = SLOT.sub(lambda m: m[0] if m[0] in ("{text}", "[MASK]") else "" if SOFT.fullmatch(m[0]) else m[0][1:-1], self.pattern)
        return Template(" ".join(plain.split()))

    @property
    def softened(self) -> Template:
        """The template with all of its words soft: "{text} . The topic is [MASK] ." -> "{text} [. The topic is] [MASK] [.]"."""
        parts = [part.strip() for part in re.split(r"(\{text\}|\[MASK\])", self.hard.pattern)]
        return Template(" ".join(part if SLOT.fullmatch(part) else f"[{part}]" for part in parts if part))

    def around(self, lm: MaskedLM) -> tuple[list[int], list[int]]:
        """The ids before and after the text, with [CLS] and [SEP]; soft tokens are −1, −2, …"""
        return self._layout(lm)[0]

    def words(self, lm: MaskedLM) -> list[int | None]:
        """For each of the P soft tokens: the id of the word piece it belongs to, or None for [SOFT]."""
        return self._layout(lm)[1]

    def _layout(self, lm: MaskedLM) -> tuple[tuple[list[int], list[int]], list[int | None]]:
        ids, words, before = [lm.tokenizer.cls_token_id], [], []
        for part in re.split(f"({SLOT.pattern})", self.pattern):
            if part == "{text}":
                before, ids = ids, []
            elif part == "[MASK]":
                ids.append(lm.mask_token_id)
            elif not SLOT.fullmatch(part):
                ids += word_ids(lm, part.rstrip())
            else:
                soft = SOFT.fullmatch(part)
                space = " " if before or len(ids) > 1 else ""  # to some tokenizers the first word of a text is another
                new = [None] * int(soft[1] or 1) if soft else word_ids(lm, space + part[1:-1])
                if lm.tokenizer.unk_token_id in new or not new:
                    raise ValueError(f"`pattern` has the word {part}, which the model does not know: use another.")
                ids += [-1 - s for s in range(len(words), len(words) + len(new))]
                words += new
        return (before, [*ids, lm.tokenizer.sep_token_id]), words

    def tokenise(self, lm: MaskedLM, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Texts -> ids (n, L), padded to the longest of these. Only the text is cut, to ``max_tokens`` in all (None: lm's own).

        A "[MASK]" that stands in a text is no gap: it becomes the unknown token. Raises ValueError for a single string, or
        where the template leaves no room for the text.
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"`texts` is {texts!r}: give a list with at least one text.")
        before, after = self.around(lm)
        room = (lm.max_tokens if max_tokens is None else max_tokens) - len(before) - len(after)
        if room < 1:
            raise ValueError(
                f"`max_tokens` leaves {room} tokens for the text, of which the template takes {len(before) + len(after)}: raise it."
            )
        space = " " if len(before) > 1 else ""
        rows = [[*before, *text[:room], *after] for text in word_ids(lm, [space + text for text in texts])]
        ids = torch.full((len(rows), max(map(len, rows))), lm.tokenizer.pad_token_id)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids.to(lm.word_embeddings.device)


def word_ids(lm: MaskedLM, text: str | list[str]) -> list:
    """The ids of a text's word pieces (or of each text's), without [CLS] and [SEP]; special tokens in it become unknown ones."""
    unknown, special = lm.tokenizer.unk_token_id, set(lm.tokenizer.all_special_ids)
    if not isinstance(text, str):
        found = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [[unknown if i in special else i for i in ids] for ids in found]
    return word_ids(lm, [text])[0]


def initial_prompt(
    lm: MaskedLM,
    template: Template,
    start: str = "noise",
    *,
    generator: torch.Generator | None = None,
    class_names: Sequence[str] = (),
    scale: float = 1.0,
) -> Tensor:
    """A start (P, d) for the soft tokens of a template.

    "noise": normal, with the mean and ``scale`` times the standard deviation of the word embeddings, number by number.
    "vocabulary": random words. "labels": random ones of ``class_names`` (those of training classes: names of test classes
    are test data), the mean of a name's pieces; a name returns only when all are used. "words": the words in the brackets.

    Raises ValueError for another start, names or words that are missing, and a random one without a generator.
    """
    one_of("start", start, STARTS)
    words, table = template.words(lm), lm.word_embeddings.detach()
    if start == "words":
        if None in words:
            raise ValueError(f"`start` is 'words', but {template.pattern!r} has a [SOFT] without a word: write the word in brackets.")
        return table[torch.tensor(words, dtype=torch.int64, device=table.device)]
    if generator is None:
        raise ValueError(f"`generator` is missing: the start {start!r} is random. Give torch.Generator().manual_seed(seed).")
    if start == "noise":
        drawn = torch.randn(len(words), table.shape[1], generator=generator, dtype=table.dtype).to(table.device)
        return table.mean(0) + scale * table.std(0) * drawn
    if start == "vocabulary":
        ordinary = torch.tensor(sorted(i for word, i in lm.tokenizer.get_vocab().items() if word.lstrip("Ġ").isalpha() and len(word) > 2))
        return table[ordinary[torch.randint(len(ordinary), (len(words),), generator=generator)].to(table.device)]
    if not class_names:
        raise ValueError("`class_names` is empty, and the start 'labels' takes from it: give the names of the training classes.")
    rounds = -(-len(words) // len(class_names))
    order = torch.cat([torch.randperm(len(class_names), generator=generator) for _ in range(rounds)])[: len(words)]
    names = [torch.tensor(word_ids(lm, class_names[i]), device=table.device) for i in order.tolist()]
    return torch.stack([table[ids].mean(0) for ids in names])


def embed(lm: MaskedLM, ids: Tensor, prompt: Tensor | None = None) -> Tensor:
    """What goes in for ids (n, L): rows of E, and soft tokens from prompt (P, d), or from one for each text (n, P, d) -> (n, L, d)."""
    vectors = lm.word_embeddings[ids.clamp_min(0)]
    if prompt is None:
        return vectors
    chosen = (-1 - ids).unsqueeze(-1) == torch.arange(prompt.shape[-2], device=ids.device)  # (n, L, P)
    return torch.where(ids.unsqueeze(-1) < 0, chosen.to(prompt.dtype) @ prompt, vectors)


def read_mask(lm: MaskedLM, ids: Tensor, prompt: Tensor | None = None) -> Tensor:
    """The [MASK] features (n, d) of ids (n, L) in one pass; prompt as in ``embed``. Can be differentiated, and vmapped."""
    hidden = lm.hidden(inputs_embeds=embed(lm, ids, prompt), attention_mask=ids != lm.tokenizer.pad_token_id)
    return torch.where((ids == lm.mask_token_id).unsqueeze(-1), hidden, 0).sum(1)


def mask_features(lm: MaskedLM, ids: Tensor, prompt: Tensor | None = None, tokens_at_once: int | None = None) -> Tensor:
    """The [MASK] features (..., d) of any number of texts ids (..., L), short texts together with short ones.

    prompt: (P, d) for all texts (equal texts are then read once), or (..., P, d) that broadcasts to one for each text:
    (E, 1, P, d) is a prompt for each episode of ids (E, n, L). Can be differentiated; the result does not depend on
    ``tokens_at_once`` (None: what keeps the device busy). Raises ValueError where ids have more soft tokens than the prompt.
    """
    check_soft_tokens(ids, 0 if prompt is None else prompt.shape[-2])
    shared = prompt is None or prompt.dim() == 2
    rows, back = ids.flatten(0, -2), None
    if shared:
        rows, back = rows.unique(dim=0, return_inverse=True)
    else:
        prompt = prompt.expand(*ids.shape[:-1], *prompt.shape[-2:])
    lengths = (rows != lm.tokenizer.pad_token_id).sum(1)
    order = lengths.argsort(stable=True)
    read = []
    for part in order.split(_sizes(lengths[order].tolist(), tokens_at_once or tokens_for(ids.device))):
        own = prompt if shared else prompt[torch.unravel_index(part, ids.shape[:-1])]
        read.append(read_mask(lm, rows[part, : int(lengths[part[-1]])], own))
    features = torch.cat(read)[order.argsort()]
    return (features if back is None else features[back]).unflatten(0, ids.shape[:-1])


def check_soft_tokens(ids: Tensor, n_soft: int) -> None:
    """Raises ValueError where ids (..., L) have more soft tokens than a prompt has."""
    needed = -int(ids.min().clamp_max(0)) if ids.numel() else 0
    if needed > n_soft:
        raise ValueError(
            f"`ids` have {needed} soft tokens, and the prompt has {n_soft}: tokenise with the template that the prompt is for."
        )


def tokens_for(device: torch.device) -> int:
    """Tokens that are read together: few enough that short texts stand with short ones, enough to keep the device busy."""
    return 2048 if device.type == "cpu" else 32_768


def _sizes(lengths: list[int], tokens_at_once: int) -> list[int]:
    """Cuts ascending lengths into runs whose number times their longest stays within tokens_at_once."""
    sizes = [0]
    for length in lengths:
        if sizes[-1] and (sizes[-1] + 1) * length > tokens_at_once:
            sizes.append(0)
        sizes[-1] += 1
    return sizes


def without_soft(lm: MaskedLM, ids: Tensor) -> Tensor:
    """The same texts (..., L) without their soft tokens, as if the template had none: the rest moves together."""
    order = (ids < 0).to(torch.uint8).argsort(dim=-1, stable=True)
    moved = ids.gather(-1, order)
    return moved.masked_fill(moved < 0, lm.tokenizer.pad_token_id)


def trimmed(lm: MaskedLM, *ids: Tensor) -> tuple[Tensor, ...]:
    """Without the columns that are padding in all texts of all the tensors (..., L), which only cost time."""
    longest = max(int((each != lm.tokenizer.pad_token_id).sum(-1).max()) for each in ids)
    return tuple(each[..., :longest] for each in ids)
