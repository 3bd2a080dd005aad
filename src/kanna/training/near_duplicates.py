"""Texts that are nearly the same, by MinHash over shingles of words.

Signatures are those of Broder, On the resemblance and containment of documents, 1997; candidates
come from bands of them (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3), and
every candidate is then compared exactly. The hash functions are multiply-shift (Dietzfelbinger et
al., 1997).
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]

ALIKE = 0.8
"""Share of common shingles from which two texts are nearly the same."""
_WORDS = 5
"""Words of a shingle."""
_BANDS, _ROWS = 16, 4
"""A pair of resemblance ALIKE shares no band in one of 5,000 cases: (1 - 0.8⁴)¹⁶ = 2e-4."""
HASHES = _BANDS * _ROWS
"""Of a signature."""
_MOST_OF_BAND = 64
"""Texts of one band that are compared with its first ones; beyond it they are alike anyway."""
_WORD = re.compile(r"\w+|[^\w\s]")


def clusters(texts: Sequence[str]) -> list[int]:
    """Which texts are nearly the same, directly or through others.

    Args:
        texts: The texts.

    Returns:
        For each text the index of the first text of its cluster: its own, if none before it is
        nearly the same.
    """
    shingles = [_shingles(text) for text in texts]
    leaders = list(range(len(texts)))

    def leader(index: int) -> int:
        while leaders[index] != index:
            leaders[index] = leaders[leaders[index]]
            index = leaders[index]
        return index

    for one, two in _candidates(shingles):
        first, second = sorted((leader(one), leader(two)))
        if first != second and _resemblance(shingles[one], shingles[two]) >= ALIKE:
            leaders[second] = first
    return [leader(index) for index in range(len(texts))]


def _shingles(text: str) -> U32:
    """Hashes of every run of words, each once; of the whole text, where it has fewer."""
    words = _WORD.findall(text.lower())
    runs = {" ".join(words[i : i + _WORDS]) for i in range(max(1, len(words) - _WORDS + 1))}
    hashes = {zlib.crc32(run.encode("utf-8", "replace")) for run in runs}
    return np.array(sorted(hashes), dtype=np.uint32)


def _resemblance(one: U32, two: U32) -> float:
    common = len(np.intersect1d(one, two, assume_unique=True))
    return common / (len(one) + len(two) - common)


def signatures(texts: Sequence[str]) -> U32:
    """Hashes by which texts are compared without them: the equal share is their resemblance.

    Args:
        texts: The texts.

    Returns:
        uint32 [texts, HASHES].
    """
    return _signatures([_shingles(text) for text in texts])


def _signatures(shingles: Sequence[U32]) -> U32:
    random = np.random.default_rng(0)
    factors = random.integers(1, 1 << 63, HASHES, dtype=np.uint64) | np.uint64(1)
    addends = random.integers(0, 1 << 63, HASHES, dtype=np.uint64)
    every = np.empty((len(shingles), HASHES), np.uint32)
    for index, hashes in enumerate(shingles):
        mixed = hashes.astype(np.uint64)[:, None] * factors + addends  # wraps, as it should
        every[index] = (mixed >> np.uint64(32)).min(axis=0)
    return every


def _candidates(shingles: Sequence[U32]) -> list[tuple[int, int]]:
    """Pairs of texts that have a band of their signatures in common."""
    bands: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, signature in enumerate(_signatures(shingles)):
        for number, band in enumerate(signature.reshape(_BANDS, _ROWS)):
            bands[bytes([number]) + band.tobytes()].append(index)
    pairs: dict[tuple[int, int], None] = {}
    for members in bands.values():
        for place, index in enumerate(members[1:], 1):
            for other in members[: min(place, _MOST_OF_BAND)]:
                pairs[other, index] = None
    return list(pairs)
