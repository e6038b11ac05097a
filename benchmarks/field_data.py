"""What ``field.py`` measures on: texts, features, class names and saved episodes of the published sets.

Of each class a random order is fixed, and its first texts take part: ``TEXTS`` of a test class, ``OTHERS`` of
a training or validation class (of Reuters all 20). Another *choice* takes the next ones of every test class.
Encoders read 200 tokens, unless ``--max-tokens`` says else. Features are kept block by block of 60 texts in
bfloat16, so that an interruption costs a minute and more texts later cost only these. An encoder named
*+ words* has the words of a text beside its features, as ``FewShotClassifier`` has (``classifier/words.py``,
the same weight); they are counted on the texts of training classes.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tuned_encoder import tuned_encoder

from fewshot_lib import data
from fewshot_lib.classifier.words import Words
from fewshot_lib.core import Episodes, Method, evaluate, pick_device
from fewshot_lib.course.results.rows import TOKENS
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.cache import cache_dir, cached_tensors
from fewshot_lib.encoders import TextEncoder, encode, tokens_of
from fewshot_lib.multitask import Task
from fewshot_lib.prototypes import NAME_TEMPLATE, centred, names_as_examples

SETS = ("huffpost", "reuters", "20news", "amazon", "hwu64")
FAMILIES = ("bao", "metaprompting", "metaprompter")
WORDS = " + words"
ENCODERS = ("minilm", "mpnet", f"minilm{WORDS}", f"mpnet{WORDS}")
N_WAY, SHOTS, N_QUERY, N_EPISODES, N_VALIDATION, MAX_TOKENS = 5, (1, 5), 15, 1000, 300, TOKENS
# Of the adapters: steps, of which the best validated of four stays, and the tokens of a text in training.
TUNING = {"minilm": {"n_steps": 400, "max_tokens": 128}, "mpnet": {"n_steps": 200, "max_tokens": 64}}
TEXTS, OTHERS, BLOCK = {"huffpost": 300, "hwu64": 180}, 60, 60  # of a class; 120 of a test class elsewhere


def texts_of_test_classes(name: str) -> int:
    """How many texts of a test class take part."""
    return TEXTS.get(name, 120)


def has_family(name: str, family: str) -> bool:
    """HWU64 has no other split than MetaPrompter's."""
    return name != "hwu64" or family == "metaprompter"


@functools.cache
def load(name: str, family: str) -> ClassDataset:
    """The whole set, as published."""
    return data.load(name, split_family=family)


@functools.cache
def trained_alike(family: str) -> list[str]:
    """The families with the same training and validation classes: whatever is trained is the same in them."""

    def learnt_from(other: str) -> dict[str, list[list[int]]]:
        sets = {name: load(name, other).splits for name in SETS if has_family(name, other)}
        return {name: [splits[part].tolist() for part in ("train", "val")] for name, splits in sets.items()}

    return [other for other in FAMILIES if learnt_from(other) == learnt_from(family)]


def n_choices(dataset: ClassDataset) -> int:
    """How many choices of the texts of its test classes have no text in common; 1 where all take part."""
    smallest = int(dataset.counts[dataset.classes("test")].min())
    return max(1, smallest // texts_of_test_classes(dataset.name))


def blocks(dataset: ClassDataset, choice: int = 0) -> dict[tuple[int, int], Tensor]:
    """(class, number) -> the rows of this block of the class, of those that take part."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    found = {}
    test = set(dataset.classes("test").tolist())
    for c in torch.cat(list(dataset.splits.values())).tolist():
        most, first = (texts_of_test_classes(dataset.name), choice) if c in test else (OTHERS, 0)
        own = order[dataset.labels[order] == c][first * most :][:most]
        found |= {(c, number): rows for number, rows in enumerate(own.split(BLOCK))}
    return found


def thinned(dataset: ClassDataset, choice: int = 0) -> ClassDataset:
    """The examples that take part, block after block."""
    rows = torch.cat(list(blocks(dataset, choice).values()))
    return replace(dataset, inputs=dataset.take(rows), labels=dataset.labels[rows])


class Encoder:
    """An encoder whose features are kept: loaded only when something has to be encoded."""

    tuned, seed = "frozen", 0

    def __init__(self, name: str, folder: Path | None = None, max_tokens: int = MAX_TOKENS) -> None:
        self.name, self.has_words = name, name.endswith(WORDS)
        self.source = self.key = name.removesuffix(WORDS)  # whose features are read
        self.folder, self.max_tokens = folder or cache_dir("field"), max_tokens

    @functools.cached_property
    def model(self) -> TextEncoder:
        return TextEncoder(self.source, max_tokens=self.max_tokens).to(pick_device())

    @property
    def frozen(self) -> Encoder:
        """The encoder as it came."""
        return self

    def features(self, dataset: ClassDataset, choice: int = 0) -> Tensor:
        """Of the examples of ``thinned(dataset, choice)``, (n, d)."""
        parts = []
        for (c, number), rows in blocks(dataset, choice).items():
            parts.append(self.kept(f"{dataset.name}-{c:02d}-{number}", dataset.take(rows)))
        return torch.cat(parts)

    def words(self, dataset: ClassDataset) -> tuple[Tensor, Tensor]:
        """Of n examples and of N class names, (n, V + 1) and (N, V + 1)."""
        texts = dataset.take(torch.arange(len(dataset)))
        ids, of_names = (
            tokens_of(self.model, list(some))["input_ids"] for some in (texts, dataset.class_names)
        )
        words = Words.of(self.model.tokenizer, ids[torch.isin(dataset.labels, dataset.classes("train"))])
        return torch.cat([words(some) for some in ids.split(BLOCK)]), words.of_names(of_names)

    def kept(self, name: str, texts: list[str]) -> Tensor:
        """Features (n, d) of some texts, from a file of this name or newly computed."""
        content = hashlib.sha256(repr((self.max_tokens, texts)).encode()).hexdigest()
        path = self.folder / self.key / f"{name}-{content[:12]}.safetensors"
        tensors, _ = cached_tensors(
            path, lambda: ({"features": encode(self.model, texts, 10).bfloat16()}, {})
        )
        return tensors["features"].float()


class TunedEncoder(Encoder):
    """An encoder with LoRA adapters, trained on the training classes of all sets of a family."""

    def __init__(
        self, name: str, family: str, seed: int, folder: Path | None = None, max_tokens: int = MAX_TOKENS
    ) -> None:
        super().__init__(name, folder, max_tokens)
        self.family, self.seed = family, seed
        n_steps = TUNING[self.source]["n_steps"]
        self.tuned = f"LoRA, {n_steps} steps"
        self.key = f"{self.source}-lora-{n_steps}-{trained_alike(family)[0]}-{seed}"

    @functools.cached_property
    def model(self) -> TextEncoder:
        datasets = [thinned(load(name, self.family)) for name in SETS if has_family(name, self.family)]
        text = TextEncoder(self.source, max_tokens=self.max_tokens).to(pick_device())
        self.folder.mkdir(parents=True, exist_ok=True)
        how = {"seed": self.seed, "checkpoint": self.folder / f"{self.key}.pt", **TUNING[self.source]}
        tuned = tuned_encoder(datasets, self.source, **how)
        text.model = tuned.model
        return text

    @property
    def frozen(self) -> Encoder:
        return Encoder(self.name, self.folder, self.max_tokens)


@dataclass(frozen=True)
class Prepared:
    """A set in a split family, as an encoder sees it.

    task: all classes, with the features that validation classes prefer, raw or centred. space: which.
    """

    task: Task
    space: str

    @functools.cached_property
    def episodes(self) -> dict[int, Episodes]:
        """Of the test classes, by the number of shots; the same for every encoder and every method."""
        return {k: episodes_of(self.task, "test", k, N_EPISODES, seed=0) for k in SHOTS}

    @functools.cached_property
    def validation(self) -> list[Episodes]:
        """Of the validation classes, for choices."""
        return [episodes_of(self.task, "val", k, N_VALIDATION, seed=1) for k in SHOTS]

    def on_validation(self, method: Method) -> float:
        """Mean accuracy over the numbers of shots."""
        found = [evaluate(method, e, self.task.features, 100, names=self.task.names) for e in self.validation]
        return sum(result.mean for result in found) / len(found)


def episodes_of(task: Task, split: str, n_shot: int, n_episodes: int, seed: int) -> Episodes:
    """5-way with 15 queries per class, or as many of both as there are."""
    classes = task.classes(split)
    n_query = min(N_QUERY, int(task.dataset.counts[classes].min()) - n_shot)
    return task.sampler(split, min(N_WAY, len(classes)), n_shot, n_query, seed).sample(n_episodes)


def prepared(name: str, family: str, encoder: Encoder, choice: int = 0) -> Prepared:
    """Encodes what is not kept yet, and lets validation classes choose between raw and centred features."""
    whole = load(name, family)
    dataset, device = thinned(whole, choice), pick_device()
    said = [NAME_TEMPLATE.replace("{}", each) for each in dataset.class_names]
    features, names = encoder.features(whole, choice), encoder.kept(f"{name}-names", said)
    features, names = features.to(device), names.to(device)
    spaces = {"raw": (features, names), "centred": centred(dataset, features, names)}
    if encoder.has_words:
        words = [part.to(device) for part in encoder.words(dataset)]
        for space, pair in spaces.items():
            both = zip(pair, words, strict=True)
            spaces[space] = tuple(
                torch.cat([F.normalize(of_encoder, dim=-1), own], -1) for of_encoder, own in both
            )
    found = {space: Prepared(Task(name, dataset, *pair), space) for space, pair in spaces.items()}
    return max(found.values(), key=lambda each: each.on_validation(names_as_examples))
