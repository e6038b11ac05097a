r"""Auxiliary losses: what an episode says beside the answers to its queries.

The cross-entropy of the queries trains a model through its logits alone. Two more questions can be asked of the features
themselves, at no cost of labels, and a model that answers them well has learnt something that every task shares:

    same class        is this pair of examples of one class?     sigmoid((cos(q, x) − c)/τ)      edge labels, as in Kim et al.
                                                                                                  2019 (arXiv:1905.01436)
    label alignment   which name belongs to which class?         Softmax(cos(μ_k, l_j)/τ)        with a class mean μ_k and label l_j

Both are functions (model, joint episodes) -> (E,), for ``multitask.train_jointly(auxiliary={"edges": (same_class_loss, 0.1)})``. They
shape features, so the model must have embed(support, query, labels) -> the same three, changed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.prototypes import cosine_logits
from fewshot_lib.task_sampling import JointEpisodes


def same_class_loss(model: nn.Module, joint: JointEpisodes, temperature: float = 0.1) -> Tensor:
    """Binary cross-entropies (E,) over all pairs of a query and a support; pairs of one class and of two count equally.

    The offset c is the mean cosine of the episode, so that nothing needs to be learnt for it. ValueError for a model without
    ``embed``.
    """
    support, query, _ = _embedded(model, joint)
    n_way, n_shot = support.shape[1:3]
    cosines = cosine_logits(query, support.flatten(1, 2), 1.0)  # (E, M, N·K)
    edges = (cosines - cosines.mean((1, 2), keepdim=True)) / temperature
    ways = torch.arange(n_way, device=support.device).repeat_interleave(n_shot)
    same = (joint.query_labels.unsqueeze(-1) == ways).to(edges)
    balanced = same / same.sum((1, 2), keepdim=True) + (1 - same) / (1 - same).sum((1, 2), keepdim=True)
    return 0.5 * (balanced * F.binary_cross_entropy_with_logits(edges, same, reduction="none")).sum((1, 2))


def label_alignment_loss(model: nn.Module, joint: JointEpisodes, temperature: float = 0.1) -> Tensor:
    """Cross-entropies (E,) of the class means against the labels. ValueError for a model without ``embed``, or tasks without names."""
    if joint.labels is None:
        raise ValueError("`joint` has no labels, and this loss aligns classes with their names: give the tasks label_features.")
    support, _, labels = _embedded(model, joint)
    logits = cosine_logits(support.mean(2), labels, temperature)  # (E, N, N)
    names = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return F.cross_entropy(logits.mT, names, reduction="none").mean(1)


def _embedded(model: nn.Module, joint: JointEpisodes) -> tuple[Tensor, Tensor, Tensor | None]:
    if not hasattr(model, "embed"):
        raise ValueError(f"`model` ({type(model).__name__}) has no `embed`: it leaves features as they are, and this loss shapes features.")
    return model.embed(joint.support, joint.query, joint.labels)
