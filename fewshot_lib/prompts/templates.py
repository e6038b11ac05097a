r"""Templates: a text becomes a question with a gap, some of whose words may be learnt vectors.

T(x) = "x . The topic is [MASK] .", and a masked language model fills the gap. All later modules need of it is
the **[MASK] feature**, the last hidden layer at the gap:

    h(x) = LM(E[T(x)]) at [MASK]                      E: the word embeddings,  h(x) (d,)

In a **soft prompt** some of the vectors that go in are no rows of E but parameters θ = (θ_1 … θ_P), (P, d),
anywhere in the template (Liu et al. 2021, arXiv:2103.10385). Where θ_i is the embedding of a word, the soft
prompt *is* the hard one.

A tokenised text is a row of one integer tensor (n, L), so that ``evaluate`` deals texts like any other
features:

    id ≥ 0: a row of E         −1 − s: the soft token θ_s         the padding id: nothing
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fewshot_lib.core import a_list, one_of
from fewshot_lib.encoders import MaskedLM, by_length, check_max_tokens, check_texts, warn_of_cut

SLOT = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
SOFT = re.compile(r"\[SOFT(?:\*([1-9]\d*))?\]")
WORDS = re.compile(r"\[(?!MASK\])([^\[\]]*)\]")
# in brackets, what is rather a slot that does not exist than a word: [MSK], [SOFT *4], [mask]
NO_WORD = re.compile(r"[A-Z]{2,}[\W\d]*|mask|soft|text", re.ASCII)
STARTS = ("noise", "vocabulary", "labels", "words")
# tokens that are read together: so few that short texts stand with short ones, enough to keep a device busy
CPU_TOKENS, GPU_TOKENS = 2048, 32_768


@dataclass(frozen=True)
class Template:
    """A cloze question around a text: "{text} . The topic is [MASK] .".

    {text} and [MASK] stand there once each. [SOFT] is a soft token, [SOFT*4] four of them, and words in
    brackets, [the topic], are soft tokens that may start from them, one for each word piece.
    """

    pattern: str

    def __post_init__(self) -> None:
        slots = SLOT.findall(self.pattern)
        for slot in ("{text}", "[MASK]"):
            if slots.count(slot) != 1:
                found = f"with {slots.count(slot)} times {slot}: it must stand there once"
                raise ValueError(f"`pattern` is {self.pattern!r}, {found}.")
        for slot in slots:
            word = slot[1:-1].strip()
            known = slot in ("{text}", "[MASK]") or SOFT.fullmatch(slot)
            if not known and (slot[0] == "{" or not word or NO_WORD.fullmatch(word)):
                fix = "use {text}, [MASK], [SOFT], [SOFT*4], or a word such as [the]"
                raise ValueError(f"`pattern` has the unknown slot {slot}: {fix}.")

    @property
    def hard(self) -> Template:
        """The template without soft tokens: words in brackets become plain words, and [SOFT] goes away."""
        return Template(" ".join(WORDS.sub(r"\1", SOFT.sub("", self.pattern)).split()))

    @property
    def softened(self) -> Template:
        """With all words soft: "{text} . The topic is [MASK] ." -> "{text} [. The topic is] [MASK] [.]"."""
        parts = [part.strip() for part in re.split(r"(\{text\}|\[MASK\])", self.hard.pattern)]
        return Template(" ".join(part if SLOT.fullmatch(part) else f"[{part}]" for part in parts if part))

    def around(self, lm: MaskedLM) -> tuple[list[int], list[int]]:
        """The ids before and after the text, with [CLS] and [SEP]; soft tokens are −1, −2, …"""
        return self._layout(lm)[0]

    def words(self, lm: MaskedLM) -> list[int | None]:
        """For each of the P soft tokens: the id of the word piece it belongs to, or None for [SOFT]."""
        return self._layout(lm)[1]

    def _layout(self, lm: MaskedLM) -> tuple[tuple[list[int], list[int]], list[int | None]]:
        before: list[int] = []
        words: list[int | None] = []
        ids = [lm.tokenizer.cls_token_id]
        for part in re.split(f"({SLOT.pattern})", self.pattern):
            if part == "{text}":
                before, ids = ids, []
            elif part == "[MASK]":
                ids.append(lm.mask_token_id)
            elif not SLOT.fullmatch(part):
                ids += word_ids(lm, [part.rstrip()])[0]
            else:
                # to some tokenizers the first word of a text is another than the same word after a space
                space = " " if before or len(ids) > 1 else ""
                soft = SOFT.fullmatch(part)
                new = [None] * int(soft[1] or 1) if soft else word_ids(lm, [space + part[1:-1]])[0]
                if lm.tokenizer.unk_token_id in new or not new:
                    fix = "which the model does not know: use another"
                    raise ValueError(f"`pattern` has the word {part}, {fix}.")
                ids += [-1 - s for s in range(len(words), len(words) + len(new))]
                words += new
        return (before, [*ids, lm.tokenizer.sep_token_id]), words

    def tokenise(self, lm: MaskedLM, texts: Sequence[str], max_tokens: int | None = None) -> Tensor:
        """Texts -> ids (n, L), padded to the longest. Only the text is cut, to max_tokens (None: lm's).

        A "[MASK]" that stands in a text is no gap: it becomes the unknown token. Warns of texts
        that are cut at the model's own length; who gives max_tokens cuts on purpose.
        """
        texts = check_texts(texts)
        before, after = self.around(lm)
        most = lm.max_tokens if max_tokens is None else max_tokens
        check_max_tokens(most, lm.n_positions)
        room = most - len(before) - len(after)
        if room < 1:
            fix = f"of which the template takes {len(before) + len(after)}: raise it"
            raise ValueError(f"`max_tokens` leaves {room} tokens for the text, {fix}.")
        space = " " if len(before) > 1 else ""
        texts_ids = word_ids(lm, [space + text for text in texts])
        if max_tokens is None:
            fix = "load the model with more `max_tokens`, or give the part of the texts that matters"
            warn_of_cut(sum(len(ids) > room for ids in texts_ids), len(texts), room, fix)
        rows = [torch.tensor([*before, *ids[:room], *after]) for ids in texts_ids]
        padding = lm.tokenizer.pad_token_id
        return pad_sequence(rows, batch_first=True, padding_value=padding).to(lm.word_embeddings.device)


def word_ids(lm: MaskedLM, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text's word pieces, without [CLS] and [SEP]; special tokens in it become unknown."""
    unknown, special = lm.tokenizer.unk_token_id, set(lm.tokenizer.all_special_ids)
    found = lm.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return [[unknown if i in special else i for i in ids] for ids in found]


def initial_prompt(
    lm: MaskedLM,
    template: Template,
    start: str = "noise",
    *,
    generator: torch.Generator | None = None,
    class_names: Sequence[str] = (),
) -> Tensor:
    """Where the soft tokens of a template start, (P, d).

    start: "noise" is normal, with the mean and standard deviation of the word embeddings, number by number;
        "vocabulary": random words; "labels": random ones of ``class_names``, the mean of a name's pieces, a
        name returning only when all are used; "words": the words in the brackets.
    class_names: those of training classes: names of test classes are test data.
    """
    one_of("start", start, STARTS)
    a_list(class_names=class_names)
    words, table = template.words(lm), lm.word_embeddings.detach()
    if start == "words":
        if None in words:
            raise ValueError(f"`start` is 'words', but {template.pattern!r} has [SOFT]: use [words] alone.")
        return table[torch.tensor(words, dtype=torch.int64, device=table.device)]
    if generator is None:
        raise ValueError(f"`generator` is missing, and {start!r} is random: give a torch.Generator.")
    if start == "noise":
        drawn = torch.randn(len(words), table.shape[1], generator=generator, dtype=table.dtype)
        return table.mean(0) + table.std(0) * drawn.to(table.device)
    if start == "vocabulary":
        vocabulary = lm.tokenizer.get_vocab()
        whole = sorted(i for word, i in vocabulary.items() if word.lstrip("Ġ").isalpha() and len(word) > 2)
        drawn = torch.randint(len(whole), (len(words),), generator=generator)
        return table[torch.tensor(whole)[drawn].to(table.device)]
    class_names = check_texts(class_names, "class_names")
    rounds = -(-len(words) // len(class_names))
    order = torch.cat([torch.randperm(len(class_names), generator=generator) for _ in range(rounds)])
    names = word_ids(lm, [class_names[i] for i in order[: len(words)].tolist()])
    if [] in names:
        raise ValueError("`class_names` has a name without any letter: give it another.")
    return torch.stack([table[torch.tensor(ids, device=table.device)].mean(0) for ids in names])


def read_mask(lm: MaskedLM, ids: Tensor, prompt: Tensor | None = None) -> Tensor:
    """The [MASK] features (n, d) of ids (n, L) in one pass, also under vmap.

    prompt: (P, d) for all texts, or one for each text (n, P, d).
    """
    vectors = lm.word_embeddings[ids.clamp_min(0)]
    if prompt is not None:
        chosen = (-1 - ids).unsqueeze(-1) == torch.arange(prompt.shape[-2], device=ids.device)  # (n, L, P)
        vectors = torch.where(ids.unsqueeze(-1) < 0, chosen.to(prompt.dtype) @ prompt, vectors)
    hidden = lm.hidden(vectors, attention_mask=ids != lm.tokenizer.pad_token_id)
    return torch.where((ids == lm.mask_token_id).unsqueeze(-1), hidden, 0).sum(1)


def mask_features(lm: MaskedLM, ids: Tensor, prompt: Tensor | None = None) -> Tensor:
    """The [MASK] features (..., d) of any number of texts ids (..., L), short texts together with short ones.

    prompt: (P, d) for all texts (equal texts are then read once), or (..., P, d) that broadcasts to one for
    each text: (E, 1, P, d) is a prompt for each episode of ids (E, n, L). Can be differentiated.
    """
    check_soft_tokens(ids, 0 if prompt is None else prompt.shape[-2])
    texts, place, of_text = ids.flatten(0, -2), slice(None), None
    if prompt is None or prompt.dim() == 2:
        texts, place = texts.unique(dim=0, return_inverse=True)
    else:
        of_text = prompt.expand(*ids.shape[:-1], *prompt.shape[-2:])

    def read(rows: Tensor) -> Tensor:
        own = prompt if of_text is None else of_text[torch.unravel_index(rows, ids.shape[:-1])]
        return read_mask(lm, trimmed(lm, texts[rows])[0], own)

    lengths, tokens = lengths_of(lm, texts), CPU_TOKENS if ids.device.type == "cpu" else GPU_TOKENS
    features = by_length(read, lengths, max(1, tokens // int(lengths.max())))
    return features[place].unflatten(0, ids.shape[:-1])


def check_soft_tokens(ids: Tensor, n_soft: int) -> None:
    """Raises ValueError where ids (..., L) have more soft tokens than a prompt: they would be read as 0."""
    if ids.is_floating_point():
        raise ValueError(f"`ids` are {ids.dtype}: give token ids, as `Template.tokenise` makes them.")
    needed = -int(ids.min().clamp_max(0)) if ids.numel() else 0
    if needed > n_soft:
        fix = "tokenise with the template that the prompt is for"
        raise ValueError(f"`ids` have {needed} soft tokens, and the prompt has {n_soft}: {fix}.")


def lengths_of(lm: MaskedLM, ids: Tensor) -> Tensor:
    """How many of the tokens of texts (..., L) are no padding, (...)."""
    return (ids != lm.tokenizer.pad_token_id).sum(-1)


def trimmed(lm: MaskedLM, *ids: Tensor) -> tuple[Tensor, ...]:
    """Without the columns that are padding in all texts of all the tensors (..., L), which only cost time."""
    longest = max(int(lengths_of(lm, each).max()) for each in ids)
    return tuple(each[..., :longest] for each in ids)


def without_soft(lm: MaskedLM, ids: Tensor) -> Tensor:
    """Texts (..., L) without their soft tokens, as if the template had none: the rest moves together."""
    order = (ids < 0).to(torch.uint8).argsort(dim=-1, stable=True)
    moved = ids.gather(-1, order)
    return moved.masked_fill(moved < 0, lm.tokenizer.pad_token_id)
