r"""Prototypes that the queries move: soft k-means with class names, from the examples on.

Queries lie where their classes lie, so each helps to place the class that it seems to belong to (Ren et al.
2018, arXiv:1803.00676, equations 2 to 4, for unlabelled examples). With features of length 1,

    (1)  c_k ∝ Σ_j x_jk + w √K l_k + β Σ_q p_qk q          examples, name, and queries; at first β = 0
    (2)  p_q = Softmax(cos(q, c)/τ)

in turn. A name counts as in ``name_examples``. *Balanced*, p is scaled until every class has the same share
of the queries, Σ_q p_qk = M/N (Sinkhorn and Knopp 1967; in few-shot learning: Hu et al. 2021,
arXiv:2006.03806). Where the queries are equally many, as in benchmarks, that is knowledge about the answer;
where they are not, it does harm.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fewshot_lib.core import check_axes, check_shapes, positive, whole_number
from fewshot_lib.prototypes.means import cosine_logits

SINKHORN_STEPS = 10


@dataclass(frozen=True)
class SoftKMeans:
    """A transductive method: support (E, N, K, d), query (E, M, d), names (E, N, d) -> logits (E, M, N).

    weight: w, of a name. query_weight: β. temperature: τ. rounds: how often (1) and (2) are computed.
    balanced: whether the classes share the queries equally. The defaults were chosen on validation classes
    (``benchmarks/field.py --choose``).
    """

    weight: float = 3.0
    query_weight: float = 1.0
    temperature: float = 0.06
    rounds: int = 5
    balanced: bool = True

    transductive: ClassVar[bool] = True
    uses_names: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(temperature=self.temperature)
        positive(or_zero=True, weight=self.weight, query_weight=self.query_weight)
        whole_number(1, rounds=self.rounds)

    @property
    def name(self) -> str:
        return f"{'balanced ' if self.balanced else ''}soft k-means with names"

    def __call__(
        self,
        support: Tensor,
        query: Tensor,
        names: Tensor | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        check_shapes(support, query, support_mask)
        check_axes(support=(support, "ENKd"), names=(names, "ENd"), query_mask=(query_mask, "EM"))
        present = support.new_ones(support.shape[:3]) if support_mask is None else support_mask.to(support)
        real = query.new_ones(query.shape[:2]) if query_mask is None else query_mask.to(query)
        query = F.normalize(query, dim=-1)
        start = (F.normalize(support, dim=-1) * present.unsqueeze(-1)).sum(2)
        if names is not None:
            of_name = self.weight * present.sum(-1).mean(-1).sqrt()
            start = start + of_name.view(-1, 1, 1) * F.normalize(names, dim=-1)
        centres = start
        for _ in range(self.rounds):
            p = self.assigned(cosine_logits(query, centres, self.temperature), real).exp()
            centres = start + self.query_weight * (p * real.unsqueeze(-1)).mT @ query
        return self.assigned(cosine_logits(query, centres, self.temperature), real)

    def assigned(self, logits: Tensor, real: Tensor) -> Tensor:
        """log p of (2), balanced over real queries: logits (E, M, N), real (E, M) -> (E, M, N)."""
        log_p = logits.log_softmax(-1)
        unreal = (real == 0).unsqueeze(-1)
        for _ in range(SINKHORN_STEPS if self.balanced else 0):
            log_p = log_p - log_p.masked_fill(unreal, -1e9).logsumexp(1, keepdim=True)
            log_p = log_p.log_softmax(-1)
        return log_p
