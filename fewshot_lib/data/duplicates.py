"""Finding the same example twice, among tens of thousands, without comparing all pairs.

Texts are near duplicates if the Jaccard similarity of their word sets, J(A, B) = |A ∩ B| / |A ∪ B|, reaches a threshold
t. Such sets share at least ⌈t·|A|⌉ words, so they also share one of the |A| - ⌈t·|A|⌉ + 1 *rarest* words of A: only texts
that share such a word are compared (prefix filtering: Chaudhuri et al. 2006, Bayardo et al. 2007). It is exact.

Images are near duplicates if their 16x16 bitmaps differ in at most d bits. Cut the bits into d + 1 bands: two such
bitmaps agree on at least one whole band (the pigeonhole principle), so only bitmaps that share a band are compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

SIDE = 16
BLOCK = 2048
WORD = r"(?u)\w+"


def same_groups(keys: Sequence[object]) -> list[list[int]]:
    """Positions that hold the same key, for every key that occurs more than once."""
    places = defaultdict(list)
    for i, key in enumerate(keys):
        places[key].append(i)
    return [found for found in places.values() if len(found) > 1]


def text_keys(texts: Sequence[str]) -> list[str]:
    """Texts without capitals, punctuation and differences in white space (where no word is left, the text itself)."""
    words = CountVectorizer(token_pattern=WORD).build_analyzer()
    return [" ".join(words(text)) or text for text in texts]


def image_keys(images: Tensor) -> list[bytes]:
    """The bytes of every image, n of them."""
    return [image.tobytes() for image in images.contiguous().cpu().numpy()]


def near_texts(texts: Sequence[str], owners: np.ndarray, threshold: float = 0.8) -> np.ndarray:
    """Pairs (i < j) of texts with different owners whose word sets have a Jaccard similarity of at least ``threshold``.

    texts: n texts; owners: (n,) integers (the split, say). Returns (p, 2) int64, sorted.
    """
    if not any(re.search(WORD, text) for text in texts):
        return np.empty((0, 2), np.int64)
    words = CountVectorizer(token_pattern=WORD, binary=True, dtype=np.int32).fit_transform(texts)
    size = np.diff(words.indptr)
    rare = _rarest_words(words, size, threshold)
    found = []
    for i, j in _sharing(rare):
        keep = (owners[i] != owners[j]) & (np.minimum(size[i], size[j]) >= threshold * np.maximum(size[i], size[j]))
        i, j = i[keep], j[keep]
        for at in range(0, len(i), 1 << 16):
            a, b = i[at : at + (1 << 16)], j[at : at + (1 << 16)]
            common = np.asarray(words[a].multiply(words[b]).sum(1)).ravel()
            found.append(np.stack([a, b], 1)[common >= threshold * (size[a] + size[b] - common) - 1e-9])
    return _sorted_pairs(found)


def _rarest_words(words: sparse.csr_matrix, size: np.ndarray, threshold: float) -> sparse.csr_matrix:
    """(n, vocabulary), with only the |A| - ⌈t·|A|⌉ + 1 rarest words of every text, each counted once."""
    rank = np.empty(words.shape[1], np.int64)
    rank[np.argsort(np.asarray(words.sum(0)).ravel(), kind="stable")] = np.arange(words.shape[1])
    ordered = sparse.csr_matrix((words.data, rank[words.indices], words.indptr), words.shape)
    ordered.sort_indices()
    place = np.arange(ordered.nnz) - np.repeat(ordered.indptr[:-1], size)
    wanted = np.where(size, size - np.ceil(threshold * size - 1e-9) + 1, 0)
    keep = place < np.repeat(wanted, size)
    rows = np.repeat(np.arange(len(size)), size)[keep]
    return sparse.csr_matrix((np.ones(keep.sum(), np.int32), (rows, ordered.indices[keep])), words.shape)


def _sharing(rare: sparse.csr_matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs i < j of rows that share a column, a block of rows at a time."""
    columns = rare.T.tocsr()
    for at in range(0, rare.shape[0], BLOCK):
        block = (rare[at : at + BLOCK] @ columns).tocoo()
        i = block.row.astype(np.int64) + at
        j = block.col.astype(np.int64)
        yield i[i < j], j[i < j]


def bitmaps(images: Tensor) -> np.ndarray:
    """(n, 256) bool of n images (n, channels, height, width): the parts of a 16x16 grid that are lighter than the image's mean."""
    parts = []
    for block in images.split(BLOCK):
        small = adaptive_avg_pool2d(block.float().mean(1, keepdim=True), SIDE).flatten(1)
        parts.append((small > small.mean(1, keepdim=True)).numpy())
    return np.concatenate(parts)


def near_images(images: Tensor, owners: np.ndarray, max_bits: int = 3) -> np.ndarray:
    """Pairs (i < j) of images with different owners whose 16x16 bitmaps differ in at most ``max_bits`` of 256 bits.

    images: (n, channels, height, width); owners: (n,) integers. Returns (p, 2) int64, sorted. Of several images with the
    same bitmap and the same owner, the first stands for all.
    """
    bits = bitmaps(images)
    _, first = np.unique(np.concatenate([bits, owners[:, None].astype(np.uint8)], 1), axis=0, return_index=True)
    first = np.sort(first)
    # A fixed shuffle: neighbouring bits are alike, and a band of blank background would be shared by most images.
    order = torch.randperm(bits.shape[1], generator=torch.Generator().manual_seed(0)).numpy()
    found = []
    for band in np.array_split(order, max_bits + 1):
        keys = np.packbits(bits[np.ix_(first, band)], axis=1)
        for group in same_groups([key.tobytes() for key in keys]):
            rows = first[group]
            found.extend(_close(bits, rows, owners, max_bits))
    return _sorted_pairs(found)


def _close(bits: np.ndarray, rows: np.ndarray, owners: np.ndarray, max_bits: int) -> Iterator[np.ndarray]:
    """Pairs among ``rows`` (ascending) with different owners that differ in at most ``max_bits`` bits."""
    signs = torch.from_numpy(bits[rows]).float() * 2 - 1
    for at in range(0, len(rows), BLOCK):
        # For vectors of ±1 the scalar product is (number of equal bits) - (number of different bits).
        different = (bits.shape[1] - signs[at : at + BLOCK] @ signs.T) / 2
        i, j = (index.numpy() for index in torch.nonzero(different <= max_bits, as_tuple=True))
        i = i + at
        keep = (i < j) & (owners[rows[i]] != owners[rows[j]])
        if keep.any():
            yield np.stack([rows[i[keep]], rows[j[keep]]], 1)


def _sorted_pairs(found: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)
