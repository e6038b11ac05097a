r"""One model, many tasks: what data sets or domains have in common is learnt once.

A joint step puts a few episodes of every task t into one batch and one forward pass,

    L_t(θ) = mean over the task's episodes of  CE(model(S, Q, names), y) + Σ_a λ_a A_a        A_a: auxiliary losses

and goes along a balanced sum of the ∇L_t (``balancing``). Whether that helps a task is a question for measurements, not a law:
tasks that share something gain from each other, others disturb each other, and a task with many examples may lose to being
trained alone. Hence the three comparisons: per task, the joint model against one trained on it alone; against a plain sum;
and on a task that was never trained on. (LEOPARD: Bansal et al. 2020, arXiv:1911.03863; CrossFit: Ye et al. 2021,
arXiv:2104.08835: which tasks are chosen matters.)

The model that is kept has the best *mean* validation accuracy over tasks: a mean that no large task outvotes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.augmentation import chain as chain  # with what it is used with, under one name
from fewshot_lib.augmentation import class_mixup as class_mixup
from fewshot_lib.augmentation import label_dropout as label_dropout
from fewshot_lib.augmentation import random_rotation as random_rotation
from fewshot_lib.auxiliary_losses import label_alignment_loss as label_alignment_loss
from fewshot_lib.auxiliary_losses import same_class_loss as same_class_loss
from fewshot_lib.balancing import Balance, Balancer, balancer, conflicts, cosine_matrix
from fewshot_lib.evaluation import EpisodeResults, Method, evaluate, method
from fewshot_lib.meta_training import with_gradient
from fewshot_lib.task_sampling import Augmentation, JointEpisodes, Task, TaskSampler
from fewshot_lib.task_sampling import left_out as left_out
from fewshot_lib.task_sampling import tasks_by_domain as tasks_by_domain
from fewshot_lib.training import History, Settings, evaluation_mode, fit, one_cycle

Auxiliary = Mapping[str, tuple[Callable[[nn.Module, JointEpisodes], Tensor], float]]  # name -> (model, joint -> (E,)), weight


@dataclass
class JointHistory(History):
    """What joint training of T tasks reported; rows of task_losses and weights are steps, NaN where a task was not in one.

    task_losses (steps, T): cross-entropy, without auxiliary losses. weights (steps, T): of the tasks' gradients. task_validation:
    (step, {task: accuracy}). cosines (T, T): of the tasks' gradients, the mean over the recorded steps; conflicts: (step, share
    of the pairs of tasks whose gradients conflicted).
    """

    tasks: list[str] = field(default_factory=list)
    task_losses: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    weights: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    task_validation: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    cosines: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    conflicts: list[tuple[int, float]] = field(default_factory=list)


class _Log:
    """Writes down what ``fit`` does not: it is part of the checkpoint."""

    def __init__(self, n_tasks: int) -> None:
        self.n_tasks = n_tasks
        self.rows: list[Tensor] = []  # (2, T) per step, on the device: losses and weights
        self.cosine_sums = torch.zeros(2, n_tasks, n_tasks)  # and how many
        self.conflicts: list[tuple[int, float]] = []
        self.validation: list[tuple[int, dict[str, float]]] = []

    def add(self, tasks: Tensor, losses: Tensor, balance: Balance, with_cosines: bool) -> None:
        row = losses.new_full((2, self.n_tasks), torch.nan)
        row[:, tasks] = torch.stack([losses.detach(), balance.weights])
        self.rows.append(row)
        if with_cosines:
            cosines = cosine_matrix(balance.gradients).cpu()
            self.cosine_sums[:, tasks.cpu().unsqueeze(1), tasks.cpu()] += torch.stack([cosines, torch.ones_like(cosines)]).float()
            self.conflicts.append((len(self.rows), conflicts(cosines)))

    def history(self, tasks: Sequence[Task], history: History) -> JointHistory:
        losses, weights = self._stacked().unbind(1)
        cosines = self.cosine_sums[0] / self.cosine_sums[1]  # NaN for two tasks that were never compared
        names = [task.name for task in tasks]
        return JointHistory(
            **vars(history),
            tasks=names,
            task_losses=losses,
            weights=weights,
            task_validation=self.validation,
            cosines=cosines,
            conflicts=self.conflicts,
        )

    def _stacked(self) -> Tensor:
        return torch.stack([row.to(self.rows[-1].device) for row in self.rows]).cpu()  # those of a checkpoint stand on the CPU

    def state_dict(self) -> dict:
        return {**vars(self), "rows": self._stacked()}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update({**state, "rows": list(state["rows"])})


def train_jointly(
    model: nn.Module,
    tasks: Sequence[Task],
    n_steps: int,
    *,
    n_way: int = 5,
    n_shot: int | tuple[int, int] = (1, 5),
    n_query: int = 10,
    n_episodes: int = 4,
    balance: str = "sum",
    how: str = "uniform",
    tasks_per_step: int | None = None,
    temperature: float = 2.0,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    validate_every: int = 100,
    n_validation: int = 100,
    record_every: int | None = 25,
    auxiliary: Auxiliary | None = None,
    augment: Augmentation | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    label: str = "joint training",
) -> JointHistory:
    """Trains the model on the *training* classes of all tasks: AdamW, and one cycle of the learning rate up to ``lr``.

    The model is called once per step, as model(support (E, N, K, d), query (E, M, d), labels=..., groups=...) -> logits
    (E, M, N), without the last two where its signature has no place for them. It stands on the device of the features.

    n_way, n_shot, n_query, n_episodes, how, tasks_per_step, temperature, augment: see ``TaskSampler``; balance: one of
    ``balancing.BALANCERS``. record_every: the gradients of all tasks are compared in every so many steps (one more backward
    pass per task; None: never). auxiliary: more losses by name, see ``auxiliary_losses``, each with its weight.

    Selection: every ``validate_every`` steps, n_validation fixed episodes of the validation classes per task, at the lowest and
    at the highest n_shot, with at most n_way ways. Tasks with fewer than 2 validation classes have no part in it; where none
    has more, the last model stays. checkpoint: as in ``training.fit``. Raises ValueError for a model without anything to train.
    """
    learnt = [p for p in model.parameters() if p.requires_grad]
    if not learnt:
        raise ValueError("`model` has no trainable parameter: nothing can be learnt.")
    options = {"how": how, "tasks_per_step": tasks_per_step, "temperature": temperature, "augment": augment, "seed": seed}
    sampler = TaskSampler(tasks, n_way, n_shot, n_query, n_episodes, **options)
    balancing = balancer(balance, len(tasks), seed).to(tasks[0].features.device)
    unregularised = {"params": list(balancing.parameters()), "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([{"params": learnt}, unregularised], lr, weight_decay=weight_decay)
    log = _Log(len(tasks))
    settings = Settings(
        **{**options, "augment": getattr(augment, "name", getattr(augment, "__qualname__", None))},
        tasks=[task.fingerprint() for task in tasks],
        episodes=[n_way, *sampler.shots, n_query, n_episodes, n_validation, validate_every],
        training=[balance, lr, weight_decay, record_every],
        auxiliary={name: weight for name, (_, weight) in (auxiliary or {}).items()},
    )
    history = fit(
        _step(model, sampler, balancing, log, dict(auxiliary or {}), record_every),
        model,
        optimizer,
        n_steps,
        scheduler=one_cycle(optimizer, n_steps),
        validate=_validation(model, tasks, sampler, log, (n_way, n_query, n_validation, seed)),
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume_with={"settings": settings, "sampler": sampler, "balancer": balancing, "log": log},
        label=label,
    )
    return log.history(tasks, history)


def _step(
    model: nn.Module, sampler: TaskSampler, balancing: Balancer, log: _Log, auxiliary: dict, record_every: int | None
) -> Callable[[int], dict[str, Tensor]]:
    """One step for ``fit``: the loss it returns has the mean of the tasks' losses as its value, and the balanced gradient."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    both = [*learnt, *balancing.parameters()]
    accepted = _accepted(model)

    def step(i: int) -> dict[str, Tensor]:
        for p in both:
            p.grad = None
        joint = sampler.sample()
        logits = model(joint.support, joint.query, **{name: getattr(joint, name) for name in accepted})
        own = F.cross_entropy(logits.mT, joint.query_labels, reduction="none").mean(1)  # (E,)
        extra = {name: loss(model, joint) for name, (loss, _) in auxiliary.items()}
        whole = own + sum(weight * extra[name] for name, (_, weight) in auxiliary.items())
        per_task, drawn = (len(joint) // sampler.n_episodes, sampler.n_episodes), joint.task[:: sampler.n_episodes]
        losses = whole.view(per_task).mean(1)
        recorded = bool(record_every) and i % record_every == 0
        balance = balancing.backward(losses, learnt, drawn, record_gradients=recorded)
        log.add(drawn, own.view(per_task).mean(1), balance, recorded)
        moved = [p for p in both if p.grad is not None]
        accuracy = (logits.argmax(-1) == joint.query_labels).float().mean()
        loss = with_gradient(losses.mean(), moved, [p.grad for p in moved])
        return {**{name: values.mean() for name, values in extra.items()}, "loss": loss, "accuracy": accuracy}

    return step


def _accepted(model: nn.Module) -> list[str]:
    """Which of labels and groups the model's call has a place for."""
    parameters = inspect.signature(model.forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return [name for name in ("labels", "groups") if anything or name in parameters]


def _validation(
    model: nn.Module, tasks: Sequence[Task], sampler: TaskSampler, log: _Log, settings: tuple[int, int, int, int]
) -> Callable[[], float] | None:
    """The mean over tasks of the accuracy on fixed episodes of their validation classes; None where no task has any."""
    n_way, n_query, n_validation, seed = settings
    able = [task for task in tasks if len(task.classes("val")) > 1]
    shots = sorted(set(sampler.shots))
    saved = [
        [task.sampler("val", min(n_way, len(task.classes("val"))), k, n_query, seed).sample(n_validation) for k in shots] for task in able
    ]

    def validate() -> float:
        accuracies = {}
        for task, episodes in zip(able, saved, strict=True):
            results = [evaluate(_for_task(model, task), e, task.features, label_features=task.label_features) for e in episodes]
            accuracies[task.name] = sum(result.mean for result in results) / len(results)
        log.validation.append((len(log.rows), accuracies))
        sampler.update(accuracies)
        return sum(accuracies.values()) / len(accuracies)

    return validate if able else None


def _for_task(model: Method, task: Task) -> Method:
    """The model as ``evaluate`` calls it: a task whose classes have no names gives none."""
    if task.label_features is not None or not getattr(model, "uses_labels", False):
        return model
    return method(model.name, transductive=model.transductive)(lambda support, query, **masks: model(support, query, labels=None, **masks))


def evaluate_tasks(
    model: Method,
    tasks: Sequence[Task],
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 15,
    n_episodes: int = 600,
    *,
    split: str | None = "test",
    seed: int = 0,
    batch_size: int = 1000,
) -> dict[str, EpisodeResults]:
    """Accuracy on every task, by name: of a model, or of any other method. The same arguments deal the same episodes.

    split: None takes every class, which is allowed for a task that was not trained on. A task with fewer classes than n_way
    has as many ways as classes (the results say so). Raises ValueError, naming the task, for fewer than 2 classes.
    """
    results = {}
    with evaluation_mode(model) if isinstance(model, nn.Module) else nullcontext():
        for task in tasks:
            ways = max(2, min(n_way, len(task.classes(split))))
            episodes = task.sampler(split, ways, n_shot, n_query, seed).sample(n_episodes)
            known = _for_task(model, task)
            results[task.name] = evaluate(known, episodes, task.features, batch_size, label_features=task.label_features)
    return results
