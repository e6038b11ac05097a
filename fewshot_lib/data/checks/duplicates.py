"""Finding the same example twice, among tens of thousands, without comparing all pairs.

Texts are near duplicates if the Jaccard similarity of their word sets, J(A, B) = |A ∩ B| / |A ∪ B|, reaches a
threshold t. Such sets share at least ⌈t·|A|⌉ words, so they also share one of the |A| - ⌈t·|A|⌉ + 1 *rarest*
words of A: only texts that share such a word are compared (prefix filtering: Chaudhuri et al. 2006, Bayardo
et al. 2007). It is exact.

Images are near duplicates if their 16x16 bitmaps differ in at most d bits. Cut the bits into d + 1 bands: two
such bitmaps agree on at least one whole band (the pigeonhole principle), so only bitmaps that share a band
are compared.

Equal examples are compared once: thousands of rows with the text "yes" are one. Where almost everything is
like everything else (texts from one template) the pairs are beyond number, and the search ends at a bound.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

if TYPE_CHECKING:
    from scipy import sparse  # slow to import: only who compares texts waits for it

SIDE = 16
BLOCK = 2048
MOST_PAIRS = 100_000  # of near duplicates that are looked for: so many say enough
CANDIDATES = 1 << 22  # pairs that are held at a time
WORD = r"\w+"


def same_groups(keys: Sequence[object]) -> list[list[int]]:
    """Positions that hold the same key, for every key that occurs more than once."""
    places = defaultdict(list)
    for i, key in enumerate(keys):
        places[key].append(i)
    return [found for found in places.values() if len(found) > 1]


def keys_of(inputs: Sequence[str] | Tensor) -> list[str] | list[bytes]:
    """n keys that equal examples share: images by every byte, texts by their words.

    Capitals, punctuation and white space of a text do not count; where no word is left, the whole text does.
    """
    if isinstance(inputs, Tensor):
        return [image.tobytes() for image in inputs.contiguous().cpu().numpy()]
    return [" ".join(re.findall(WORD, text.lower())) or text for text in inputs]


def near_texts(texts: Sequence[str], owners: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs (i < j) of n texts, similar from the threshold on, with different owners: (p, 2) int64, sorted.

    Of several texts with the same words and the same owner, the first stands for all. ``MOST_PAIRS`` pairs
    mean so many or more. owners: (n,) integers, the split of each, say.
    """
    if not any(re.search(WORD, text) for text in texts):
        return np.empty((0, 2), np.int64)
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(token_pattern=WORD, binary=True, dtype=np.int32).fit_transform(texts)
    first = _first_of_each(words, owners)
    words, owners = words[first], owners[first]
    size = np.diff(words.indptr)
    rare = _rarest_words(words, size, threshold)
    found: list[np.ndarray] = []
    n_found = 0
    for pairs in _sharing(rare):
        sizes = size[pairs]
        pairs = pairs[
            (owners[pairs[:, 0]] != owners[pairs[:, 1]]) & (sizes.min(1) >= threshold * sizes.max(1))
        ]
        for part in np.split(pairs, range(1 << 16, len(pairs), 1 << 16)):
            a, b = part.T
            common = np.asarray(words[a].multiply(words[b]).sum(1)).ravel()
            found.append(first[part[common >= threshold * (size[a] + size[b] - common) - 1e-9]])
            n_found += len(found[-1])
            if n_found >= MOST_PAIRS:
                return _sorted_pairs(found)[:MOST_PAIRS]
    return _sorted_pairs(found)


def _first_of_each(words: sparse.csr_matrix, owners: np.ndarray) -> np.ndarray:
    """Ascending rows (m,) such that no two have the same words and the same owner."""
    ends = zip(words.indptr[:-1], words.indptr[1:], owners.tolist(), strict=True)
    keys = [(words.indices[start:end].tobytes(), owner) for start, end, owner in ends]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    return np.array(sorted(first.values()), np.int64)


def _rarest_words(words: sparse.csr_matrix, size: np.ndarray, threshold: float) -> sparse.csr_matrix:
    """(n, vocabulary), with only the |A| - ⌈t·|A|⌉ + 1 rarest words of every text, each counted once."""
    from scipy import sparse

    rank = np.empty(words.shape[1], np.int64)
    rank[np.argsort(np.asarray(words.sum(0)).ravel(), kind="stable")] = np.arange(words.shape[1])
    ordered = sparse.csr_matrix((words.data, rank[words.indices], words.indptr), words.shape)
    ordered.sort_indices()
    place = np.arange(ordered.nnz) - np.repeat(ordered.indptr[:-1], size)
    wanted = np.where(size, size - np.ceil(threshold * size - 1e-9) + 1, 0)
    keep = place < np.repeat(wanted, size)
    rows = np.repeat(np.arange(len(size)), size)[keep]
    return sparse.csr_matrix((np.ones(keep.sum(), np.int32), (rows, ordered.indices[keep])), words.shape)


def _sharing(rare: sparse.csr_matrix) -> Iterator[np.ndarray]:
    """Pairs i < j of rows that share a column, (p, 2), a block of rows at a time."""
    columns = rare.T.tocsr()
    # As many pairs as a row can have at most: that bounds the memory of a block.
    cost = np.cumsum(rare @ np.diff(columns.indptr))
    start = 0
    while start < rare.shape[0]:
        before = cost[start - 1] if start else 0
        end = int(np.searchsorted(cost, before + CANDIDATES, side="right"))
        end = min(max(end, start + 1), start + BLOCK)
        block = (rare[start:end] @ columns).tocoo()
        pairs = np.stack([block.row.astype(np.int64) + start, block.col], 1)
        yield pairs[pairs[:, 0] < pairs[:, 1]]
        start = end


def bitmaps(images: Tensor) -> np.ndarray:
    """(n, 256) bool of images (n, channels, h, w): parts of a 16x16 grid lighter than the image's mean."""
    parts = []
    for block in images.split(BLOCK):
        small = adaptive_avg_pool2d(block.float().mean(1, keepdim=True), SIDE).flatten(1)
        parts.append((small > small.mean(1, keepdim=True)).numpy())
    return np.concatenate(parts)


def near_images(images: Tensor, owners: np.ndarray, max_bits: int) -> np.ndarray:
    """Pairs (i < j) of images (n, channels, h, w) that differ in at most so many bits; as :func:`near_texts`.

    Of several images with the same bitmap and the same owner, the first stands for all.
    """
    bits = bitmaps(images)
    with_owner = np.concatenate([bits, owners[:, None].astype(np.uint8)], 1)
    first = np.sort(np.unique(with_owner, axis=0, return_index=True)[1])
    # A fixed shuffle: neighbouring bits are alike, and a band of blank background would be shared by most.
    order = torch.randperm(bits.shape[1], generator=torch.Generator().manual_seed(0)).numpy()
    found: list[np.ndarray] = []
    n_found = 0
    for band in np.array_split(order, max_bits + 1):
        keys = np.packbits(bits[np.ix_(first, band)], axis=1)
        for group in same_groups([key.tobytes() for key in keys]):
            for pairs in _close(bits, first[group], owners, max_bits):
                found.append(pairs)
                n_found += len(pairs)
                # A pair may agree on every band: so many times the bound hold enough that are distinct.
                if n_found >= MOST_PAIRS * (max_bits + 1):
                    return _sorted_pairs(found)[:MOST_PAIRS]
    return _sorted_pairs(found)[:MOST_PAIRS]


def _close(bits: np.ndarray, rows: np.ndarray, owners: np.ndarray, max_bits: int) -> Iterator[np.ndarray]:
    """Pairs among ``rows`` (ascending) with different owners that differ in at most ``max_bits`` bits."""
    signs = torch.from_numpy(bits[rows]).float() * 2 - 1
    for start in range(0, len(rows), BLOCK):
        # For vectors of ±1 the scalar product is (number of equal bits) - (number of different bits).
        different = (bits.shape[1] - signs[start : start + BLOCK] @ signs.T) / 2
        pairs = rows[torch.nonzero(different <= max_bits).numpy() + np.array([start, 0])]
        yield pairs[(pairs[:, 0] < pairs[:, 1]) & (owners[pairs[:, 0]] != owners[pairs[:, 1]])]


def _sorted_pairs(found: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)
