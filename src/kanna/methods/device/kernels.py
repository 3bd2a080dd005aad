"""Steps of error feedback by Triton's kernels: the twin of plain.py."""

from __future__ import annotations

from functools import cache
from typing import Any

import triton

from kanna.methods.device.grids import BFLOAT, HALF, DeviceGrid, grid_of
from kanna.methods.device.moments import DeviceMoment
from kanna.methods.device.plain import PANEL, RowsAtWork
from kanna.methods.device.programs import (
    KernelArrays,
    KernelPlace,
    KernelShape,
    improve_kernel,
    refit_kernel,
    round_kernel,
)
from kanna.methods.device.rows import opened

ROWS, WARPS = 16, 4
"""Rows of a program, and its warps."""
_KINDS = {HALF: 1, BFLOAT: 2}


def round_panel(work: RowsAtWork, first: int, last: int) -> None:
    """Round columns [first, last) of the order; see plain.round_panel."""
    arrays = _arrays(work, work.moment.m, work.moment.order)._replace(
        level=work.ordered_level, error=work.ordered_error
    )
    _launch(round_kernel, work, arrays, first, last)


def improve_panel(work: RowsAtWork, first: int, last: int) -> Any:
    """Descend over columns [first, last); see plain.improve_panel."""
    moves = work.state.w.new_empty(len(work.state.w), PANEL)
    _launch(improve_kernel, work, _arrays(work, work.moment.h, moves), first, last)
    return moves[:, : last - first]


def refit(work: RowsAtWork, at: int) -> Any:
    """Solve for the factors of the block at a column; see plain.refit."""
    block = work.state.grid.block
    moves = work.state.w.new_empty(len(work.state.w), block)
    _launch(refit_kernel, work, _arrays(work, work.moment.h, moves), at, at + block)
    return moves


def try_out(device: Any) -> None:
    """Round one panel of zeros; raises whatever Triton does where it cannot be used."""
    import torch

    grid = grid_of("q8_0")
    assert grid is not None
    w = torch.zeros(1, PANEL, device=device)
    data = torch.zeros(1, grid.block_bytes, dtype=torch.uint8, device=device)
    order = torch.arange(PANEL, device=device)
    square = torch.eye(PANEL, device=device)
    moment = DeviceMoment(start=0, stop=PANEL, h=square, m=square, order=order, place=order)
    work = RowsAtWork(
        state=opened(grid, w, data), moment=moment, gradient=w, ordered_level=w, ordered_error=w
    )
    round_panel(work, 0, PANEL)
    torch.cuda.synchronize(device)


def _launch(kernel: Any, work: RowsAtWork, arrays: KernelArrays, first: int, last: int) -> None:
    rows, columns = work.state.w.shape
    place = KernelPlace(rows=rows, columns=columns, first=first, last=last)
    kernel[(triton.cdiv(rows, ROWS),)](arrays, place, _shape(work.state.grid), num_warps=WARPS)


def _arrays(work: RowsAtWork, matrix: Any, extra: Any) -> KernelArrays:
    state = work.state
    return KernelArrays(
        w=state.w,
        level=state.level,
        error=state.error,
        gradient=work.gradient,
        d=state.d,
        dmin=state.dmin,
        scales=state.scales,
        mins=state.mins,
        low=state.low,
        matrix=matrix,
        extra=extra,
        levels=_levels(state.grid, str(state.w.device)),
    )


@cache
def _levels(grid: DeviceGrid, device: str) -> Any:
    """Levels of a table, then the middles between them; else a place that nobody reads."""
    import torch

    levels = torch.tensor(grid.levels or (0.0, 0.0), dtype=torch.float32)
    return torch.cat([levels, (levels[1:] + levels[:-1]) / 2]).to(device)


@cache
def _shape(grid: DeviceGrid) -> KernelShape:
    return KernelShape(
        rows=ROWS,
        panel=PANEL,
        span=grid.span,
        block=grid.block,
        table=len(grid.levels),
        reach=grid.high - grid.low,
        bottom=grid.scales.low if grid.scales else 0,
        top=grid.scales.high if grid.scales else 0,
        highest_min=grid.mins.high if grid.mins else 0,
        moving=grid.moving if grid.block <= PANEL else 0,
        moving_whole=grid.moving,
        kind=_KINDS.get(grid.d.kind if grid.d else "", 0),
        positive=grid.mins is not None,
    )
