"""Graph attention on many tasks: the models of chapters 07 and 08 beside every baseline, on real text sets.

    python benchmarks/gat_transformer.py [--datasets huffpost reuters 20news amazon] [--lora 240]
    [--soft-prompt]

5-way, 1 and 5 shots, 15 queries per class (fewer where a class is too small), split family ``bao``, on the
1,000 test episodes of ``text_baselines.py``. Encoder: all-MiniLM-L6-v2, 200 tokens, frozen; with ``--lora``
adapters are trained first on the *training* classes of all sets (128 tokens; ``multitask.tune_encoder``), and
their strength is chosen on validation classes. Centred: less the mean of the training classes; the models get
raw or centred features, set by set, as validation classes prefer. Every model is trained on training classes,
always on the frozen encoder's features (a tuned encoder knows these classes too well, and a model would learn
to trust it), and the step that is kept was best on validation classes.

Rows: the baselines of the course on the same features, and soft prompts on a masked language model
(``soft_prompt.py``); the relational network trained on all sets (joint), on the tested set alone (single),
and on all *but* the tested set (foreign), also transductive (T), or on names as examples; the projected
GAT-Transformer and the in-context head; and relational and GAT-Transformer combined. The mean over the sets
has the interval of a mean of independent means. Of training and validation classes at most ``--per-class``
examples are read. Goes on where it was interrupted. Writes gat_transformer.md and .csv to ``--out``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from soft_prompt import SoftPrompt
from text_baselines import N_WAY, SHOTS, episodes_of
from torch import Tensor, nn
from tuned_encoder import token_ids, tuned_encoder

from fewshot_lib import data
from fewshot_lib.core import (
    EpisodeResults,
    Episodes,
    bfloat16_asked,
    compare_paired,
    evaluate,
    pick_device,
    seed_everything,
)
from fewshot_lib.course.records import markdown
from fewshot_lib.course.results.rows import Estimate, over_sets
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.cache import cached_tensors
from fewshot_lib.encoders import (
    TextEncoder,
    TokenEncoder,
    encode,
    encoder_fingerprint,
    extract_features,
)
from fewshot_lib.finetuning import FineTuning
from fewshot_lib.graphs import Combined, GATTransformer, InContext, RelationalNetwork
from fewshot_lib.multitask import (
    RandomRotation,
    Task,
    TaskSampler,
    evaluate_tasks,
    task_episodes,
    train_jointly,
)
from fewshot_lib.prototypes import (
    centred,
    cosine_prototypes,
    logistic_regression,
    name_features,
    name_mix,
    names_as_examples,
    zero_shot,
)

Features = tuple[Tensor, Tensor]  # of all texts (n, d), and of the class names (C, d)
Table = dict[str, dict[tuple[str, int], EpisodeResults]]  # row -> (data set, shots) -> results
MAX_TOKENS, TRAIN_TOKENS = 200, 128
COSINE_FINE_TUNING = FineTuning(temperature=0.1, lr=0.01, steps=20, label="cosine fine-tuning")
BASELINES = (
    zero_shot,
    cosine_prototypes,
    name_mix,
    names_as_examples,
    logistic_regression,
    COSINE_FINE_TUNING,
)
HEADS = {  # steps, learning rate, and how often it is validated: the projected family is best early
    "relational": {"n_steps": 600, "lr": 5e-3, "validate_every": 100},
    "projected": {"n_steps": 300, "lr": 1e-3, "validate_every": 25},
}


@dataclass(frozen=True)
class Tested:
    """A data set: its task for training, its test episodes, and features of the test classes.

    spaces: raw and centred features; chosen: which the models get.
    """

    task: Task
    episodes: dict[int, Episodes]
    spaces: dict[str, Features]
    chosen: str


def thinned(dataset: ClassDataset, most: int) -> ClassDataset:
    """All examples of test classes, and a random choice of at most ``most`` of every other class."""
    generator, test = torch.Generator().manual_seed(0), dataset.classes("test").tolist()
    chosen = torch.zeros(len(dataset), dtype=torch.bool)
    for c in range(dataset.n_classes):
        rows = (dataset.labels == c).nonzero()[:, 0]
        chosen[rows if c in test else rows[torch.randperm(len(rows), generator=generator)[:most]]] = True
    rows = chosen.nonzero()[:, 0]
    return replace(dataset, inputs=dataset.take(rows), labels=dataset.labels[rows])


def tested_set(dataset: ClassDataset, trained_on: Features, tested_on: Features, n_episodes: int) -> Tested:
    """The episodes are those of text_baselines.py: of the test classes alone, with seed 0."""
    rows = dataset.rows("test").to(tested_on[0].device)
    episodes = {k: episodes_of(dataset.only("test"), k, n_episodes) for k in SHOTS}
    spaces = spaces_of(dataset, tested_on)
    chosen = as_validation_prefers(dataset, spaces)
    if trained_on is tested_on:
        features = spaces[chosen]
    else:
        frozen = spaces_of(dataset, trained_on)
        features = frozen[as_validation_prefers(dataset, frozen)]
    task = Task(dataset.name, dataset, *features)
    return Tested(task, episodes, {suffix: (x[rows], y) for suffix, (x, y) in spaces.items()}, chosen)


def spaces_of(dataset: ClassDataset, features: Features) -> dict[str, Features]:
    """The features as they are, and centred."""
    return {"": features, ", centred": centred(dataset, *features)}


def as_validation_prefers(dataset: ClassDataset, spaces: dict[str, Features]) -> str:
    """Raw or centred, whichever is better on validation classes."""
    tasks = {suffix: Task(dataset.name, dataset, *space) for suffix, space in spaces.items()}
    on_val = {suffix: mix_on_validation(task) for suffix, task in tasks.items()}
    words = (f"{suffix.strip(', ') or 'raw'} {accuracy:.1%}" for suffix, accuracy in on_val.items())
    print("  validation classes:", ", ".join(words), flush=True)
    return max(on_val, key=on_val.get)


def mix_on_validation(task: Task) -> float:
    """Mean over shots of the label+prototype mix on validation classes."""
    n_query = min(10, int(task.dataset.counts[task.classes("val")].min()) - max(SHOTS))
    episodes = [task_episodes([task], "val", N_WAY, k, n_query, 300, seed=1) for k in SHOTS]
    means = [evaluate_tasks(name_mix, [task], dealt)[task.name].mean for dealt in episodes]
    return sum(means) / len(means)


def encoded(
    dataset: ClassDataset, encoder: TextEncoder, tuned: TokenEncoder, options: argparse.Namespace
) -> Features:
    """Features of all texts and names by the tuned encoder, kept in ``--out``, part by part."""
    texts, names = token_ids(dataset, encoder, MAX_TOKENS)
    key = f"{dataset.name}-{dataset.fingerprint()[:16]}-{encoder_fingerprint(tuned)[:16]}"
    key += "-bf16" * bfloat16_asked(pick_device())
    folder = options.out / "features" / key

    def features_of(ids: Tensor) -> Tensor:
        return encode(tuned, ids, 64).float()

    folder.mkdir(parents=True, exist_ok=True)
    order = (texts != tuned.padding).sum(1).argsort()  # texts of the same length together
    parts = []
    for number, rows in enumerate(order.split(1024)):
        path = folder / f"{number:03d}.safetensors"
        print(f"  {path.name} of {-(-len(order) // 1024)}", end="\r", flush=True)
        found, _ = cached_tensors(path, lambda rows=rows: ({"features": features_of(texts[rows])}, {}))
        parts.append(found["features"].to(texts.device))
    return torch.cat(parts)[order.argsort()], features_of(names)


def trained(model: nn.Module, tasks: list[Task], kind: str, seed: int, label: str) -> nn.Module:
    """On training classes of the tasks; the step of the best mean validation accuracy."""
    model.to(tasks[0].features.device)
    augment = RandomRotation() if kind == "projected" else None
    sampler = TaskSampler(tasks, N_WAY, (1, 5), 10, 8, augment=augment, seed=seed)
    train_jointly(model, sampler, **HEADS[kind], n_validation=100, label=label)
    return model.eval()


def model_rows(sets: dict[str, Tested], seed: int) -> dict[str, Callable[[str], nn.Module]]:
    """Row -> the model to test on a set of this name."""
    tasks = {name: each.task for name, each in sets.items()}
    width = next(iter(tasks.values())).features.shape[1]

    def joint(make: Callable[[], nn.Module], kind: str, label: str) -> Callable[[str], nn.Module]:
        seed_everything(seed)
        model = trained(make(), list(tasks.values()), kind, seed, label)
        return lambda _: model

    def for_each(chosen: Callable[[str], list[Task]], label: str) -> Callable[[str], nn.Module]:
        models = {}
        for name in tasks:
            seed_everything(seed)
            models[name] = trained(RelationalNetwork(), chosen(name), "relational", seed, f"{label}, {name}")
        return models.__getitem__

    rows = {
        "relational, joint": joint(RelationalNetwork, "relational", "relational"),
        "relational on names as examples, joint": joint(
            partial(RelationalNetwork, head=names_as_examples), "relational", "relational on a head"
        ),
        "relational, single": for_each(lambda name: [tasks[name]], "single"),
        "GAT-Transformer, joint": joint(partial(GATTransformer, width), "projected", "GAT-Transformer"),
        "in-context, joint": joint(partial(InContext, width), "projected", "in-context"),
        "relational + GAT-Transformer, joint": joint(
            lambda: Combined(RelationalNetwork(), GATTransformer(width)), "projected", "combined"
        ),
        "relational, joint (T)": joint(
            partial(RelationalNetwork, transductive=True), "relational", "transductive"
        ),
    }
    if len(tasks) > 1:
        rows["relational, foreign"] = for_each(
            lambda name: [task for other, task in tasks.items() if other != name], "foreign"
        )
    return rows


def measured(sets: dict[str, Tested], options: argparse.Namespace) -> tuple[Table, list[str]]:
    """Row -> (data set, shots) -> results; and which rows are baselines."""
    table: Table = {}
    for suffix in ("", ", centred"):
        for few_shot_method in BASELINES:
            row = table.setdefault(few_shot_method.name + suffix, {})
            for name, each in sets.items():
                features, names = each.spaces[suffix]
                row |= {
                    (name, k): evaluate(few_shot_method, each.episodes[k], features, 100, names=names)
                    for k in SHOTS
                }
            print(f"  {few_shot_method.name + suffix}", flush=True)
    if options.soft_prompt:
        models = {name: SoftPrompt(each.task.dataset.only("test")) for name, each in sets.items()}
        table["soft prompt"] = {
            (name, k): models[name].results(each.episodes[k], options.out)
            for name, each in sets.items()
            for k in SHOTS
        }
    baselines = list(table)
    for label, model_of in model_rows(sets, options.seed).items():
        row = table.setdefault(label, {})
        for name, each in sets.items():
            features, names = each.spaces[each.chosen]
            row |= {
                (name, k): evaluate(model_of(name), each.episodes[k], features, 50, names=names)
                for k in SHOTS
            }
        print(f"  {label}", flush=True)
    return table, baselines


def mean_of(results: list[EpisodeResults]) -> Estimate:
    """Over data sets."""
    return over_sets([Estimate(each.mean, each.ci95) for each in results])


def written(table: Table, baselines: list[str], names: list[str], out: Path) -> str:
    """The table as csv and markdown: accuracy in % ± half the 95 % interval.

    The last columns compare with the best baseline.
    """
    best = {k: max(baselines, key=lambda row: mean_of([table[row][n, k] for n in names]).mean) for k in SHOTS}
    head = [
        "method",
        "kind",
        *(f"{name}, {k}-shot" for k in SHOTS for name in names),
        *(f"mean, {k}-shot" for k in SHOTS),
    ]
    head += [f"{k}-shot, minus {best[k]}" for k in SHOTS]
    lines = []
    for label, row in table.items():
        cells = [label, "transductive" if next(iter(row.values())).transductive else "inductive"]
        cells += [
            f"{100 * row[name, k].mean:.1f} ± {100 * row[name, k].ci95:.1f}" for k in SHOTS for name in names
        ]
        for k in SHOTS:
            cells.append(str(mean_of([row[name, k] for name in names])))
        for k in SHOTS:
            gains = [compare_paired(row[name, k], table[best[k]][name, k]) for name in names]
            gain = mean_of(gains)
            cells.append(f"{100 * gain.mean:+.1f} ± {100 * gain.half:.1f}")
        lines.append(cells)
    with (out / "gat_transformer.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])
    text = markdown(head, lines)
    (out / "gat_transformer.md").write_text(text + "\n", encoding="utf-8")
    return text


def main() -> None:
    """Writes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["huffpost", "reuters", "20news", "amazon"])
    parser.add_argument("--family", default="bao")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument(
        "--per-class", type=int, default=300, help="most examples of a training or validation class"
    )
    parser.add_argument(
        "--lora", type=int, default=0, help="steps that train adapters in the encoder; 0: frozen"
    )
    parser.add_argument(
        "--soft-prompt",
        action="store_true",
        help="that row, too: hours on a CPU, fewer with FEWSHOT_BF16=1",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/gat_transformer"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoder = TextEncoder(max_tokens=MAX_TOKENS).to(pick_device())
    datasets = [
        thinned(data.load(name, split_family=options.family), options.per_class) for name in options.datasets
    ]
    kept = {"seed": options.seed, "checkpoint": options.out / f"lora-{options.lora}.pt"}
    how = {"n_steps": options.lora, "max_tokens": TRAIN_TOKENS}
    tuned = tuned_encoder(datasets, "minilm", **how, **kept) if options.lora else None
    sets = {}
    for dataset in datasets:
        print(dataset, flush=True)
        frozen = extract_features(encoder, dataset), name_features(encoder, dataset)
        tested = frozen if tuned is None else encoded(dataset, encoder, tuned, options)
        sets[dataset.name] = tested_set(dataset, frozen, tested, options.episodes)
    print(f"\n{written(*measured(sets, options), list(sets), options.out)}\n\nwritten to {options.out}")


if __name__ == "__main__":
    main()
