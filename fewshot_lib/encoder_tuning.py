r"""Tuning the encoder on training classes, so that it serves classes to come.

Features that tell the training classes apart are easy to learn and of little use: an encoder with millions of parameters knows its
few training classes after some hundred steps, and forgets what else it knew. Three things keep it useful:

    episodes     every step is a few-shot problem of other training classes. Its queries are asked against the names l, the
                 prototypes p, and their mix, all three, since a class to come is met with one shot or with five:
                     L(θ) = ⅓ Σ_{c ∈ {l, p, l + p}}  CE(cos(f_θ(q), c)/τ, y)
    geometry     how similar texts are to each other stays near to what the frozen encoder f_0 says, after Tung and Mori
                 (2019, arXiv:1907.09682), for features of length 1:
                     + λ mean_{i,j} (cos(f_θ(x_i), f_θ(x_j)) − cos(f_0(x_i), f_0(x_j)))²
    few numbers  LoRA adapters instead of weights (``backbone.with_lora``), and of these only a share s: W_0 + s B A with s chosen on
                 validation classes, after Wortsman et al. (2022, arXiv:2109.01903).

Tasks are as in ``task_sampling``, with token ids (n, L) in place of features: ``backbone.tokenise``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.backbone import TokenEncoder
from fewshot_lib.encoders import encode
from fewshot_lib.episodes import EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.labels import label_mix
from fewshot_lib.prototypes import cosine_logits
from fewshot_lib.task_sampling import JointEpisodes, Task, TaskSampler
from fewshot_lib.training import History, Settings, fit, one_cycle


def name_and_prototype_loss(joint: JointEpisodes, temperature: float = 0.07) -> Tensor:
    """Mean cross-entropy of the queries of E episodes against names, prototypes and their mix: a scalar.

    joint: as features, support (E, N, K, d), query (E, M, d), labels (E, N, d).
    """
    names, prototypes = F.normalize(joint.labels, dim=-1), F.normalize(F.normalize(joint.support, dim=-1).mean(2), dim=-1)
    against = (cosine_logits(joint.query, c, temperature) for c in (names, prototypes, names + prototypes))
    return torch.stack([F.cross_entropy(logits.mT, joint.query_labels) for logits in against]).mean()


def geometry_loss(features: Tensor, frozen: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all pairs of n examples, (n, d) and (n, d') -> scalar.

    Zero for every rotation, and for features of other lengths.
    """
    own, given = (F.normalize(f, dim=-1) for f in (features, frozen))
    return (own @ own.T - given @ given.T).square().mean()


def tune_encoder(
    encoder: TokenEncoder,
    tasks: Sequence[Task],
    n_steps: int,
    *,
    n_way: int = 10,
    n_shot: int | tuple[int, int] = (1, 5),
    n_query: int = 2,
    temperature: float = 0.07,
    geometry: float = 40.0,
    lr: float = 3e-4,
    weight_decay: float = 0.01,
    bf16: bool = False,
    batch_size: int = 24,
    seed: int = 0,
    validate_every: int = 100,
    n_validation: int = 200,
    checkpoint: Path | None = None,
    checkpoint_every: int = 50,
    label: str = "tuning the encoder",
) -> History:
    """Trains what requires a gradient in the encoder on episodes of the tasks' training classes, one task a step, in turn.

    tasks: with token ids (n, L), and ids (C, L) of the class names. n_way: or as many as a task has. geometry: λ; the frozen encoder
    is the encoder as it comes. bf16: matrix products in bfloat16. batch_size: texts encoded at a time, of about the same length.
    Selection: the best mean over tasks of ``validation_accuracy`` at the lowest and at the highest n_shot; where no task has two
    validation classes, the last encoder stays. checkpoint: as in ``training.fit``. History: loss, and geometry without λ.

    Raises ValueError for a task without names or with too few classes or texts, and for an encoder without anything to train.
    """
    if nameless := [task.name for task in tasks if task.label_features is None]:
        raise ValueError(f"`tasks` {nameless} have no label_features: give the token ids of their class names.")
    learnt = [p for p in encoder.parameters() if p.requires_grad]
    if not learnt:
        raise ValueError("`encoder` has no parameter with requires_grad: there is nothing to tune. Take `backbone.with_lora`.")
    samplers = [
        TaskSampler([task], min(n_way, len(task.classes("train"))), n_shot, n_query, 1, seed=seed + t) for t, task in enumerate(tasks)
    ]
    able, shots = [task for task in tasks if len(task.classes("val")) > 1], sorted(set(samplers[0].shots))
    for task in able:  # a validation class with too few texts is refused before the first step
        task.sampler("val", 2, shots[-1], 1, seed)
    frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
    device = learnt[0].device

    def precision() -> AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def step(i: int) -> dict[str, Tensor]:
        joint = samplers[i % len(tasks)].sample()
        given = (joint.support, joint.query, joint.labels)
        ids = torch.cat([part.flatten(0, -2) for part in given]).to(device)
        with precision():
            features = encoder.in_batches(ids, batch_size).float()
            with torch.no_grad():
                before = frozen.in_batches(ids, batch_size).float()
        parts = features.split([part[..., 0].numel() for part in given])
        support, query, labels = (part.unflatten(0, ids.shape[:-1]) for part, ids in zip(parts, given, strict=True))
        joint = JointEpisodes(support, query, labels, joint.query_labels.to(device), joint.task, joint.groups)
        kept = geometry_loss(features, before)
        return {"loss": name_and_prototype_loss(joint, temperature) + geometry * kept, "geometry": kept}

    def validate() -> float:
        with precision():
            return sum(validation_accuracy(encoder, task, shots, min(n_way, 5), n_validation, seed=seed) for task in able) / len(able)

    optimizer = torch.optim.AdamW(learnt, lr, weight_decay=weight_decay)
    settings = Settings(
        tasks=[task.fingerprint() for task in tasks],
        episodes=[n_way, *samplers[0].shots, n_query, validate_every, n_validation],
        training=[temperature, geometry, lr, weight_decay, bf16, seed],
    )
    return fit(
        step,
        encoder,
        optimizer,
        n_steps,
        scheduler=one_cycle(optimizer, n_steps),
        validate=validate if able else None,
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume_with={"settings": settings, **{f"sampler {t}": sampler for t, sampler in enumerate(samplers)}},
        label=label,
    )


def scale_adapters(encoder: nn.Module, strength: float) -> None:
    """Multiplies every LoRA adapter's B by ``strength``, in place: W_0 + s B A. ValueError for an encoder without adapters."""
    adapters = [p for name, p in encoder.named_parameters() if "lora_B" in name]
    if not adapters:
        raise ValueError("`encoder` has no LoRA adapters: take `backbone.with_lora`.")
    with torch.no_grad():
        for p in adapters:
            p *= strength


def validation_accuracy(
    encoder: TokenEncoder, task: Task, shots: Sequence[int] = (1, 5), n_way: int = 5, n_episodes: int = 200, most: int = 40, seed: int = 0
) -> float:
    """Mean over shots of the label+prototype mix on the validation classes of a task on token ids, of each at most ``most`` texts."""
    classes, labels, generator = task.classes("val"), task.dataset.labels, torch.Generator().manual_seed(seed)
    members = [(labels == c).nonzero()[:, 0] for c in classes.tolist()]
    rows = torch.cat([m[torch.randperm(len(m), generator=generator)[:most]] for m in members])
    features, names = (encode(encoder, ids, 64).float() for ids in (task.features[rows], task.label_features))
    n_query = max(1, min(10, *(min(len(m), most) - max(shots) for m in members)))
    found = []
    for n_shot in shots:
        sampler = EpisodeSampler(labels[rows], classes, min(n_way, len(classes)), n_shot, n_query, seed)
        found.append(evaluate(label_mix, sampler.sample(n_episodes), features, label_features=names).mean)
    return sum(found) / len(found)
