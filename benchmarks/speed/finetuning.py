"""Fine-tuning all episodes at once, one after the other, and with easyfsl, with equal settings.

Episodes are 5-way 1-shot with 15 queries per class, on 640-d features. The loop calls the same method on one
episode at a time. easyfsl's TIM and Finetune must give the same probabilities: the largest difference stands
in the table, and how far fine-tuning moved them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from speed.peers import peer
from speed.timing import OURS, beside, in_turn
from torch import Tensor, nn

from fewshot_lib.finetuning import TIM, FineTuning

N_WAY, N_SHOT, N_QUERY, N_FEATURES, STEPS = 5, 1, 15, 640, 50
LR = 0.01  # so large that fine-tuning changes what is predicted, and a difference would show
LIKE_EASYFSL = {
    "head": "cosine",
    "init": "means",
    "normalise": False,
    "bias": False,
    "steps": STEPS,
    "lr": LR,
}
METHODS = {"TIM": TIM(**LIKE_EASYFSL, temperature=0.1, weight=1.0), "Finetune": FineTuning(**LIKE_EASYFSL)}
FLOOR = "the products alone"
HEAD = ["method", "by", "ms an episode", "× ours", "range of rounds", "largest difference of a probability"]


def draw(n_episodes: int, n_shot: int = N_SHOT) -> tuple[Tensor, Tensor]:
    """Positive features, as after a ReLU: support (E, N, K, d), query (E, M, d)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n_episodes, N_WAY, 1, N_FEATURES, generator=generator)
    examples = centres + 2 * torch.randn(n_episodes, N_WAY, n_shot + N_QUERY, N_FEATURES, generator=generator)
    examples = examples.relu()
    return examples[:, :, :n_shot], examples[:, :, n_shot:].flatten(1, 2)


def one_by_one(classify: Callable, support: Tensor, query: Tensor) -> Tensor:
    """The method on one episode after the other: logits (E, M, N)."""
    return torch.cat([classify(support[e : e + 1], query[e : e + 1]) for e in range(len(support))])


def floor(support: Tensor, query: Tensor | None) -> None:
    """What no way can leave out: in every step W qᵀ of all that the loss reads, and the gradient of W."""
    features = support.flatten(1, 2) if query is None else torch.cat([support.flatten(1, 2), query], 1)
    weights = support.mean(2)
    for _ in range(STEPS):
        torch.bmm(torch.bmm(weights, features.mT), features)


def easyfsl_classifier(name: str, ours: FineTuning) -> nn.Module:
    """Its classifier of this name, with the settings of ours; its ``temperature`` is 1/τ."""
    settings = {"fine_tuning_steps": STEPS, "fine_tuning_lr": LR, "temperature": 1 / ours.temperature}
    return getattr(peer("easyfsl.methods"), name)(use_softmax=True, **settings)


def with_easyfsl(classifier: nn.Module, support: Tensor, query: Tensor) -> Tensor:
    """Its classifier on one episode after the other, the only way there is: probabilities (E, M, N)."""
    labels = torch.arange(N_WAY).repeat_interleave(N_SHOT)
    outputs = []
    for s, q in zip(support, query, strict=True):
        classifier.process_support_set(s.flatten(0, 1), labels)
        outputs.append(classifier(q))
    return torch.stack(outputs)


def measure(tiny: bool) -> list[list[str]]:
    """Rows of both methods; easyfsl and the loop get a tenth of the episodes."""
    many, few = (4, 2) if tiny else (100, 10)
    support, query = draw(many)
    some = support[:few], query[:few]
    rows = []
    for name, method in METHODS.items():
        ways = {OURS: partial(method, support, query), "one by one": partial(one_by_one, method, *some)}
        p = method(*some).softmax(-1)
        moved = (p - method.trajectory(*some, [0])[0].softmax(-1)).abs().max()
        far = {OURS: f"fine-tuning moved them by up to {moved:.2f}"}
        ways[FLOOR] = partial(floor, support, query if method.transductive else None)
        far["one by one"] = f"{(p - one_by_one(method, *some).softmax(-1)).abs().max():.0e}"
        if peer("easyfsl.methods"):
            theirs = easyfsl_classifier(name, method)
            ways["easyfsl"] = partial(with_easyfsl, theirs, *some)
            far["easyfsl"] = f"{(p - with_easyfsl(theirs, *some)).abs().max():.0e}"
        times = in_turn(ways, dict.fromkeys(ways, few) | {OURS: many, FLOOR: many})
        rows += beside(f"{name}, {STEPS} steps", times, far=far)
    return rows
