"""Accumulates the second moment of a site's inputs, in blocks along the diagonal."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.calibration.network import torch_modules
from kanna.errors import KannaError

HELD_TOKENS = 1024
"""Inputs of so many held-out tokens are stored per site."""
_HALF = 65504.0
"""Largest half-precision value: some models have activations beyond it."""


def block_of(columns: int, widest: int) -> int:
    """Width of the blocks of a second moment.

    It is all columns, or the largest multiple of 256 within `widest` that divides them.
    """
    if columns <= widest:
        return columns
    fitting = [b for b in range(256, widest + 1, 256) if columns % b == 0]
    return max(fitting, default=columns)


class InputSums:
    """Sums over the inputs of one site, on the device of the network.

    Attributes:
        columns: Columns of the inputs.
        block: Width of the blocks of the second moment.
        second: Sum of x xᵀ, f32 [columns / block, block, block].
        total: Sum of x, f32 [columns].
        count: Tokens in the sums.
        held: Held-out inputs, f16 [tokens, columns] each.
    """

    def __init__(self, columns: int, block: int, device: str) -> None:
        torch, _ = torch_modules()
        self.columns, self.block = columns, block
        self.second = torch.zeros(columns // block, block, block, device=device)
        self.total = torch.zeros(columns, device=device)
        self.count = 0
        self.held: list[Any] = []

    def add(self, x: Any, held: bool) -> None:
        """Add inputs f32 [tokens, columns]; `held` ones are stored and stay out of the sums."""
        torch, _ = torch_modules()
        if held:
            self.held.append(x[::2].clamp(-_HALF, _HALF).to(torch.float16).cpu())
            return
        parts = x.reshape(len(x), -1, self.block).transpose(0, 1)
        self.second.baddbmm_(parts.transpose(1, 2), parts)
        self.total += x.sum(0)
        self.count += len(x)

    def arrays(self, site: str) -> dict[str, Any]:
        """Arrays to save, see `statistics`.

        Raises KannaError when squares of activations are beyond float32.
        """
        torch, _ = torch_modules()
        count = max(1, self.count)
        if not bool(torch.isfinite(self.second).all()):
            raise KannaError(
                f"the squares of the inputs at {site} are beyond float32",
                expected="activations below 1e18",
                todo="check the weights: `kanna inspect SRC --tensors`",
            )
        held = (
            torch.cat(self.held) if self.held else torch.zeros(0, self.columns, dtype=torch.float16)
        )
        step = max(1, -(-len(held) // HELD_TOKENS))
        return {
            f"{site}.second": (self.second / count).cpu().numpy(),
            f"{site}.mean": (self.total / count).cpu().numpy(),
            f"{site}.held": np.ascontiguousarray(held[::step].numpy()),
        }
