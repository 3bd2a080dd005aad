"""Steps of error feedback as programs of Triton; kernels.py starts them.

A program has a few rows of a panel in registers. Columns go one after another; each is rounded with
all others of the panel, of which only its own result counts, so that no register is looked up by a
number that is not known when the kernel is compiled. What columns were rounded to is computed
again at the end, when all targets are final.
"""

# What a kernel gets has no type that a checker knows.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class KernelArrays(NamedTuple):
    """Where the arrays of `RowsAtWork` and its state begin; rows follow one another.

    `matrix` is h, or m where columns are rounded in order. `extra` is how far errors moved
    [R, PANEL], or the order. `levels` are those of a table, then the middles between them.
    """

    w: Any
    level: Any
    error: Any
    gradient: Any
    d: Any
    dmin: Any
    scales: Any
    mins: Any
    low: Any
    matrix: Any
    extra: Any
    levels: Any


class KernelPlace(NamedTuple):
    """How many rows and columns there are, and the columns of the panel."""

    rows: Any
    columns: Any
    first: Any
    last: Any


class KernelShape(NamedTuple):
    """What a kernel is compiled for.

    `table` is how many levels a table has, or 0; `reach` the distance from the lowest level to the
    highest; `top` is not above `bottom` where there are no whole scales; `moving` how many factors
    of blocks move that lie within a panel, `moving_whole` those of any block.
    """

    rows: int
    panel: int
    span: int
    block: int
    table: int
    reach: int
    bottom: int
    top: int
    highest_min: int
    moving: int
    moving_whole: int
    kind: int
    positive: bool


@triton.jit
def _nearest(x, low, levels, shape: tl.constexpr):
    """The nearest level, ties of whole numbers to even ones."""
    if shape.table == 0:
        within = tl.minimum(tl.maximum(x, low), low + shape.reach)
        out = (within + 12582912.0) - 12582912.0
    else:
        out = tl.zeros_like(x) + tl.load(levels)
        for k in tl.static_range(shape.table - 1):
            step = tl.load(levels + k + 1) - tl.load(levels + k)
            out += tl.where(x > tl.load(levels + shape.table + k), step, 0.0)
    return out


@triton.jit
def _reciprocal(x):
    """1 / x, or 0 where x is too small."""
    usable = tl.abs(x) > 1e-30
    return tl.where(usable, 1.0 / tl.where(usable, x, 1.0), 0.0)


@triton.jit
def _stored(x, kind: tl.constexpr):
    """The nearest value of a type of number."""
    out = x
    if kind == 1:
        out = tl.minimum(tl.maximum(x, -65504.0), 65504.0).to(tl.float16).to(tl.float32)
    elif kind == 2:
        # By its bits, since Triton's interpreter cuts them off.
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        out = bits.to(tl.float32, bitcast=True)
    return out


@triton.jit
def _numbers(arrays, place, shape: tl.constexpr, row, column):
    """Of the values of columns int [panel]: d, dmin, scales, mins and low, [rows, panel] each."""
    real = (row < place.rows) & (column < place.columns)[None, :]
    blocks, subs = place.columns // shape.block, place.columns // shape.span
    block = row * blocks + (column // shape.block)[None, :]
    sub = row * subs + (column // shape.span)[None, :]
    d = tl.load(arrays.d + block, mask=real, other=0.0)
    dmin = tl.load(arrays.dmin + block, mask=real, other=0.0)
    scales = tl.load(arrays.scales + sub, mask=real, other=0.0)
    mins = tl.load(arrays.mins + sub, mask=real, other=0.0)
    low = tl.load(arrays.low + sub, mask=real, other=0.0)
    return d, dmin, scales, mins, low


@triton.jit
def round_kernel(arrays, place, shape: tl.constexpr):
    """Round a panel of columns in order, each making up for the errors before it."""
    i = tl.arange(0, shape.panel)
    row = (tl.program_id(0) * shape.rows + tl.arange(0, shape.rows)).to(tl.int64)[:, None]
    p = place.first + i
    inside = p < place.last
    real = (row < place.rows) & inside[None, :]
    column = tl.load(arrays.extra + p, mask=inside, other=0)
    at = row * place.columns + p[None, :]
    target = tl.load(arrays.gradient + at, mask=real, other=0.0)
    w = tl.load(arrays.w + row * place.columns + column[None, :], mask=real, other=0.0)
    d, dmin, scales, mins, low = _numbers(arrays, place, shape, row, column)
    scale, offset = d * scales, -(dmin * mins)
    inverse = _reciprocal(scale)
    line = arrays.matrix + (tl.zeros_like(p) + place.first).to(tl.int64) * place.columns + p
    for k in range(shape.panel):
        level = _nearest((target - offset) * inverse, low, arrays.levels, shape)
        error = scale * level + offset - w
        own = tl.sum(tl.where(i[None, :] == k, error, 0.0), axis=1)
        # Zero for columns that were rounded already.
        factors = tl.load(line + k * place.columns, mask=inside, other=0.0)
        target -= own[:, None] * factors[None, :]
    level = _nearest((target - offset) * inverse, low, arrays.levels, shape)
    tl.store(arrays.level + at, level, mask=real)
    tl.store(arrays.error + at, scale * level + offset - w, mask=real)


@triton.jit
def _best_step(a, ha, gradient, number, low, high):
    """The best step of whole numbers [rows, 1] along a, if it is one."""
    slope = tl.sum(a * gradient, axis=1)[:, None]
    bend = tl.sum(a * ha, axis=1)[:, None]
    wanted = number - slope * _reciprocal(bend)
    wanted = tl.minimum(tl.maximum(wanted, low), high)
    step = (wanted + 12582912.0) - 12582912.0 - number
    return tl.where(step * (2.0 * slope + step * bend) < 0.0, step, 0.0)


@triton.jit
def _sums(a, b):
    return tl.sum(a * b, axis=1)[:, None]


@triton.jit
def _solved(sums, now, shape: tl.constexpr):
    """Steps of d and dmin [rows, 1] that are solved for together, where they are better.

    `sums`: a'Ha, a'Hb, b'Hb, a'g and b'g, where d goes along a, dmin along b, g is the gradient.
    """
    aa, ab, bb, ag, bg = sums
    determinant = aa * bb - ab * ab
    both = determinant > aa * bb * 1e-4
    inverse = 1.0 / tl.where(both, determinant, 1.0)
    d, dmin = now[0], now[1]
    wanted = d + tl.where(both, (ab * bg - bb * ag) * inverse, -ag * _reciprocal(aa))
    wanted_min = dmin + tl.where(both, (ab * ag - aa * bg) * inverse, 0.0)
    step = _stored(wanted, shape.kind) - d
    step_min = tl.zeros_like(step)
    if shape.moving_whole == 2:
        step_min = _stored(wanted_min, shape.kind) - dmin
    change = step * (2.0 * ag + step * aa + 2.0 * step_min * ab)
    better = change + step_min * (2.0 * bg + step_min * bb) < 0.0
    if shape.positive:
        better = better & (wanted > 0.0) & (wanted_min >= 0.0)
    return tl.where(better, step, 0.0), tl.where(better, step_min, 0.0)


@triton.jit
def _scale_steps(arrays, place, shape: tl.constexpr, row, h, now):
    """Whole scales, then whole minima, of one sub-block after another.

    `now`: level, d, dmin, scales, mins, error and gradient [rows, panel]; the last four come back.
    """
    level, d, dmin, scales, mins, error, gradient = now
    i = tl.arange(0, shape.panel)
    for s in tl.static_range(shape.panel // shape.span):
        live = (row < place.rows) & (place.first + s * shape.span < place.last)
        sub = row * (place.columns // shape.span) + place.first // shape.span + s
        mine = (i // shape.span == s)[None, :]
        number = tl.load(arrays.scales + sub, mask=live, other=0.0)
        a = tl.where(mine, d * level, 0.0)
        ha = tl.dot(a, h, input_precision="ieee")
        step = _best_step(a, ha, gradient, number, shape.bottom, shape.top)
        tl.store(arrays.scales + sub, number + step, mask=live)
        scales = tl.where(mine, number + step, scales)
        error += step * a
        gradient += step * ha
        if shape.highest_min > 0:
            number = tl.load(arrays.mins + sub, mask=live, other=0.0)
            a = tl.where(mine, -dmin, 0.0)
            ha = tl.dot(a, h, input_precision="ieee")
            step = _best_step(a, ha, gradient, number, 0, shape.highest_min)
            tl.store(arrays.mins + sub, number + step, mask=live)
            mins = tl.where(mine, number + step, mins)
            error += step * a
            gradient += step * ha
    return scales, mins, error, gradient


@triton.jit
def _block_steps(arrays, place, shape: tl.constexpr, row, h, now):
    """Factors of one block after another, where blocks lie within the panel.

    `now`: level, scales, mins, d, dmin, error and gradient [rows, panel]; the last four come back.
    """
    level, scales, mins, d, dmin, error, gradient = now
    i = tl.arange(0, shape.panel)
    for s in tl.static_range(shape.panel // shape.block):
        live = (row < place.rows) & (place.first + s * shape.block < place.last)
        block = row * (place.columns // shape.block) + place.first // shape.block + s
        mine = (i // shape.block == s)[None, :]
        a = tl.where(mine, scales * level, 0.0)
        b = tl.where(mine & (shape.moving == 2), -mins, 0.0)
        d_now = tl.load(arrays.d + block, mask=live, other=0.0)
        dmin_now = tl.load(arrays.dmin + block, mask=live, other=0.0)
        ha = tl.dot(a, h, input_precision="ieee")
        hb = tl.dot(b, h, input_precision="ieee")
        sums = (
            _sums(a, ha),
            _sums(a, hb),
            _sums(b, hb),
            _sums(a, gradient),
            _sums(b, gradient),
        )
        step, step_min = _solved(sums, (d_now, dmin_now), shape)
        tl.store(arrays.d + block, d_now + step, mask=live)
        tl.store(arrays.dmin + block, dmin_now + step_min, mask=live)
        d = tl.where(mine, d_now + step, d)
        dmin = tl.where(mine, dmin_now + step_min, dmin)
        error += step * a + step_min * b
        gradient += step * ha + step_min * hb
    return d, dmin, error, gradient


@triton.jit
def _directions(arrays, place, shape: tl.constexpr, row, column):
    """Along which d and dmin move the values of columns int [panel]; [rows, panel] each."""
    real = row < place.rows
    sub = row * (place.columns // shape.span) + (column // shape.span)[None, :]
    level = tl.load(arrays.level + row * place.columns + column[None, :], mask=real, other=0.0)
    a = tl.load(arrays.scales + sub, mask=real, other=0.0) * level
    b = tl.zeros_like(a)
    if shape.moving_whole == 2:
        b = -tl.load(arrays.mins + sub, mask=real, other=0.0)
    return a, b


@triton.jit
def refit_kernel(arrays, place, shape: tl.constexpr):
    """Solve for the factors of one block that is wider than a panel, a panel at a time."""
    i = tl.arange(0, shape.panel)
    row = (tl.program_id(0) * shape.rows + tl.arange(0, shape.rows)).to(tl.int64)[:, None]
    real = row < place.rows
    zero = (row * 0).to(tl.float32)
    aa, ab, bb, ag, bg = zero, zero, zero, zero, zero
    for part in range(shape.block // shape.panel):
        column = place.first + part * shape.panel + i
        a, b = _directions(arrays, place, shape, row, column)
        ha, hb = tl.zeros_like(a), tl.zeros_like(a)
        for other in range(shape.block // shape.panel):
            across = place.first + other * shape.panel + i
            a_other, b_other = _directions(arrays, place, shape, row, across)
            line = across.to(tl.int64)[:, None] * place.columns
            h = tl.load(arrays.matrix + line + column[None, :])
            ha += tl.dot(a_other, h, input_precision="ieee")
            if shape.moving_whole == 2:
                hb += tl.dot(b_other, h, input_precision="ieee")
        at = row * place.columns + column[None, :]
        gradient = tl.load(arrays.gradient + at, mask=real, other=0.0)
        aa += _sums(ha, a)
        ab += _sums(hb, a)
        bb += _sums(hb, b)
        ag += _sums(gradient, a)
        bg += _sums(gradient, b)
    block = row * (place.columns // shape.block) + place.first // shape.block
    d = tl.load(arrays.d + block, mask=real, other=0.0)
    dmin = tl.load(arrays.dmin + block, mask=real, other=0.0)
    step, step_min = _solved((aa, ab, bb, ag, bg), (d, dmin), shape)
    tl.store(arrays.d + block, d + step, mask=real)
    tl.store(arrays.dmin + block, dmin + step_min, mask=real)
    for part in range(shape.block // shape.panel):
        inner = part * shape.panel + i
        a, b = _directions(arrays, place, shape, row, place.first + inner)
        move = step * a + step_min * b
        at = row * place.columns + place.first + inner[None, :]
        error = tl.load(arrays.error + at, mask=real, other=0.0)
        tl.store(arrays.error + at, error + move, mask=real)
        tl.store(arrays.extra + row * shape.block + inner[None, :], move, mask=real)


@triton.jit
def _code_step(arrays, shape: tl.constexpr, numbers, curvature, now):
    """What each column would be rounded to, how far that is, and whether it is better."""
    scale, offset, inverse, low = numbers
    w, error, gradient = now
    wanted = (w + error - gradient * (1.0 / curvature) - offset) * inverse
    level = _nearest(wanted, low, arrays.levels, shape)
    move = scale * level + offset - w - error
    return level, move, move * (2.0 * gradient + move * curvature) < 0.0


@triton.jit
def improve_kernel(arrays, place, shape: tl.constexpr):
    """Descend over whole scales, factors of blocks within the panel, and codes."""
    i = tl.arange(0, shape.panel)
    row = (tl.program_id(0) * shape.rows + tl.arange(0, shape.rows)).to(tl.int64)[:, None]
    column = place.first + i
    inside = column < place.last
    real = (row < place.rows) & inside[None, :]
    at = row * place.columns + column[None, :]
    w = tl.load(arrays.w + at, mask=real, other=0.0)
    level = tl.load(arrays.level + at, mask=real, other=0.0)
    error = tl.load(arrays.error + at, mask=real, other=0.0)
    gradient = tl.load(arrays.gradient + at, mask=real, other=0.0)
    line = arrays.matrix + (tl.zeros_like(column) + place.first).to(tl.int64) * place.columns
    square = line[:, None] + i[:, None] * place.columns + column[None, :]
    h = tl.load(square, mask=inside[:, None] & inside[None, :], other=0.0)
    d, dmin, scales, mins, low = _numbers(arrays, place, shape, row, column)
    before = error
    if shape.top > shape.bottom:
        now = (level, d, dmin, scales, mins, error, gradient)
        scales, mins, error, gradient = _scale_steps(arrays, place, shape, row, h, now)
    if shape.moving > 0:
        now = (level, scales, mins, d, dmin, error, gradient)
        d, dmin, error, gradient = _block_steps(arrays, place, shape, row, h, now)
    scale = d * scales
    numbers = (scale, -(dmin * mins), _reciprocal(scale), low)
    curvature = tl.load(line + i * place.columns + column, mask=inside, other=1.0)[None, :]
    for k in range(shape.panel):
        _, move, better = _code_step(arrays, shape, numbers, curvature, (w, error, gradient))
        own = tl.sum(tl.where((i[None, :] == k) & better, move, 0.0), axis=1)
        later = tl.load(line + k * place.columns + column, mask=inside & (i > k), other=0.0)
        gradient += own[:, None] * later[None, :]
    rounded, move, better = _code_step(arrays, shape, numbers, curvature, (w, error, gradient))
    error = tl.where(better, error + move, error)
    tl.store(arrays.level + at, tl.where(better, rounded, level), mask=real)
    tl.store(arrays.error + at, error, mask=real)
    tl.store(arrays.extra + row * shape.panel + i[None, :], error - before, mask=row < place.rows)
