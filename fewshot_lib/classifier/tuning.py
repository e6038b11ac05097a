r"""Tuning the encoder on a few examples: what they say about each other, without moving it far.

Every example x of class y is asked as a query, against what the *others* and the names say of the classes,

    L(θ) = − mean over c in {name, others, name + others} of  log Softmax(cos(f_θ(x), c_k) / τ)[y]

with unit names and unit means of the other examples: to know x by heart, which is what the loss of the head
would reward, is of no use. The c carry no gradient, and are made of what f_θ said when a text was last
a query. θ are LoRA adapters (``encoders.add_lora``), and what was known before stays: the features are both

    [f_0(x)/‖f_0(x)‖, f_θ(x)/‖f_θ(x)‖],    whose cosine is the mean of both cosines.

Tuning helps most data a little and harms some (benchmarks/tuning.md), so the examples have a veto
(``checked``): they are dealt into folds, those of each are answered by an encoder tuned on the rest, and the
frozen encoder stays where clearly more of its answers are right. That the tuned one has to be better would
be too much to ask of a few examples: where each class has two, both are often right on the same ones. The
answers of the folds are also what the classifier is judged by: an encoder has not seen the examples it
answers there, and one tuned on *all* of them would flatter itself.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.classifier.held_out import HeldOut, clearly_better, deal, hold_out
from fewshot_lib.classifier.inputs import features_of
from fewshot_lib.classifier.naming import sentences
from fewshot_lib.classifier.words import WithWords, encoded_names, without_words
from fewshot_lib.core import random_numbers
from fewshot_lib.data.reporting import progress
from fewshot_lib.encoders import TextEncoder, TextsCut, add_lora

RANK, LR, EPOCHS, STEPS, BATCH, TEMPERATURE = 8, 3e-4, 8, 30, 32, 0.1
# Tokens of a text in tuning: half of the time that all 256 take, and as many as MiniLM was trained on.
TRAINED_ON = 128
FOLDS = 3  # a third of the examples is answered by an encoder tuned on the rest
FEWEST, FEWEST_NAMELESS = 2, 4  # examples of a class: a name says what others of the class would
# the projections of queries and values, as BERT, DistilBERT, Llama and MPNet call them
TARGETS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "q", "v")


class TunedEncoder(nn.Module):
    """A text encoder beside its copy with adapters: n texts -> (n, 2 d), each half of length 1."""

    def __init__(self, frozen: TextEncoder, rank: int = RANK) -> None:
        super().__init__()
        self.frozen, self.tuned = frozen, copy.deepcopy(frozen)
        add_lora(self.tuned.model, rank, TARGETS, seed=0)
        self.tokenizer, self.count_tokens = frozen.tokenizer, frozen.count_tokens
        self.max_tokens, self.n_positions = frozen.max_tokens, frozen.n_positions
        self.eval()

    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([F.normalize(part(texts), dim=-1) for part in (self.frozen, self.tuned)], -1)

    def adapters(self) -> dict[str, Tensor]:
        """All that differs from the frozen encoder, by name."""
        return {name: p for name, p in self.tuned.state_dict().items() if "lora_" in name}


def with_adapters(frozen: TextEncoder, adapters: dict[str, Tensor]) -> TunedEncoder:
    """The encoder that ``TunedEncoder.adapters`` was asked for."""
    rank = next(p.shape[0] for name, p in adapters.items() if "lora_A" in name)
    encoder = TunedEncoder(frozen, rank)
    encoder.tuned.load_state_dict(adapters, strict=False)
    return encoder


def tune(
    frozen: TextEncoder, texts: list[str], labels: Tensor, names: list[str] | None, n_classes: int
) -> TunedEncoder:
    """Descends L(θ): texts (n,), labels (n,), two or more of each class, the sentences with their names.

    At least EPOCHS of all texts, and at least STEPS, of which each reads the beginnings of long texts.
    """
    encoder, generator = TunedEncoder(frozen), random_numbers(0)
    encoder.tuned.max_tokens = min(TRAINED_ON, frozen.max_tokens)
    optimizer = torch.optim.Adam([p for p in encoder.tuned.parameters() if p.requires_grad], LR)
    known = _beginnings(encoder.tuned, texts)
    n_epochs = max(EPOCHS, math.ceil(STEPS / math.ceil(len(texts) / BATCH)))  # few examples: a step an epoch
    for _ in progress(range(n_epochs), "tuning the encoder", " epochs"):
        of_names = _beginnings(encoder.tuned, names) if names else None
        for rows in torch.randperm(len(texts), generator=generator).split(BATCH):
            query = encoder.tuned([texts[row] for row in rows.tolist()]).float().cpu()
            loss = leave_one_out_loss(query, rows, known, labels, n_classes, of_names)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            known[rows] = query.detach()
    encoder.tuned.max_tokens = frozen.max_tokens
    return encoder


def _beginnings(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """Features of the beginnings of texts: that they are cut is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextsCut)
        return features_of(encoder, texts)


def leave_one_out_loss(
    query: Tensor, rows: Tensor, known: Tensor, labels: Tensor, n_classes: int, names: Tensor | None
) -> Tensor:
    """L(θ), a scalar: query (b, d) are the rows (b,) of known (n, d) with labels (n,); names (N, d)."""
    query, known, y = F.normalize(query, dim=-1), F.normalize(known, dim=-1), labels[rows]
    sums = known.new_zeros(n_classes, known.shape[1]).index_add(0, labels, known)
    others = sums.repeat(len(rows), 1, 1)  # (b, N, d)
    others[torch.arange(len(rows)), y] -= known[rows]
    others = F.normalize(others, dim=-1)
    centres = [others]
    if names is not None:
        unit = F.normalize(names, dim=-1).expand_as(others)
        centres += [unit, F.normalize(others + unit, dim=-1)]
    logits = torch.einsum("bd,cbnd->cbn", query, torch.stack(centres)) / TEMPERATURE
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(len(centres)))


def check(encoder: nn.Module | None, kind: str) -> None:
    """Refuses what cannot be tuned."""
    if not isinstance(encoder, TextEncoder):
        found = kind if kind != "texts" else f"texts, encoded by your own {type(encoder).__name__}"
        raise ValueError(f"`tune_encoder` is True, and `X` holds {found}: only a `TextEncoder` is tuned.")


def check_frozen(encoder: nn.Module | None) -> None:
    """Refuses to add or remove a class where the encoder was tuned on those that there were."""
    if isinstance(without_words(encoder), TunedEncoder):
        raise ValueError("The encoder was tuned on these very classes: to change them, fit anew.")


def checked(classifier: Any) -> HeldOut | None:
    """Answers to every example by an encoder tuned on other folds; None where they speak against it.

    Sets ``tuning_``, the shares of right answers of both encoders, and says why the frozen one stays.
    """
    fewest = FEWEST_NAMELESS if classifier.names_ is None else FEWEST
    if (least := int(classifier.n_examples_.min())) < fewest:
        _say(f"it needs {fewest} examples of every class, and one has {least}")
        return None
    rows, mask, found = classifier.rows_, classifier.mask_, []
    for left_out in deal(mask, FOLDS):
        encoder = tune_on(classifier, rows[mask & ~left_out])
        encoded = (classifier.features_, classifier.name_features_), encoded_by(encoder, classifier)
        for features, names in encoded:
            answer = classifier._answers_with(classifier.method_, names)
            found.append(hold_out(features[rows], mask, rows, names, answer, [left_out]))
    frozen, tuned = together(found[::2]), together(found[1::2])
    shares = [each.correct.double().mean().item() for each in (frozen, tuned)]
    classifier.tuning_ = dict(zip(("frozen", "tuned"), shares, strict=True))
    if not clearly_better(frozen, tuned):
        return tuned
    was, is_now = (f"{share:.1%}" for share in shares)
    _say(f"with it {is_now} of held-out examples are right, without it {was}")
    return None


def tune_on(classifier: Any, rows: Tensor) -> TunedEncoder | WithWords:
    """The classifier's encoder, tuned on some of its examples; the words beside it stay."""
    texts = [classifier.inputs_[row] for row in rows.tolist()]
    encoder, n_classes = classifier.encoder_, len(classifier.classes_)
    names = None if classifier.names_ is None else sentences(classifier.names_, classifier.template)
    tuned = tune(without_words(encoder), texts, classifier.labels_[rows], names, n_classes)
    return WithWords(tuned, encoder.words) if isinstance(encoder, WithWords) else tuned


def encoded_by(encoder: nn.Module, classifier: Any) -> tuple[Tensor, Tensor | None]:
    """Features of all examples (n, d), and of the names (N, d)."""
    names = classifier.names_
    of_names = None if names is None else encoded_names(encoder, names, classifier.template)
    return features_of(encoder, classifier.inputs_), of_names


def together(parts: Sequence[HeldOut]) -> HeldOut:
    """The answers of several folds as one."""
    found = [(each.rows, each.logits, each.labels, each.familiarity) for each in parts]
    return HeldOut(*(torch.cat(fields) for fields in zip(*found, strict=True)))


def _say(why: str) -> None:
    warnings.warn(f"`tune_encoder` keeps the frozen encoder: {why}.", stacklevel=6)
