"""What a method is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kanna.encodings.base import Encoding
from kanna.model import F32, U8

if TYPE_CHECKING:
    from kanna.methods.moment import Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to choose the values of one tensor in one encoding. `needs_moment`: only with calibrated statistics."""

    name: str
    summary: str
    needs_moment: bool = False

    def encode(
        self,
        encoding: Encoding,
        x: F32,
        weights: F32 | None = None,
        threads: int = 1,
        moment: Moment | None = None,
        guessed: bool = False,
    ) -> U8:
        """Store float32 [rows, cols] as uint8 [rows, row bytes].

        weights: importance of the columns, float32 [cols], or None
        moment:  second moment of the inputs, for the methods that use it
        guessed: the weights were not measured (plan/prior.py)
        """
        return encoding.encode(x, method=self.name, weights=weights, threads=threads, guessed=guessed)
