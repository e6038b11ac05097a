r"""Both families of episode models at once, mixed by a gate that sees the task.

    logits = (1 − g) · relational + g · projected,    g = sigmoid(wᵀ r_task + b)

with r_task the four numbers of ``relational.describe``. Like its two families it starts as the name mix.
"""

import torch
from torch import Tensor, nn

from fewshot_lib.graphs.gat_transformer import GATTransformer
from fewshot_lib.graphs.relational import N_DESCRIPTORS, RelationalNetwork, Relations


class Combined(nn.Module):
    """A few-shot method: support (E, N, K, d), query (E, M, d), names (E, N, d) -> logits (E, M, N)."""

    def __init__(
        self,
        relational: RelationalNetwork,
        projected: GATTransformer,
        name: str = "relational + GAT-Transformer",
    ) -> None:
        super().__init__()
        for fact in ("transductive", "uses_names"):
            first, second = getattr(relational, fact), getattr(projected, fact)
            if first != second:
                raise ValueError(
                    f"`{fact}` is {first} for one model and {second} for the other: use the same."
                )
        self.relational, self.projected, self.name = relational, projected, name
        self.transductive, self.uses_names = relational.transductive, relational.uses_names
        self.uses_groups = projected.uses_groups
        self.gate_of_task = nn.Linear(N_DESCRIPTORS, 1)
        for parameter in self.gate_of_task.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, support: Tensor, query: Tensor, names: Tensor | None = None, **extras: Tensor | None
    ) -> Tensor:
        """extras: support_mask, query_mask and groups, as in ``episode_graph``."""
        gate = self.gate(support, query, names, extras.get("support_mask"))
        rich = self.projected(support, query, names, **extras)
        simple = self.relational(support, query, names, **{k: v for k, v in extras.items() if k != "groups"})
        return (1 - gate) * simple + gate * rich

    def gate(
        self, support: Tensor, query: Tensor, names: Tensor | None = None, support_mask: Tensor | None = None
    ) -> Tensor:
        """How much of the projected family an episode gets, (E, 1, 1)."""
        task = Relations.of(support, query, names if self.uses_names else None, support_mask).task
        return torch.sigmoid(self.gate_of_task(task)).unsqueeze(1)
