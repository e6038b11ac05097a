r"""One model, many tasks: what data sets or domains have in common is learnt once.

A joint step puts a few episodes of every task t into one batch and one forward pass,

    L_t(θ) = mean over the task's episodes of  CE(model(S, Q, names), y)

and goes along a balanced sum of the ∇L_t (``balancing``). Whether that helps a task is a question for
measurements, not a law: tasks that share something gain from each other, others disturb each other, and a
task with many examples may lose to being trained alone. Hence the three comparisons: per task, the joint
model against one trained on it alone; against a plain sum; and on a task that was never trained on. (LEOPARD:
Bansal et al. 2020, arXiv:1911.03863; CrossFit: Ye et al. 2021, arXiv:2104.08835: which tasks are chosen
matters.)

The model that is kept has the best *mean* validation accuracy over tasks: a mean that no large task outvotes.
A model that ``uses_groups`` lets episodes of different tasks speak with each other (links between tasks): it
is given the groups in training and in testing alike.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib.core import (
    EpisodeResults,
    Episodes,
    History,
    Settings,
    Stateful,
    accuracy_per_episode,
    evaluate,
    evaluation_mode,
    few_shot_method,
    fit,
    in_shares,
    one_cycle,
    rate,
    whole_number,
)
from fewshot_lib.multitask.balancing import Balancer, balancer
from fewshot_lib.multitask.tasks import JointEpisodes, Task, TaskSampler, joined


def train_jointly(
    model: nn.Module,
    sampler: TaskSampler,
    n_steps: int,
    *,
    balance: str = "sum",
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    n_validation: int = 100,
    **loop: Any,
) -> History:
    """Trains the model on the sampler's tasks: AdamW, one cycle of the learning rate up to ``lr``.

    model: called once a step, as model(support (E, N, K, d), query (E, M, d)) -> logits (E, M, N); with names
        (E, N, d) if it ``uses_names``, with groups (E,) if it ``uses_groups``.
    sampler: a new one; its tasks, sizes, augmentation and seed are those of the training.
    balance: how the tasks' gradients are added, one of ``balancing.BALANCERS``.
    n_validation: fixed episodes of the validation classes per task, at the lowest and at the highest n_shot,
        with at most the sampler's ways: the step of the best mean over tasks is kept. Tasks with fewer than 2
        validation classes have no part in it; where none has more, the last model stays.
    loop: see ``core.Loop``.

    The history has "loss <task>" and "weight <task>" (of its gradient) for each step, and for each validation
    "validation <task>".
    """
    lr, weight_decay = rate(lr=lr), rate(weight_decay=weight_decay)
    whole_number(1, n_steps=n_steps, n_validation=n_validation)
    learnt = [p for p in model.parameters() if p.requires_grad]
    if not learnt:
        raise ValueError("`model` has no trainable parameter: nothing can be learnt.")
    balancing = balancer(balance, len(sampler.tasks), sampler.seed).to(sampler.tasks[0].features.device)
    unregularised: dict[str, Any] = {"params": list(balancing.parameters()), "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([{"params": learnt}, unregularised], lr, weight_decay=weight_decay)
    validation = _Validation(model, sampler, n_validation)
    settings = [balance, lr, weight_decay, n_validation, loop.get("validate_every")]
    states: dict[str, Stateful] = {"settings": Settings(training=settings), "sampler": sampler}
    states |= {"balancer": balancing, "validation": validation}
    loop = {"label": "joint training", "validate": validation if validation.tasks else None} | loop
    loop |= {"scheduler": one_cycle(optimizer, n_steps), "states": states}
    history = fit(_step(model, sampler, balancing), model, optimizer, n_steps, **loop)
    for task in validation.tasks:
        history.metrics[f"validation {task.name}"] = [row[task.name] for row in validation.accuracies]
    return history


def _step(model: nn.Module, sampler: TaskSampler, balancing: Balancer) -> Callable[[int], dict[str, Tensor]]:
    """One step for ``fit``, which leaves the balanced gradient in ``p.grad``."""
    names = [task.name for task in sampler.tasks]
    learnt = [p for p in model.parameters() if p.requires_grad]

    def answers(episodes: dict[str, Tensor]) -> Tensor:
        return _answers(model, JointEpisodes(**episodes))

    def step(i: int) -> dict[str, Tensor]:
        joint = sampler.sample()
        # linked episodes belong together: each of several processes then computes all of them
        linked = getattr(model, "uses_groups", False)
        logits = answers(vars(joint)) if linked else in_shares(answers, vars(joint))
        per_query = F.cross_entropy(logits.mT, joint.query_labels, reduction="none")  # (E, M)
        losses = per_query.mean(1).view(len(names), -1).mean(1)
        weights = balancing.backward(losses, learnt)
        accuracy = (logits.argmax(-1) == joint.query_labels).float().mean()
        metrics = {"loss": losses.detach().mean(), "accuracy": accuracy}
        metrics |= {f"loss {name}": loss for name, loss in zip(names, losses, strict=True)}
        metrics |= {f"weight {name}": w for name, w in zip(names, weights, strict=True)}
        return metrics

    return step


def _answers(model: Callable[..., Tensor], joint: JointEpisodes) -> Tensor:
    """The model's logits (E, M, N), from what it declares to use."""
    extras: dict[str, Tensor | None] = {"names": joint.names} if getattr(model, "uses_names", False) else {}
    if getattr(model, "uses_groups", False):
        extras["groups"] = joint.groups
    return model(joint.support, joint.query, **extras)


class _Validation:
    """The mean over tasks of the accuracy on fixed validation episodes; that of each is kept beside it."""

    def __init__(self, model: nn.Module, sampler: TaskSampler, n_episodes: int) -> None:
        self.model = model
        self.tasks = [task for task in sampler.tasks if len(task.classes("val")) > 1]
        ways = sampler.n_way
        if getattr(model, "uses_groups", False):  # linked episodes must have equally many
            ways = min([ways, *(len(task.classes("val")) for task in self.tasks)])
        self.episodes = [
            task_episodes(self.tasks, "val", ways, k, sampler.n_query, n_episodes, sampler.seed)
            for k in sorted(set(sampler.shots))
        ]
        self.accuracies: list[dict[str, float]] = []

    def __call__(self) -> float:
        results = [evaluate_tasks(self.model, self.tasks, episodes) for episodes in self.episodes]
        accuracies = {t.name: sum(r[t.name].mean for r in results) / len(results) for t in self.tasks}
        self.accuracies.append(accuracies)
        return sum(accuracies.values()) / len(accuracies)

    def state_dict(self) -> dict:
        return {"accuracies": self.accuracies}

    def load_state_dict(self, state: dict) -> None:
        self.accuracies = state["accuracies"]


def task_episodes(
    tasks: Sequence[Task],
    split: str | None = "test",
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 15,
    n_episodes: int = 600,
    seed: int = 0,
) -> dict[str, Episodes]:
    """Episodes of every task, by name, with n_way ways or as many as it has classes.

    split: None takes every class, which is allowed for a task that was not trained on.
    """
    dealt = {}
    for task in tasks:
        ways = max(2, min(n_way, len(task.classes(split))))
        dealt[task.name] = task.sampler(split, ways, n_shot, n_query, seed).sample(n_episodes)
    return dealt


def evaluate_tasks(
    model: Any, tasks: Sequence[Task], episodes: Mapping[str, Episodes], batch_size: int = 1000
) -> dict[str, EpisodeResults]:
    """Accuracy of a model, or of any other ``core.Method``, on every task's episodes, by name.

    A model that ``uses_groups`` answers the b-th episodes of all tasks together, as in training: they must
    have equally many ways. batch_size: episodes of a task at a time.
    """
    with evaluation_mode(model) if isinstance(model, nn.Module) else nullcontext():
        if getattr(model, "uses_groups", False):
            return _evaluate_linked(model, tasks, episodes, batch_size)
        found = {}
        for task in tasks:
            method, dealt = model, episodes[task.name]
            if task.names is None and getattr(model, "uses_names", False):  # can do without
                unnamed = partial(model, names=None)
                method = few_shot_method(model.name, transductive=model.transductive)(unnamed)
            found[task.name] = evaluate(method, dealt, task.features, batch_size, names=task.names)
        return found


@torch.no_grad()
def _evaluate_linked(
    model: Any, tasks: Sequence[Task], episodes: Mapping[str, Episodes], batch_size: int
) -> dict[str, EpisodeResults]:
    dealt = [episodes[task.name] for task in tasks]
    if len({(e.support.shape, e.query.shape) for e in dealt}) > 1 or any(e.is_padded for e in dealt):
        shapes = {task.name: tuple(episodes[task.name].support.shape) for task in tasks}
        fix = "linked tasks need episodes of one shape, without masks. Use fewer ways"
        raise ValueError(f"`episodes` have supports of {shapes}: {fix}.")
    accuracies = []
    for start in range(0, len(dealt[0]), batch_size):
        joint = joined(tasks, [e[start : start + batch_size] for e in dealt])
        correct = accuracy_per_episode(_answers(model, joint), joint.query_labels)
        accuracies.append(correct.view(len(tasks), -1))
    rows = torch.cat(accuracies, 1)
    return {t.name: EpisodeResults.of(row, model, e) for t, row, e in zip(tasks, rows, dealt, strict=True)}
