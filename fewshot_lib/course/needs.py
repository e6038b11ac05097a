"""What every chapter needs of a data set, as a table: what it allows runs, the rest is refused.

An N-way K-shot episode with M queries of a class takes K + M examples of each of N classes *of one split*.
Some chapters compare more shots or train on other episodes beside that; those follow the data, by
:func:`shots_to_compare` and :func:`training_queries`, so that the table stays short. ``fewshot run`` asks it
before a kernel starts, a notebook before anything is computed, ``fewshot data inspect`` for all chapters.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fewshot_lib.core import whole_number
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.reporting import first_few

USUAL_SHOTS, TRAINING_QUERIES = 5, 5


@dataclass(frozen=True)
class Need:
    """Of one split: so many classes, with so many examples each, as sums like "n_shot + n_query".

    every: all classes of the split must be as large (episodes are drawn from all); else only so many of them.
    """

    classes: str
    examples: str
    every: bool = True


@dataclass(frozen=True)
class Chapter:
    """What one notebook needs of each split that it reads ("train + val": of both together).

    pixels: of a side of a picture, at least.
    """

    splits: Mapping[str, Need] = field(default_factory=dict)
    texts_only: bool = False
    pixels: int = 1


EPISODES = Need("n_way", "n_shot + n_query")  # the course's own episodes, drawn from all classes of a split
TWO_OR_MORE = Need("2", "n_shot + n_query")  # compared or chosen on as many ways as there are, up to n_way
CONV4 = 16  # it halves a picture four times
# Two tasks, each with two classes to train on; two to choose by and two to test on, perhaps shared.
MANY_TASKS = Chapter({"train + val": Need("8", "n_shot + n_query"), "test": EPISODES}, pixels=CONV4)

NEEDS: Mapping[str, Chapter] = MappingProxyType(
    {
        "00_start_here": Chapter({"test": EPISODES}),
        # Held back of the training classes: a support and one query, beside one example to train on.
        "01_supervised_vs_few_shot": Chapter(
            {"train": Need("n_way", "n_shot + 2", every=False), "test": EPISODES}, pixels=CONV4
        ),
        # A ProtoNet trains on episodes of at least two classes, with one query of each.
        "02_prototype_classifiers": Chapter(
            {"train": Need("2", "n_shot + 1"), "val": EPISODES, "test": EPISODES}, pixels=CONV4
        ),
        # Pre-training takes whatever there is of two classes.
        "03_cosine_fine_tuning": Chapter(
            {"train": Need("2", "1"), "val": EPISODES, "test": EPISODES}, pixels=CONV4
        ),
        "03_more_fine_tuning": Chapter(
            {"train": Need("2", "1"), "val": EPISODES, "test": EPISODES}, pixels=CONV4
        ),
        "wrap_up_1": Chapter({"val": EPISODES, "test": EPISODES}),
        # The head that is meta-learnt has n_way classes; seen classes are compared with unseen ones.
        "04_maml_and_reptile": Chapter({"train": EPISODES, "val": EPISODES, "test": EPISODES}),
        # By hand: a support and a query of two training classes. Validation chooses templates and rates.
        "05_soft_prompts": Chapter(
            {"train": Need("2", "2"), "val": TWO_OR_MORE, "test": EPISODES}, texts_only=True
        ),
        # Meta-training takes episodes of two classes or more, with one query of each. Validation chooses α.
        "06_metaprompting": Chapter(
            {"train": Need("2", "n_shot + 1"), "val": TWO_OR_MORE, "test": EPISODES}, texts_only=True
        ),
        "metaprompter": Chapter({"train": Need("2", "n_shot + 1"), "test": EPISODES}, texts_only=True),
        "wrap_up_2": Chapter({"train": Need("2", "n_shot + 1"), "test": EPISODES}, texts_only=True),
        # Training and validation classes are watched on equal episodes.
        "07_episode_graphs": Chapter(
            {"train": TWO_OR_MORE, "val": TWO_OR_MORE, "test": EPISODES}, pixels=CONV4
        ),
        "08_gat_transformer_multitask": MANY_TASKS,
        # All classes are the reader's own, whatever the split: two examples to learn from, one to judge by.
        "09_your_own_data": Chapter({"train + val + test": Need("n_way", "n_shot + 2", every=False)}),
        # Optional notebooks, in notebooks/extra.
        "vmap_detective": Chapter({"train": EPISODES, "test": EPISODES}),
        "gradient_aggregation": MANY_TASKS,
        "wrap_up_3": MANY_TASKS,
    }
)


def problems(notebook: str, dataset: ClassDataset, n_way: int, n_shot: int, n_query: int) -> list[str]:
    """Why a notebook ("02_prototype_classifiers") cannot run on the data set, a sentence each; empty: it can.

    One that is not in the table needs nothing.
    """
    size = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query}
    whole_number(2, n_way=n_way)
    whole_number(1, n_shot=n_shot, n_query=n_query)
    chapter = NEEDS.get(notebook, Chapter())
    if found := _wrong_kind(chapter, dataset):
        return [found]
    in_all = sum(_amount(need.classes, size) for need in chapter.splits.values())
    needs = chapter.splits.items()
    return [sentence for split, need in needs for sentence in _missing(dataset, split, need, size, in_all)]


def largest(notebook: str, dataset: ClassDataset, n_shot: int = 1) -> tuple[int, int]:
    """The most ways and, at these, the most queries that the notebook can run at so many shots; (0, 0): none.

    Whatever is smaller runs, too.
    """

    def possible(n_way: int, n_query: int) -> bool:
        return not problems(notebook, dataset, n_way, n_shot, n_query)

    n_way = _last(range(2, dataset.n_classes + 1), lambda n: possible(n, 1))
    if not n_way:
        return 0, 0
    return n_way, _last(range(1, int(dataset.counts.max()) + 1), lambda m: possible(n_way, m))


def smallest(dataset: ClassDataset, *splits: str) -> int:
    """Examples of the smallest class of some splits."""
    return min(int(dataset.counts[dataset.classes(split)].min()) for split in splits)


def shots_to_compare(dataset: ClassDataset, n_shot: int, n_query: int) -> list[int]:
    """The shots asked for, and beside them 5, or as many as validation and test classes leave for n_query."""
    return sorted({n_shot, min(USUAL_SHOTS, smallest(dataset, "val", "test") - n_query)})


def training_queries(dataset: ClassDataset, n_shot: int, n_query: int) -> int:
    """Queries per class of a training episode: at most 5, no more than asked for, nor than there are."""
    return min(TRAINING_QUERIES, n_query, smallest(dataset, "train") - n_shot)


def _wrong_kind(chapter: Chapter, dataset: ClassDataset) -> str:
    if isinstance(dataset.inputs, list):
        return ""
    if chapter.texts_only:
        fix = "a language model reads texts. Use 'docstrings' or other texts"
        return f"`dataset` is {dataset.name!r}, which holds images: {fix}."
    height, width = dataset.inputs.shape[-2:]
    if min(height, width) < chapter.pixels:
        least = (
            f"the network of this chapter needs {chapter.pixels} or more a side. Use size={chapter.pixels}"
        )
        return f"{dataset.name} has pictures of {height}x{width} pixels: {least}."
    return ""


def _missing(
    dataset: ClassDataset, split: str, need: Need, size: Mapping[str, int], in_all: int
) -> Iterator[str]:
    """Too few classes in a split, too few examples in its classes. in_all: classes of all splits together."""
    counts, names = dataset.counts.tolist(), dataset.class_names
    parts = [dataset.splits[part].tolist() for part in split.split(" + ") if part in dataset.splits]
    ids = sorted(itertools.chain(*parts), key=lambda c: -counts[c])
    n_classes, n_examples = _amount(need.classes, size), _amount(need.examples, size)
    if len(ids) < n_classes:
        listed = f" ({first_few(repr(names[c]) for c in ids)})" if ids else ""
        fewer = f"use n_way={len(ids)}, or " if need.classes == "n_way" and len(ids) > 1 else ""
        found = f"{dataset.name} has {_classes(len(ids), split)}{listed}, and this chapter needs"
        more = f"put more classes into {split} (split=…)"
        if dataset.n_classes < in_all:
            more = f"bring {in_all} classes in all, where there are {dataset.n_classes}"
        yield f"{found} {_words(need.classes, size)}: {fewer}{more}."
    judged = ids if need.every else ids[:n_classes]
    if small := [c for c in reversed(judged) if counts[c] < n_examples]:
        listed = first_few(f"{names[c]!r} ({counts[c]})" for c in small)
        found = f"{dataset.name} has too few examples in {_classes(len(small), split)}: {listed}"
        enough = sum(count >= n_examples for count in counts) >= in_all
        fix = _smaller(need, size, n_examples, counts[small[0]], enough)
        yield f"{found}. This chapter needs {_words(need.examples, size)} of each: {fix}."


def _smaller(need: Need, size: Mapping[str, int], needed: int, found: int, enough: bool) -> str:
    """How to get by with the examples found in the smallest class, or without it if others are enough."""
    values = {name: size[name] - needed + found for name in ("n_query", "n_shot") if name in need.examples}
    fixes = [f"use {name}={value}" for name, value in values.items() if value > 0]
    without = f"leave out the classes with fewer than {needed} (min_examples={needed})"
    return ", or ".join([*fixes, without if enough else f"bring {needed} examples of more classes"])


def _amount(terms: str, size: Mapping[str, int]) -> int:
    """The value of a sum: "n_shot + 2"."""
    return sum(size[term] if term in size else int(term) for term in terms.split(" + "))


def _words(terms: str, size: Mapping[str, int]) -> str:
    """A sum with its value: "n_shot + n_query = 1 + 15 = 16"."""
    values = " + ".join(str(_amount(term, size)) for term in terms.split(" + "))
    steps = [terms, values, str(_amount(terms, size))]
    return " = ".join(dict.fromkeys(steps))


def _classes(number: int, split: str) -> str:
    return f"{number or 'no'} {split} class{'' if number == 1 else 'es'}"


def _last(numbers: range, possible: Callable[[int], bool]) -> int:
    """The last number that is possible, 0 if not even the first is; possible ones come first."""
    how_many = bisect.bisect_left(numbers, True, key=lambda number: not possible(number))
    return numbers[how_many - 1] if how_many else 0
