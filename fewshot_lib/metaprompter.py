r"""MetaPrompter: a pool of prompts, from which every text gets a mixture of its own.

One prompt for all tasks must be a compromise. MetaPrompter (Jiang et al. 2023, arXiv:2306.00618) learns K of them with keys:

    (1)  a(x) = Softmax(κ q(x) / √d)          κ (K, d): the keys;  q(x) (d,): the *cue*, the frozen model's [MASK] feature of x
    (2)  θ(x) = Σ_k a_k(x) Θ_k                Θ (K, P, d): the pool

Keys and pool are adapted by a few steps of gradient descent on each task's support, and their start is learnt with
first-order MAML; the language model stays frozen (55 thousand parameters with K = P = 8 and d = 768, besides its 110
million). The answer mixes examples with words (``verbalizers``): ½ RepVerb + ½ label words.

The inner loop descends the loss of the words alone: at one shot a support text is its own RepVerb mean, so that the other half
would be right whatever the pool is (``Mixture.inner``). The authors' code descends the mixture's, there with cosines over τ = 1.

The cue of a text is read once, with the template's words but without its soft tokens. Position and type embeddings are added
once, by the model; the authors' code feeds vectors to which they are added already, and they are added again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewshot_lib.masked_lm import MaskedLM
from fewshot_lib.metaprompting import MetaPrompting
from fewshot_lib.prompt_model import PromptModel
from fewshot_lib.verbalizers import Mixture, RepVerb, Words


class PromptPool(nn.Module):
    """Equations (1) and (2): cues (n, d) -> prompts (n, P, d). Parameters: ``keys`` (K, d), ``values`` (K, P, d)."""

    uses_cues = True

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        if keys.dim() != 2 or values.dim() != 3 or len(keys) != len(values):
            raise ValueError(f"`keys` are {tuple(keys.shape)} and `values` {tuple(values.shape)}: they must be (K, d) and (K, P, d).")
        self.keys, self.values = nn.Parameter(keys.detach().clone()), nn.Parameter(values.detach().clone())

    @property
    def n_soft(self) -> int:
        """P."""
        return self.values.shape[1]

    def attention(self, cues: Tensor) -> Tensor:
        """Equation (1): cues (n, d) -> weights (n, K)."""
        return (cues @ self.keys.T / self.keys.shape[-1] ** 0.5).softmax(-1)

    def forward(self, cues: Tensor) -> Tensor:
        return (self.attention(cues) @ self.values.flatten(1)).unflatten(-1, self.values.shape[1:])


def prompt_pool(values: Tensor, generator: torch.Generator) -> PromptPool:
    """A pool with the values (K, P, d), for instance K draws of ``initial_prompt``, and normal keys, as in the authors' code."""
    keys = torch.randn(len(values), values.shape[-1], generator=generator, dtype=values.dtype)
    return PromptPool(keys.to(values.device), values)


def meta_prompter(
    lm: MaskedLM,
    pool: PromptPool,
    *,
    weight: float = 0.5,
    transductive: bool = False,
    centre: str | Tensor | None = "support",
    temperature: float = 0.1,
    inner_steps: int = 5,
    inner_lr: float = 0.1,
    name: str = "MetaPrompter",
    **settings: object,
) -> MetaPrompting:
    """MetaPrompter as a learner for ``train_metaprompting``: frozen lm, pool, and weight · RepVerb + (1 − weight) · words.

    transductive: RepVerb's features are centred with the mean over support and queries, as in the authors' code; else
    ``centre`` says with what ("support", the mean feature (d,) of the training classes, or None). settings: of MetaPrompting.
    """
    if not 0 < weight < 1:
        raise ValueError(f"`weight` is {weight}: RepVerb and the words both take part, so it must be above 0 and below 1.")

    def mixture(own: MaskedLM) -> Mixture:
        return Mixture(RepVerb(temperature, "both" if transductive else centre), Words(own), weights=[weight, 1 - weight])

    return MetaPrompting(PromptModel(lm, pool, mixture), "fomaml", inner_steps=inner_steps, inner_lr=inner_lr, name=name, **settings)
