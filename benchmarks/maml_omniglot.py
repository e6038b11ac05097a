"""MAML and MAML++ on Omniglot, after the published protocols: 5 and 20 ways, 1 and 5 shots.

    python benchmarks/maml_omniglot.py [--protocol maml maml++] [--ways 5 20] [--shots 1 5]
                                       [--norm batch support] [--steps N] [--tasks N] [--episodes 600]
                                       [--validations 100] [--seconds S] [--device cuda] [--out FILE]

Needs Omniglot (downloaded once) and a GPU to be finished in hours. Everywhere else ``--steps`` (meta-steps),
``--tasks`` (of a meta-step), ``--seconds`` (of a training) and ``--validations`` give a shortened run, and
the table says how long each was.
Interrupted, it goes on from its checkpoints, which stand beside the table (FILE).

Protocols: Finn et al. (2017), Conv4-64 with strided convolutions, 60,000 meta-steps; Antoniou et al. (2019),
Conv4-64 with pooling, 100 epochs of 500 meta-steps, 5 inner steps, and two figures: the best model on the
validation classes, and, as in the paper, the *ensemble* of the five best. ``--norm batch`` is transductive,
as published; "support" is the inductive control. Differences: MAML's own random split of the characters was
never published, so both use the family ``mamlpp``; a character in another rotation is a class of its own,
where MAML++ draws one rotation per episode.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.core import (
    Episodes,
    EpisodeSampler,
    Method,
    evaluate,
    few_shot_method,
    leads,
    pick_device,
    processes,
    whole_number,
)
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4
from fewshot_lib.maml import MAML, Classifier, meta_loss, norms, plus_plus_loss, train_on_episodes

# in %: Finn et al. as in table 2 of Nichol et al. (2018); MAML++, an ensemble, as paperswithcode lists it
PUBLISHED = {
    "maml": {(5, 1): "98.7", (5, 5): "99.9", (20, 1): "95.8", (20, 5): "98.9"},
    "maml++": {(5, 1): "99.47", (5, 5): "99.85", (20, 1): "97.65", (20, 5): "99.33"},
}
PROBE = 50  # meta-steps that tell how long one takes
COLUMNS = ("protocol", "norm", "ways", "shots", "meta-steps", "of", "tasks", "of", "model", "transductive")
COLUMNS += ("accuracy in %, 95 % interval", "published")


class BestModels:
    """The k models of one run with the best validation scores, for MAML++'s ensemble.

    Give ``best.validate`` to ``meta_train(validate=...)`` in place of the score function, and ``best`` to
    ``resume_with``. The published MAML++ figures average the predictions of five such models: compare them
    with ensembles, and single models with single models.
    """

    def __init__(self, learner: MAML, score: Callable[[], float], k: int = 5) -> None:
        whole_number(1, k=k)
        self.learner, self.score, self.k = learner, score, k
        self.kept: list[tuple[float, dict[str, Tensor]]] = []

    def validate(self) -> float:
        """The score of the learner as it is now; its state is kept if it is among the k best."""
        score = float(self.score())
        candidates = [*self.kept, (score, copy.deepcopy(self.learner.state_dict()))]
        self.kept = sorted(candidates, key=lambda candidate: -candidate[0])[: self.k]
        return score

    def as_method(self, n_steps: int | None = None, batch_size: int = 50) -> Method:
        """The logarithm of the kept models' mean probabilities: (E, N, K, ...), (E, M, ...) -> (E, M, N)."""
        if not self.kept:
            raise ValueError("`validate` has kept no model yet: give it to meta_train first.")
        learner = copy.deepcopy(self.learner)
        name = f"{learner.name}, ensemble of {len(self.kept)}"

        @few_shot_method(name, transductive=learner.transductive)
        def together(support: Tensor, query: Tensor, **extra: Tensor) -> Tensor:
            probabilities = []
            for _, state in self.kept:
                learner.load_state_dict(state)
                logits = learner.as_method(n_steps, batch_size=batch_size)(support, query, **extra)
                probabilities.append(logits.softmax(-1))
            return torch.stack(probabilities).mean(0).log()

        return together

    def state_dict(self) -> dict:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict) -> None:
        self.kept = state["kept"]


def settings(protocol: str, n_way: int, n_shot: int) -> tuple[dict, dict]:
    """(of the learner, of the training) for a protocol and an episode's shape."""
    if protocol == "maml++":
        learner = {"inner_steps": 5, "inner_lr": 0.1, "rates": "per_tensor_per_step", "per_step_norm": True}
        schedule = {"objective": plus_plus_loss, "schedule": "cosine"}
        return learner, {"n_steps": 50_000, "n_tasks": 8, "n_query": 1, **schedule}
    inner_steps, inner_lr, n_tasks = (1, 0.4, 32) if n_way == 5 else (5, 0.1, 16)
    training = {
        "n_steps": 60_000,
        "n_tasks": n_tasks,
        "n_query": n_shot,
        "objective": meta_loss,
        "schedule": None,
    }
    return {"inner_steps": inner_steps, "inner_lr": inner_lr}, training


def rows_of(
    protocol: str, norm: str, n_way: int, n_shot: int, dataset: ClassDataset, args: argparse.Namespace
) -> Iterator[list[str]]:
    """Trains once and tests twice: the best single model, and the ensemble of the five best."""
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    options, training = settings(protocol, n_way, n_shot)
    steps_planned, tasks_planned = training.pop("n_steps"), training.pop("n_tasks")
    n_steps, n_tasks = min(steps_planned, args.steps or steps_planned), args.tasks or tasks_planned
    training |= {"n_way": n_way, "n_shot": n_shot, "n_tasks": n_tasks, "lr": 1e-3, "seed": args.seed}
    encoder = Conv4(width=64, downsample="pool" if protocol == "maml++" else "stride")
    model = norms.with_norm(Classifier(encoder, 64, n_way), norm).to(device)
    learner = MAML(model, chunk_size=args.chunk_size, name=protocol, **options)
    inputs = dataset.inputs.to(device)
    if args.seconds:
        probe = copy.deepcopy(learner)
        train_on_episodes(probe, dataset, PROBE, **training, label="warming up")
        start = time.perf_counter()
        train_on_episodes(probe, dataset, PROBE, **training, label="how fast is a step")
        n_steps = min(n_steps, max(PROBE, int(PROBE * args.seconds / (time.perf_counter() - start))))

    def sampled(split: str, seed: int, n: int) -> Episodes:
        return EpisodeSampler(dataset.labels, dataset.classes(split), n_way, n_shot, 15, seed).sample(n)

    val = sampled("val", args.seed + 1, max(1, args.episodes // 3))
    test = sampled("test", args.seed + 2, args.episodes)
    test_steps = 3 if (protocol, n_way) == ("maml", 5) else learner.inner_steps
    best = BestModels(learner, lambda: evaluate(learner.as_method(test_steps), val, inputs).mean, k=5)
    every = max(1, n_steps // args.validations)
    name = f"{protocol}-{norm}-{n_way}way-{n_shot}shot-{n_steps}x{n_tasks}".replace("+", "p")
    loop = {"validate": best.validate, "validate_every": every, "label": name, "resume_with": {"best": best}}
    loop |= {"checkpoint": args.out.parent / f"{name}.pt", "checkpoint_every": every}
    start = time.perf_counter()
    train_on_episodes(learner, dataset, n_steps, **training, **loop)
    print(f"{name}: {time.perf_counter() - start:.0f} s of training and validation", flush=True)
    for kind, method in (
        ("single", learner.as_method(test_steps)),
        ("ensemble of 5", best.as_method(test_steps)),
    ):
        result = evaluate(method, test, inputs)
        low, high = (100 * bound for bound in result.interval)
        published = PUBLISHED[protocol][n_way, n_shot] if (kind == "single") == (protocol == "maml") else "–"
        length = f"{n_steps:,}", f"{steps_planned:,}", str(n_tasks), str(tasks_planned)
        transductive = "yes" if result.transductive else "no"
        measured = f"{100 * result.mean:.2f} [{low:.2f}, {high:.2f}]"
        yield [protocol, norm, str(n_way), str(n_shot), *length, kind, transductive, measured, published]


def main() -> None:
    """Runs the chosen protocols; the table is written anew after each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", nargs="+", default=["maml", "maml++"], choices=list(PUBLISHED))
    parser.add_argument("--norm", nargs="+", default=["batch", "support"], choices=norms.NORMS)
    parser.add_argument("--ways", nargs="+", type=int, default=[5, 20], choices=[5, 20])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5], choices=[1, 5])
    parser.add_argument("--steps", type=int, help="shorten the training to so many meta-steps")
    parser.add_argument("--seconds", type=float, help="shorten every training to about so long")
    parser.add_argument("--tasks", type=int, help="tasks of a meta-step (default: as published)")
    parser.add_argument("--episodes", type=int, default=600, help="test episodes (600, as published)")
    parser.add_argument("--validations", type=int, default=100, help="during a training")
    parser.add_argument("--chunk-size", type=int, help="tasks in memory at a time (default: all)")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("build/maml_omniglot/table.md"), help="the table's file"
    )
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    device = pick_device(args.device)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{named}, torch {torch.__version__}", flush=True)
    dataset = data.load("omniglot/mamlpp")
    runs = [
        (protocol, norm, n_way, n_shot)
        for protocol in args.protocol
        for norm in args.norm
        for n_way in args.ways
        for n_shot in args.shots
        if (protocol, norm) != ("maml++", "group")  # MAML++ has norms per step, and group norm has no such
    ]
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    for run in runs:
        for row in rows_of(*run, dataset, args):
            lines.append(row)
            if not leads():
                continue
            print(" · ".join(row), flush=True)
            table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            args.out.write_text(f"{table}\n\n{named}, torch {torch.__version__}\n", "utf-8")


if __name__ == "__main__":
    with processes():  # one, or those that torchrun started
        main()
