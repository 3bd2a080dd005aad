"""The native core: block codecs and search kernels."""

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32, U8

I32 = NDArray[np.int32]

def encode(
    name: str, x: F32, out: U8, search: bool, weights: F32 | None, weighting: int, threads: int
) -> None:
    """Encode float32 [rows, columns] into uint8 [rows, row bytes]; weights float32 [columns]."""

def decode(name: str, data: U8, out: F32) -> None:
    """Decode uint8 [rows, row bytes] into float32 [rows, columns]."""

def row_powers(x: F32, w: F32, out: F32) -> None:
    """out[r] = sum over columns of x[r]² w, float32; one order of additions on every CPU."""

def to_bfloat16(x: F32, out: NDArray[np.uint16]) -> None:
    """Round float32 [rows, columns] to bfloat16, held as uint16; ties to even, NaN stays quiet."""

def add_low_rank(x: F32, left: F32, right: F32, factor: float, out: F32) -> None:
    """Out = x + factor · left · right, float32 [rows, columns]; one order of sums on every CPU."""

def count_nonfinite(x: F32) -> int:
    """Number of NaN and infinite values of float32 [rows, columns]."""

def simd() -> str:
    """Instruction set in use."""

def simd_available() -> list[str]:
    """Instruction sets this CPU can run, best first."""

def set_simd(isa: str) -> bool:
    """Use another instruction set; False when it is not available."""

def grids() -> dict[str, int]:
    """Encodings that feedback() knows, and how many neighbouring columns they round together."""

def feedback_factors(h: F32, order: I32, out: F32, threads: int) -> bool:
    """Factors float32 [n, n] of a second moment in `order`; False: not positive definite."""

def feedback(
    name: str,
    x: F32,
    data: U8,
    h: F32,
    factors: F32 | None,
    order: I32,
    rounds: int,
    errors: F32,
    threads: int,
    passes: int = 1,
) -> None:
    """Improve encoded rows uint8 [rows, row bytes] of float32 [rows, n] under h, in place.

    passes: of rounding in order, each followed by `rounds` of coordinate descent;
    errors: float32 [rows, 2], the errors of each row before and after
    """
