"""A file made of pieces of other files, as far as they have them: only the rest is fetched."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from kanna.formats.pieces import FilePieces

_WORTH = 1 << 16
"""Bytes that are here and yet fetched where a request of its own would cost more."""


class KnownPieces:
    """Where pieces lie on this machine."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, path: Path, pieces: FilePieces) -> None:
        """Have the pieces of a file, too.

        Args:
            path: The file.
            pieces: What it was cut into.
        """
        at = 0
        for size, digest in zip(pieces.sizes, pieces.hashes, strict=True):
            self._places.setdefault(digest, (path, at, size))
            at += size

    def has(self, digest: str, size: int) -> bool:
        """Whether a piece may be here; only `read` knows."""
        place = self._places.get(digest)
        return place is not None and place[2] == size

    def read(self, digest: str) -> bytes | None:
        """The bytes of a piece; None where the file has changed, and is not asked again."""
        place = self._places.get(digest)
        if place is None:
            return None
        path, at, size = place
        with suppress(OSError), path.open("rb", buffering=0) as file:
            file.seek(at)
            data = file.read(size)
            if hashlib.sha256(data).hexdigest() == digest:
                return data
        self._places.pop(digest, None)  # perhaps gone already, by the reader of another file
        return None


class Patchwork:
    """A file that is filled from its beginning on, with what is here and what is fetched.

    Args:
        wanted: Its pieces; nothing depends on their truth, as the whole is held to its own hash.
        known: What is here.
    """

    def __init__(self, wanted: FilePieces, known: KnownPieces) -> None:
        self._wanted, self._known = wanted, known
        self._starts = [0, *accumulate(wanted.sizes)]

    def num_lacking(self) -> int:
        """Bytes of pieces that are not here."""
        return sum(
            size
            for size, digest in zip(self._wanted.sizes, self._wanted.hashes, strict=True)
            if not self._known.has(digest, size)
        )

    def here(self, at: int) -> bytes | None:
        """Bytes from a place to the end of its piece; None where they are not here.

        Args:
            at: Before the end of the file.
        """
        number = bisect_right(self._starts, at) - 1
        if not self._is_here(number):
            return None
        data = self._known.read(self._wanted.hashes[number])
        return None if data is None else data[at - self._starts[number] :]

    def fetched_until(self, at: int) -> int:
        """Where bytes that must be fetched from a place on end.

        Args:
            at: A place whose bytes are not here.
        """
        number = bisect_right(self._starts, at) - 1
        end, run = number + 1, 0
        for one in range(number + 1, len(self._wanted.sizes)):
            if not self._is_here(one):
                end, run = one + 1, 0
            elif (run := run + self._wanted.sizes[one]) > _WORTH:
                break
        return self._starts[end]

    def _is_here(self, number: int) -> bool:
        return self._known.has(self._wanted.hashes[number], self._wanted.sizes[number])
