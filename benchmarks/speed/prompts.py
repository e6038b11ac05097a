"""Soft prompts of many episodes tuned together, and one episode at a time on texts padded to 512 tokens.

The library tunes the prompts of many episodes in one pass, without columns of padding and short texts with
short. The loop is what a tokenizer with ``padding="max_length"`` and one prompt at a time make of the same
model: same start, steps and answers; the largest difference of a logit stands in the table. Texts are the
docstrings of the course, 5-way 1-shot with 5 queries per class; the language model is the shipped one.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from speed.timing import OURS, beside, in_turn
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.core import EpisodeSampler
from fewshot_lib.encoders import load_masked_lm
from fewshot_lib.maml.inner import way_labels
from fewshot_lib.prompts import (
    LabelEmbedding,
    Mixture,
    PromptModel,
    PromptTuning,
    RepVerb,
    Template,
    class_words,
    initial_prompt,
)

STEPS, LR, MAX_TOKENS, PADDED, AT_ONCE = 5, 0.1, 48, 512, 10
HEAD = ["adaptation", "by", "ms an episode", "× ours", "range of rounds", "largest difference of a logit"]


def one_by_one(model: PromptModel, support: Tensor, query: Tensor, names: Tensor, padding: int) -> Tensor:
    """Support (E, N, K, L), query (E, M, L), names (E, N, ...) -> logits (E, M, N), one prompt at a time."""
    support, query = (F.pad(ids, (0, PADDED - ids.shape[-1]), value=padding) for ids in (support, query))
    moving, start, answers = list(model.prompt.parameters()), copy.deepcopy(model.prompt.state_dict()), []
    for s, y, q, words in zip(support, way_labels(support), query, names, strict=True):
        for _ in range(STEPS):
            loss = F.cross_entropy(model({"ids": s.flatten(0, 1), "classes": words.unsqueeze(0)}), y)
            gradients = torch.autograd.grad(loss, moving)
            with torch.no_grad():
                torch._foreach_sub_(moving, gradients, alpha=LR)
        with torch.no_grad():
            answers.append(model({"support": s, "ids": q, "classes": words.unsqueeze(0)}))
        model.prompt.load_state_dict(start)
    return torch.stack(answers)


def measure(tiny: bool) -> list[list[str]]:
    """Two rows, three rounds of 34 episodes; the loop gets one a round: its time per episode is constant."""
    rounds = 1 if tiny else 3
    many, few = (2, 1) if tiny else (34, 1)
    dataset = data.load("docstrings").only("test")
    lm = load_masked_lm(max_tokens=MAX_TOKENS)
    template = Template("{text} , the topic is [MASK] .").softened
    ids, words = template.tokenise(lm, dataset.inputs), class_words(lm, dataset.class_names)
    start = initial_prompt(lm, template, "words")
    model = PromptModel(lm, start, lambda own: Mixture(LabelEmbedding(own, "support"), RepVerb()))
    (classes,) = dataset.splits.values()
    episodes = EpisodeSampler(dataset.labels, classes, 5, 1, 1 if tiny else 5, seed=0).sample(many)
    support, query, names = ids[episodes.support], ids[episodes.query], words[episodes.classes]
    method, padding = PromptTuning(model, STEPS, LR), lm.tokenizer.pad_token_id

    def together() -> Tensor:
        dealt = zip(support.split(AT_ONCE), query.split(AT_ONCE), names.split(AT_ONCE), strict=True)
        return torch.cat([method(s, q, names=n) for s, q, n in dealt])

    def alone() -> Tensor:
        return one_by_one(model, support[:few], query[:few], names[:few], padding)

    off = {"one by one, padded": f"{(together()[:few] - alone()).abs().max():.0e}"}
    times = in_turn(
        {OURS: together, "one by one, padded": alone}, {OURS: many, "one by one, padded": few}, rounds
    )
    return beside(
        f"{rounds * many} episodes, {STEPS} steps, texts of at most {MAX_TOKENS} tokens", times, off=off
    )
