r"""Tuning the encoder on training classes, so that it serves classes to come.

Features that tell the training classes apart are easy to learn and of little use: an encoder with millions of
parameters knows its few training classes after some hundred steps, and forgets what else it knew. Three
things keep it useful:

    episodes     every step is a few-shot problem of other training classes. Its queries are asked against
                 the names l, the prototypes p, and their mix, all three, since a class to come is met with
                 one shot or with five:
                     L(θ) = ⅓ Σ_{c ∈ {l, p, l + p}}  CE(cos(f_θ(q), c)/τ, y)
    geometry     how similar texts are to each other stays near to what the frozen encoder f_0 says, after
                 Tung and Mori (2019, arXiv:1907.09682), for features of length 1:
                     + λ mean_{i,j} (cos(f_θ(x_i), f_θ(x_j)) − cos(f_0(x_i), f_0(x_j)))²
    few numbers  LoRA adapters instead of weights (``encoders.with_lora``), and of these only a share s:
                 W_0 + s B A with s chosen on validation classes, after Wortsman et al. (2022,
                 arXiv:2109.01903).

Tasks are as in ``tasks``, with token ids (n, L) in place of features: ``encoders.tokenise``.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.core import (
    EpisodeSampler,
    History,
    Settings,
    Stateful,
    autocast,
    bfloat16_asked,
    evaluate,
    fit,
    in_shares,
    one_cycle,
    random_numbers,
    rate,
    start_alike,
)
from fewshot_lib.encoders import TokenEncoder, encode
from fewshot_lib.multitask.tasks import Task, TaskSampler
from fewshot_lib.prototypes import cosine_logits, name_mix

_MOST_TEXTS = 40  # of a class, that a validation reads


def name_and_prototype_loss(
    support: Tensor, query: Tensor, names: Tensor, query_labels: Tensor, temperature: float = 0.07
) -> Tensor:
    """support (E, N, K, d), query (E, M, d), names (E, N, d), query_labels (E, M) -> L(θ), a scalar."""
    names = F.normalize(names, dim=-1)
    prototypes = F.normalize(F.normalize(support, dim=-1).mean(2), dim=-1)
    logits = [cosine_logits(query, c, temperature) for c in (names, prototypes, names + prototypes)]
    return torch.stack([F.cross_entropy(each.mT, query_labels) for each in logits]).mean()


def geometry_loss(features: Tensor, frozen: Tensor) -> Tensor:
    """The term of λ: (n, d), (n, d') -> scalar, 0 for every rotation and for features of other lengths."""
    features, frozen = F.normalize(features, dim=-1), F.normalize(frozen, dim=-1)
    return (features @ features.T - frozen @ frozen.T).square().mean()


def tune_encoder(
    encoder: TokenEncoder,
    samplers: Sequence[TaskSampler],
    n_steps: int,
    *,
    geometry: float = 40.0,
    lr: float = 3e-4,
    batch_size: int = 24,
    n_validation: int = 200,
    **loop: Any,
) -> History:
    """Trains what requires a gradient in the encoder on episodes of training classes.

    samplers: one is asked in a step, in turn; their tasks have token ids (n, L), and (C, L) of class names.
    geometry: λ; the frozen encoder is the encoder as it comes. The history has the term without λ.
    batch_size: texts encoded at a time, of about the same length.
    n_validation: episodes of ``validation_accuracy`` at the lowest and at the highest n_shot. The best mean
        over tasks stays; where no task has two validation classes, the last encoder.
    loop: see ``core.Loop``.
    """
    lr = rate(lr=lr)
    tasks = [task for sampler in samplers for task in sampler.tasks]
    if nameless := [task.name for task in tasks if task.names is None]:
        raise ValueError(f"`samplers` have tasks without names, {nameless}: give the token ids of the names.")
    learnt = [p for p in encoder.parameters() if p.requires_grad]
    if not learnt:
        raise ValueError("`encoder` has no parameter with requires_grad: take `encoders.with_lora`.")
    able, shots = [task for task in tasks if len(task.classes("val")) > 1], sorted(set(samplers[0].shots))
    n_way, seed = min(5, max(sampler.n_way for sampler in samplers)), samplers[0].seed
    for task in able:  # a validation class with too few texts is refused before the first step
        task.sampler("val", 2, shots[-1], 1, seed)

    def validate() -> float:
        found = [validation_accuracy(encoder, t, shots, n_way, n_validation, seed=seed) for t in able]
        return sum(found) / len(found)

    optimizer, bfloat16 = torch.optim.AdamW(learnt, lr), bfloat16_asked(learnt[0].device)
    states: dict[str, Stateful] = {
        "settings": Settings(training=[geometry, lr, bfloat16, n_validation, loop.get("validate_every")])
    }
    states |= {f"sampler {i}": sampler for i, sampler in enumerate(samplers)}
    loop = {"label": "tuning the encoder", "validate": validate if able else None} | loop
    loop |= {"scheduler": one_cycle(optimizer, n_steps), "states": states}
    return fit(_step(encoder, samplers, geometry, batch_size), encoder, optimizer, n_steps, **loop)


def _step(
    encoder: TokenEncoder, samplers: Sequence[TaskSampler], geometry: float, batch_size: int
) -> Callable[[int], dict[str, Tensor]]:
    """One step for ``fit``: the episodes of one sampler, encoded by the encoder as it is and as it was."""
    start_alike(encoder)  # before it is copied
    frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
    device = next(encoder.parameters()).device

    def step(i: int) -> dict[str, Tensor]:
        joint = samplers[i % len(samplers)].sample()
        assert joint.names is not None  # checked before
        texts = (joint.support, joint.query, joint.names)  # token ids, (..., L)
        ids = torch.cat([part.flatten(0, -2) for part in texts]).to(device)
        with autocast(device):
            features = in_shares(partial(encoder.in_batches, batch_size=batch_size), ids).float()
            with torch.no_grad():
                before = in_shares(partial(frozen.in_batches, batch_size=batch_size), ids).float()
        shapes = [part.shape[:-1] for part in texts]
        parts = features.split([shape.numel() for shape in shapes])
        support, query, names = [p.unflatten(0, shape) for p, shape in zip(parts, shapes, strict=True)]
        task_loss = name_and_prototype_loss(support, query, names, joint.query_labels.to(device))
        drift = geometry_loss(features, before)
        return {"loss": task_loss + geometry * drift, "geometry": drift}

    return step


def scale_adapters(encoder: nn.Module, strength: float) -> None:
    """Multiplies every LoRA adapter's B by ``strength``, in place: W_0 + s B A."""
    adapters = [p for name, p in encoder.named_parameters() if "lora_B" in name]
    if not adapters:
        raise ValueError("`encoder` has no LoRA adapters: take `encoders.with_lora`.")
    with torch.no_grad():
        for p in adapters:
            p.mul_(strength)


def validation_accuracy(
    encoder: TokenEncoder,
    task: Task,
    shots: Sequence[int] = (1, 5),
    n_way: int = 5,
    n_episodes: int = 200,
    seed: int = 0,
) -> float:
    """Mean over shots of the mix of names and prototypes, on at most 40 texts of each validation class."""
    classes, labels, generator = task.classes("val"), task.dataset.labels, random_numbers(seed)
    members = [(labels == c).nonzero()[:, 0] for c in classes.tolist()]
    rows = torch.cat([m[torch.randperm(len(m), generator=generator)[:_MOST_TEXTS]] for m in members])
    assert task.names is not None, f"task {task.name!r} has no names"
    features, names = (encode(encoder, ids, 64).float() for ids in (task.features[rows], task.names))
    n_query = max(1, min(10, *(min(len(m), _MOST_TEXTS) - max(shots) for m in members)))
    found = []
    for n_shot in shots:
        ways, named = min(n_way, len(classes)), task.dataset.class_names
        sampler = EpisodeSampler(labels[rows], classes, ways, n_shot, n_query, seed, named)
        found.append(evaluate(name_mix, sampler.sample(n_episodes), features, names=names).mean)
    return sum(found) / len(found)
