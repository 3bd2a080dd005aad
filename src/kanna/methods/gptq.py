"""gptq: scales by search, then columns are rounded one by one, each correcting earlier errors.

Error feedback under the second moment of the inputs (GPTQ, arXiv:2210.17323) with the columns in
order of use and scales held (static groups); then coordinate descent over codes, whole scales and
factors under the same moment, and both again, since the scales have moved. Where codes stand for
vectors (IQ1, IQ2, IQ3), eight neighbours are rounded together. A row that does not gain keeps what
`search` chose.

All that follows the search runs on the device of the second moment: in native code on the CPU, and
through torch on an accelerator (methods/device), whose sums may differ in their last place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanna import _native, encodings
from kanna.encodings.base import Encoding
from kanna.methods import channel_codes, device
from kanna.methods.base import UNKNOWN, Inputs, Method
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, U8

PASSES, ROUNDS = 2, 2
"""Passes of feedback, and rounds of coordinate descent in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Feedback(Method):
    def knows(self, encoding: Encoding) -> bool:
        """Whether there is error feedback for codes of an encoding; others get `search`."""
        return encoding.row_scale > 0 or _grid(encoding).name in _native.grids()

    def encode(
        self, encoding: Encoding, x: F32, inputs: Inputs = UNKNOWN, *, threads: int = 1
    ) -> U8:
        if encoding.row_scale and inputs.second_moment is not None and inputs.weights is not None:
            return channel_codes.encode(encoding, x, inputs.weights, inputs.second_moment)
        data = encoding.encode(
            x, method="search", weights=inputs.weights, threads=threads, guessed=inputs.guessed
        )
        second_moment = inputs.second_moment
        grid = _grid(encoding)
        if second_moment is None or grid.name not in _native.grids() or x.shape[1] % grid.block:
            return data
        if encoding.to_grid and encoding.from_grid:
            data = encoding.to_grid(data)
            return encoding.from_grid(_improve(grid, x, data, second_moment, threads))
        return _improve(grid, x, data, second_moment, threads)


def _grid(encoding: Encoding) -> Encoding:
    """The encoding whose codes an encoding's are, in another order or under another scale."""
    return encodings.get(encoding.grid) if encoding.grid else encoding


def _improve(encoding: Encoding, x: F32, data: U8, second_moment: SecondMoment, threads: int) -> U8:
    """Return `data`, uint8 [rows, row bytes], with every row that error feedback betters."""
    if second_moment.device != device.CPU and len(x) >= device.LEAST_ROWS:
        rows = device.better_rows(
            encoding.name, x, data, second_moment, passes=PASSES, rounds=ROUNDS
        )
        if rows is not None:
            return rows
    x, group = np.require(x, requirements=["C", "A"]), _native.grids()[encoding.name]
    for block in second_moment.blocks(device.factorizer(second_moment.device)):
        whole = block.stop - block.start == x.shape[1]
        columns = slice(block.start, block.stop)
        place = slice(encoding.row_bytes(block.start), encoding.row_bytes(block.stop))
        values = x if whole else np.ascontiguousarray(x[:, columns])
        codes = data if whole else np.ascontiguousarray(data[:, place])
        errors = np.empty((len(x), 2), np.float32)
        order, factors = block.factors_for(group)
        _native.feedback(
            encoding.name,
            values,
            codes,
            h=block.hessian,
            factors=factors,
            order=order,
            passes=PASSES,
            rounds=ROUNDS,
            errors=errors,
            threads=threads,
        )
        data[:, place] = codes
    return data


METHOD = _Feedback(
    name="gptq",
    summary="error feedback under calibrated statistics, then coordinate descent over codes and "
    "scales",
    needs_second_moment=True,
)
