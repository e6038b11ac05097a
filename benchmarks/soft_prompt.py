"""The soft-prompt row of ``gat_transformer.py``: prompts tuned in each of its test episodes.

    python benchmarks/soft_prompt.py --validate [--datasets huffpost reuters 20news amazon]

The masked language model is the small one that ships with the course, frozen; the prompt starts from the
words of a template, descends the loss of the label words on the support, and the answer mixes label words and
examples (chapter 05). Texts are cut to 48 tokens. ``--validate`` compares numbers of steps on validation
classes: that is where ``STEPS`` comes from. ``gat_transformer.py --soft-prompt`` computes the row; without
that flag this program does, so that it can run in several processes. Parts of 50 episodes are kept in
``--out``: an interrupted run goes on, and ``gat_transformer.py`` with the same ``--out`` finds them.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from text_baselines import SHOTS, episodes_of
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.core import (
    EpisodeResults,
    Episodes,
    autocast,
    bfloat16_asked,
    evaluate,
    pick_device,
)
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.cache import cached_tensors
from fewshot_lib.encoders import encoder_fingerprint, load_masked_lm
from fewshot_lib.prompts import (
    LabelEmbedding,
    Mixture,
    PromptModel,
    PromptTuning,
    RepVerb,
    Template,
    class_words,
    initial_prompt,
)

STEPS, CANDIDATES, LR, MAX_TOKENS, PART = 5, (0, 2, 5, 10, 20), 0.1, 48, 50


class SoftPrompt:
    """The method on one data set: its texts in the template, the words of its classes, the prompt's start."""

    def __init__(self, dataset: ClassDataset) -> None:
        self.dataset = dataset
        self.lm = load_masked_lm(max_tokens=MAX_TOKENS).to(pick_device())
        # MetaPrompting's first template, every word of it soft
        template = Template(
            f"{{text}} , the {'product category' if dataset.name == 'amazon' else 'topic'} is [MASK] ."
        ).softened
        self.ids = template.tokenise(self.lm, dataset.inputs)
        self.words = class_words(self.lm, dataset.class_names)
        start = initial_prompt(self.lm, template, "words")
        model = PromptModel(self.lm, start, lambda lm: Mixture(LabelEmbedding(lm, "support"), RepVerb()))
        self.method = PromptTuning(model, STEPS, LR, label="soft prompt")

    def accuracies(self, episodes: Episodes, steps: int = STEPS) -> Tensor:
        """Of every episode, (1, E)."""
        method = replace(self.method, steps=steps)
        with autocast(self.ids.device):
            return evaluate(method, episodes, self.ids, batch_size=10, names=self.words).accuracies.cpu()

    def results(self, episodes: Episodes, out: Path) -> EpisodeResults:
        """Part by part, each kept in ``out``."""
        name, lm = f"{self.dataset.name}-{episodes.n_shot}shot", encoder_fingerprint(self.lm)
        settings = [episodes.fingerprint(), lm, STEPS, LR, MAX_TOKENS, bfloat16_asked(self.ids.device)]
        settings += [self.dataset.class_names]
        folder = out / "soft-prompt" / f"{name}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for number, rows in enumerate(torch.arange(len(episodes)).split(PART)):
            print(
                f"  soft prompt, {name}: {int(rows[0]):,} of {len(episodes):,} episodes", end="\r", flush=True
            )
            path = folder / f"{number:03d}.safetensors"
            found, _ = cached_tensors(
                path, lambda rows=rows: ({"accuracies": self.accuracies(episodes[rows])}, {})
            )
            parts.append(found["accuracies"])
        return EpisodeResults.of(torch.cat(parts, 1), self.method, episodes)


def main() -> None:
    """Prints accuracies, of validation classes by the number of steps, or of test classes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["huffpost", "reuters", "20news", "amazon"])
    parser.add_argument("--family", default="bao")
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/gat_transformer"))
    options = parser.parse_args()
    for name in options.datasets:
        part = data.load(name, split_family=options.family).only("val" if options.validate else "test")
        model = SoftPrompt(part)
        for n_shot in options.shots:
            episodes = episodes_of(part, n_shot, options.episodes)
            if options.validate:
                found = {steps: model.accuracies(episodes, steps).mean().item() for steps in CANDIDATES}
                print(
                    f"{name}, {n_shot}-shot, validation classes, by steps:",
                    {s: f"{a:.1%}" for s, a in found.items()},
                    flush=True,
                )
            else:
                result = model.results(episodes, options.out)
                print(
                    f"{name}, {n_shot}-shot: {result.mean:.1%} ± {result.ci95:.1%} on {result.n_episodes:,} "
                    "episodes",
                    flush=True,
                )


if __name__ == "__main__":
    main()
