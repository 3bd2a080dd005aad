"""Rows of a matrix on a device: their values, and what stands for them in an encoding.

Shapes: rows x columns [R, C], sub-blocks [R, S], blocks [R, B].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.methods.device import bits
from kanna.methods.device.grids import BFLOAT, HALF, DeviceGrid, StoredNumber, WholeNumbers

_LARGEST_HALF = 65504.0


@dataclass(slots=True, kw_only=True)
class RowState:
    """Rows taken apart; every array float32 on the device.

    Attributes:
        w: The values that are wanted [R, C].
        level: [R, C].
        error: Value less what is wanted [R, C].
        d, dmin: Factors [R, B]; dmin is zero where there are no minima.
        scales, mins: WholeNumbers numbers [R, S].
        low: Lowest level of each sub-block [R, S].
    """

    grid: DeviceGrid
    w: Any
    level: Any
    error: Any
    d: Any
    dmin: Any
    scales: Any
    mins: Any
    low: Any

    def scale(self) -> Any:
        """Scale of each sub-block [R, S]."""
        return self.d.repeat_interleave(self.grid.subs, dim=1) * self.scales

    def offset(self) -> Any:
        """What is added to the values of each sub-block [R, S]."""
        return -(self.dmin.repeat_interleave(self.grid.subs, dim=1) * self.mins)

    def settle(self) -> None:
        """Errors as the file will give them, so that nothing rounded away in between counts."""
        span = self.grid.span
        value = self.scale().repeat_interleave(span, dim=1) * self.level
        value += self.offset().repeat_interleave(span, dim=1)
        self.error = value.sub_(self.w)


def opened(grid: DeviceGrid, w: Any, data: Any) -> RowState:
    """Rows float32 [R, C] and their bytes, uint8 [R, row bytes], taken apart."""
    import torch

    blocks = data.unflatten(1, (-1, grid.block_bytes))
    bit = bits.opened(blocks)
    rows = len(w)
    subs = w.shape[1] // grid.span

    def whole(part: WholeNumbers | None) -> Any:
        if part is None:
            return torch.ones(rows, subs, device=w.device)
        stored = bits.read(bit, part.places)
        if part.signed:
            stored -= (stored >> 7) << 8
        return (stored + part.added).flatten(1).float()

    scales = whole(grid.scales)
    if grid.fixed:
        places, meanings = grid.fixed
        table = torch.tensor(meanings, device=w.device)
        scales = table[bits.read(bit, places).flatten(1).long()]
    d = torch.ones(rows, blocks.shape[1], device=w.device)
    if grid.d:
        d = _number(blocks, grid.d)
    dmin = torch.zeros_like(d)
    if grid.dmin:
        dmin = _number(blocks, grid.dmin)
        dmin = -dmin if grid.bias else dmin
    low = torch.full_like(scales, grid.low)
    if grid.zero is not None:
        low = -bits.read(bit, grid.zero).flatten(1).float()
    state = RowState(
        grid=grid,
        w=w,
        level=_levels(grid, bits.read(bit, grid.codes).flatten(1), low),
        error=w,
        d=d,
        dmin=dmin,
        scales=scales,
        mins=whole(grid.mins),
        low=low,
    )
    state.settle()
    return state


def closed(state: RowState, data: Any) -> Any:
    """The bytes of rows, uint8 [R, row bytes]; what is not chosen stays as in `data`."""
    import torch

    grid = state.grid
    blocks = data.unflatten(1, (-1, grid.block_bytes)).clone()
    for number, value in ((grid.d, state.d), (grid.dmin, -state.dmin if grid.bias else state.dmin)):
        if number and grid.moving:
            _put_number(blocks, number, value)
    bit = bits.opened(blocks)
    for part, value in ((grid.scales, state.scales), (grid.mins, state.mins)):
        if part is not None:
            stored = value.to(torch.int32) - part.added
            bits.write(bit, part.places, stored.unflatten(1, (blocks.shape[1], -1)))
    codes = _codes(grid, state.level, state.low)
    bits.write(bit, grid.codes, codes.unflatten(1, (blocks.shape[1], -1)))
    return bits.closed(bit).flatten(1)


def round_number(x: Any, kind: str) -> Any:
    """The nearest value that a type of number holds, saturating."""
    import torch

    if kind == HALF:
        return x.clamp(-_LARGEST_HALF, _LARGEST_HALF).to(torch.float16).float()
    return x.to(torch.bfloat16).float() if kind == BFLOAT else x


def nearest(grid: DeviceGrid, x: Any, low: Any) -> Any:
    """The level that is nearest to each x; `low` as RowState.low has it, spread to its shape."""
    import torch

    if not grid.table:
        high = low + (grid.high - grid.low)
        return torch.minimum(torch.maximum(x, low), high).round()
    levels = torch.tensor(grid.levels, device=x.device)
    return levels[torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)]


def reciprocal(x: Any) -> Any:
    """1 / x, or 0 where x is too small for its reciprocal to be finite."""
    import torch

    usable = x.abs() > 1e-30
    return torch.where(usable, 1 / torch.where(usable, x, 1.0), 0.0)


def _kind(kind: str) -> Any:
    import torch

    return {HALF: torch.float16, BFLOAT: torch.bfloat16}.get(kind, torch.float32)


def _number(blocks: Any, number: StoredNumber) -> Any:
    """A number of every block, float32 [R, B]."""
    size = _kind(number.kind).itemsize
    part = blocks[..., number.byte : number.byte + size].contiguous()
    return part.view(_kind(number.kind))[..., 0].float()


def _put_number(blocks: Any, number: StoredNumber, value: Any) -> None:
    import torch

    kind = _kind(number.kind)
    part = round_number(value, number.kind).to(kind)[..., None].contiguous()
    blocks[..., number.byte : number.byte + kind.itemsize] = part.view(torch.uint8)


def _levels(grid: DeviceGrid, codes: Any, low: Any) -> Any:
    import torch

    if grid.table:
        return torch.tensor(grid.table, device=codes.device)[codes.long()]
    if grid.signed:
        codes -= (codes >> 7) << 8
    levels = (codes + grid.added).float()
    return levels if grid.zero is None else levels + low.repeat_interleave(grid.span, dim=1)


def _codes(grid: DeviceGrid, level: Any, low: Any) -> Any:
    import torch

    if not grid.table:
        if grid.zero is not None:
            level = level - low.repeat_interleave(grid.span, dim=1)
        return level.to(torch.int32) - grid.added
    levels = np.array(grid.levels)
    first = [grid.table.index(value) for value in grid.levels]
    at = torch.bucketize(level, torch.tensor(levels, dtype=torch.float32, device=level.device))
    return torch.tensor(first, dtype=torch.int32, device=level.device)[at]
