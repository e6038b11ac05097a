r"""Prototype classifiers: a class is the mean of its few examples.

With a feature extractor f, and the support set S_k of class k,

    (1)  μ_k = 1/|S_k| Σ_{x in S_k} f(x)               the class mean
    (2)  M = [μ_1/‖μ_1‖, …, μ_N/‖μ_N‖]ᵀ                one normalised mean per row, (N, d)
    (3)  p = Softmax(M q / τ),   q = f(x)/‖f(x)‖        the prediction for a query x

and, for the Euclidean version (Prototypical Networks: Snell et al. 2017, arXiv:1703.05175, equation 2),

    (4)  p = Softmax(−‖f(x) − μ_k‖²).

Since −‖q − μ‖² = 2μᵀq − ‖μ‖² − ‖q‖², and the last term is the same for every class, (4) is a linear
classifier with weights 2μ_k and biases −‖μ_k‖².
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.core import (
    CommonBatchNorm,
    EpisodeSampler,
    History,
    Settings,
    autocast,
    data_facts,
    feature_rows,
    few_shot_method,
    fit,
    for_model,
    in_shares,
    one_cycle,
    positive,
    rate,
    whole_number,
)
from fewshot_lib.data.dataset import ClassDataset


def class_means(support: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """Equation (1): support (E, N, K, d) -> means (E, N, d), of the shots that are True in (E, N, K)."""
    if support_mask is None:
        return support.mean(-2)
    weights = support_mask.to(support.dtype).unsqueeze(-1)  # (E, N, K, 1)
    return (support * weights).sum(-2) / weights.sum(-2).clamp_min(1)


def squared_euclidean_logits(query: Tensor, means: Tensor) -> Tensor:
    """The exponent of equation (4): query (..., M, d), means (..., N, d) -> −‖q − μ‖², (..., M, N)."""
    cross = query @ means.transpose(-1, -2)  # the linear classifier: no (M, N, d) tensor of differences
    lengths = torch.linalg.vector_norm(query, dim=-1, keepdim=True)  # one pass: no (M, d) tensor of squares
    return 2 * cross - means.square().sum(-1).unsqueeze(-2) - lengths.square()


def cosine_logits(query: Tensor, means: Tensor, temperature: float = 0.1) -> Tensor:
    """The exponent of equation (3): query (..., M, d), means (..., N, d) -> cos(q, μ)/τ, (..., M, N)."""
    positive(temperature=temperature)
    return F.normalize(query, dim=-1) @ F.normalize(means, dim=-1).transpose(-1, -2) / temperature


@few_shot_method("prototypes, Euclidean", transductive=False)
def euclidean_prototypes(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """Equation (4): support (E, N, K, d), query (E, M, d) -> logits (E, M, N)."""
    return squared_euclidean_logits(query, class_means(support, support_mask))


@few_shot_method("prototypes, cosine", transductive=False)
def cosine_prototypes(support: Tensor, query: Tensor, support_mask: Tensor | None = None) -> Tensor:
    """Equations (1)-(3): support (E, N, K, d), query (E, M, d) -> logits (E, M, N), with τ = 0.1."""
    return cosine_logits(query, class_means(support, support_mask))


def prototypical_loss(support: Tensor, query: Tensor, query_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of equation (4) on queries with query_labels (E, M) -> (loss, accuracy), both scalars."""
    logits = squared_euclidean_logits(query, class_means(support))
    loss = F.cross_entropy(logits.flatten(0, 1), query_labels.flatten())
    return loss, (logits.argmax(-1) == query_labels).float().mean()


def train_prototypical(
    encoder: nn.Module,
    dataset: ClassDataset,
    n_steps: int,
    *,
    n_way: int = 20,
    n_shot: int = 1,
    n_query: int = 5,
    lr: float = 4e-3,
    seed: int = 0,
    **loop: Any,
) -> History:
    """Trains a Prototypical Network: one episode of *training* classes per step, Adam on equation (4)'s loss.

    More ways in training than in testing make a better space (Snell et al. 2017, section 2.6). dataset:
    images, or features if the "encoder" is a layer on top of them; no texts. lr: the peak of one cycle.
    seed: of the episodes. loop: see :class:`fewshot_lib.core.Loop`.
    """
    dataset.need_tensors()
    whole_number(1, n_steps=n_steps, n_shot=n_shot)
    lr = rate(lr=lr)
    if not any(p.requires_grad for p in encoder.parameters()):
        raise ValueError("`encoder` has no trainable parameter: nothing can be learnt.")
    sizes = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query}
    sampler = EpisodeSampler.of(dataset, "train", **sizes, seed=seed)
    settings = Settings(**sizes, lr=lr, seed=seed, **data_facts(dataset))
    inputs = feature_rows("dataset.inputs", dataset.inputs, dataset.rows("train"))
    inputs = for_model(inputs, encoder)
    device = inputs.device

    def step(_: int) -> dict[str, Tensor]:
        episode = sampler.sample(1).to(device)
        images = inputs[torch.cat([episode.support.flatten(), episode.query.flatten()])]
        with autocast(device), CommonBatchNorm():
            features = in_shares(encoder, images).float().unsqueeze(0)
        support = features[:, : n_way * n_shot].unflatten(1, (n_way, n_shot))
        loss, accuracy = prototypical_loss(support, features[:, n_way * n_shot :], episode.query_labels)
        return {"loss": loss, "accuracy": accuracy}

    optimizer = torch.optim.Adam(encoder.parameters(), lr=lr)
    loop |= {"scheduler": one_cycle(optimizer, n_steps), "states": {"settings": settings, "sampler": sampler}}
    return fit(step, encoder, optimizer, n_steps, **{"label": "ProtoNet"} | loop)
