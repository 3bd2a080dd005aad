"""Codes of a layer learned together, by what the layer gives.

Feedback chooses one matrix at a time by its products; what a layer does with them (attention,
gates, sums) it does not see. Here the codes of all matrices of a layer, and the factors of their
blocks, move against the gradient of the squared error of the layer's hidden states, from the codes
that are there, behind the quantized layers before it (signed steps through the rounding as in
AutoRound, arXiv:2309.05516; a neighbouring code at most, as in GSQ, arXiv:2604.18556).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.calibration.devices import torch_modules
from kanna.encodings.base import Encoding
from kanna.families import gguf_view, hf_view
from kanna.model import F32, U8
from kanna.optimization.correction.code_grid import SPAN, CodeGrid, rounded
from kanna.plan.tuning import factors, scaled

STEPS, BATCH = 60, 2
"""Steps, and windows of each."""
RATE, FACTOR_RATE = 0.01, 5e-4
"""First step of a code's offset and of the factor of a block; both fall to zero."""
START, NEAREST = 0.5, 0.45
"""How much of a weight's distance from its value its offset begins with, and the most of it."""
_SEED = 20260101
_VALUES = 2
"""Goes up when other codes are learned, so that results of before are made again."""
SETTINGS = (STEPS, BATCH, RATE, FACTOR_RATE, START, NEAREST, _SEED, _VALUES)
"""What rows depend on, beside text and layers."""

Ordered = Callable[[Any, str, F32], F32]
"""Rows of a matrix in another order: of a view (`hf_view`, `gguf_view`), a name and rows."""


@dataclass(slots=True)
class _Moving:
    """A matrix that learns, as tensors in the order of the network."""

    name: str
    encoding: Encoding
    data: U8
    weight: Any
    first: Any
    width: Any
    levels: Any
    start: Any
    offset: Any
    theta: Any

    def codes(self) -> Any:
        """The nearest codes: at most one away from the first."""
        moved = self.offset.round().clamp_(-1, 1).add_(self.start)
        return moved.clamp_(0, len(self.levels) - 1)

    def on_grid(self) -> Any:
        """Values of the codes by the scales that are there."""
        places = self.levels[self.codes().long()].view(*self.first.shape, SPAN)
        return (self.first[..., None] + self.width[..., None] * places).view(self.weight.shape)

    def step(self, speed: float) -> None:
        """Follow the sign of the gradient, which is taken."""
        gradient = self.weight.grad
        if gradient is None:
            return  # what it gives goes to other layers alone
        blocks = self.on_grid().view(*self.theta.shape, -1)
        by_block = (gradient.view(blocks.shape) * blocks).sum(-1)
        self.theta -= speed * FACTOR_RATE * by_block.sign()
        up = self.width.sign()[..., None]
        signs = gradient.sign_().view(*self.width.shape, SPAN) * up
        self.offset -= speed * RATE * signs.view(self.offset.shape)
        self.weight.grad = None
        blocks = self.on_grid().view(blocks.shape)
        self.weight.copy_((blocks * (1 + self.theta)[..., None]).view(self.weight.shape))


class LayerRounding:
    """The codes of one layer of the artefact, learned against the original's.

    Attributes:
        layer: The artefact's: a function of hidden states and the number of a window.
        given: Hidden states before it, by window.
        wanted: Hidden states behind the original's.
        learned: How many windows are learned from; the others judge.
        ordered: Brings rows into the order of the network or of the file.
    """

    def __init__(
        self, layer: Any, given: Any, wanted: Any, *, learned: int, ordered: Ordered
    ) -> None:
        self.layer, self.given, self.wanted, self.learned = layer, given, wanted, learned
        self._ordered, self._moving = ordered, list[_Moving]()

    def add(self, name: str, encoding: Encoding, data: U8, exact: F32, weight: Any) -> bool:
        """Let a matrix learn, whose weight in the network has the values of `data`.

        Args:
            name: Of the matrix.
            encoding: Of the rows.
            data: Rows, uint8 [rows, row bytes].
            exact: The original's values, [rows, columns].
            weight: The network's parameter.

        Returns:
            Whether its encoding has codes to choose.
        """
        torch, _ = torch_modules()
        grid = CodeGrid.of(encoding, data, exact.shape[1])
        if grid is None:
            return False

        def there(values: F32) -> Any:
            return torch.from_numpy(np.array(self._ordered(hf_view, name, values))).to(
                weight.device
            )

        away = START * (grid.position(exact) - grid.codes)
        self._moving.append(
            _Moving(
                name=name,
                encoding=encoding,
                data=data,
                weight=weight,
                first=there(grid.first),
                width=there(grid.width),
                levels=torch.from_numpy(grid.levels).to(weight.device),
                start=there(grid.codes.astype(np.float32)).to(torch.uint8),
                offset=there(away.clip(-NEAREST, NEAREST)),
                theta=torch.zeros(
                    (len(exact), exact.shape[1] // encoding.block), device=weight.device
                ),
            )
        )
        return True

    def run(self) -> dict[str, U8]:
        """Rows that bring the layer closer on the windows that judge; {} where none do.

        The network has them afterwards.
        """
        if not self._moving or self.learned == len(self.given):
            return {}
        judges = range(self.learned, len(self.given))
        was = self.error(judges)
        self._learn()
        rows = {one.name: self._rows(one) for one in self._moving}
        if self.error(judges) < was:
            return rows
        for one in self._moving:
            self._take_over(one, one.data)
        return {}

    def error(self, windows: Sequence[int]) -> float:
        """Mean squared error of the layer's hidden states."""
        torch, _ = torch_modules()
        with torch.no_grad():
            return sum(float(self._loss(number)) for number in windows) / len(windows)

    def _loss(self, number: int) -> Any:
        out = self.layer(self.given[number], number)
        return (out - self.wanted[number].to(out.device)).square().mean()

    def _learn(self) -> None:
        torch, _ = torch_modules()
        order, random = list[int](), np.random.default_rng(_SEED)
        for one in self._moving:
            one.weight.requires_grad_(True)
        for step in range(STEPS):
            if len(order) < BATCH:
                order += random.permutation(self.learned).tolist()
            for number in order[:BATCH]:
                with torch.enable_grad():
                    self._loss(number).backward()
            del order[:BATCH]
            with torch.no_grad():
                for one in self._moving:
                    one.step(1 - step / STEPS)
        for one in self._moving:
            one.weight.requires_grad_(False)

    def _rows(self, one: _Moving) -> U8:
        """The rows of what a matrix learned; the network gets what they decode to."""
        values = self._ordered(gguf_view, one.name, one.on_grid().cpu().numpy())
        data, cols = rounded(one.encoding, values, one.data), values.shape[1]
        if factors(one.encoding):
            theta = self._ordered(gguf_view, one.name, one.theta.cpu().numpy())
            data = scaled(one.encoding, data, cols, theta.astype(np.float16))
        self._take_over(one, data)
        return data

    def _take_over(self, one: _Moving, data: U8) -> None:
        torch, _ = torch_modules()
        decoded = one.encoding.decode(data, one.weight.shape[1])
        values = torch.from_numpy(np.array(self._ordered(hf_view, one.name, decoded)))
        with torch.no_grad():
            one.weight.copy_(values.to(one.weight.device))
