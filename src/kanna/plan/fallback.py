"""What a tensor gets when its rows are not a whole number of blocks.

Blocks of most small encodings are 256 values long, and many small models have rows of 576, 640, 896
or 1152 values. Each encoding names its `fallback`, which is llama.cpp's (llama-quant.cpp), so
that a preset takes the same bytes here as there.
"""

from __future__ import annotations

from kanna import encodings
from kanna.encodings import Encoding
from kanna.encodings.grouped.affine import NUMBERS, name_of

LAST = "f16"


def feasible(wanted: Encoding, cols: int) -> tuple[Encoding, str]:
    """The encoding that rows of `cols` values can have in place of `wanted`, and why.

    The reason is "" when `wanted` fits.
    """
    if cols % wanted.block == 0:
        return wanted, ""
    reason = f"{cols} columns are not a multiple of {wanted.block}"
    if wanted.planes:
        return _smaller_group(wanted, cols), reason
    other = encodings.get(wanted.fallback or LAST)
    if cols % other.block:
        return encodings.get(LAST), reason + f", nor of {other.block}"
    return other, reason


def _smaller_group(wanted: Encoding, cols: int) -> Encoding:
    """The same width in smaller groups; where none divides the rows, the type of the scales."""
    number = wanted.planes[1].dtype
    if wanted.settings["mode"] == "affine":
        for group in (64, 32):
            if group < wanted.block and cols % group == 0:
                return encodings.get(name_of(int(wanted.settings["bits"]), group, number))
    return encodings.get(number if number in NUMBERS else "bf16")
