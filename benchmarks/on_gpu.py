"""What only a GPU can show, in one command of about eight minutes: Omniglot to the published protocols, and
rates.

    python benchmarks/on_gpu.py [--minutes 8] [--out build/on_gpu.md]

Four parts, each a section of the page that is written to ``--out`` (after every part, so that nothing is
lost): episodes per second on the device and on its host; a meta-step of MAML, loop against vmap; a
Prototypical Network trained on Omniglot after Snell et al. (2017, arXiv:1703.05175, section 3.1); MAML after
Finn et al. (2017, arXiv:1703.03400), as many meta-steps as the time allows. The page names the hardware and
says how long each training was beside the published length. Runs on a CPU too, where it shows little.

The Prototypical Network differs from the paper in its schedule (one cycle of the learning rate, a fixed
number of episodes, no early stopping); MAML's own random split was never published, so it is trained on the
family ``mamlpp``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fewshot_lib import data
from fewshot_lib.core import EpisodeResults, EpisodeSampler, evaluate, pick_device, seed_everything
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import Conv4, encode
from fewshot_lib.maml import MAML, Classifier, Tasks, episode_tasks, meta_loss
from fewshot_lib.maml.norms import with_norm
from fewshot_lib.prototypes import euclidean_prototypes, train_prototypical

SNELL = {
    (5, 1): "98.8",
    (5, 5): "99.7",
    (20, 1): "96.0",
    (20, 5): "98.9",
}  # table 1 of the paper, accuracy in %


def milliseconds(step: Callable[[], object], repeats: int = 20) -> float:
    """Median time of a step, which must end with a transfer to the host; three runs to warm up."""
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def in_percent(result: EpisodeResults) -> str:
    """Mean and 95 % interval over episodes, in %."""
    low, high = result.interval
    return f"{100 * result.mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]


def rates(device: torch.device) -> list[str]:
    """Episodes per second of Euclidean prototypes on cached features, 10,000 episodes at once."""
    labels = torch.arange(200).repeat_interleave(20)
    features = torch.randn(len(labels), 64, generator=torch.Generator().manual_seed(0))
    episodes = EpisodeSampler(labels, torch.arange(200), 5, 1, 15, seed=0).sample(10_000)
    rows = []
    for place in dict.fromkeys((torch.device("cpu"), device)):
        dealt, here = episodes.to(place), features.to(place)
        taken = milliseconds(
            lambda dealt=dealt, here=here: evaluate(euclidean_prototypes, dealt, here, 10_000).mean
        )
        rows.append([place, f"{1e7 / taken:,.0f}"])
    return ["## Evaluation: 5-way 1-shot, 64 features", "", *table(["on", "episodes per second"], rows)]


def meta_steps(device: torch.device, images: ClassDataset) -> list[str]:
    """A meta-step of MAML, Conv4-64 with strides, 5-way 1-shot, 5 inner steps: loop against vmap."""
    inputs, rows = images.inputs.to(device), []
    sampler = EpisodeSampler(images.labels, images.classes("train"), 5, 1, 5, seed=0)
    for n_tasks in (4, 16, 32):
        tasks, taken = episode_tasks(sampler.sample(n_tasks), inputs), {}
        for engine in ("loop", "vmap"):
            seed_everything(0)
            model = with_norm(Classifier(Conv4(width=64, downsample="stride"), 64, 5), "batch").to(device)
            learner = MAML(model, inner_steps=5, inner_lr=0.1, engine=engine)

            def step(learner: MAML = learner, tasks: Tasks = tasks) -> float:
                learner.zero_grad(set_to_none=True)
                loss = meta_loss(learner, tasks)["loss"]
                if loss.requires_grad:
                    loss.backward()
                return loss.item()

            taken[engine] = milliseconds(step, repeats=7)
        ratio = taken["loop"] / taken["vmap"]
        rows.append([n_tasks, f"{taken['loop']:.0f}", f"{taken['vmap']:.0f}", f"{ratio:.1f}"])
    head = ["tasks", "loop, ms", "vmap, ms", "ratio"]
    return ["## A meta-step of MAML to second order, 5 inner steps", "", *table(head, rows)]


def prototypical(device: torch.device, seconds: float, episodes: int) -> list[str]:
    """A Prototypical Network on Omniglot, 60 ways and 5 shots in training as in the paper."""
    images = data.load("omniglot/vinyals")
    how = {"n_way": 60, "n_shot": 5, "n_query": 5, "lr": 4e-3, "label": "ProtoNet"}
    for _ in range(2):  # the first round warms up
        started = time.perf_counter()
        train_prototypical(Conv4(width=64).to(device), images, 50, **how)
    n_steps = int(min(20_000, max(50, 50 * seconds / (time.perf_counter() - started))))
    seed_everything(0)
    encoder, started = Conv4(width=64).to(device), time.perf_counter()
    train_prototypical(encoder, images, n_steps, **how)
    taken, features, rows = time.perf_counter() - started, encode(encoder, images.inputs, 2048), []
    for (n_way, n_shot), published in SNELL.items():
        sampler = EpisodeSampler(images.labels, images.classes("test"), n_way, n_shot, 15, seed=1)
        result = evaluate(euclidean_prototypes, sampler.sample(episodes), features)
        rows.append([n_way, n_shot, in_percent(result), published])
    length = f"{n_steps:,} episodes of 60 ways and 5 shots in {taken:.0f} s, one training seed; "
    length += f"{episodes:,} test episodes"
    head = ["ways", "shots", "accuracy in %, 95 % interval", "Snell et al."]
    return ["## Prototypical Network, Omniglot (`vinyals`)", "", length, "", *table(head, rows)]


def maml(device: torch.device, seconds: float, episodes: int, out: Path) -> list[str]:
    """MAML on Omniglot, 5-way 1-shot: as many meta-steps as the time allows, transductive and inductive."""
    script = [sys.executable, str(Path(__file__).with_name("maml_omniglot.py")), "--protocol", "maml"]
    sizes = ["--ways", "5", "--shots", "1", "--episodes", str(episodes), "--validations", "10"]
    time_limit = ["--seconds", str(seconds / 2), "--device", str(device), "--out", str(out)]
    subprocess.run([*script, *sizes, *time_limit], check=True)
    return ["## MAML, Omniglot (`mamlpp`)", "", out.read_text(encoding="utf-8").strip()]


def main() -> None:
    """Runs all parts, and writes the page anew after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8, help="for both trainings and everything else")
    parser.add_argument("--episodes", type=int, default=1000, help="test episodes")
    parser.add_argument("--device", help="as in torch (default: the best there is)")
    parser.add_argument("--out", type=Path, default=Path("build/on_gpu.md"))
    options = parser.parse_args()
    device = pick_device(options.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    page = ["# On a GPU", "", f"{card}, torch {torch.__version__}. `python benchmarks/on_gpu.py`, one run."]
    seconds = 60 * options.minutes
    parts = (
        lambda: rates(device),
        lambda: meta_steps(device, data.load("omniglot/mamlpp")),
        lambda: prototypical(device, 0.3 * seconds, options.episodes),
        lambda: maml(device, 0.45 * seconds, options.episodes, options.out.parent / "on_gpu" / "maml.md"),
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        lines = part()
        print("\n".join(lines), flush=True)
        page += ["", *lines]
        options.out.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
