r"""Learning from the queries too: two transductive ways to fine-tune a head.

What a classifier says about the M queries of an episode can be improved without their labels:

    H(Y|X) = −1/M Σ_q Σ_k p_qk log p_qk          small: it is sure of every single query
    H(Y)   = −Σ_k p̄_k log p̄_k,  p̄ = 1/M Σ_q p_q  large: it does not give all queries the same answer

**Transductive fine-tuning** (Dhillon et al. 2020, arXiv:1909.02729, section 3.2) makes H(Y|X) small. **TIM**
(Boudiaf et al. 2020, arXiv:2008.11297, equation 3) maximises the mutual information H(Y) − α H(Y|X), and so
does not fall for the trivial answer that H(Y|X) alone allows, one class for everything. H(Y) is largest when
all classes are predicted equally often: on balanced queries, which benchmarks have and life has not, that is
knowledge about the answer.

Both compute on fixed features; in Dhillon et al. the encoder follows, as it does under ``EncoderFineTuning``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_lib.core import masked_mean, positive
from fewshot_lib.finetuning.heads import (
    FineTuning,
    Head,
    Loss,
    LossInputs,
    entropy_of,
    log_probabilities,
)


@dataclass(frozen=True)
class TransductiveFineTuning(FineTuning):
    """After Dhillon et al.: a linear head; every step descends the support's loss, then λ H(Y|X).

    Their settings, for a whole network: 25 steps (of both losses, with one Adam) at lr 5e-5, τ = 1, λ = 1. A
    head alone needs larger steps.
    """

    head: str = "linear"
    regulariser: str | None = "entropy"
    steps: int = 25
    label: str | None = "transductive fine-tuning"

    regularisers: ClassVar[tuple[str | None, ...]] = ("entropy",)

    def losses(self) -> list[Loss]:
        return [self.support_loss, self.penalty]


@dataclass(frozen=True)
class TIM(FineTuning):
    """TIM-GD: cross-entropy on the support − ``weight`` · (H(Y) − ``alpha`` · H(Y|X)), with Adam.

    The paper's objective is λ CE − H(Y) + α H(Y|X) with λ = α = 0.1; divided by λ, which Adam does not
    notice, ``weight`` is 1/λ = 10. Its classifier is p_k ∝ exp(−‖w_k − q‖²/(2τ)) with τ = 1/15 and no bias,
    w_k starting at the mean of its class's normalised features, and 1,000 steps with lr 1e-4. easyfsl's TIM
    differs: a cosine head on features as they are, τ = 1/10, all weights 1 but α = 0.1, 50 steps. That is
    ``TIM(head="cosine", normalise=False, temperature=0.1, weight=1.0, steps=50)``.
    """

    head: str = "euclidean"
    init: str = "means"
    regulariser: str | None = "information"
    weight: float = 10.0
    alpha: float = 0.1
    steps: int = 1000
    lr: float = 1e-4
    temperature: float = 1 / 15
    bias: bool = False
    label: str | None = "TIM"

    regularisers: ClassVar[tuple[str | None, ...]] = ("information",)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(or_zero=True, alpha=self.alpha)

    def penalty(self, head: Head, inputs: LossInputs) -> Tensor:
        log_p = log_probabilities(self.scores(head, inputs.query))
        conditional = masked_mean(entropy_of(log_p), inputs.query_mask)
        return self.weight * (self.alpha * conditional - _entropy_of_mean(log_p.exp(), inputs.query_mask))


def marginal_entropy(logits: Tensor, query_mask: Tensor) -> Tensor:
    """H(Y), the entropy of the mean prediction: logits (E, M, N), query_mask (E, M) -> (E,), in nats."""
    return _entropy_of_mean(log_probabilities(logits).exp(), query_mask)


def _entropy_of_mean(p: Tensor, query_mask: Tensor) -> Tensor:
    mean = masked_mean(p.transpose(1, 2), query_mask.unsqueeze(1))  # (E, N)
    return -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum(-1)
