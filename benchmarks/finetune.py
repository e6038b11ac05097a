"""Fine-tuning all episodes at once, beside one after the other, and beside easyfsl on the same features.

    python benchmarks/finetune.py [--episodes 40] [--steps 50] [--repeats 5] [--threads 2] [--device cpu]

Episodes are 5-way 1-shot with 15 queries per class, on 640-d features. The loop calls the same method on one
episode at a time. Where easyfsl 1.5.0 is installed (``pip install --no-deps easyfsl==1.5.0``; nothing else of
it is needed), its TIM and Finetune run with equal settings: the largest difference of the predicted
probabilities is printed with the times. Figures are medians over the repeats; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from fewshot_lib.core import pick_device
from fewshot_lib.finetuning import TIM, FineTuning

N_WAY, N_SHOT, N_QUERY, N_FEATURES = 5, 1, 15, 640
LR = 0.01  # so large that fine-tuning changes what is predicted, and a difference would show


def draw(n_episodes: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Positive features, as after a ReLU: support (E, N, K, d), query (E, M, d)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n_episodes, N_WAY, 1, N_FEATURES, generator=generator)
    examples = centres + 2 * torch.randn(n_episodes, N_WAY, N_SHOT + N_QUERY, N_FEATURES, generator=generator)
    examples = examples.relu().to(device)
    return examples[:, :, :N_SHOT], examples[:, :, N_SHOT:].flatten(1, 2)


def easyfsl_methods() -> ModuleType | None:
    """easyfsl's methods without their package's ``__init__``, which imports torchvision; or None."""
    found = importlib.util.find_spec("easyfsl")
    if found is None:
        return None
    package = ModuleType("easyfsl.methods")
    package.__path__ = [str(Path(found.origin).parent / "methods")]
    sys.modules["easyfsl.methods"] = package
    return package


def easyfsl_classifier(name: str, steps: int, fine_tuning: FineTuning) -> torch.nn.Module:
    """Its classifier of this name, with the settings of ours; its ``temperature`` is 1/τ."""
    module = importlib.import_module(f"easyfsl.methods.{name.lower()}")
    return getattr(module, name)(
        use_softmax=True,
        fine_tuning_steps=steps,
        fine_tuning_lr=fine_tuning.lr,
        temperature=1 / fine_tuning.temperature,
    )


def one_by_one(classify: Callable, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The method on one episode after the other: probabilities (E, M, N)."""
    return torch.cat([classify(support[e : e + 1], query[e : e + 1]) for e in range(len(support))])


def with_easyfsl(classifier: torch.nn.Module, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Its classifier on one episode after the other, the only way there is: probabilities (E, M, N)."""
    labels = torch.arange(N_WAY, device=support.device).repeat_interleave(N_SHOT)
    outputs = []
    for s, q in zip(support, query, strict=True):
        classifier.process_support_set(s.flatten(0, 1), labels)
        outputs.append(classifier(q))
    return torch.stack(outputs)


def seconds(run: Callable[[], torch.Tensor], repeats: int) -> float:
    """Median seconds of a run; ``.sum().item()`` waits for the device."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run().sum().item()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def beside(name: str, slow: float, fast: float, n_episodes: int, differences: torch.Tensor) -> str:
    """A line of the output: a way that takes so many seconds, beside the batched one."""
    largest = f"largest difference {differences.abs().max():.1e}"
    return f"{name:<7} {1e3 * slow / n_episodes:>10.2f} ms per episode, ratio {slow / fast:.1f}, {largest}"


def main() -> None:
    """Prints the times, the ratios and the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    support, query = draw(options.episodes, device)
    like_easyfsl = {"head": "cosine", "init": "means", "normalise": False, "bias": False}
    like_easyfsl |= {"steps": options.steps, "lr": LR}
    methods = {
        "TIM": TIM(**like_easyfsl, temperature=0.1, weight=1.0),
        "Finetune": FineTuning(**like_easyfsl),
    }
    theirs = easyfsl_methods()
    machine = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{options.episodes:,} episodes, {options.steps} steps, {machine}")
    for name, fine_tuning in methods.items():
        batched, loop = fine_tuning(support, query), one_by_one(fine_tuning, support, query)
        fast = seconds(lambda m=fine_tuning: m(support, query), options.repeats)
        slow = seconds(lambda m=fine_tuning: one_by_one(m, support, query), options.repeats)
        p, start = batched.softmax(-1), fine_tuning.trajectory(support, query, [0])[0].softmax(-1)
        print(f"\n{name}: probabilities moved by up to {(p - start).abs().max():.2f} in fine-tuning")
        print(f"batched {1e3 * fast / options.episodes:>10.2f} ms per episode")
        print(beside("loop", slow, fast, options.episodes, p - loop.softmax(-1)))
        if theirs is not None:
            classifier = easyfsl_classifier(name, options.steps, fine_tuning)
            other = with_easyfsl(classifier, support, query)
            time_other = seconds(lambda c=classifier: with_easyfsl(c, support, query), options.repeats)
            print(beside("easyfsl", time_other, fast, options.episodes, p - other))
    if theirs is None:
        print("\neasyfsl is not installed: the comparison with it was left out.")


if __name__ == "__main__":
    main()
