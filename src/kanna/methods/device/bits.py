"""Where in a block the bits of its codes lie, and how they are read and written all at once.

A place is the number of a bit of the block, byte by byte, the lowest bit of a byte first. The
places of a field are int64 [values, bits], the lowest bit of a value first. So each of ggml's
layouts (ggml-common.h) is a table, and two functions serve them all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


def stream(byte: int, width: int, count: int) -> I64:
    """Places of `count` values of `width` bits that follow one another from a byte on."""
    return 8 * byte + np.arange(count * width).reshape(count, width)


def runs(byte: int, width: int, run: int, count: int) -> I64:
    """Places of values that share bytes with those `run` values further on.

    A run of bytes holds 8 / width runs of values, the first in the lowest bits.
    """
    group, rest = np.divmod(np.arange(count), run * (8 // width))
    shift, at = np.divmod(rest, run)
    return (8 * (byte + group * run + at) + width * shift)[:, None] + np.arange(width)


def with_high(low: I64, high: I64) -> I64:
    """Places of values whose upper bits lie elsewhere."""
    return np.concatenate([low, high], axis=1)


def opened(data: Any) -> Any:
    """Bits of uint8 [rows, blocks, bytes], as uint8 [rows, blocks, 8 * bytes]."""
    import torch

    shifts = torch.arange(8, device=data.device, dtype=torch.uint8)
    return ((data[..., None] >> shifts) & 1).flatten(-2)


def closed(bits: Any) -> Any:
    """Bytes of uint8 [rows, blocks, 8 * bytes], as uint8 [rows, blocks, bytes]."""
    import torch

    eights = bits.unflatten(-1, (-1, 8))
    out = torch.zeros_like(eights[..., 0])
    for place in range(8):
        out |= eights[..., place] << place
    return out


def read(bits: Any, places: I64) -> Any:
    """Values of a field, int32 [rows, blocks, values]."""
    import torch

    out = None
    for power, column in enumerate(places.T):
        part = bits[..., torch.from_numpy(column.copy()).to(bits.device)].int() << power
        out = part if out is None else out | part
    return out


def write(bits: Any, places: I64, values: Any) -> None:
    """Put values, int32 [rows, blocks, values], in their places."""
    import torch

    for power, column in enumerate(places.T):
        at = torch.from_numpy(column.copy()).to(bits.device)
        bits[..., at] = ((values >> power) & 1).to(torch.uint8)
