"""Does the test set know something of the training set? Three ways it can, and a check for any data set.

1. A *class* under two names: "ARTS & CULTURE" and "CULTURE & ARTS", "THE WORLDPOST" and "WORLDPOST".
2. The same *example* in two splits, to the letter or nearly so.
3. Two classes of one split that nobody could tell apart; no leak, but an upper limit to every accuracy.
   And names that differ in signs alone, "C" and "C++": a method that reads names may see one word.

The check knows names and inputs, not meanings: that "FOOD & DRINK" is "TASTE" only a reader knows.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from fewshot_lib.data.checks.duplicates import MOST_PAIRS, keys_of, near_images, near_texts, same_groups
from fewshot_lib.data.dataset import ClassDataset

JACCARD = 0.8  # the similarity of word sets from which two texts are near duplicates
MAX_BITS = 3  # of 256 in which the bitmaps of two near duplicates among images may differ
FILLERS = {"the", "and", "of"}
NOWHERE = -1
WORD = r"\d+(?:[.,:/]\d+)+|[^\W_]+"  # 1.5 is one word
SIGN = r"(?<!\w)-(?=\w)|(?<=\w)-(?!\w)|[^\w\s-]"
# Letters of other alphabets that look like Latin ones.
LOOK_ALIKES = str.maketrans("АВЕКМНОРСТУХаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTYXaeopcyxijsABEZHIKMNOPTYXo")

Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Finding:
    """Something to look at before believing a number: the split is broken, or only may be (``is_leak``).

    kind: "same class name", "same words" or "class name inside another" (pairs of class ids), "same example"
    or "near example" (pairs of indices). message: one sentence with the count and an example.
    """

    kind: str
    is_leak: bool
    pairs: Pairs
    message: str


def check(data: ClassDataset) -> list[Finding]:
    """What the splits of a data set may have in common."""
    return _name_findings(data) + _example_findings(data)


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
    words = re.findall(WORD, _visible(name))
    singular = frozenset(re.sub(r"(?<=..[^s])s$", "", word) for word in words)
    return singular - FILLERS or singular or frozenset([name])


def signs(name: str) -> str:
    """The signs of a name that may be its meaning: the "++" of "C++", the "-" of "-1", a smiley.

    >>> signs("C++"), signs("sci-fi & more!")
    ('++', '')
    """
    found = re.findall(SIGN, _visible(name))
    return "".join(sign for sign in found if sign in "-#%*@" or unicodedata.category(sign)[0] == "S")


def split_of_class(data: ClassDataset) -> np.ndarray:
    """(C,) int64: which of ``data.splits`` every class is in, by number; -1 for classes in no split."""
    owner = np.full(data.n_classes, NOWHERE, np.int64)
    for number, classes in enumerate(data.splits.values()):
        owner[classes.numpy()] = number
    return owner


def _name_findings(data: ClassDataset) -> list[Finding]:
    owner, splits, names = split_of_class(data), list(data.splits), data.class_names
    alike, inside = (
        [(a, b) for a, b in pairs if NOWHERE not in (owner[a], owner[b])]
        for pairs in (_names_alike(names), _names_inside(names))
    )
    same = {(a, b) for a, b in alike if signs(names[a]) == signs(names[b])}
    across = [(a, b) for a, b in sorted(same) if owner[a] != owner[b]]
    within = [(a, b) for a, b in sorted(same) if owner[a] == owner[b]]
    only_signs = [pair for pair in alike if pair not in same]
    known = set(alike)
    inside = [(a, b) for a, b in inside if owner[a] != owner[b] and (min(a, b), max(a, b)) not in known]
    pairs_of, fix = "pairs of classes with the same name", "; if one class is meant, give both one name"
    may = "which a method that reads the names may take for one"
    kinds = (
        ("same class name", True, across, f"{pairs_of} in different splits{fix}"),
        ("same class name", False, within, f"{pairs_of} in one split, which nobody can tell apart{fix}"),
        ("same words", False, only_signs, f"pairs of class names that differ in signs only, {may}"),
        ("class name inside another", False, inside, "class names that are part of a name in another split"),
    )

    def shown(c: int) -> str:
        plain = _visible(names[c].translate(LOOK_ALIKES)) == names[c].casefold()
        return f"{names[c]!r}{'' if plain else f' = {names[c]!a}'} ({splits[owner[c]]})"

    return _findings(kinds, shown)


def _visible(name: str) -> str:
    """What distinguishes a name to the eye: one Unicode form, one case, no character that cannot be seen."""
    seen = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", "".join(seen).casefold())


def _names_alike(names: list[str]) -> Pairs:
    """Pairs of classes with the same words, letters ("world post", "worldpost") or look (another "A")."""
    by_words = same_groups([name_words(name) for name in names])
    by_letters = same_groups(["".join(re.findall(WORD, _visible(name))) or name for name in names])
    by_look = same_groups([_visible(name.translate(LOOK_ALIKES)) for name in names])
    return sorted({pair for group in by_words + by_letters + by_look for pair in combinations(group, 2)})


def _names_inside(names: list[str]) -> Pairs:
    """Pairs of classes of which one has all words of the other, and more."""
    words = [name_words(name) for name in names]
    holders: dict[str, set[int]] = defaultdict(set)
    for c, its_words in enumerate(words):
        for word in its_words:
            holders[word].add(c)
    with_all_words = [sorted(set.intersection(*(holders[word] for word in its_words))) for its_words in words]
    return [(c, other) for c in range(len(names)) for other in with_all_words[c] if words[other] != words[c]]


def _example_findings(data: ClassDataset) -> list[Finding]:
    owner = split_of_class(data)[data.labels.numpy()]
    rows = np.flatnonzero(owner != NOWHERE)
    if len(np.unique(owner[rows])) < 2:
        return []
    inputs, owner = data.take(rows.tolist()), owner[rows]
    keys = keys_of(inputs)
    # Of equal examples, the first in every split, in pairs.
    firsts = [{owner[i]: i for i in reversed(group)} for group in same_groups(keys)]
    same = sorted(pair for first in firsts for pair in combinations(sorted(first.values()), 2))
    if isinstance(inputs, Tensor):
        unit, alike = "images", f"differ in at most {MAX_BITS} of 256 bits"
        near = near_images(inputs, owner, MAX_BITS)
    else:
        unit, alike = "texts", f"share {JACCARD:.0%} of their words"
        near = near_texts(inputs, owner, JACCARD)
    bound = " (at least so many)" if len(near) >= MOST_PAIRS else ""
    only_near = [(i, j) for i, j in near.tolist() if keys[i] != keys[j]]
    same, only_near = ([(int(rows[i]), int(rows[j])) for i, j in pairs] for pairs in (same, only_near))
    kinds = (
        ("same example", True, same, f"{unit} that stand in two splits"),
        ("near example", False, only_near, f"pairs of {unit} in different splits that {alike}{bound}"),
    )

    def shown(i: int) -> str:
        text = f": {data.inputs[i][:60]!r}" if data.is_text else ""
        return f"no. {i} (class {data.class_names[data.labels[i]]!r}){text}"

    return _findings(kinds, shown)


def _findings(kinds: Iterable[tuple[str, bool, Pairs, str]], shown: Callable[[int], str]) -> list[Finding]:
    """The kinds of which there are pairs, each with its first pair as the example."""
    return [
        Finding(kind, is_leak, pairs, f"{what}: {len(pairs):,}, such as {' and '.join(map(shown, pairs[0]))}")
        for kind, is_leak, pairs, what in kinds
        if pairs
    ]
