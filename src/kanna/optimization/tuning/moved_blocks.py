"""Products with a matrix whose blocks are moved by δ steps and then scaled by 1 + θ.

Shapes: T tokens, O rows, I columns, B blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from kanna.calibration.devices import torch_modules


@dataclass(frozen=True, slots=True)
class BlockMoves:
    """What moves the blocks of a matrix, or of some of its rows.

    Attributes:
        theta: θ of each block, [O, B].
        delta: δ of each block, [O, B], or None.
        steps: Size of a step of each block, [O, B], or None.
    """

    theta: Any
    delta: Any = None
    steps: Any = None

    def of_rows(self, rows: Any) -> BlockMoves:
        """Those of some rows: a slice, or their numbers."""
        return BlockMoves(
            *(None if part is None else part[rows] for part in (self.theta, self.delta, self.steps))
        )

    def shifted(self, weight: Any, times: float = 1.0) -> Any:
        """Rows [O, I] with their blocks moved by δ, as [O, B, I / B].

        Args:
            weight: The rows.
            times: What they are multiplied by already.
        """
        blocks = weight.reshape(*self.theta.shape, -1)
        if self.delta is None:
            return blocks
        return blocks + (times * self.delta * self.steps)[..., None]

    def applied(self, weight: Any, times: float = 1.0) -> Any:
        """Rows [O, I] as they are with both."""
        return (self.shifted(weight, times) * (1 + self.theta)[..., None]).reshape(weight.shape)

    def gradients(self, shifted: Any, whole: Any) -> tuple[Any, Any]:
        """Gradients of θ and of δ, [O, B], the second None where there is none.

        Args:
            shifted: What `shifted` gives.
            whole: Gradient of the rows as they are with both, [O, I].
        """
        blocks = whole.view_as(shifted)
        into_theta = (blocks * shifted).sum(-1)
        if self.delta is None:
            return into_theta, None
        return into_theta, blocks.sum(-1) * self.steps * (1 + self.theta)


def product(x: Any, weight: Any, moves: BlockMoves) -> Any:
    """Product of inputs [T, I] with the moved rows of a weight [O, I]: [T, O].

    The gradient of the whole matrix exists only while its backward pass runs.
    """
    return _function().apply(x, weight, moves.theta, moves.delta, moves.steps)


@cache
def _function() -> Any:
    """A class of torch: one for all, since what a class refers to stays in memory with it."""
    torch, _ = torch_modules()

    class MovedProduct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, theta: Any, delta: Any, steps: Any) -> Any:
            ctx.save_for_backward(x, weight, theta, delta, steps)
            return x @ BlockMoves(theta, delta, steps).applied(weight).T

        @staticmethod
        def backward(ctx: Any, given: Any) -> Any:
            x, weight, theta, delta, steps = ctx.saved_tensors
            moves = BlockMoves(theta, delta, steps)
            shifted = moves.shifted(weight)
            into_x = given @ (shifted * (1 + theta)[..., None]).view_as(weight)
            into_theta, into_delta = moves.gradients(shifted, given.T @ x)
            return into_x, None, into_theta, into_delta, None

    return MovedProduct


def free(module: Any, moves: BlockMoves) -> None:
    """Let a linear module multiply with moved rows from here on."""

    def forward(x: Any) -> Any:
        rows = product(x.reshape(-1, x.shape[-1]), module.weight, moves)
        out = rows.reshape(*x.shape[:-1], -1)
        return out if module.bias is None else out + module.bias

    module.forward = forward


def free_gain(module: Any, offset: Any, unit: float) -> None:
    """Let a norm have gains that are `offset` times `unit` larger from here on."""
    base = module.weight.detach()
    del module.weight  # from here on a plain attribute
    module.weight = base + unit * offset
