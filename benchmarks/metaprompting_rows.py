"""The rows of ``metaprompting.py``: what one data set at one number of shots shares, and each method on it.

A row is a function that trains what it needs and measures; settings stand here, and all are fixed but for the
step size of the inner loop at test time, which validation classes choose.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from fewshot_lib.core import EpisodeResults, Episodes, EpisodeSampler, Method, evaluate
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import MaskedLM, TextEncoder, extract_features
from fewshot_lib.finetuning import FineTuning
from fewshot_lib.prompts import (
    LabelEmbedding,
    MetaPrompting,
    Mixture,
    PromptModel,
    PromptTuning,
    RepVerb,
    Template,
    Verbalizer,
    Words,
    class_words,
    initial_prompt,
    mask_features,
    meta_prompter,
    prompt_pool,
    train_metaprompting,
)
from fewshot_lib.prototypes import cosine_prototypes, name_features, name_mix, zero_shot

SHOTS, N_WAY, N_TASKS, TRAIN_QUERIES = (1, 5), 5, 4, 5
INNER_STEPS, INNER_LR, LR = (
    5,
    0.1,
    0.01,
)  # the rate of the prompt; adapters and pool take a tenth in the outer loop
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the inner loop at test time: validation classes choose
POOL = (8, 8)  # prompts, and their tokens
BAR = "label names + prototypes"
ENCODER_ROWS = {
    "label names, zero-shot": zero_shot,
    "prototypes": cosine_prototypes,
    BAR: name_mix,
    "cosine fine-tuning": FineTuning(temperature=0.1, lr=0.01, steps=20),
}
ABLATION = {
    "MetaPrompting, frozen LM": "0 inner steps, frozen LM",
    "MetaPrompting, LoRA": "0 inner steps, LoRA",
}
ROWS_OF_SEEDS = (*ABLATION, *ABLATION.values(), "MetaPrompter", "MetaPrompter, centred by queries too (T)")


def mixed(lm: MaskedLM) -> Verbalizer:
    """Words and examples, half and half, both centred by the support. In the inner loop: the words."""
    return Mixture(LabelEmbedding(lm, "support"), RepVerb())


def published_mixture(lm: MaskedLM) -> Verbalizer:
    """MetaPrompter's, with the centre of its code: support and queries."""
    return Mixture(RepVerb(centre="both"), Words(lm), weights=[0.5, 0.5])


@dataclass(frozen=True)
class Run:
    """One data set at one number of shots: everything that its rows share."""

    dataset: ClassDataset
    lm: MaskedLM
    n_shot: int
    options: argparse.Namespace
    seed: int = 0  # of training: episodes are drawn with 0
    chosen: list[float] = field(default_factory=list)  # inner rates at test time, the latest last

    @property
    def key(self) -> str:
        """A name for files."""
        return slug(f"{self.dataset.name}-{self.dataset.split_family}-{self.n_shot}shot-{self.options.lm}")

    @property
    def pattern(self) -> str:
        """Template 0 of MetaPrompting."""
        return (
            f"{{text}} , the {'product category' if self.dataset.name == 'amazon' else 'topic'} is [MASK] ."
        )

    @cached_property
    def template(self) -> Template:
        """All words soft, so that the hard template is a start."""
        return Template(self.pattern).softened

    @cached_property
    def pool_template(self) -> Template:
        """P soft tokens before the hard template."""
        return Template(f"[SOFT*{POOL[1]}] {self.pattern}")

    @cached_property
    def ids(self) -> Tensor:
        """All texts in the template, (n, L)."""
        return self.template.tokenise(self.lm, self.dataset.inputs)

    @cached_property
    def pool_ids(self) -> Tensor:
        """All texts in the pool's template, (n, L)."""
        return self.pool_template.tokenise(self.lm, self.dataset.inputs)

    @cached_property
    def words(self) -> Tensor:
        """Of all classes, (C, W, P)."""
        return class_words(self.lm, self.dataset.class_names)

    @cached_property
    def episodes(self) -> Episodes:
        """Of test classes; saved, so that other programs can be measured on them."""
        smallest = int(self.dataset.counts[self.dataset.classes("test")].min())
        n_query = min(self.options.queries, smallest - self.n_shot)
        sampler = EpisodeSampler(
            self.dataset.labels, self.dataset.classes("test"), N_WAY, self.n_shot, n_query, seed=0
        )
        drawn = sampler.sample(self.options.episodes)
        drawn.save(self.options.out / f"{self.key}.safetensors")
        return drawn

    @cached_property
    def validation(self) -> Episodes:
        """Of validation classes, for the inner rate: as many ways as there are, at most 5."""
        classes = self.dataset.classes("val")
        n_query = min(5, int(self.dataset.counts[classes].min()) - self.n_shot)
        n_way = min(N_WAY, len(classes))
        sampler = EpisodeSampler(self.dataset.labels, classes, n_way, self.n_shot, n_query, seed=1)
        return sampler.sample(min(100, self.options.episodes))

    @cached_property
    def hard_start(self) -> Tensor:
        """The embeddings of the template's own words, (P, d)."""
        return initial_prompt(self.lm, self.template, "words")

    def learner(self, tune: str, inner_steps: int) -> MetaPrompting:
        """From the template's words; ``tune``: "prompt" or "lora"."""
        model = PromptModel(self.lm, self.hard_start, mixed, tune=tune, seed=self.seed)
        return MetaPrompting(
            model,
            "fomaml",
            inner_steps=inner_steps,
            inner_lr=INNER_LR,
            chunk_size=1 if tune == "lora" else None,
        )

    def prompter(self) -> MetaPrompting:
        """MetaPrompter, inductive, values from the names of training classes."""
        generator = torch.Generator().manual_seed(self.seed)
        names = [self.dataset.class_names[c] for c in self.dataset.classes("train").tolist()]
        drawn = [
            initial_prompt(self.lm, self.pool_template, "labels", generator=generator, class_names=names)
            for _ in range(POOL[0])
        ]
        return meta_prompter(
            self.lm, prompt_pool(torch.stack(drawn), generator), inner_steps=INNER_STEPS, inner_lr=INNER_LR
        )

    def trained(self, learner: MetaPrompting, name: str, ids: Tensor, lr: float) -> MetaPrompting:
        """On episodes of training classes, the same for every learner; goes on from its checkpoint."""
        n_query = min(
            TRAIN_QUERIES, int(self.dataset.counts[self.dataset.classes("train")].min()) - self.n_shot
        )
        sizes = {"n_way": N_WAY, "n_shot": self.n_shot, "n_query": n_query, "seed": self.seed}
        checkpoint = self.options.out / "checkpoints" / f"{self.key}-{slug(name)}-{self.seed}.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        train_metaprompting(
            learner,
            self.dataset,
            ids,
            self.words,
            self.options.steps,
            n_tasks=N_TASKS,
            episodes=sizes,
            lr=lr,
            checkpoint=checkpoint,
        )
        return learner


def slug(name: str) -> str:
    """A name for a file."""
    return re.sub(r"\W+", "-", name).strip("-").lower()


def encoder_rows(run: Run, encoder: TextEncoder) -> dict[str, Callable[[], EpisodeResults]]:
    """Rows of the sentence encoder, each as a function that computes it."""

    def row(method: Method) -> Callable[[], EpisodeResults]:
        def compute() -> EpisodeResults:
            rows, found = run.dataset.rows("test"), extract_features(encoder, run.dataset.only("test"))
            features = found.new_zeros(len(run.dataset), found.shape[1]).index_copy(
                0, rows.to(found.device), found
            )
            return evaluate(method, run.episodes, features, names=name_features(encoder, run.dataset))

        return compute

    return {name: row(method) for name, method in ENCODER_ROWS.items()}


def prompt_rows(run: Run) -> dict[str, Callable[[], EpisodeResults]]:
    """Rows of the masked language model, each as a function that trains what it needs and computes it."""

    def measured(method: Method, ids: Tensor, episodes: Episodes | None = None) -> EpisodeResults:
        batch_size = run.options.batch_size
        return evaluate(method, episodes or run.episodes, ids, batch_size=batch_size, names=run.words)

    def with_best_rate(learner: MetaPrompting) -> EpisodeResults:
        """With the inner rate that is best on validation classes; where no step is taken, there is none."""
        if not learner.inner_steps:
            return measured(learner.as_method(), run.ids)
        methods = {rate: learner.as_method(lr=rate, optimizer="sgd") for rate in RATES}
        means = {r: measured(m, run.ids, run.validation).mean for r, m in methods.items()}
        best = max(means, key=means.get)
        run.chosen.append(best)
        print("  validation accuracy by inner rate:", {r: f"{m:.1%}" for r, m in means.items()}, flush=True)
        return measured(methods[best], run.ids)

    def words(calibrated: bool) -> EpisodeResults:
        centre = None
        if calibrated:
            rows = run.dataset.rows("train")
            some = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(run.seed))[:500]]
            with torch.no_grad():
                centre = mask_features(run.lm, run.ids[some.to(run.ids.device)], run.hard_start)
        model = PromptModel(run.lm, run.hard_start, lambda lm: Words(lm, centre))
        return measured(PromptTuning(model, steps=0), run.ids)

    def plain(tune: str) -> EpisodeResults:
        return with_best_rate(run.learner(tune, INNER_STEPS))

    def learnt(name: str, tune: str, inner_steps: int) -> EpisodeResults:
        learner = run.trained(
            run.learner(tune, inner_steps), name, run.ids, LR if tune == "prompt" else LR / 10
        )
        return with_best_rate(learner)

    @cache
    def prompter() -> MetaPrompting:
        return run.trained(run.prompter(), "MetaPrompter", run.pool_ids, LR / 10)

    def pooled(transductive: bool) -> EpisodeResults:
        return measured(
            prompter().as_method(verbalizer=published_mixture if transductive else None), run.pool_ids
        )

    return {
        "label words, zero-shot": lambda: words(calibrated=False),
        "label words, zero-shot, calibrated": lambda: words(calibrated=True),
        "prompt tuning from words, frozen LM": lambda: plain("prompt"),
        "prompt tuning from words, LoRA": lambda: plain("lora"),
        "MetaPrompting, frozen LM": lambda: learnt("frozen", "prompt", INNER_STEPS),
        "0 inner steps, frozen LM": lambda: learnt("frozen-0", "prompt", 0),
        "MetaPrompting, LoRA": lambda: learnt("lora", "lora", INNER_STEPS),
        "0 inner steps, LoRA": lambda: learnt("lora-0", "lora", 0),
        "MetaPrompter": lambda: pooled(transductive=False),
        "MetaPrompter, centred by queries too (T)": lambda: pooled(transductive=True),
    }
