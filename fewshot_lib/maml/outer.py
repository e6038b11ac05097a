r"""The outer loop: training a ``MAML`` learner on many tasks, with the losses of MAML, MAML++ and Reptile.

    (1)  MAML     L(θ) = mean_t L_q(φ_S)
    (2)  MAML++   L(θ) = mean_t Σ_s v_s L_q(φ_s)   the weights v_s move to the last step as training goes on,
                                                   and its first part is first-order (Antoniou et al. 2019)
    (3)  Reptile  θ ← θ − ε (θ − mean_t φ_S)       no query: towards where adaptation ends (Nichol et al.
                                                   2018, algorithm 2)

In (3) θ − mean_t φ_S stands where (1) and (2) have a gradient, so that all three go through the same training
loop; plain SGD with the rate ε is then Reptile as defined, and Adam is Reptile with Adam.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils._pytree import tree_map

from fewshot_lib.core import (
    Episodes,
    EpisodeSampler,
    History,
    Settings,
    Stateful,
    checks,
    data_facts,
    feature_rows,
    fit,
    for_model,
    in_shares,
    look_up,
    one_cycle,
)
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.maml.inner import MAML, Tasks, way_labels


def meta_loss(
    learner: MAML,
    tasks: Tasks,
    progress: float = 1.0,
    *,
    multi_step_until: float = 0.0,
    first_order_until: float = 0.0,
) -> dict[str, Tensor]:
    """Equations (1) and (2) -> {"loss", "accuracy" (for class labels)} of T tasks.

    progress: the share (0 to 1) of the training that is done. Until ``multi_step_until`` of it the loss is
    (2), until ``first_order_until`` the gradient is first-order. In train mode the norms' running averages
    move.

    Where the learner's chunk_size is less than T, the gradient is added to ``p.grad`` here, chunk by chunk,
    so that the graph of one chunk is in memory at a time; the loss that is returned then has no graph.
    """
    n_tasks = len(tasks.query_labels)
    checks.whole_number(1, n_tasks=n_tasks)
    chunk = min(n_tasks, learner.chunk_size or n_tasks)
    weights = step_weights(learner.inner_steps, progress, multi_step_until)
    at = [s for s, weight in enumerate(weights) if weight > 0]
    metrics: dict[str, Any] = {}
    averages = []
    for start in range(0, n_tasks, chunk):
        some = Tasks(*tree_map(lambda leaf, start=start: leaf[start : start + chunk], tuple(tasks)))
        share, labels = len(some.query_labels) / n_tasks, some.query_labels.flatten(0, 1)
        run = partial(learner.run, at=at, first_order=progress < first_order_until)
        outputs, _, becomes = in_shares(run, *some[:3])
        losses = [weights[s] * learner.loss(outputs[:, i].flatten(0, 1), labels) for i, s in enumerate(at)]
        found = {"loss": sum(losses), **_accuracy(outputs[:, -1], some.query_labels)}
        part: dict[str, Any] = {name: share * value for name, value in found.items()}
        if chunk < n_tasks and torch.is_grad_enabled():
            part["loss"].backward()
            part["loss"] = part["loss"].detach()
        metrics = {name: metrics.get(name, 0) + value for name, value in part.items()}
        averages.append((share, becomes))
    if learner.training:
        learner.step_norms.keep(learner.model, averages)
    return metrics


def _accuracy(outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """{"accuracy"} of outputs (T, Q, N) for class labels (T, Q); nothing for labels that are real numbers."""
    return {} if labels.is_floating_point() else {"accuracy": (outputs.argmax(-1) == labels).float().mean()}


def reptile_loss(learner: MAML, tasks: Tasks, progress: float = 1.0) -> dict[str, Tensor]:
    """Equation (3) on T tasks: adds θ − mean_t φ_S to ``p.grad`` -> {"loss" after adaptation, "accuracy"}.

    The loss has no graph. Reptile makes no difference between support and query: it learns from both.
    """
    if len(learner.rates) or list(learner.step_norms.parameters()):
        found = "learns rates or norms per step, for which Reptile has no gradient"
        raise ValueError(f"`learner` ({learner.name}) {found}: use meta_loss.")
    examples = tree_map(lambda a, b: torch.cat([a, b], 1), tasks.support, tasks.query)
    labels = torch.cat([tasks.support_labels, tasks.query_labels], 1)
    with torch.no_grad():
        run = partial(learner.run, at=[learner.inner_steps], first_order=True)
        outputs, adapted, averages = in_shares(run, examples, labels, examples)
    if learner.training:
        learner.step_norms.keep(learner.model, [(1.0, averages)])
    starts = {name: learner.model.get_parameter(name) for name in learner.adapted}
    gradients = [(theta - adapted[name].mean(0)).detach() for name, theta in starts.items()]
    torch.autograd.backward(list(starts.values()), gradients)  # a leaf's gradient is what it is given
    loss = learner.loss(outputs[:, 0].flatten(0, 1), labels.flatten(0, 1))
    return {"loss": loss.detach()} | _accuracy(outputs[:, 0], labels)


def step_weights(inner_steps: int, progress: float, multi_step_until: float) -> list[float]:
    """v_0 … v_S of equation (2), as in the authors' code.

    They start at 1/S after each of the steps 1 … S; by ``multi_step_until`` all but the last have fallen to
    0.03/S, and the last has taken the rest; from then on they are MAML's, 0, …, 0, 1.
    """
    weights = [0.0] * inner_steps + [1.0]
    if inner_steps > 1 and progress < multi_step_until:
        early = max(1 - progress / multi_step_until, 0.03) / inner_steps
        weights = [0.0, *[early] * (inner_steps - 1), 1 - (inner_steps - 1) * early]
    return weights


plus_plus_loss = partial(meta_loss, multi_step_until=0.1, first_order_until=0.1)  # MAML++: 10 of 100 epochs


def meta_train(
    learner: MAML,
    next_tasks: Callable[[int], Tasks],
    n_steps: int,
    *,
    objective: Callable[..., dict[str, Tensor]] = meta_loss,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    lr: float = 1e-3,
    schedule: str | None = "cosine",
    states: Mapping[str, Stateful] | None = None,
    **loop: Any,
) -> History:
    """n_steps meta-steps, each on the tasks that ``next_tasks(i)`` returns.

    objective: ``meta_loss``, ``plus_plus_loss``, ``reptile_loss``, or another of their kind.
    optimizer: from parameters to an optimiser (None: Adam).
    schedule: of its rate, "cosine" (down to 1 % of lr, as in MAML++), "one_cycle", or None.
    states: what ``next_tasks`` needs to go on from a checkpoint, and what its tasks depend on: an
        ``EpisodeSampler`` keeps its labels and classes, ``core.Settings`` holds other facts.
    loop: see ``core.Loop``.
    """
    checks.whole_number(1, n_steps=n_steps)
    lr = checks.rate(lr=lr)
    checks.one_of("schedule", schedule, ("cosine", "one_cycle", None))
    learnt = [p for p in learner.parameters() if p.requires_grad]
    if not learnt:
        raise ValueError(f"`learner` ({learner.name}) has no trainable parameter: nothing can be learnt.")
    made = optimizer(learnt) if optimizer else torch.optim.Adam(learnt, lr=lr)
    rate = made.param_groups[0]["lr"]
    scheduler: LRScheduler | None = None
    if schedule == "cosine":
        scheduler = CosineAnnealingLR(made, n_steps, eta_min=0.01 * rate)
    elif schedule == "one_cycle":
        scheduler = one_cycle(made, n_steps)
    parts = ("inner_steps", "inner_lr", "first_order", "adapted", "rate_kind")
    settings = Settings(
        learner=[str(getattr(learner, part)) for part in parts],
        functions=[_described(function) for function in (objective, learner.start, learner.loss)],
        optimizer=[type(made).__name__, str(rate), str(schedule)],
    )

    def step(i: int) -> dict[str, Tensor]:
        return objective(learner, next_tasks(i), i / n_steps)

    states = {"learner": settings, **(states or {})}
    loop = {"label": learner.name, **loop}
    return fit(step, learner, made, n_steps, scheduler=scheduler, states=states, **loop)


def _described(function: Callable | None) -> str:
    """A name that is the same in another process: a function's, or a partial's with its arguments."""
    if isinstance(function, partial):
        return f"{_described(function.func)} {function.keywords}"
    return getattr(function, "__qualname__", type(function).__name__)


def episode_tasks(episodes: Episodes, inputs: Tensor) -> Tasks:
    """Episodes as tasks: inputs (n, ...) of the data set -> support (E, N·K, ...), query (E, M, ...), labels.

    They stand on the device of the inputs.
    """
    if episodes.is_padded:
        fix = "tasks need a fixed n_shot: sample with a number, not a range"
        raise ValueError(f"`episodes` are padded, and {fix}.")
    inputs = checks.numbers("inputs", inputs)
    episodes = episodes.to(inputs.device)
    support = look_up(inputs, episodes.support.flatten(1))
    return Tasks(
        support, way_labels(episodes.support), look_up(inputs, episodes.query), episodes.query_labels
    )


def train_on_episodes(
    learner: MAML,
    dataset: ClassDataset,
    n_steps: int,
    *,
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 5,
    n_tasks: int = 4,
    seed: int = 0,
    **options: Any,
) -> History:
    """Meta-trains on episodes of the *training* classes, n_tasks of them per step.

    options: those of ``meta_train``, for instance objective, lr, validate. The data set's inputs are a tensor
    (images, or features); they move to the learner's device once.
    """
    checks.whole_number(1, n_way=n_way, n_shot=n_shot, n_tasks=n_tasks)
    learner.check_ways(n_way)
    dataset.need_tensors()
    sizes = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "seed": seed}
    sampler = EpisodeSampler.of(dataset, "train", **sizes)
    settings = Settings(**sizes, n_tasks=n_tasks, **data_facts(dataset))
    inputs = feature_rows("dataset.inputs", dataset.inputs, dataset.rows("train"))
    inputs = for_model(inputs, learner)

    def next_tasks(_: int) -> Tasks:
        return episode_tasks(sampler.sample(n_tasks), inputs)

    states: dict[str, Stateful] = {"episodes": settings, "sampler": sampler}
    return meta_train(learner, next_tasks, n_steps, states=states, **options)
