"""MAML and MAML++ on Omniglot, after the published protocols: 5 and 20 ways, 1 and 5 shots.

    python benchmarks/maml_omniglot.py [--protocol maml maml++] [--ways 5 20] [--shots 1 5] [--norm batch support] [--steps N] [--out DIR]

Needs Omniglot (downloaded once) and a GPU to be finished in hours; everywhere else ``--steps`` gives a shortened run, and the
table says how long each was. Interrupted, it goes on from its checkpoints in ``--out``. Writes maml_omniglot.md there.

Protocols: Finn et al. (2017), Conv4-64 with strided convolutions, 60,000 meta-steps; Antoniou et al. (2019), Conv4-64 with
pooling, 100 epochs of 500 meta-steps, 5 inner steps, and two figures: the best model on the validation classes, and, as in
the paper, the *ensemble* of the five best. ``--norm batch`` is transductive, as published; "support" is the inductive control.
Differences: MAML's own random split of the characters was never published, so both use the family ``mamlpp``; a character in
another rotation is a class of its own, where MAML++ draws one rotation per episode.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fewshot_lib import data, norms
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4
from fewshot_lib.episodes import Episodes, EpisodeSampler
from fewshot_lib.evaluation import evaluate
from fewshot_lib.maml import MAML, Classifier
from fewshot_lib.meta_training import BestModels, meta_loss, plus_plus_loss, train_on_episodes
from fewshot_lib.training import pick_device

PUBLISHED = {  # accuracy in %: Finn et al. as quoted by Nichol et al. (2018), table 2; MAML++, an ensemble, as paperswithcode lists it
    "maml": {(5, 1): "98.7", (5, 5): "99.9", (20, 1): "95.8", (20, 5): "98.9"},
    "maml++": {(5, 1): "99.47", (5, 5): "99.85", (20, 1): "97.65", (20, 5): "99.33"},
}
HEAD = ["protocol", "norm", "ways", "shots", "meta-steps", "of", "model", "transductive", "accuracy in %, 95 % interval", "published"]


def settings(protocol: str, n_way: int) -> tuple[dict, dict]:
    """(of the learner, of the training) for a protocol and a number of ways."""
    if protocol == "maml++":
        learner = {"inner_steps": 5, "inner_lr": 0.1, "rates": "per_tensor_per_step", "per_step_norm": True}
        return learner, {"n_steps": 50_000, "n_tasks": 8, "n_query": 1, "objective": plus_plus_loss, "schedule": "cosine"}
    steps, lr, n_tasks = (1, 0.4, 32) if n_way == 5 else (5, 0.1, 16)
    return {"inner_steps": steps, "inner_lr": lr}, {"n_steps": 60_000, "n_tasks": n_tasks, "objective": meta_loss, "schedule": None}


def rows_of(protocol: str, norm: str, n_way: int, n_shot: int, dataset: ClassDataset, args: argparse.Namespace) -> list[list[str]]:
    """Trains once and tests twice: the best single model, and the ensemble of the five best."""
    device = pick_device()
    torch.manual_seed(args.seed)
    options, training = settings(protocol, n_way)
    encoder = Conv4(width=64, downsample="pool" if protocol == "maml++" else "stride")
    model = norms.with_norm(Classifier(encoder, 64, n_way), norm).to(device)
    learner = MAML(model, chunk_size=args.chunk_size, name=protocol, **options)
    inputs, planned = dataset.inputs.to(device), training.pop("n_steps")
    n_steps = min(planned, args.steps or planned)

    def sampled(split: str, seed: int, n: int) -> Episodes:
        return EpisodeSampler(dataset.labels, dataset.classes(split), n_way, n_shot, 15, seed).sample(n)

    val, test = sampled("val", args.seed + 1, args.episodes // 3), sampled("test", args.seed + 2, args.episodes)
    test_steps = 3 if (protocol, n_way) == ("maml", 5) else learner.inner_steps
    best = BestModels(learner, lambda: evaluate(learner.as_method(test_steps), val, inputs).mean, k=5)
    every = max(1, n_steps // 100)
    name = f"{protocol}-{norm}-{n_way}way-{n_shot}shot-{n_steps}".replace("+", "p")
    train_on_episodes(
        learner, dataset, n_steps, n_way=n_way, n_shot=n_shot, n_query=training.pop("n_query", n_shot), lr=1e-3, seed=args.seed,
        validate=best.validate, validate_every=every, checkpoint=args.out / f"{name}.pt", checkpoint_every=every,
        resume_with={"best": best}, label=name, **training,
    )  # fmt: skip
    rows = []
    for kind, method in (("single", learner.as_method(test_steps)), ("ensemble of 5", best.as_method(test_steps))):
        result = evaluate(method, test, inputs)
        low, high = (100 * bound for bound in result.interval)
        published = PUBLISHED[protocol][n_way, n_shot] if (kind == "single") == (protocol == "maml") else "–"
        measured = f"{100 * result.mean:.2f} [{low:.2f}, {high:.2f}]"
        facts = [protocol, norm, n_way, n_shot, f"{n_steps:,}", f"{planned:,}", kind, "yes" if result.transductive else "no"]
        rows.append([*map(str, facts), measured, published])
        print(" · ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Runs the chosen protocols; the table is written anew after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", nargs="+", default=["maml", "maml++"], choices=list(PUBLISHED))
    parser.add_argument("--norm", nargs="+", default=["batch", "support"], choices=norms.NORMS)
    parser.add_argument("--ways", nargs="+", type=int, default=[5, 20], choices=[5, 20])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5], choices=[1, 5])
    parser.add_argument("--steps", type=int, help="shorten the training to so many meta-steps")
    parser.add_argument("--episodes", type=int, default=600, help="test episodes (600, as published)")
    parser.add_argument("--chunk-size", type=int, help="tasks in memory at a time (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/maml_omniglot"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    dataset, rows = data.load("omniglot/mamlpp"), []
    for protocol in args.protocol:
        for norm in args.norm if protocol == "maml" else [n for n in args.norm if n != "group"]:
            for n_way in args.ways:
                for n_shot in args.shots:
                    rows += rows_of(protocol, norm, n_way, n_shot, dataset, args)
                    lines = [HEAD, ["---"] * len(HEAD), *rows]
                    (args.out / "maml_omniglot.md").write_text("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
