"""Accumulates the second moment of a site's inputs, in blocks along the diagonal.

Where the site is that of experts, also the second moment of what is routed to each of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.calibration.devices import torch_modules
from kanna.errors import KannaError
from kanna.formats import not_numbers

HELD_TOKENS = 1024
"""Inputs of so many held-out tokens are stored per site."""
EXPERT_VALUES = 1 << 26
"""Values of the second moments of all experts of a layer at one site, at most."""
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
        most_held: So many of them are saved at most.
    """

    most_held = HELD_TOKENS

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

    def arrays(self, site: str, *, shard: bool = False) -> dict[str, Any]:
        """Arrays to save, see `statistics`.

        Raises KannaError when squares of activations are beyond float32.

        Args:
            site: Its name.
            shard: Save what merging needs, too: every held-out input, and the number of tokens.
        """
        torch, _ = torch_modules()
        count = max(1, self.count)
        if not bool(torch.isfinite(self.second).all()):
            raise KannaError(
                f"the squares of the inputs at {site} are beyond float32",
                expected="activations below 1e18",
                todo=not_numbers.GROWN,
            )
        held = (
            torch.cat(self.held) if self.held else torch.zeros(0, self.columns, dtype=torch.float16)
        )
        return {
            f"{site}.second": (self.second / count).cpu().numpy(),
            f"{site}.mean": (self.total / count).cpu().numpy(),
            f"{site}.held": np.ascontiguousarray(held[:: 1 if shard else self.held_step()].numpy()),
        } | ({f"{site}.count": np.array([self.count], np.int64)} if shard else {})

    def held_step(self) -> int:
        """One in so many of the held-out inputs is saved."""
        return step_within(sum(map(len, self.held)), self.most_held)


def step_within(have: int, most: int) -> int:
    """One in so many of `have` leaves `most` at most."""
    return max(1, -(-have // most))


def block_of_experts(columns: int, widest: int, experts: int) -> int:
    """Width of the blocks of an expert's second moment: those of all take EXPERT_VALUES at most."""
    return block_of(columns, max(256, min(widest, EXPERT_VALUES // (experts * columns))))


class ExpertSums(InputSums):
    """The same for the inputs of a layer's experts: of all together, and of each.

    Attributes:
        block_each: Width of the blocks of an expert's second moment.
        each: Sum of x xᵀ of each expert, f32 [experts, columns / block_each, block_each,
            block_each].
        tokens: Tokens in the sums of each, int64 [experts].
        routes: Which experts held-out inputs go to, int32 [tokens, experts of a token] each.
    """

    most_held = 4 * HELD_TOKENS

    def __init__(self, columns: int, widest: int, experts: int, device: str) -> None:
        torch, _ = torch_modules()
        super().__init__(columns, block_of(columns, widest), device)
        block = self.block_each = block_of_experts(columns, widest, experts)
        self.each = torch.zeros(experts, columns // block, block, block, device=device)
        self.tokens = torch.zeros(experts, dtype=torch.int64)
        self.routes: list[Any] = []

    def route(self, x: Any, chosen: Any, held: bool) -> None:
        """Add inputs f32 [tokens, columns] and where they go, [tokens, experts of a token]."""
        torch, _ = torch_modules()
        self.add(x, held)
        if held:
            self.routes.append(chosen[::2].to(torch.int32).cpu())
            return
        for expert in range(len(self.each)):
            token = torch.where(chosen == expert)[0]
            if len(token):
                parts = x[token].reshape(len(token), -1, self.block_each).transpose(0, 1)
                self.each[expert].baddbmm_(parts.transpose(1, 2), parts)
                self.tokens[expert] += len(token)

    def arrays(self, site: str, *, shard: bool = False) -> dict[str, Any]:
        """Arrays to save, see `statistics`."""
        torch, _ = torch_modules()
        saved = super().arrays(site, shard=shard)
        routes = torch.cat(self.routes) if self.routes else torch.zeros(0, 1, dtype=torch.int32)
        step = 1 if shard else self.held_step()
        per_token = self.each / self.tokens.clamp(min=1).to(self.each)[:, None, None, None]
        squares = per_token.diagonal(dim1=2, dim2=3).reshape(len(per_token), -1)
        return saved | {
            f"{site}.experts": per_token.cpu().numpy(),
            f"{site}.squares": np.ascontiguousarray(squares.cpu().numpy()),
            f"{site}.tokens": self.tokens.numpy(),
            f"{site}.routes": np.ascontiguousarray(routes[::step].numpy()),
        }
