"""What a resolved plan says of each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanna.encodings.base import Encoding
from kanna.methods import device as devices
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Tensor, columns, num_rows
from kanna.plan.prior import Prior


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """One tensor, the encoding it gets and how its values are chosen.

    Attributes:
        weights: Importance of each column, float32 [columns] (or [experts, columns]), or None.
        second_moment: Second moment of the inputs, for methods that use it, or None.
        prior: Importance of the columns guessed from other weights, used when none was measured, or
            None.
        scale: Float16 [rows, blocks] or [rows, 1], added to 1: what the factors of the blocks are
            multiplied by, or None.
        offset: Float16 [rows, blocks], steps that are added to the values of a block before that,
            or None.
    """

    name: str
    tensor: Tensor
    encoding: Encoding
    method: str = "search"
    weights: F32 | None = None
    second_moment: SecondMoment | None = None
    prior: Prior | None = None
    scale: Any = None
    offset: Any = None

    @property
    def device(self) -> str:
        """Where the method runs: on the device of the second moment, if that knows the encoding."""
        grid = self.encoding.grid or self.encoding.name
        few = num_rows(self.tensor) < devices.LEAST_ROWS
        if self.second_moment is None or few or not devices.has_grid(grid):
            return devices.CPU
        return self.second_moment.device

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes in the artefact, without alignment."""
        return num_rows(self.tensor) * self.encoding.row_bytes(columns(self.tensor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Substitution:
    """A tensor that could not get the encoding it was meant to have."""

    name: str
    wanted: str
    got: str
    reason: str
