"""What only a GPU can show, in one command of under eight minutes that fetches nothing.

    python benchmarks/on_gpu.py --pack DIR                               # where the data is: one file, 52 MB
    python benchmarks/on_gpu.py --data DIR/on_gpu.safetensors [--minutes 7]

Parts, the most telling first; after each, ``--out`` holds a JSON and a page with the hardware's name, and a
run that is cut off has shown what it has shown:

meta-step   of MAML to second order, 32 tasks, 5 inner steps, Conv4-64: loop, vmap, vmap as one CUDA graph,
            each also with unfolded convolutions; share of the arithmetic floor; gradient against the loop's.
ProtoNet    on Omniglot after Snell et al. (2017, arXiv:1703.05175, section 3.1): 60-way training, 1 and 5
            shots, tested 5- and 20-way.
MAML++      on Omniglot, 5-way 1-shot (Antoniou et al. 2019, arXiv:1810.09502), settings of maml_omniglot.py.
LoRA        tuning of all-MiniLM-L6-v2 on the training classes of HuffPost (``bao``).
AMP         a training step of ProtoNet and of LoRA in bfloat16 and in float32.

Every training has a fixed number of minutes, its curve on validation classes, and one cycle of its learning
rate over the steps that fit into them; the papers trained far longer. Only torch, transformers and
scikit-learn are needed besides what they bring. On a CPU it runs, and shows little.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import maml_omniglot
import torch
from on_gpu_pack import Pack, made_up, read, write
from speed import maml
from speed.timing import seconds
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fewshot_lib.core import EpisodeResults, EpisodeSampler, evaluate, pick_device, seed_everything
from fewshot_lib.data.cache import write_whole
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.encoders import Conv4, TokenEncoder, encode
from fewshot_lib.maml import MAML, Classifier, norms, train_on_episodes
from fewshot_lib.multitask import Task, TaskSampler, tune_encoder
from fewshot_lib.prototypes import euclidean_prototypes, name_mix, train_prototypical

SNELL = {(5, 1): "98.8", (5, 5): "99.7", (20, 1): "96.0", (20, 5): "98.9"}  # table 1, accuracy in %
Result = dict[str, Any]  # "head", "rows", and for a training "curves": name -> [[seconds, score], ...]


class Run(NamedTuple):
    """Where, on what, for how long (seconds of training in all), how large."""

    device: torch.device
    pack: Pack
    budget: float
    tiny: bool

    @property
    def episodes(self) -> int:
        """Of a test."""
        return 10 if self.tiny else 1000


def in_percent(result: EpisodeResults) -> str:
    """Mean and 95 % interval over episodes, in %."""
    low, high = result.interval
    return f"{100 * result.mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def tested(method: Any, images: ClassDataset, features: Tensor, n_way: int, n_shot: int, n: int) -> str:
    """Accuracy in % on n episodes of the test classes."""
    sampler = EpisodeSampler(images.labels, images.classes("test"), n_way, n_shot, 15, seed=1)
    return in_percent(evaluate(method, sampler.sample(n), features))


# --- the meta-step


def as_graph(step: Callable[[], Any], parameters: list[nn.Parameter]) -> Callable[[], list[Tensor]]:
    """The step as one CUDA graph: recorded once, then played without Python. It reads and writes the same
    memory every time, so new tasks would be copied into the old ones."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is allocated once, is allocated here
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    for p in parameters:
        p.grad = None
    with torch.cuda.graph(graph):
        step()
    gradient = [p.grad for p in parameters]

    def play() -> list[Tensor]:
        graph.replay()
        return gradient

    return play


def meta_step(run: Run) -> Result:
    """Loop, vmap and CUDA graph, in float32 and in TF32."""
    setting = maml.Setting(*((2, 2, False, 4) if run.tiny else (32, 5)))
    model = maml.conv4(setting.width).to(run.device)
    tasks = maml.Tasks(*(leaf.to(run.device) for leaf in maml.draw(setting.n_tasks)))
    plain, flat = (m.to(run.device) for m in (model, maml.unfolded(model)))
    rows = []
    for tf32 in (False, True) if run.device.type == "cuda" else (False,):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        rate = maml.matmul_rate(run.device, 8192 if run.device.type == "cuda" else 256)
        ways = {"loop": (plain, "loop", False)}
        for name, network in (("vmap", plain), ("vmap, unfolded", flat)):
            ways[name] = (network, "vmap", False)
            ways[f"{name}, CUDA graph"] = (network, "vmap", True)
        expected, base = None, math.nan
        for way, (network, engine, graph) in ways.items():
            precision = "TF32" if tf32 else "float32"
            try:
                step = maml.by_library(network, tasks, engine=engine, **setting.options)
                if graph:
                    step = as_graph(step, list(network.parameters()))
                found = [g.clone() for g in step()]
            except (
                RuntimeError,
                AssertionError,
            ) as error:  # where there is no CUDA, or none that records this
                rows.append([precision, way, *["–"] * 4, str(error).splitlines()[0][:60]])
                continue
            expected = expected or found
            scale = max(g.abs().max() for g in expected)
            off = max((a - b).abs().max() for a, b in zip(found, expected, strict=True)) / scale
            took = statistics.median(seconds(step, run.device) for _ in range(1 if run.tiny else 7))
            base = took if way == "loop" else base
            share = setting.flops / took / rate
            row = [
                f"{1e3 * took:.1f}",
                f"{base / took:.1f}",
                f"{setting.flops / took / 1e9:,.0f}",
                f"{share:.0%}",
            ]
            rows.append([precision, way, *row, f"{off:.0e}"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    head = ["arithmetic", "way", "ms", "× the loop", "GFLOP/s", "of the floor", "gradient off by"]
    return {"head": head, "rows": rows, "setting": setting._asdict(), "float64": float64_check(run.tiny)}


def float64_check(tiny: bool) -> dict[str, float]:
    """How far the meta-gradients of all ways are from the loop's, on the host; raises where one is wrong."""
    with patch.object(maml, "peer", lambda _: None):
        return maml.deviations(maml.Setting(2, 2, False, 4 if tiny else 16))


# --- trainings in a fixed time


class Curve:
    """Validation scores against seconds of training, for ``validate``."""

    def __init__(self, score: Callable[[], float]) -> None:
        self.score, self.points, self.start = score, [], time.perf_counter()

    def __call__(self) -> float:
        self.points.append([round(time.perf_counter() - self.start, 1), score := float(self.score())])
        return score


def timed(
    train: Callable[..., Any], score: Callable[[], float], budget: float, tiny: bool
) -> tuple[Curve, int]:
    """``train(n_steps, probing=True)`` says how fast a step is, then trains as many as the budget has.

    Ten validations; their time counts.
    """
    probe = 2 if tiny else 30
    for _ in range(1 if tiny else 2):  # the first warms up
        start = time.perf_counter()
        train(probe, probing=True)
    step = (time.perf_counter() - start) / probe
    n_steps = probe if tiny else max(probe, int((budget - 10 * seconds(score)) / step))
    curve = Curve(score)
    train(n_steps, validate=curve, validate_every=max(1, n_steps // 10))
    return curve, n_steps


def prototypical(run: Run) -> Result:
    """One training for 1 shot and one for 5, each tested 5- and 20-way; as in the paper."""
    images, rows, curves = run.pack.omniglot["vinyals"], [], {}
    ways = 5 if run.tiny else 60
    for n_shot in (1, 5):
        how = {
            "n_way": ways,
            "n_shot": n_shot,
            "n_query": 5,
            "lr": 4e-3,
            "label": f"ProtoNet, {n_shot} shots",
        }
        seed_everything(0)
        encoder = Conv4(width=64).to(run.device)
        val = images.only("val")
        dealt = EpisodeSampler(val.labels, val.classes("val"), 5, n_shot, 10, seed=2).sample(
            run.episodes // 5
        )

        def score(encoder: nn.Module = encoder, val: ClassDataset = val, dealt: Any = dealt) -> float:
            return evaluate(euclidean_prototypes, dealt, encode(encoder, val.inputs, 2048)).mean

        def train(
            n: int, probing: bool = False, encoder: nn.Module = encoder, how: dict = how, **loop: Any
        ) -> None:
            train_prototypical(copy.deepcopy(encoder) if probing else encoder, images, n, **how, **loop)

        curve, n_steps = timed(train, score, run.budget, run.tiny)
        curves[f"{n_shot} shots"] = curve.points
        test = images.only("test")
        features = encode(encoder, test.inputs, 2048)
        for n_way in (5,) if run.tiny else (5, 20):
            accuracy = tested(euclidean_prototypes, test, features, n_way, n_shot, run.episodes)
            length = [f"{n_steps:,}", f"{curve.points[-1][0]:.0f}"]
            rows.append([str(n_way), str(n_shot), *length, accuracy, SNELL[n_way, n_shot]])
    head = ["ways", "shots", "steps", "seconds", "accuracy in %, 95 % interval", "Snell et al."]
    return {"head": head, "rows": rows, "curves": curves}


def maml_plus_plus(run: Run) -> Result:
    """MAML++, transductive as published and inductive ("support" statistics), single model."""
    images, rows, curves = run.pack.omniglot["mamlpp"], [], {}
    inputs = images.inputs.to(run.device)
    for norm in ("batch", "support"):
        options, training = maml_omniglot.settings("maml++", 5, 1)
        planned = training.pop("n_steps")
        training |= {"n_way": 5, "n_shot": 1, "lr": 1e-3}
        seed_everything(0)
        model = norms.with_norm(
            Classifier(Conv4(width=8 if run.tiny else 64), 8 if run.tiny else 64, 5), norm
        )
        learner = MAML(model.to(run.device), name=f"MAML++, {norm}", **options)
        sampler = EpisodeSampler(images.labels, images.classes("val"), 5, 1, 10, seed=2)
        dealt = sampler.sample(run.episodes // 5)

        def score(learner: MAML = learner, dealt: Any = dealt) -> float:
            return evaluate(learner.as_method(), dealt, inputs).mean

        def train(
            n: int, probing: bool = False, learner: MAML = learner, how: dict = training, **loop: Any
        ) -> None:
            train_on_episodes(copy.deepcopy(learner) if probing else learner, images, n, **how, **loop)

        curve, n_steps = timed(train, score, run.budget, run.tiny)
        curves[f"{norm} statistics"] = curve.points
        accuracy = tested(learner.as_method(), images, inputs, 5, 1, run.episodes)
        transductive = "yes" if learner.transductive else "no"
        length = [f"{n_steps:,}", f"{planned:,}", f"{curve.points[-1][0]:.0f}"]
        rows.append([norm, transductive, *length, accuracy, maml_omniglot.PUBLISHED["maml++"][5, 1]])
    head = ["statistics", "transductive", "steps", "of", "seconds", "accuracy in %, 95 % interval"]
    return {"head": [*head, "published (ensemble)"], "rows": rows, "curves": curves}


# --- the encoder of texts


class LowRank(nn.Module):
    """W + 2 B A of rank r, as ``encoders.with_lora`` has it, without its package."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, weight.shape[1]) / rank)
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 2 * self.lora_B @ self.lora_A


def adapted(encoder: TokenEncoder, device: torch.device, rank: int = 16) -> TokenEncoder:
    """A copy whose linear layers in the blocks have adapters, the only parameters to train."""
    seed_everything(0)
    encoder = copy.deepcopy(encoder).requires_grad_(False)
    for name, layer in list(encoder.named_modules()):
        if isinstance(layer, nn.Linear) and ".layer." in name:
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
            layer.parametrizations.weight.original.requires_grad_(False)
    return encoder.to(device)


def tuner(run: Run, encoder: TokenEncoder, bf16: bool) -> Callable[..., Any]:
    """``tune_encoder`` on 10-way episodes of one to five shots of the training classes."""
    task = Task("headlines", run.pack.texts, run.pack.texts.inputs, run.pack.names)
    size = (3, (1, 2), 2, 1) if run.tiny else (10, (1, 5), 5, 2)
    how = {"batch_size": 512, "n_validation": 5 if run.tiny else 100}

    def train(n: int, probing: bool = False, **loop: Any) -> None:
        sampler = TaskSampler([task], *size)
        with nullcontext() if bf16 else without_autocast("multitask.encoder"):
            tune_encoder(copy.deepcopy(encoder) if probing else encoder, [sampler], n, **how, **loop)

    return train


def lora(run: Run) -> Result:
    """Names and prototypes on test classes, before and after."""
    texts, names, rows = run.pack.texts, run.pack.names.to(run.device), []
    encoder = adapted(run.pack.encoder, run.device)
    val = texts.only("val")
    sampler = EpisodeSampler(val.labels, val.classes("val"), min(5, len(val.classes("val"))), 1, 10, seed=2)
    dealt = sampler.sample(run.episodes // 5)
    kept = torch.cat([dealt.support.flatten(), dealt.query.flatten()]).unique()

    def score() -> float:
        encoded = encode(encoder, val.inputs[kept], 512).float()
        features = encoded.new_zeros(len(val.labels), encoder.n_features)
        features[kept.to(features.device)] = encoded
        return evaluate(name_mix, dealt, features, names=encode(encoder, names, 64).float()).mean

    def accuracies() -> list[str]:
        test = texts.only("test")
        features, of_names = (encode(encoder, ids, 512).float() for ids in (test.inputs, names))
        found = []
        for n_shot in (1, 5):
            sampler = EpisodeSampler(test.labels, test.classes("test"), 5, n_shot, 10, seed=1)
            found.append(
                in_percent(evaluate(name_mix, sampler.sample(run.episodes), features, names=of_names))
            )
        return found

    rows.append(["frozen", "0", "0", *accuracies()])
    curve, n_steps = timed(tuner(run, encoder, bf16=True), score, run.budget, run.tiny)
    rows.append(["LoRA, rank 16", f"{n_steps:,}", f"{curve.points[-1][0]:.0f}", *accuracies()])
    head = ["encoder", "steps", "seconds", "names + prototypes, 1 shot, in %", "5 shots, in %"]
    return {"head": head, "rows": rows, "curves": {"LoRA": curve.points}}


def amp(run: Run) -> Result:
    """Milliseconds of a step with bfloat16 arithmetic and without, and the loss after equally many."""
    n, images, rows = 2 if run.tiny else 100, run.pack.omniglot["vinyals"], []
    for on, off in itertools.product(("ProtoNet", "LoRA"), (False, True)):
        if on == "ProtoNet":
            seed_everything(0)
            encoder = Conv4(width=64).to(run.device)
            how = {"n_way": 5 if run.tiny else 60, "n_shot": 1, "label": on}
            train = partial(_prototypical, encoder, images, how, off)
        else:
            train = tuner(run, adapted(run.pack.encoder, run.device), bf16=not off)
        train(n, probing=True)
        rows.append(
            [
                on,
                "float32" if off else "bfloat16",
                f"{1e3 * seconds(lambda t=train: t(n), run.device) / n:.1f}",
            ]
        )
    return {"head": ["training", "arithmetic", "ms a step"], "rows": rows}


def without_autocast(module: str) -> Any:
    """Inside, the trainer of this module of the library computes in float32, on GPUs, too."""
    return patch(f"fewshot_lib.{module}.autocast", lambda _: nullcontext())


def _prototypical(
    encoder: nn.Module, images: ClassDataset, how: dict, off: bool, n: int, probing: bool = False
) -> None:
    """ProtoNet with or without the autocast that it has on GPUs."""
    with without_autocast("prototypes.means") if off else nullcontext():
        train_prototypical(copy.deepcopy(encoder) if probing else encoder, images, n, **how)


# part -> its title, what computes it, and its share of the minutes for each of its trainings
PARTS: dict[str, tuple[str, Callable[[Run], Result], float]] = {
    "meta_step": ("A meta-step of MAML to second order", meta_step, 0.0),
    "prototypical": ("Prototypical Network, Omniglot (`vinyals`)", prototypical, 0.16),
    "maml": ("MAML++, Omniglot (`mamlpp`), 5-way 1-shot", maml_plus_plus, 0.18),
    "lora": ("LoRA on the training classes of HuffPost (`bao`), 5-way", lora, 0.1),
    "amp": ("Mixed precision", amp, 0.0),
}


def page(found: dict[str, Result], hardware: str) -> str:
    """The page, of the parts that are there."""
    lines = ["# On a GPU", "", f"{hardware}. `python benchmarks/on_gpu.py`, one run, one training seed."]
    for part, result in found.items():
        table = [result["head"], ["---"] * len(result["head"]), *result["rows"]]
        lines += ["", f"## {PARTS[part][0]}", "", *("| " + " | ".join(row) + " |" for row in table)]
        for name, points in result.get("curves", {}).items():
            told = ", ".join(f"{100 * score:.1f} ({at:.0f} s)" for at, score in points)
            lines += ["", f"Validation accuracy in %, {name}: {told}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Runs all parts, and writes JSON and page anew after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, metavar="DIR", help="pack the data into this folder, and stop")
    parser.add_argument("--data", type=Path, help="what --pack wrote")
    parser.add_argument("--minutes", type=float, default=7, help="about, for everything")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="on noise, a few steps: does everything run?")
    parser.add_argument("--device", help="as in torch (default: the best there is)")
    parser.add_argument("--out", type=Path, default=Path("build/on_gpu"))
    options = parser.parse_args(arguments)
    if options.pack:
        print(write(options.pack))
        return
    if not options.tiny and not options.data:
        parser.error("--data is missing: the file that --pack wrote where the course and its data are")
    device = pick_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    hardware = f"{name}, torch {torch.__version__}, {date.today().isoformat()}"
    pack = made_up() if options.tiny else read(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Result] = {}
    for part in options.parts:
        title, compute, share = PARTS[part]
        print(f"{title} …", flush=True)
        start = time.perf_counter()
        found[part] = compute(Run(device, pack, 60 * options.minutes * share, options.tiny))
        found[part]["minutes"] = (time.perf_counter() - start) / 60
        content = {"hardware": hardware, "parts": found}
        write_whole(options.out / "on_gpu.json", json.dumps(content, indent=1))
        write_whole(options.out / "on_gpu.md", page(found, hardware))
    print((options.out / "on_gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
