"""MetaPrompting and MetaPrompter on the published text sets, beside baselines and an ablation of our own.

    python benchmarks/metaprompting.py [--datasets huffpost amazon reuters 20news] [--lm minilm-mlm]
    [--episodes 1000] [--steps 2000]

5-way, 1 and 5 shots, 15 queries per class (fewer where a class is too small), split family ``bao``; every row
on the same saved episodes of test classes, with paired differences. Two groups of rows, which must not be
mixed up: those of the frozen *sentence encoder* (all-MiniLM-L6-v2), and those of one *masked language model*,
``--lm`` ("bert-base-uncased" for the papers'). Learners are trained for each number of shots on ``--steps`` ×
4 episodes of training classes, first-order, with fixed settings; the step size of the inner loop at test time
is chosen on validation classes, and nothing on test classes. Inner loops descend the loss of the words alone
(``Mixture.on_support``). The papers: 6,000 and 4,000 episodes of second and first order.

What is learnt from training classes is learnt with each of ``--seeds``; its interval is that over test
episodes and that over seeds, squares and root, as of two independent sources.

Interrupted, it goes on: training from its checkpoints, finished rows from ``--out/rows``; so ``--rows`` and
``--seeds`` can be shared out, and the folders joined. results/metaprompting has rows of the last runs, a file
for each with the accuracies of its episodes: ``--out results/metaprompting --episodes 200 --steps 100
--max-tokens 64`` goes on from them. Writes metaprompting.md and .csv there.

With ``--lm minilm-mlm`` only ``--family bao`` is clean: that model has read the texts of these training
classes (data/minilm-mlm.md). A GPU takes hours for all of it; ``--steps 10 --episodes 20 --queries 2
--datasets reuters`` tries it on a laptop.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from fewshot_lib import data
from fewshot_lib.core import (
    EpisodeResults,
    Episodes,
    EpisodeSampler,
    Method,
    PairedDifference,
    compare_paired,
    digest,
    evaluate,
    few_shot_method,
    half_width,
    over_seeds,
    pick_device,
)
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.cache import load_tensors, save_tensors
from fewshot_lib.encoders import MaskedLM, TextEncoder, extract_features, load_masked_lm
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
HEAD = [
    "data set",
    "split family",
    "model",
    "method",
    "kind",
    "shots",
    "episodes",
    "training seeds",
    "accuracy in %",
    "95 % interval",
]
HEAD += [f"minus {BAR}, paired", "minus its 0-inner-step ablation, paired"]


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


def kept(
    run: Run, name: str, settings: dict[str, str], compute: Callable[[], EpisodeResults]
) -> EpisodeResults:
    """What an earlier run has kept of this row, or what ``compute`` returns.

    ValueError where it was made with other settings.
    """
    path = run.options.out / "rows" / f"{run.key}-{slug(name)}-{run.seed}.safetensors"
    episodes = run.episodes
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {**settings, "episodes": episodes.fingerprint(), "words": " | ".join(run.dataset.class_names)}
    if path.exists() and (found := load_tensors(path)) is not None:
        tensors, metadata = found
        if json.loads(metadata["settings"]) != settings:
            raise ValueError(
                f"`--out` holds {path.name} of a run with other settings: give another --out, or delete the "
                "file."
            )
        kind = few_shot_method(name, transductive=metadata["transductive"] == "True")
        return EpisodeResults.of(tensors["accuracies"], kind(compute), episodes)
    result = compute()
    save_tensors(
        path,
        {"accuracies": result.accuracies},
        {"settings": json.dumps(settings), "transductive": str(result.transductive)},
    )
    return result


def table_row(run: Run, model: str, name: str, results: dict[str, EpisodeResults]) -> list[str]:
    """One row of the table, in the order of HEAD."""
    result = results[name]
    facts = [
        run.dataset.name,
        run.dataset.split_family,
        model,
        name,
        "transductive" if result.transductive else "inductive",
        str(run.n_shot),
        f"{result.n_episodes:,}",
        str(result.n_seeds) if name in ROWS_OF_SEEDS else "–",
    ]
    low, high = max(0, result.mean - width(result)), min(1, result.mean + width(result))
    cells = [*facts, f"{100 * result.mean:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
    for other in (BAR, ABLATION.get(name)):
        difference = None if name == other or other not in results else compare_paired(result, results[other])
        cells.append(
            "–" if difference is None else f"{100 * difference.mean:+.1f} ± {100 * width(difference):.1f}"
        )
    return cells


def width(result: EpisodeResults | PairedDifference) -> float:
    """Half of the 95 % interval: over episodes, and over seeds where there are several."""
    of_seeds = half_width(result.accuracies.mean(1)) if result.n_seeds > 1 else 0.0
    return math.hypot(half_width(result.accuracies.mean(0)), of_seeds)


def rows_of(run: Run, encoder: TextEncoder) -> list[list[str]]:
    """All rows of one data set at one number of shots."""
    results, models = {}, {}
    # the weights alone: what torch prints of a module changes with torch, and rows of machines are joined
    of_lm, of_text = (
        digest(*chain.from_iterable(sorted(each.state_dict().items()))) for each in (run.lm, encoder)
    )
    learning = {
        "steps": str(run.options.steps),
        "lm": of_lm,
        "max_tokens": str(run.lm.max_tokens),
        "learning": f"{INNER_STEPS} {INNER_LR} {LR} {POOL} {RATES}",
    }
    reading = {"encoder": of_text, "max_tokens": str(encoder.max_tokens)}
    of_encoder = encoder_rows(run, encoder)
    of_seed = cache(lambda seed: prompt_rows(replace(run, seed=seed)))
    names = [*of_encoder, *of_seed(0)]
    if unknown := sorted(set(run.options.rows or []) - set(names)):
        raise ValueError(f"`--rows` names {', '.join(unknown)}: the rows are {'; '.join(names)}.")
    for name in [name for name in names if name in (run.options.rows or names)]:
        if name in of_encoder:
            models[name], results[name] = "all-MiniLM-L6-v2", kept(run, name, reading, of_encoder[name])
        else:
            seeds = run.options.seeds if name in ROWS_OF_SEEDS else [0]
            runs = [
                kept(replace(run, seed=seed), name, learning | {"seed": str(seed)}, of_seed(seed)[name])
                for seed in seeds
            ]
            models[name], results[name] = run.options.lm, over_seeds(runs)
        found = results[name]
        print(f"  {run.n_shot}-shot, {name}: {found.mean:.1%} ± {width(found):.1%}", flush=True)
    return [table_row(run, models[name], name, results) for name in results]


def main() -> None:
    """Writes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["huffpost", "amazon", "reuters", "20news"])
    parser.add_argument("--family", default="bao")
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument(
        "--lm", default="minilm-mlm", help='"minilm-mlm", or a hub id such as "bert-base-uncased"'
    )
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000, help=f"meta-steps of {N_TASKS} episodes")
    parser.add_argument("--queries", type=int, default=15, help="per class, in test episodes")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=25, help="test episodes at a time")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
    parser.add_argument("--rows", nargs="+", help="only these methods (default: all)")
    parser.add_argument("--out", type=Path, default=Path("build/metaprompting"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device, rows = pick_device(), []
    encoder, lm = (
        TextEncoder(max_tokens=200).to(device),
        load_masked_lm(options.lm, options.max_tokens).to(device),
    )
    for name in options.datasets:
        dataset = data.load(name, split_family=options.family)
        print(dataset, flush=True)
        for n_shot in options.shots:
            rows += rows_of(Run(dataset, lm, n_shot, options), encoder)
        write(rows, options.out)  # after each data set: an interrupted run has a table, too


def write(rows: list[list[str]], out: Path) -> None:
    """The table as csv and markdown."""
    with (out / "metaprompting.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *rows])
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [HEAD, ["---"] * len(HEAD), *rows])
    (out / "metaprompting.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\nwritten to {out}")


if __name__ == "__main__":
    main()
