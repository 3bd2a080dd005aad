"""What a method is, and what it may know of a tensor's inputs."""

from __future__ import annotations

from dataclasses import dataclass

from kanna.encodings.base import Encoding
from kanna.methods.hessian import Moment
from kanna.model import F32, U8


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is known of the inputs of one tensor.

    Attributes:
        weights: Importance of the columns, float32 [cols], or None.
        guessed: The weights were not measured (plan/prior.py).
        moment: Second moment, for the methods that use it, or None.
    """

    weights: F32 | None = None
    guessed: bool = False
    moment: Moment | None = None


UNKNOWN = Inputs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to choose the values of one tensor in one encoding.

    Attributes:
        needs_moment: Only with calibrated statistics.
    """

    name: str
    summary: str
    needs_moment: bool = False

    def encode(
        self, encoding: Encoding, x: F32, inputs: Inputs = UNKNOWN, *, threads: int = 1
    ) -> U8:
        """Store float32 [rows, cols] as uint8 [rows, row bytes]."""
        return encoding.encode(
            x, method=self.name, weights=inputs.weights, threads=threads, guessed=inputs.guessed
        )
