r"""Unlabelled texts help too: what a class looks like on average is one more example of it.

Somebody with five labelled texts of each class often has a thousand without labels. They move the class
means to where the texts really lie, and do it once, in ``fit``: semi-supervised learning. Afterwards the head
answers each input on its own, as before (inductive), unlike a transductive method, which learns from the
inputs that it is asked about. With p_uk the probability of class k for unlabelled text u, by the head of the
examples and the names,

    (1)  q_uk ∝ p_uk²                          a little surer than the head is
    (2)  m_k = Σ_u q_uk x_u                    the mean of what looks like class k, brought to length 1
    (3)  v_k = 3 · Σ_u q_uk² / Σ_u q_uk        its weight: 3 examples, times how sure (1) is of these texts

and the mean m_k joins the examples of k in the convex problem of ``names_as_examples``. Nothing in it expects
as many texts of one class as of another; and a class of which the pool holds nothing gets a mean of doubtful
texts, and with it a small weight.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.prototypes import NamesAsExamples, fit_softmax

# of a mean of which (1) is quite sure: as of a name, of five classes or more, before examples are asked
WEIGHT = NamesAsExamples.weight


@dataclass(frozen=True, eq=False, kw_only=True)
class WithUnlabelled(NamesAsExamples):
    """Names as examples (or logistic regression) that has also read a pool of unlabelled features (U, d)."""

    pool: Tensor

    @property
    def name(self) -> str:
        return f"{super().name}, with {len(self.pool):,} unlabelled"

    def training_set(
        self, support: Tensor, names: Tensor | None = None, support_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """That of the examples and names, with one more example, (3), in front of those of each class."""
        features, weights = super().training_set(support, names, support_mask)
        unit = F.normalize(self.pool.to(features), dim=-1)
        head = fit_softmax(features, weights, self.C_of(features.shape[1]))
        q = (2 * head(unit.expand(len(features), -1, -1))).softmax(-1).to(features)  # (E, U, N)
        means = F.normalize(q.mT @ unit, dim=-1)
        sure = WEIGHT * q.square().sum(1) / q.sum(1).clamp_min(torch.finfo(q.dtype).tiny)
        return torch.cat([means.unsqueeze(2), features], 2), torch.cat([sure.unsqueeze(-1), weights], -1)


def without_examples(pool: Tensor, examples: Tensor) -> Tensor:
    """The pool (U, d) less what is an example, too: held out, it would have been seen all the same."""
    return pool[~are_examples(pool, examples)]


def are_examples(features: Tensor, examples: Tensor) -> Tensor:
    """Which features (m, d) are those of an example (n, d), as far as computing tells them apart: (m,)."""
    unit = F.normalize(examples.to(features), dim=-1).T
    parts = (F.normalize(part, dim=-1) @ unit for part in features.split(1024))
    return torch.cat([(cosines >= 1 - 1e-6).any(1) for cosines in parts])
