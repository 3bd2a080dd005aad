"""Error feedback of many rows at once on a device: the passes of native/include/kanna/tiles.hpp.

Columns go panel by panel within a tile, and tile by tile; what a panel means for the columns after
it is one product of matrices. So is the gradient. Scales come from a search on the CPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from kanna.methods.device import plain
from kanna.methods.device import rows as taken_apart
from kanna.methods.device.grids import DeviceGrid
from kanna.methods.device.moments import DeviceMoment
from kanna.methods.device.plain import PANEL, RowsAtWork
from kanna.methods.device.remarks import remarks

TILE = 256
"""Columns that are gone through together; blocks lie within."""


def improved(
    grid: DeviceGrid, moment: DeviceMoment, w: Any, data: Any, *, passes: int, rounds: int
) -> Any:
    """Bytes of rows, bettered where error feedback betters them.

    Args:
        grid: How they are encoded.
        moment: The second moment of all their columns.
        w: What the rows should be, float32 [R, C] on the device of the moment.
        data: Where to begin, uint8 [R, row bytes] there.
        passes: Passes of rounding in order.
        rounds: Rounds of coordinate descent in each.

    Returns:
        uint8 [R, row bytes].
    """
    import torch

    steps = _steps(w.device.type)
    state = taken_apart.opened(grid, w, data)
    work = RowsAtWork(
        state=state,
        moment=moment,
        gradient=state.error @ moment.h,
        ordered_level=torch.empty_like(w),
        ordered_error=torch.empty_like(w),
    )
    least = (work.gradient * state.error).sum(dim=1)
    for _ in range(passes):
        _round(work, steps)
        work.gradient = state.error @ moment.h
        for turn in range(rounds):
            _descend(work, steps, last=turn + 1 == rounds)
        state.settle()
        now = ((state.error @ moment.h) * state.error).sum(dim=1)
        better = now < least
        least = torch.where(better, now, least)
        data = torch.where(better[:, None], taken_apart.closed(state, data), data)
    return data


def _steps(device: str) -> Any:
    """Kernels where Triton makes them, else plain torch."""
    return _kernels() or plain if device == "cuda" else plain


@cache
def _kernels() -> Any | None:
    """The module of kernels, if it can be used: Triton needs a C compiler besides, for one."""
    import torch

    try:
        from kanna.methods.device import kernels

        kernels.try_out(torch.device("cuda"))
    except Exception as error:  # whatever a compiler may raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        remarks.add(f"gptq computes without Triton's kernels, which is slower: {reason}")
        return None
    return kernels


def _round(work: RowsAtWork, steps: Any) -> None:
    """Every column rounded to make up for the errors before it, in order."""
    state, m = work.state, work.moment.m
    work.gradient = target = state.w.index_select(1, work.moment.order)
    total = target.shape[1]
    for first in range(0, total, TILE):
        last = min(first + TILE, total)
        for at in range(first, last, PANEL):
            end = min(at + PANEL, last)
            steps.round_panel(work, at, end)
            if end < last:
                step = work.ordered_error[:, at:end]
                target[:, end:last].addmm_(step, m[at:end, end:last], alpha=-1)
        if last < total:
            step = work.ordered_error[:, first:last]
            target[:, last:].addmm_(step, m[first:last, last:], alpha=-1)
    state.level = work.ordered_level.index_select(1, work.moment.place)
    state.error = work.ordered_error.index_select(1, work.moment.place)


def _descend(work: RowsAtWork, steps: Any, *, last: bool) -> None:
    """Descent, a tile after another; `last`: nobody reads the gradient of columns passed."""
    state, h, gradient = work.state, work.moment.h, work.gradient
    grid, total = state.grid, gradient.shape[1]
    for first in range(0, total, TILE):
        stop = min(first + TILE, total)
        tile = slice(first, stop)
        before = state.error[:, tile].clone()
        if grid.moving and grid.block > PANEL:
            for at in range(first, stop, grid.block):
                move = steps.refit(work, at)
                gradient[:, tile].addmm_(move, h[at : at + grid.block, tile])
        for at in range(first, stop, PANEL):
            end = min(at + PANEL, stop)
            move = steps.improve_panel(work, at, end)
            gradient[:, tile].addmm_(move, h[at:end, tile])
        step = state.error[:, tile] - before
        if first and not last:
            gradient[:, :first].addmm_(step, h[tile, :first])
        if stop < total:
            gradient[:, stop:].addmm_(step, h[tile, stop:])
