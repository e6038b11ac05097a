r"""Many episodes through one language model: every episode with its own prompt, or with its own weights.

A prompt is something that goes *in*, so episodes with different prompts are simply different rows of one batch: a text of
episode e is read with row e of the prompts (E, P, d), and texts of all episodes can stand in any order, short with short.
Weights are not; where those of the language model differ, ``vmap`` runs one copy for each episode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fewshot_lib.maml import Parameters
from fewshot_lib.prompt_model import PromptModel
from fewshot_lib.prompts import mask_features, tokens_for


class _Call(nn.Module):
    """Makes a method of a module what ``functional_call`` calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, *inputs: object) -> Tensor:
        return getattr(self.module, method)(*inputs)


def call_with(model: nn.Module, own: Parameters, method: str, *inputs: object) -> Tensor:
    """A method of the model, with the parameters ``own`` in place of its own."""
    return functional_call(_Call(model), {f"module.{name}": value for name, value in own.items()}, (method, *inputs))


def episode_features(
    model: PromptModel, own: Parameters | None, ids: Tensor, cues: Tensor | None = None, tokens_at_once: int | None = None
) -> Tensor:
    """The [MASK] features (E, n, d) of ids (E, n, L), each with the parameters (E, ...) of its episode, or all with the model's.

    With the model's, equal texts are read once. The result does not depend on tokens_at_once.
    """
    if own is None:
        rows, back = ids.flatten(0, 1).unique(dim=0, return_inverse=True)
        prompts = model.prompt(model.cues(rows))
        return mask_features(model.lm, rows, prompts, tokens_at_once)[back].unflatten(0, ids.shape[:2])
    if all(name.startswith("prompt.") for name in own):
        inside = {name.removeprefix("prompt."): value for name, value in own.items()}
        if cues is None:
            prompts = vmap(lambda p: functional_call(model.prompt, p, ()))(inside).unsqueeze(1)
        else:
            prompts = vmap(lambda p, c: functional_call(model.prompt, p, (c,)))(inside, cues)
        return mask_features(model.lm, ids, prompts, tokens_at_once)
    lengths = (ids != model.lm.tokenizer.pad_token_id).sum(-1)
    order = lengths.argsort(1)  # of the texts of each episode, so that columns of equal rank have similar lengths
    ids = ids.gather(1, order.unsqueeze(-1).expand_as(ids))
    longest = lengths.gather(1, order).amax(0).tolist()
    read, start = [], 0
    while start < len(longest):
        end = start + 1
        while end < len(longest) and (end + 1 - start) * longest[end] * len(ids) <= (tokens_at_once or tokens_for(ids.device)):
            end += 1
        part = ids[:, start:end, : longest[end - 1]]
        read.append(vmap(lambda p, i: call_with(model, p, "features", i))(own, part))
        start = end
    features = torch.cat(read, 1)
    return features.gather(1, order.argsort(1).unsqueeze(-1).expand_as(features))


def episode_logits(model: PromptModel, own: Parameters | None, support: Tensor | None, query: Tensor, extra: dict[str, Tensor]) -> Tensor:
    """Features (E, N, K, d), (E, M, d) and what else the verbalizer takes -> logits (E, M, N), by each episode's own head if it has one."""
    moved = own is not None and any(name.startswith("lm.") and "lora_" not in name for name in own)
    if not (moved and model.verbalizer.uses_head):
        return model.verbalise(support, query, extra)
    given = {"query": query, **extra} | ({} if support is None else {"support": support})

    def one(own: Parameters, given: dict[str, Tensor]) -> Tensor:
        given = {name: value.unsqueeze(0) for name, value in given.items()}
        return call_with(model, own, "verbalise", given.pop("support", None), given.pop("query"), given)[0]

    return vmap(one)(own, given)
