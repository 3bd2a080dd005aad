"""What a method is."""

from __future__ import annotations

from dataclasses import dataclass

from kanna.encodings.base import Encoding
from kanna.model import F32, U8


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to choose the values of one tensor in one encoding."""

    name: str
    summary: str

    def encode(self, encoding: Encoding, x: F32, weights: F32 | None = None, threads: int = 1) -> U8:
        """Store float32 [rows, cols] as uint8 [rows, row bytes]; weights are float32 [cols] or None."""
        return encoding.encode(x, method=self.name, weights=weights, threads=threads)
