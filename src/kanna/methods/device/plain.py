"""Steps of error feedback in plain torch: the twin of kernels.py, for devices that have no Triton.

Each is what native/include/kanna/feedback.hpp does to a panel of columns, for all rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanna.methods.device.moments import DeviceMoment
from kanna.methods.device.rows import RowState, nearest, reciprocal, round_number

PANEL = 32
"""Columns that are rounded one after another before other columns hear of it."""


@dataclass(slots=True, kw_only=True)
class RowsAtWork:
    """Rows under a second moment.

    Attributes:
        gradient: H error [R, C]; while columns are rounded in order, what they are to become, in
            that order.
        ordered_level, ordered_error: Of columns in order [R, C].
    """

    state: RowState
    moment: DeviceMoment
    gradient: Any
    ordered_level: Any
    ordered_error: Any


def round_panel(work: RowsAtWork, first: int, last: int) -> None:
    """Round columns [first, last) of the order, each making up for the errors before it."""
    state, grid = work.state, work.state.grid
    columns = work.moment.order[first:last]
    subs = columns // grid.span
    scale, offset, low = state.scale()[:, subs], state.offset()[:, subs], state.low[:, subs]
    inverse = reciprocal(scale)
    w, m = state.w[:, columns], work.moment.m[first:last, first:last]
    target = work.gradient[:, first:last]
    for i in range(last - first):
        wanted = (target[:, i] - offset[:, i]) * inverse[:, i]
        level = nearest(grid, wanted, low[:, i])
        error = scale[:, i] * level + offset[:, i] - w[:, i]
        work.ordered_level[:, first + i] = level
        work.ordered_error[:, first + i] = error
        target[:, i + 1 :] -= error[:, None] * m[i, i + 1 :]


def improve_panel(work: RowsAtWork, first: int, last: int) -> Any:
    """Descend over whole scales, small blocks' factors and codes of columns [first, last).

    Returns:
        How far each error moved [R, last - first].
    """
    state, grid = work.state, work.state.grid
    h = work.moment.h[first:last, first:last]
    before = state.error[:, first:last].clone()
    gradient = work.gradient[:, first:last].clone()
    if grid.scales is not None:
        for at in range(first, last, grid.span):
            move = _improve_scale(state, h, gradient, first, at)
            gradient += move @ h[at - first : at - first + grid.span]
    if grid.moving and grid.block <= PANEL:
        for at in range(first, last, grid.block):
            inside = slice(at - first, at - first + grid.block)
            move = _refit(state, h[inside, inside], gradient[:, inside], at)
            gradient += move @ h[inside]
    _improve_columns(state, h, gradient, first)
    return state.error[:, first:last] - before


def _improve_scale(state: RowState, h: Any, gradient: Any, first: int, at: int) -> Any:
    """The best step of a whole scale, then of a whole minimum; how far each error moved."""
    import torch

    grid, sub, block = state.grid, at // state.grid.span, at // state.grid.block
    inside = slice(at - first, at - first + grid.span)
    level, curvature = state.level[:, at : at + grid.span], h[inside, inside]
    moves = torch.zeros_like(level)
    for whole, numbers in ((grid.scales, state.scales), (grid.mins, state.mins)):
        if whole is None:
            continue
        if whole is grid.scales:
            a = state.d[:, block, None] * level
        else:
            a = (-state.dmin[:, block, None]).expand_as(level)
        ha = a @ curvature
        slope = (a * gradient[:, inside] + ha * moves).sum(dim=1)
        bend = (a * ha).sum(dim=1)
        wanted = numbers[:, sub] - slope * reciprocal(bend)
        step = wanted.clamp(whole.low, whole.high).round() - numbers[:, sub]
        step = torch.where(step * (2 * slope + step * bend) < 0, step, 0.0)
        numbers[:, sub] += step
        moves += step[:, None] * a
    state.error[:, at : at + grid.span] += moves
    return moves


def refit(work: RowsAtWork, at: int) -> Any:
    """Solve for the factors of the block at a column with everything else held.

    Returns:
        How far each error moved [R, block].
    """
    block = slice(at, at + work.state.grid.block)
    return _refit(work.state, work.moment.h[block, block], work.gradient[:, block], at)


def _refit(state: RowState, h: Any, gradient: Any, at: int) -> Any:
    """Solve for the factors of the block at a column with everything else held.

    Args:
        state: The rows.
        h: The second moment of the block's columns.
        gradient: Theirs [R, block].
        at: The first of them.

    Returns:
        How far each error moved [R, block].
    """
    import torch

    grid = state.grid
    block, size = at // grid.block, grid.block
    subs = slice(at // grid.span, (at + size) // grid.span)
    a = state.scales[:, subs].repeat_interleave(grid.span, dim=1) * state.level[:, at : at + size]
    ha = a @ h
    aa, ag = (a * ha).sum(dim=1), (a * gradient).sum(dim=1)
    ab = bb = bg = torch.zeros_like(aa)
    b = torch.zeros_like(a)
    if grid.moving == 2:
        b = -state.mins[:, subs].repeat_interleave(grid.span, dim=1)
        hb = b @ h
        ab, bb, bg = (a * hb).sum(dim=1), (b * hb).sum(dim=1), (b * gradient).sum(dim=1)
    determinant = aa * bb - ab * ab
    both = determinant > aa * bb * 1e-4
    inverse = 1 / torch.where(both, determinant, 1.0)
    d, dmin = state.d[:, block], state.dmin[:, block]
    wanted = d + torch.where(both, (ab * bg - bb * ag) * inverse, -ag * reciprocal(aa))
    wanted_min = dmin + torch.where(both, (ab * ag - aa * bg) * inverse, 0.0)
    kind = grid.d.kind if grid.d else ""
    step = round_number(wanted, kind) - d
    step_min = round_number(wanted_min, kind) - dmin if grid.moving == 2 else torch.zeros_like(d)
    change = step * (2 * ag + step * aa + 2 * step_min * ab) + step_min * (2 * bg + step_min * bb)
    better = change < 0
    if grid.mins is not None:  # such types subtract what is positive
        better &= (wanted > 0) & (wanted_min >= 0)
    step, step_min = torch.where(better, step, 0.0), torch.where(better, step_min, 0.0)
    d += step
    dmin += step_min
    moves = step[:, None] * a + step_min[:, None] * b
    state.error[:, at : at + size] += moves
    return moves


def _improve_columns(state: RowState, h: Any, gradient: Any, first: int) -> None:
    """Coordinate descent over codes."""
    import torch

    grid, width = state.grid, len(h)
    columns = torch.arange(first, first + width, device=h.device)
    blocks, subs = columns // grid.block, columns // grid.span
    scale = state.d[:, blocks] * state.scales[:, subs]
    offset = -(state.dmin[:, blocks] * state.mins[:, subs])
    inverse, low = reciprocal(scale), state.low[:, subs]
    for i in range(width):
        w, error = state.w[:, first + i], state.error[:, first + i]
        curvature, slope = h[i, i], gradient[:, i]
        wanted = (w + error - slope / curvature - offset[:, i]) * inverse[:, i]
        level = nearest(grid, wanted, low[:, i])
        move = scale[:, i] * level + offset[:, i] - w - error
        better = move * (2 * slope + move * curvature) < 0
        move = torch.where(better, move, 0.0)
        state.level[:, first + i] = torch.where(better, level, state.level[:, first + i])
        error += move
        gradient[:, i + 1 :] += move[:, None] * h[i, i + 1 :]
