r"""The words themselves, beside what an encoder makes of a text.

An encoder makes one vector of a whole text, and which words were in it is hard to read from that. Yet one
word may tell two classes apart, and a few examples are enough to see which. So the features are both,

    (1)  [f(x)/‖f(x)‖, α t(x)/‖t(x)‖],    t(x)_p = (1 + log n_p(x)) · (1 + log((1 + n) / (1 + n_p)))

where n_p(x) says how often the word piece p of the encoder's tokenizer is in the text x, and n_p in how many
of the n examples it is: TF-IDF, as scikit-learn has it with ``sublinear_tf``. The cosine of two features is
the mean of that of the encoder and that of the words, which has the weight α². Pieces that are in no example
share one column, the last, which holds their length, since nothing can be learnt of any of them: the more of
a text is unknown, the less its words say, and the less the text looks like any class. In names it is 0.

What α brings, and how it was chosen: ``benchmarks/own_data.md``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.classifier.inputs import features_of
from fewshot_lib.classifier.naming import sentences
from fewshot_lib.encoders import tokens_of

WEIGHT = 0.6  # α of (1)
BATCH = 64  # texts whose tokens are counted at a time
# Most columns, and numbers in the columns of all examples: of many and long ones only the pieces that are in
# most texts have a column of their own, and the others count like unknown ones.
COLUMNS, NUMBERS = 4096, 10_000_000


class Words(nn.Module):
    """Token ids (n, L) -> α t(x)/‖t(x)‖, (n, V + 1) float32: the second half of (1).

    pieces (V,): the token ids that have a column. idf (V,): of them; unseen: of every other. weight: α.
    width: V + 1.
    """

    pieces: Tensor
    of_all: Tensor
    column: Tensor
    weight: Tensor

    def __init__(self, tokenizer: Any, pieces: Tensor, idf: Tensor, unseen: Tensor, weight: Tensor) -> None:
        super().__init__()
        of_all = unseen.repeat(n_ids(tokenizer)).index_copy(0, pieces, idf)
        of_all[_no_words(tokenizer)] = 0
        for name, buffer in {"pieces": pieces, "idf": idf, "unseen": unseen, "weight": weight}.items():
            self.register_buffer(name, buffer)
        column = torch.full((len(of_all),), len(pieces)).index_copy(0, pieces, torch.arange(len(pieces)))
        self.register_buffer("of_all", of_all, persistent=False)
        self.register_buffer("column", column, persistent=False)  # of a token id; V: of none

    @classmethod
    def of(cls, tokenizer: Any, ids: Tensor, weight: float = WEIGHT) -> "Words":
        """Of n examples, as token ids (n, L)."""
        n, found_in = len(ids), torch.zeros(n_ids(tokenizer))
        for own in ids:
            found_in[own.unique()] += 1
        found_in[torch.tensor(tokenizer.all_special_ids)] = 0
        n_columns = min(int((found_in > 0).sum()), COLUMNS, max(1, NUMBERS // n))
        pieces = found_in.sort(descending=True, stable=True).indices[:n_columns].sort().values
        idf = 1 + ((1 + n) / (1 + found_in)).log()
        return cls(tokenizer, pieces, idf[pieces], 1 + torch.tensor(1.0 + n).log(), torch.tensor(weight))

    @property
    def width(self) -> int:
        return self.pieces.shape[0] + 1

    def forward(self, ids: Tensor) -> Tensor:
        often = (ids.unsqueeze(2) == ids.unsqueeze(1)).sum(-1)  # (n, L): n_p(x), at each place of p in x
        t, column = (1 + often.log()) * self.of_all[ids], self.column[ids]
        squares = t.square() / often
        unknown = (squares * (column == self.width - 1)).sum(-1, keepdim=True).sqrt()
        known = t.new_zeros(ids.shape[0], self.width).scatter_add(1, column, t / often)[:, :-1]
        length = squares.sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
        return self.weight * torch.cat([known, unknown], -1) / length

    def of_names(self, ids: Tensor) -> Tensor:
        """Of the names of classes: what is unknown in a name is not what is unknown in a text."""
        return F.pad(self(ids)[:, :-1], (0, 1))


class WithWords(nn.Module):
    """n texts -> (n, d + V + 1), equation (1). encoder: a ``TextEncoder``, or one with its attributes."""

    def __init__(self, encoder: Any, words: Words) -> None:
        super().__init__()
        self.encoder, self.words = encoder, words
        self.tokenizer, self.count_tokens = encoder.tokenizer, encoder.count_tokens
        self.max_tokens, self.n_positions = encoder.max_tokens, encoder.n_positions
        self.to(next(encoder.parameters()).device).eval()

    def forward(self, texts: Any) -> Tensor:
        batch = tokens_of(self.encoder, texts).to(self.words.pieces.device)
        of_encoder = F.normalize(self.encoder(batch).float(), dim=-1)
        return torch.cat([of_encoder, self.words(batch["input_ids"])], -1)

    def anew(self, texts: Sequence[str]) -> "WithWords":
        """The same encoder, with the words of these examples beside it."""
        found = with_words(self.encoder, texts, float(self.words.weight))
        return found if isinstance(found, WithWords) else self

    def of_words(self, texts: Sequence[str]) -> Tensor:
        """The second half alone, (n, V + 1) on the CPU."""
        return torch.cat([self.words(ids).cpu() for ids in self._ids(texts)])

    def of_names(self, names: Sequence[str], template: str) -> Tensor:
        """Features (N, d + V + 1): of the encoder inside the template, while a name's words are its own."""
        of_encoder = features_of(self, sentences(names, template))[:, : -self.words.width]
        own = torch.cat([self.words.of_names(ids).cpu() for ids in self._ids(names)])
        return torch.cat([of_encoder, own], -1)

    def _ids(self, texts: Sequence[str]) -> Iterator[Tensor]:
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            yield tokens_of(self.encoder, part)["input_ids"].to(self.words.pieces.device)


def with_words(encoder: Any, texts: Sequence[str], weight: float) -> nn.Module:
    """A ``TextEncoder`` with the words of these examples beside it; as it is, where it knows none of them."""
    ids = tokens_of(encoder, list(texts))["input_ids"]
    words = Words.of(encoder.tokenizer, ids, weight)
    return WithWords(encoder, words) if len(words.pieces) else encoder


def without_words(encoder: Any) -> Any:
    """The encoder inside, where there are words beside it."""
    return encoder.encoder if isinstance(encoder, WithWords) else encoder


def encoded_names(encoder: nn.Module, names: Sequence[str], template: str) -> Tensor:
    """Features of the names of N classes, (N, d) or (N, d + V + 1)."""
    if isinstance(encoder, WithWords):
        return encoder.of_names(names, template)
    return features_of(encoder, sentences(names, template))


def n_ids(tokenizer: Any) -> int:
    """One more than the largest token id: some tokenizers leave gaps."""
    return 1 + max(tokenizer.get_vocab().values())


def _no_words(tokenizer: Any) -> Tensor:
    """Ids of tokens that stand for no word: all special ones but that of what the tokenizer does not know."""
    return torch.tensor([token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id])
