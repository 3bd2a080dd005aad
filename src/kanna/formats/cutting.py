"""A file into pieces that begin where its tensors do, so that two files share those that are equal.

A changed tensor changes whole pieces and moves none: the header before the tensors, whose length
changes with a name in it, is cut by its content, and every tensor from its own beginning on.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import KannaError
from kanna.formats import gguf
from kanna.formats.gguf.read import tensor_places
from kanna.formats.pieces import FilePieces
from kanna.formats.safetensors import read as safetensors
from kanna.model import U8

LARGEST = 4 << 20
"""Bytes of a piece at most: a large tensor has several."""
_LARGEST_HEADER = 64 << 20
_BLOCK, _WINDOW = 1 << 18, 32
_LEAST, _BITS = 4096, 15
"""Of pieces that are cut by their content: the fewest bytes, and how many on average, as 2^n."""


def cut(path: Path) -> FilePieces:
    """The pieces of a GGUF or safetensors file; any other is cut by its content or at every 4 MiB.

    Args:
        path: A file.
    """
    hashes: list[str] = []
    bounds = _bounds(path)
    sizes = tuple(stop - start for start, stop in pairwise(bounds))
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        for size in sizes:
            hashed, left = hashlib.sha256(), size
            while left and (count := file.readinto(buffer[: min(left, _BLOCK)])):
                hashed.update(buffer[:count])
                left -= count
            hashes.append(hashed.hexdigest())
    return FilePieces(sizes=sizes, hashes=tuple(hashes))


def _bounds(path: Path) -> list[int]:
    """Where pieces begin, and the end of the file."""
    size, places = path.stat().st_size, list[tuple[int, int]]()
    with suppress(KannaError, OSError):
        if gguf.is_gguf(path):
            places = tensor_places(path)
        elif path.suffix == ".safetensors" or _like_safetensors(path):
            places = safetensors.tensor_places(path)
    places = [place for place in places if place[1] > place[0]]
    data = places[0][0] if places else (size if size <= _LARGEST_HEADER else 0)
    bounds = {0, size}
    if 0 < data <= _LARGEST_HEADER:
        bounds.update(_by_content(path, data))
    for start, _ in places:
        bounds.add(start)
    starts = sorted(bounds)
    for start, stop in pairwise(starts):
        bounds.update(range(start, stop, LARGEST))
    return sorted(bounds)


def _like_safetensors(path: Path) -> bool:
    """Whether a file without a name of its own begins as one of safetensors does."""
    with path.open("rb") as file:
        first = file.read(9)
    return len(first) == 9 and first[8:] == b"{" and first[5:8] == b"\0\0\0"


def _by_content(path: Path, size: int) -> list[int]:
    """Where the first bytes of a file are cut: after bytes whose hash begins with zeros."""
    cuts, before, tail = list[int](), 0, b""
    with path.open("rb", buffering=0) as file:
        for start in range(0, size, _BLOCK):
            data = tail + file.read(min(_BLOCK, size - start))
            hashed = _rolling(np.frombuffer(data, np.uint8))[len(tail) :]
            for at in np.flatnonzero(hashed >> (32 - _BITS) == 0).tolist():
                if start + at + 1 - before >= _LEAST:
                    before = start + at + 1
                    cuts.append(before)
            tail = data[1 - _WINDOW :]
    return cuts


def _rolling(data: U8) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """A hash of the 32 bytes that end at each byte, uint32 [bytes]."""
    seed = hashlib.shake_128(b"kanna pieces").digest(1024)
    values = np.frombuffer(seed, "<u4").astype(np.uint32)[data]
    hashed = values.copy()
    for age in range(1, min(_WINDOW, data.size)):
        hashed[age:] += values[:-age] << np.uint32(age)
    return hashed
