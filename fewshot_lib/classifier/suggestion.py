"""What to label next: inputs that the classifier is unsure of, that stand for many, and that differ.

An input is worth

    doubt          1 − the lead of the likeliest class over the second
  × typicality     its mean cosine to its 20 nearest neighbours in the pool
  × novelty        its distance, 1 − cosine, to the nearest input already chosen

and the most valuable one is chosen again and again. Doubt alone finds oddities, and the same question twenty
times (Hacohen et al. 2022, arXiv:2202.02794, on why few labels want typical examples).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

N_NEIGHBOURS, LARGEST = 20, 5000  # of a larger pool, every so manieth input is a possible neighbour


def suggest(probabilities: Tensor, features: Tensor, n: int) -> Tensor:
    """Rows (min(n, m),) of a pool, the most useful first: probabilities (m, N), features (m, d)."""
    unit = F.normalize(features.double(), dim=-1)
    top = probabilities.double().topk(2, -1).values
    value = (1 - (top[:, 0] - top[:, 1])) * typicality(unit)
    novelty = torch.ones_like(value)
    chosen: list[int] = []
    for _ in range(min(n, len(unit))):
        worth = value * novelty
        worth[chosen] = -torch.inf
        chosen.append(int(worth.argmax()))
        novelty = torch.minimum(novelty, 1 - unit @ unit[chosen[-1]])
    return torch.tensor(chosen, dtype=torch.int64)


def typicality(unit: Tensor) -> Tensor:
    """Mean cosine to the nearest neighbours, itself among them, at least 0: unit (m, d) -> (m,)."""
    others = unit[:: 1 + len(unit) // LARGEST]
    k = min(N_NEIGHBOURS, len(others))
    parts = [(part @ others.T).topk(k, -1).values.mean(-1) for part in unit.split(1024)]
    return torch.cat(parts).clamp_min(0)
