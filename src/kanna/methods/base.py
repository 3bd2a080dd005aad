"""What a method is, and what it may know of a tensor's inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from kanna.encodings.base import Encoding
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, U8


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is known of the inputs of one tensor.

    Attributes:
        weights: Importance of the columns, float32 [cols], or None.
        guessed: The weights were not measured (plan/prior.py).
        second_moment: Second moment, for the methods that use it, or None.
    """

    weights: F32 | None = field(
        default=None, metadata={"about": "Importance of the columns, float32 [cols], or None"}
    )
    guessed: bool = field(
        default=False,
        metadata={"about": "The weights were not measured but guessed from the model"},
    )
    second_moment: SecondMoment | None = field(
        default=None,
        metadata={"about": "Second moment of the inputs, for the methods that use it, or None"},
    )


UNKNOWN = Inputs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to choose the values of one tensor in one encoding.

    Attributes:
        name: Name in plans and after `--method`.
        summary: What it does, in a line.
        needs_second_moment: Whether it takes calibrated statistics, and is `search` without them.
    """

    name: str
    summary: str
    needs_second_moment: bool = False

    def knows(self, encoding: Encoding) -> bool:
        """Whether it has a way to choose values of an encoding."""
        return encoding.encoder is not None

    def encode(
        self, encoding: Encoding, x: F32, inputs: Inputs = UNKNOWN, *, threads: int = 1
    ) -> U8:
        """Store float32 [rows, cols] as uint8 [rows, row bytes] of `encoding`."""
        return encoding.encode(
            x, method=self.name, weights=inputs.weights, threads=threads, guessed=inputs.guessed
        )
