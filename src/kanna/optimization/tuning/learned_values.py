"""The numbers that learn, and their optimizer, in a file that is mapped into memory.

What of it a layer needs is in memory while that layer learns. A file holds the state behind an
epoch; the one of the next is a copy that changes, so that an interruption loses one epoch at most.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util import mapped_file
from kanna._util.disk import sync_file
from kanna.calibration.devices import torch_modules
from kanna.calibration.network_weights import values
from kanna.families import gguf_view
from kanna.families.views import Computed
from kanna.model import F32, Model
from kanna.optimization.tuning.learnable import Learnable, unit_of
from kanna.plan.tuning import OFFSET

RATES = {"scale": 5e-4, "offset": 2e-3, "norm": 3e-4}
"""A step of factors on scales, of offsets in steps of their block, and of norms."""
WARM = 8
_BETAS = 0.9, 0.95
_PARTS = 3
"""The values, and the first and second moments of their gradients."""


def bytes_of(count: int) -> int:
    """Bytes of a file of so many numbers that learn."""
    return 4 * _PARTS * count


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the values learn: warmed up, then along a cosine to zero.

    Attributes:
        number: Of the step, from 0.
        steps: Of the whole training.
    """

    number: int
    steps: int

    @property
    def speed(self) -> float:
        """A share of RATES."""
        along = 0.5 * (1 + math.cos(math.pi * self.number / self.steps))
        return min(1.0, (self.number + 1) / WARM) * along


class LearnedValues:
    """Of every matrix θ [O, B], and δ [O, B] where its blocks shift; of every norm θ [values].

    Attributes:
        count: How many numbers learn.
    """

    def __init__(self, model: Model, every: Sequence[Learnable], folder: Path) -> None:
        """All are 0.

        Args:
            model: The artefact.
            every: What learns.
            folder: Where the files of the epochs lie.
        """
        self._model, self._folder = model, folder
        self.of = {one.name: one for one in every}
        self._kinds = {one.name: "norm" if one.norm else "scale" for one in every}
        self._kinds |= {one.name + OFFSET: "offset" for one in every if one.shifts}
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.count = 0
        for key in self._kinds:
            shape = self.of[key.removesuffix(OFFSET)].shape
            self._places[key] = self.count, shape
            self.count += math.prod(shape)
        self._arrays: Any = np.zeros((_PARTS, self.count), np.float32)

    def begin(self, epoch: int) -> None:
        """Let what was learned in so many epochs change in the next."""
        after, shape = self._file(epoch + 1), (_PARTS, self.count)
        self._arrays = None
        if epoch:
            shutil.copyfile(self._file(epoch), after)
            self._arrays = np.memmap(after, np.float32, "r+", shape=shape)
        else:
            self._arrays = mapped_file.zeros(after, shape)

    def end(self, epoch: int) -> None:
        """Have the state behind so many epochs on the disk."""
        self._arrays.flush()
        sync_file(self._file(epoch))

    def take(self, epoch: int) -> None:
        """Take the values as they were behind so many epochs; they do not learn any more."""
        shape = (_PARTS, self.count)
        self._arrays = (
            np.memmap(self._file(epoch), np.float32, "c", shape=shape)
            if epoch
            else np.zeros(shape, np.float32)
        )

    def has(self, epoch: int) -> bool:
        """Whether the file behind so many epochs, one at least, is whole."""
        path = self._file(epoch)
        return path.is_file() and path.stat().st_size == bytes_of(self.count)

    def _file(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch}.f32"

    def _view(self, part: int, key: str) -> Any:
        at, shape = self._places[key]
        return self._arrays[part, at : at + math.prod(shape)].reshape(shape)

    def leaf(self, key: str, device: str) -> Any:
        """Values as the start of a graph; they share the memory of the file on a CPU."""
        torch, _ = torch_modules()
        return torch.from_numpy(self._view(0, key)).to(device).requires_grad_()

    def step(self, key: str, gradient: Any, pace: Pace) -> None:
        """Adam (arXiv:1412.6980).

        Args:
            key: Of the values: the name of a tensor, with OFFSET of its δ.
            gradient: In their shape.
            pace: Of this step.
        """
        torch, _ = torch_modules()
        value, first, second = (torch.from_numpy(self._view(part, key)) for part in range(_PARTS))
        gradient, (beta1, beta2) = gradient.to(value.device), _BETAS
        rate = pace.speed * RATES[self._kinds[key]] / (1 - beta1 ** (pace.number + 1))
        with torch.no_grad():
            first.lerp_(gradient, 1 - beta1)
            second.lerp_(gradient.square(), 1 - beta2)
            size = (second / (1 - beta2 ** (pace.number + 1))).sqrt_().add_(1e-12)
            value -= rate * first / size

    def scales(self) -> Iterator[tuple[str, F32]]:
        """θ of the matrices in the row order of GGUF, f32 [O, B]."""
        return ((key, self._rows(key, key)) for key, kind in self._kinds.items() if kind == "scale")

    def offsets(self) -> Iterator[tuple[str, F32]]:
        """The same of δ."""
        for name, one in self.of.items():
            if one.shifts:
                yield name, self._rows(name, name + OFFSET)

    def _rows(self, name: str, key: str) -> F32:
        inner = Computed(name, self._view(0, key))
        ordered = gguf_view(self._model, name, inner).rows(0, inner.shape[0])
        return np.ascontiguousarray(ordered)

    def vectors(self) -> Iterator[tuple[str, F32]]:
        """The norms as GGUF stores them, f32 [values]."""
        for name, one in self.of.items():
            if one.norm:
                unit = np.float32(unit_of(self._model, name))
                yield name, values(self._model.tensors[name]) + unit * self._view(0, name)
