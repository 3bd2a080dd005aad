"""Gate above up in one matrix of a checkpoint, two matrices in GGUF."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from kanna.families._config import Config
from kanna.families.stacked import Picked, Stacked
from kanna.formats.views import Renamed
from kanna.model import Tensor, num_rows

_LAYER = r"(?P<layer>model\.layers\.\d+\.)"


class Halves:
    """The halves of one matrix per layer, by the names that `Block.names` gives them.

    Args:
        whole: Name of the matrix inside the layer.
        gate: Name of its upper half.
        up: Name of its lower half.
    """

    def __init__(self, whole: str, gate: str, up: str) -> None:
        self.whole, self.halves = whole, (gate, up)
        self._whole = re.compile(_LAYER + re.escape(whole))
        self._gate = re.compile(_LAYER + re.escape(gate))

    def gather(self, tensors: Mapping[str, Tensor], _: Config) -> dict[str, Tensor]:
        """The two halves in place of each matrix."""
        out: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            match = self._whole.fullmatch(name)
            if match is None or len(tensor.shape) != 2 or tensor.shape[0] % 2:
                out[name] = tensor
                continue
            half, columns = tensor.shape[0] // 2, tensor.shape[1]
            for number, part in enumerate(self.halves):
                places = number * half + np.arange(half)
                out[match["layer"] + part] = Picked(name, tensor, (half, columns), places)
        return out

    def spread(self, tensors: Mapping[str, Tensor], _: Config) -> dict[str, Tensor]:
        """One matrix of two halves."""
        out: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if match := self._gate.fullmatch(name):
                whole = match["layer"] + self.whole
                both = Stacked(whole, [tensor, tensors[match["layer"] + self.halves[1]]])
                out[whole] = Renamed(whole, both, (2 * num_rows(tensor), tensor.shape[1]))
            elif not name.endswith("." + self.halves[1]):
                out[name] = tensor
        return out

    def pieces(self, name: str, _: Config) -> list[str]:
        """The matrix that a half lies in."""
        half = next((h for h in self.halves if name.endswith("." + h)), None)
        return [name] if half is None else [name.removesuffix(half) + self.whole]
