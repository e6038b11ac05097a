"""The relational network that ships with the library: how it was trained, and what it adds to the head.

    python benchmarks/relational.py train [--out fewshot_lib/graphs/relational.safetensors]
    python benchmarks/relational.py measure [--split val]

It starts from ``names_as_examples`` and is trained on the training classes of the docstrings alone (split
family ``package``, frozen all-MiniLM-L6-v2), inductive and transductive, 5-way, 1 to 5 shots. Their names
tell about as much as one example. So that it learns to *look* how much names tell, the classes are dealt
several times, with names of every quality: none; l + γ μ, towards the mean μ of the class's texts; or for
γ < 0 l + |γ| l', with the name l' of another class in it. The five largest packages are dealt once more, each
by itself, for close classes are another task than far ones. The last step is kept; of the inductive network's
corrections, half.

``measure --split val``, on the training and validation classes of four published sets and the validation
classes of the docstrings (60 texts of each), is what γ, ways, shots and that half were chosen by.
``measure``: HWU64, all 64 classes, and the test classes of the four sets (200 texts of each), which took no
part in any choice. All classes at once, as in ``own_data.py``: some examples of each, the whole rest tested;
and 5-way episodes. Differences to the head are paired, intervals over draws or episodes. One thread.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from own_data_draws import ALL, FIRST, PER_CLASS, Set, accuracy, read, table_head, table_row

from fewshot_lib import data
from fewshot_lib.classifier.naming import TEMPLATE, spoken
from fewshot_lib.core import Method, compare_paired, half_width, seed_everything
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.cache import save_tensors
from fewshot_lib.encoders import TextEncoder, encode, extract_features
from fewshot_lib.graphs import RelationalNetwork, load_relational
from fewshot_lib.graphs.shipped import HEAD
from fewshot_lib.multitask import Task, TaskSampler, evaluate_tasks, task_episodes, train_jointly
from fewshot_lib.prototypes import NamesAsExamples, names_as_examples

QUALITIES = (None, -1.0, 0.0, 0.5, 1.0, 2.0)  # γ of the names when all packages are dealt; None: no names
WITHIN = {"sympy": 2.0, "matplotlib": 1.0, "transformers": 2.0, "torch": 0.5, "sklearn": 1.0}  # γ of each
N_WAY, N_SHOT, N_QUERY, N_EPISODES, N_STEPS, LR = 5, (1, 5), 8, 2, 300, 5e-3
MAX_TOKENS = 128  # of a text
KINDS = {"inductive": False, "transductive": True}
STRENGTH = {"inductive": 0.5, "transductive": 1.0}
SHOTS, EPISODE_SHOTS, N_TESTED = (1, 2, 4, 8), (1, 5), 600
PUBLISHED = ("huffpost", "reuters", "20news", "amazon")


# Training


def tasks(encoder: TextEncoder) -> list[Task]:
    """The training classes, with names of every quality, and package by package."""
    dataset = data.load("docstrings")
    said = [TEMPLATE.format(spoken(name)) for name in dataset.class_names]
    texts, names = (
        F.normalize(x, dim=-1) for x in (extract_features(encoder, dataset), encode(encoder, said))
    )
    classes = dataset.classes("train").sort().values
    package = [dataset.domains[c] for c in classes.tolist()]
    means = F.normalize(torch.stack([texts[dataset.labels == c].mean(0) for c in classes]), dim=-1)
    others = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    found = []
    for chosen, quality in (*((None, q) for q in QUALITIES), *WITHIN.items()):
        moved = None
        if quality is not None:
            towards = means if quality > 0 else names[classes[others]]
            moved = names.clone()
            moved[classes] = F.normalize(names[classes] + abs(quality) * towards, dim=-1)
        own = [c for c, name in zip(classes.tolist(), package, strict=True) if chosen in (None, name)]
        part = replace(dataset, splits={"train": torch.tensor(own)})
        found.append(Task(f"{chosen or 'all'}, names {quality}", part, texts, moved))
    return found


def train(options: argparse.Namespace) -> Iterator[str]:
    """Writes the file, both kinds of network in it."""
    dealt, tensors = tasks(TextEncoder(max_tokens=MAX_TOKENS)), {}
    for kind, transductive in KINDS.items():
        seed_everything(options.seed)
        model = RelationalNetwork(head=HEAD, transductive=transductive)
        sampler = TaskSampler(dealt, N_WAY, N_SHOT, N_QUERY, N_EPISODES, seed=options.seed)
        train_jointly(model, sampler, N_STEPS, lr=LR, label=kind)
        weaken(model, STRENGTH[kind])
        tensors |= {f"{kind}.{name}": tensor for name, tensor in model.state_dict().items()}
    save_tensors(options.out, tensors)
    n = sum(tensor.numel() for tensor in tensors.values())
    yield f"{options.out}: {n} numbers, sha256 {hashlib.sha256(options.out.read_bytes()).hexdigest()}"


@torch.no_grad()
def weaken(model: RelationalNetwork, strength: float) -> None:
    """All that it says, times the strength: what is learnt on one kind of text is not true of all."""
    for mlp in (*model.support_mlps, *model.name_mlps, *model.query_mlps, model.readout):
        for parameter in mlp[-1].parameters():
            parameter.mul_(strength)


# Measuring


def sets(split: str, encoder: TextEncoder) -> Iterator[tuple[str, Set]]:
    """What a choice is made on (val), or what is tested."""
    if split == "val":
        yield from ((name, read(name, encoder, ("train", "val"), PER_CLASS)) for name in PUBLISHED)
        yield "docstrings", read("docstrings", encoder, ("val",), PER_CLASS)
    else:
        yield "hwu64", read("hwu64", encoder, ALL)
        yield from ((name, read(name, encoder, ("test",), FIRST)) for name in PUBLISHED)


def measure(options: argparse.Namespace) -> Iterator[str]:
    """The table: accuracy of the head in %, and what the networks add to it."""
    columns = [f"all, {k}" for k in SHOTS] + [f"5-way, {k}" for k in EPISODE_SHOTS]
    methods = [names_as_examples, *(load_relational(transductive=kind) for kind in KINDS.values())]
    if options.without_names:
        methods[0] = NamesAsExamples(uses_names=False)
        for network in methods[1:]:
            network.uses_names = False
    yield from table_head("classes", "method", *columns)
    for name, found in sets(options.split, TextEncoder(max_tokens=MAX_TOKENS)):
        columns_of = [at_once(found, methods, k, options.draws) for k in SHOTS]
        columns_of += [in_episodes(name, found, methods, k) for k in EPISODE_SHOTS]
        rows = [f"**{methods[0].name}**", *(f"relational, {kind}" for kind in KINDS)]
        for called, cells in zip(rows, zip(*columns_of, strict=True), strict=True):
            yield table_row(f"{name}, {len(found.names)}", called, *cells)


@torch.no_grad()
def at_once(found: Set, methods: list[Method], n_shot: int, n_draws: int) -> list[str]:
    """All classes: the first method, and each of the others less the first on the same draws."""
    draws = [found.draw(n_shot, seed, words=0) for seed in range(n_draws)]
    head, *others = (torch.tensor([accuracy(method, draw) for draw in draws]) for method in methods)
    gains = [other - head for other in others]
    return [f"{head.mean():.1f}", *(f"{g.mean():+.1f} ± {half_width(g):.1f}" for g in gains)]


def in_episodes(name: str, found: Set, methods: list[Method], n_shot: int) -> list[str]:
    """The same in 5-way episodes with 10 queries a class."""
    classes = [f"class {c}" for c in range(len(found.names))]
    dataset = ClassDataset(found.features, found.labels, classes, {"test": torch.arange(len(classes))})
    task = Task(name, dataset, found.features, found.names)
    dealt = task_episodes([task], "test", 5, n_shot, 10, N_TESTED, seed=1)
    head, *others = (evaluate_tasks(m, [task], dealt, 50)[name] for m in methods)
    gains = [compare_paired(other, head) for other in others]
    return [f"{100 * head.mean:.1f}", *(f"{100 * g.mean:+.1f} ± {100 * g.ci95:.1f}" for g in gains)]


def main() -> None:
    """Trains, or prints the table and writes it beside."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--without-names", action="store_true", help="as if labels were codes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/relational.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for line in train(options) if options.what == "train" else measure(options):
        print(line, flush=True)
        lines.append(line)
    if options.what == "measure":
        page = options.out.with_name(f"{options.split}{'-without-names' * options.without_names}.md")
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
