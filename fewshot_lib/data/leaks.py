"""Does the test set know something of the training set? Three ways it can, and a check that runs on any data set.

1. A *class* under two names: "ARTS & CULTURE" and "CULTURE & ARTS", "THE WORLDPOST" and "WORLDPOST".
2. The same *example* in two splits, to the letter or nearly so.
3. Two classes of one split that nobody could tell apart; no leak, but an upper limit to every accuracy.

The check knows names and inputs, not meanings: "FOOD & DRINK" and "TASTE" need an ``encode`` function, or a reader.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from .dataset import ClassDataset
from .duplicates import image_keys, near_images, near_texts, same_groups, text_keys

FILLERS = {"the", "and", "of"}
NOWHERE = -1


@dataclass(frozen=True)
class Finding:
    """Something to look at before believing a number.

    kind: "same class name", "class name inside another", "similar class name", "same example", "near example".
    is_leak: the split is broken (True), or it may be (False).
    pairs: class ids (first three kinds) or example indices, as (first, second).
    message: one sentence with the count and an example.
    """

    kind: str
    is_leak: bool
    pairs: list[tuple[int, int]]
    message: str


def check(
    data: ClassDataset,
    threshold: float = 0.8,
    max_bits: int = 3,
    encode: Callable[[list[str]], Tensor] | None = None,
    min_cosine: float = 0.8,
) -> list[Finding]:
    """What the splits of a data set may have in common; an empty list if nothing was found.

    threshold: word-set Jaccard similarity from which two texts are near duplicates.
    max_bits: bits of 256 in which the bitmaps of two images may differ to be near duplicates.
    encode: C names -> (C, d) vectors; names of different splits with a cosine of ``min_cosine`` or more are reported.

    Raises ValueError for a threshold outside (0, 1] and for negative ``max_bits``.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` is {threshold}; a Jaccard similarity is in (0, 1].")
    if max_bits < 0:
        raise ValueError(f"`max_bits` is {max_bits}; a number of bits is 0 or more.")
    return _name_findings(data, encode, min_cosine) + _example_findings(data, threshold, max_bits)


def format_findings(findings: list[Finding]) -> str:
    """The findings as lines of text, leaks first."""
    if not findings:
        return "no leaks found: no class name, no example and no near duplicate stands in two splits"
    ordered = sorted(findings, key=lambda finding: not finding.is_leak)
    return "\n".join(f"{'LEAK' if finding.is_leak else 'look'}  {finding.message}" for finding in ordered)


def name_words(name: str) -> frozenset[str]:
    """The words of a class name without order, capitals, punctuation, plural s, "the", "and", "of".

    >>> name_words("CULTURE & ARTS") == name_words("The Arts and Culture")
    True
    """
    words = re.findall(r"[^\W_]+", name.casefold())
    words = [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]
    return frozenset(words) - FILLERS or frozenset(words) or frozenset([name])


def split_of_class(data: ClassDataset) -> np.ndarray:
    """(C,) int64: the number of the split of every class, in the order of ``data.splits``; -1 for classes in no split."""
    owner = np.full(data.n_classes, NOWHERE, np.int64)
    for number, classes in enumerate(data.splits.values()):
        owner[classes.numpy()] = number
    return owner


def _name_findings(data: ClassDataset, encode: Callable[[list[str]], Tensor] | None, min_cosine: float) -> list[Finding]:
    owner = split_of_class(data)
    same = [(a, b) for a, b in _same_names(data.class_names) if owner[a] != NOWHERE and owner[b] != NOWHERE]
    across = [(a, b) for a, b in same if owner[a] != owner[b]]
    within = [(a, b) for a, b in same if owner[a] == owner[b]]
    inside = _apart(_names_inside(data.class_names), owner, known=same)
    close = _apart(_close_names(data.class_names, encode, min_cosine), owner, known=same + inside) if encode else []

    def finding(kind: str, is_leak: bool, pairs: list[tuple[int, int]], what: str) -> list[Finding]:
        return [Finding(kind, is_leak, pairs, f"{what}: {len(pairs):,}, such as {_classes(data, owner, pairs[0])}")] if pairs else []

    meaning = f"pairs of names in different splits with much the same meaning (cosine from {min_cosine:g})"
    return (
        finding("same class name", True, across, "pairs of classes with the same name in different splits")
        + finding("same class name", False, within, "pairs of classes with the same name in one split, which nobody can tell apart")
        + finding("class name inside another", False, inside, "class names that are part of a name in another split")
        + finding("similar class name", False, close, meaning)
    )


def _same_names(names: list[str]) -> list[tuple[int, int]]:
    """Pairs of classes with the same words, or the same letters ("world post", "worldpost")."""
    by_words = same_groups([name_words(name) for name in names])
    by_letters = same_groups(["".join(re.findall(r"[^\W_]", name.casefold())) or name for name in names])
    return sorted({pair for group in by_words + by_letters for pair in combinations(group, 2)})


def _names_inside(names: list[str]) -> list[tuple[int, int]]:
    """Pairs of classes of which one has all words of the other, and more."""
    words = [name_words(name) for name in names]
    holders: dict[str, set[int]] = defaultdict(set)
    for c, own in enumerate(words):
        for word in own:
            holders[word].add(c)
    with_all_words = [sorted(set.intersection(*(holders[word] for word in own))) for own in words]
    return [(c, other) for c, others in enumerate(with_all_words) for other in others if words[other] != words[c]]


def _close_names(names: list[str], encode: Callable[[list[str]], Tensor], min_cosine: float) -> list[tuple[int, int]]:
    vectors = torch.nn.functional.normalize(encode(names).float(), dim=-1)
    return [tuple(pair) for pair in torch.triu(vectors @ vectors.T >= min_cosine, diagonal=1).nonzero().tolist()]


def _apart(pairs: list[tuple[int, int]], owner: np.ndarray, known: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs of classes in two different splits that are not known yet."""
    seen = {frozenset(pair) for pair in known}
    return [(a, b) for a, b in pairs if NOWHERE not in (owner[a], owner[b]) and owner[a] != owner[b] and frozenset((a, b)) not in seen]


def _example_findings(data: ClassDataset, threshold: float, max_bits: int) -> list[Finding]:
    owner = split_of_class(data)[data.labels.numpy()]
    rows = np.flatnonzero(owner != NOWHERE)
    if len(np.unique(owner[rows])) < 2:
        return []
    inputs, owner = data.take(rows.tolist()), owner[rows]
    keys = text_keys(inputs) if data.is_text else image_keys(inputs)
    same = sorted(pair for group in same_groups(keys) for pair in _one_of_each(group, owner))
    near = near_texts(inputs, owner, threshold) if data.is_text else near_images(inputs, owner, max_bits)
    near = [(i, j) for i, j in near.tolist() if keys[i] != keys[j]]
    unit = "texts" if data.is_text else "images"
    degree = f"share {threshold:.0%} of their words" if data.is_text else f"differ in at most {max_bits} of 256 bits"
    found = []
    kinds = ((True, same, f"{unit} that stand in two splits"), (False, near, f"pairs of {unit} in different splits that {degree}"))
    for is_leak, pairs, what in kinds:
        if pairs:
            pairs = [(int(rows[i]), int(rows[j])) for i, j in pairs]
            message = f"{what}: {len(pairs):,}, such as {_examples(data, pairs[0])}"
            found.append(Finding("same example" if is_leak else "near example", is_leak, pairs, message))
    return found


def _one_of_each(group: list[int], owner: np.ndarray) -> list[tuple[int, int]]:
    """Of equal examples, the first in every split, in pairs."""
    first = {owner[i]: i for i in reversed(group)}
    return list(combinations(sorted(first.values()), 2))


def _classes(data: ClassDataset, owner: np.ndarray, pair: tuple[int, int]) -> str:
    splits = list(data.splits)
    return " and ".join(f"{data.class_names[c]!r} ({splits[owner[c]]})" for c in pair)


def _examples(data: ClassDataset, pair: tuple[int, int]) -> str:
    def shown(i: int) -> str:
        where = f"class {data.class_names[data.labels[i]]!r}"
        return f"no. {i} ({where}): {data.inputs[i][:60]!r}" if data.is_text else f"no. {i} ({where})"

    return " and ".join(shown(i) for i in pair)
