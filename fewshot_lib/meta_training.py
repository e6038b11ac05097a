r"""The outer loop: training a ``maml.MAML`` learner on many tasks, with the losses of MAML, MAML++ and Reptile.

    (1)  MAML     L(θ) = mean_t L_q(φ_S)
    (2)  MAML++   L(θ) = mean_t Σ_s v_s L_q(φ_s)       multi-step loss; the weights v_s move to the last step as training goes on,
                                                        and the first part of the training is first-order (Antoniou et al. 2019)
    (3)  Reptile  θ ← θ − ε (θ − mean_t φ_S)            no query: towards where adaptation ends (Nichol et al. 2018, algorithm 2)

(3) is written as a loss whose gradient is θ − mean_t φ_S, so that all three go through the same training loop; plain SGD with
the rate ε is then Reptile as defined, and Adam is Reptile with Adam.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.episodes import Episodes, EpisodeSampler
from fewshot_lib.evaluation import Method, method
from fewshot_lib.maml import MAML, Tasks
from fewshot_lib.training import History, Settings, Stateful, fit, one_cycle

Objective = Callable[..., dict[str, Tensor]]  # (learner, tasks, progress 0..1) -> {"loss": scalar, ...}


def meta_loss(
    learner: MAML, tasks: Tasks, progress: float = 1.0, *, multi_step_until: float = 0.0, first_order_until: float = 0.0
) -> dict[str, Tensor]:
    """Equations (1) and (2) -> {"loss", "accuracy" (for class labels)} of T tasks.

    progress: the share (0 to 1) of the training that is done. Until ``multi_step_until`` of it the loss is (2), until
    ``first_order_until`` the gradient is first-order. In train mode the norms' running averages move.

    With a chunk_size the gradient is already computed here, chunk by chunk, and ``backward`` only hands it out: the
    graph of one chunk is in memory at a time.
    """
    n_tasks = len(tree_leaves(tasks)[0])
    chunk = min(n_tasks, learner.chunk_size or n_tasks)
    adds_up = chunk < n_tasks and torch.is_grad_enabled()
    weights = step_weights(learner.inner_steps, progress, multi_step_until)
    first_order = learner.first_order or progress < first_order_until
    learnt = [p for p in learner.parameters() if p.requires_grad]
    total, collected, averages, correct = 0.0, [torch.zeros_like(p) for p in learnt], [], []
    for start in range(0, n_tasks, chunk):
        part = tree_map(lambda leaf, start=start: leaf[start : start + chunk], tasks)
        loss, seen, right = _chunk_loss(learner, part, weights, first_order)
        share = len(part.query_labels) / n_tasks
        if adds_up:
            pieces = torch.autograd.grad(share * loss, learnt, allow_unused=True)
            collected = [whole if piece is None else whole + piece for whole, piece in zip(collected, pieces, strict=True)]
            loss = loss.detach()
        total = total + share * loss
        averages.append((share, seen))
        correct.append(right)
    if learner.training:
        learner.keep_averages(averages)
    metrics = {"loss": with_gradient(total, learnt, collected) if adds_up else total}
    if not tasks.query_labels.is_floating_point():
        metrics["accuracy"] = torch.cat(correct).float().mean()
    return metrics


def _chunk_loss(learner: MAML, tasks: Tasks, weights: Sequence[float], first_order: bool) -> tuple[Tensor, list, Tensor]:
    at = [s for s, weight in enumerate(weights) if weight > 0]
    outputs, _, averages = learner.run(tasks.support, tasks.support_labels, tasks.query, at, first_order)
    labels = tasks.query_labels.flatten(0, 1)
    losses = [weights[s] * learner.loss(outputs[:, i].flatten(0, 1), labels) for i, s in enumerate(at)]
    right = labels if labels.is_floating_point() else outputs[:, -1].flatten(0, 1).argmax(-1) == labels
    return sum(losses), averages, right


def reptile_loss(learner: MAML, tasks: Tasks, progress: float = 1.0) -> dict[str, Tensor]:
    """Equation (3) on T tasks: "loss" has the gradient θ − mean_t φ_S, and as its value the tasks' loss after adaptation.

    Reptile makes no difference between support and query: the inner loop learns from both. ValueError where the learner
    has learnt rates, or scales and shifts per step: Reptile has no gradient for them.
    """
    if len(learner.rates) or len(learner.step_scales):
        raise ValueError(f"`learner` ({learner.name}) learns rates or norms per step, for which Reptile has no gradient: use meta_loss.")
    examples = tree_map(lambda a, b: torch.cat([a, b], 1), tasks.support, tasks.query)
    labels = torch.cat([tasks.support_labels, tasks.query_labels], 1)
    with torch.no_grad():
        outputs, adapted, averages = learner.run(examples, labels, examples, [learner.inner_steps], True)
    if learner.training:
        learner.keep_averages([(1.0, averages)])
    starts = [(parameter, adapted[name]) for name, parameter in learner.model.named_parameters() if name in adapted]
    value = learner.loss(outputs[:, 0].flatten(0, 1), labels.flatten(0, 1))
    metrics = {"loss": with_gradient(value, [p for p, _ in starts], [(p - phi.mean(0)).detach() for p, phi in starts])}
    if not labels.is_floating_point():
        metrics["accuracy"] = (outputs[:, 0].argmax(-1) == labels).float().mean()
    return metrics


def step_weights(inner_steps: int, progress: float, multi_step_until: float) -> list[float]:
    """v_0 … v_S of equation (2). MAML's are 0, …, 0, 1.

    The multi-step loss starts with 1/S after each of the steps 1 … S; by ``multi_step_until`` all but the last have fallen to
    0.03/S, and the last has taken the rest; from then on they are MAML's (as in the authors' code).
    """
    weights = [0.0] * inner_steps + [1.0]
    if inner_steps > 1 and progress < multi_step_until:
        early = max(1 - progress / multi_step_until, 0.03) / inner_steps
        weights = [0.0, *[early] * (inner_steps - 1), 1 - (inner_steps - 1) * early]
    return weights


def with_gradient(value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar equal to ``value`` whose ``backward`` adds exactly ``gradients`` to the parameters."""
    return value.detach() + sum(((p - p.detach()) * g).sum() for p, g in zip(parameters, gradients, strict=True))


plus_plus_loss = partial(meta_loss, multi_step_until=0.1, first_order_until=0.1)  # MAML++: 10 of 100 epochs


def meta_train(
    learner: MAML,
    next_tasks: Callable[[int], Tasks],
    n_steps: int,
    *,
    objective: Objective = meta_loss,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    lr: float = 1e-3,
    schedule: str | None = "cosine",
    validate: Callable[[], float] | None = None,
    validate_every: int = 100,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    resume_with: dict[str, Stateful] | None = None,
    label: str | None = None,
) -> History:
    """n_steps meta-steps, each on the tasks that ``next_tasks(i)`` returns. See ``training.fit`` for the rest.

    optimizer: from parameters to an optimiser (None: Adam). schedule: of its rate, "cosine" (down to 1 % of lr, as in
    MAML++), "one_cycle", or None. Raises ValueError for another schedule, or where nothing is trainable.
    """
    if schedule not in ("cosine", "one_cycle", None):
        raise ValueError(f"`schedule` is {schedule!r}: use 'cosine', 'one_cycle' or None.")
    learnt = [p for p in learner.parameters() if p.requires_grad]
    if not learnt:
        raise ValueError(f"`learner` ({learner.name}) has no trainable parameter: nothing can be learnt.")
    made = optimizer(learnt) if optimizer else torch.optim.Adam(learnt, lr=lr)
    settings = _settings(learner, objective, made, schedule)
    return fit(
        lambda i: objective(learner, next_tasks(i), i / n_steps),
        learner,
        made,
        n_steps,
        scheduler=_scheduler(made, schedule, n_steps),
        validate=validate,
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume_with={"learner": settings, **(resume_with or {})},
        label=label or learner.name,
    )


def _scheduler(optimizer: torch.optim.Optimizer, schedule: str | None, n_steps: int) -> torch.optim.lr_scheduler.LRScheduler | None:
    if schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps, eta_min=0.01 * optimizer.param_groups[0]["lr"])
    return one_cycle(optimizer, n_steps) if schedule else None


def _settings(learner: MAML, objective: Objective, optimizer: torch.optim.Optimizer, schedule: str | None) -> Settings:
    """What changes the result without being part of any state."""
    return Settings(
        learner=[str(getattr(learner, part)) for part in ("inner_steps", "inner_lr", "first_order", "adapted", "rate_kind")],
        functions=[_described(function) for function in (objective, learner.start, learner.loss)],
        optimizer=[type(optimizer).__name__, str(optimizer.param_groups[0]["lr"]), str(schedule)],
    )


def _described(function: Callable | None) -> str:
    """A name that is the same in another process: a function's, or a partial's with its arguments."""
    if isinstance(function, partial):
        return f"{_described(function.func)} {function.keywords}"
    return getattr(function, "__qualname__", type(function).__name__)


def episode_tasks(episodes: Episodes, inputs: Tensor) -> Tasks:
    """Episodes as tasks: inputs (n, ...) of the whole data set -> support (E, N·K, ...), query (E, M, ...), and their labels.

    They stand on the device of the inputs. Raises ValueError for padded episodes.
    """
    if episodes.is_padded:
        raise ValueError("`episodes` are padded, and tasks need a fixed n_way and n_shot: sample with numbers, not ranges.")
    episodes = episodes.to(inputs.device)
    e, n_way, n_shot = episodes.support.shape
    labels = torch.arange(n_way, device=episodes.support.device).repeat_interleave(n_shot).expand(e, -1)
    return Tasks(inputs[episodes.support.flatten(1)], labels, inputs[episodes.query], episodes.query_labels)


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
    objective: Objective = meta_loss,
    lr: float = 1e-3,
    schedule: str | None = "cosine",
    resume_with: dict[str, Stateful] | None = None,
    **options: object,
) -> History:
    """Meta-trains on episodes of the *training* classes, n_tasks of them per step. options: those of ``meta_train``.

    The data set's inputs are a tensor (images, or features); they move to the learner's device once. Raises ValueError for
    texts, for ranges of ways or shots, and for another n_way than the head of a ``Classifier`` has.
    """
    for argument, value in {"n_way": n_way, "n_shot": n_shot, "n_tasks": n_tasks}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{argument}` is {value!r}: use a whole number, 1 or more.")
    learner.check_ways(n_way)
    if dataset.is_text:
        raise ValueError("`dataset` holds texts, and this trains on tensors: encode them, and train on replace(dataset, inputs=features).")
    device = next(learner.parameters()).device
    sampler = EpisodeSampler(dataset.labels, dataset.classes("train"), n_way, n_shot, n_query, seed)
    settings = Settings(n_way=n_way, n_shot=n_shot, n_query=n_query, n_tasks=n_tasks, seed=seed, data=dataset.fingerprint())
    inputs = dataset.inputs.to(device)

    def next_tasks(_: int) -> Tasks:
        return episode_tasks(sampler.sample(n_tasks), inputs)

    kept = {"episodes": settings, "sampler": sampler, **(resume_with or {})}
    return meta_train(learner, next_tasks, n_steps, objective=objective, lr=lr, schedule=schedule, resume_with=kept, **options)


class BestModels:
    """The k models of one run with the best validation scores, for MAML++'s ensemble.

    Give ``best.validate`` to ``meta_train(validate=...)`` in place of the score function, and ``best`` to ``resume_with``.
    The published MAML++ figures average the predictions of five such models: compare them with ensembles, and single
    models with single models.
    """

    def __init__(self, learner: MAML, score: Callable[[], float], k: int = 5) -> None:
        if k < 1:
            raise ValueError(f"`k` is {k}: keep at least 1 model.")
        self.learner, self.score, self.k = learner, score, k
        self.kept: list[tuple[float, dict[str, Tensor]]] = []

    def validate(self) -> float:
        """The score of the learner as it is now; its state is kept if it is among the k best."""
        score = float(self.score())
        self.kept = sorted([*self.kept, (score, copy.deepcopy(self.learner.state_dict()))], key=lambda item: -item[0])[: self.k]
        return score

    def as_method(self, n_steps: int | None = None, batch_size: int = 50) -> Method:
        """The mean of the kept models' predicted probabilities, as logarithms: (E, N, K, ...), (E, M, ...) -> (E, M, N)."""
        if not self.kept:
            raise ValueError("`validate` has kept no model yet: give it to meta_train first.")
        learner = copy.deepcopy(self.learner)

        @method(f"{self.learner.name}, ensemble of {len(self.kept)}", transductive=learner.transductive)
        def together(support: Tensor, query: Tensor, **extra: Tensor) -> Tensor:
            probabilities = 0.0
            for _, state in self.kept:
                learner.load_state_dict(state)
                probabilities = probabilities + learner.as_method(n_steps, batch_size=batch_size)(support, query, **extra).softmax(-1)
            return (probabilities / len(self.kept)).log()

        return together

    def state_dict(self) -> dict:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict) -> None:
        self.kept = state["kept"]
