"""What a tensor gets when its rows are not a whole number of blocks.

Blocks of most small encodings are 256 values long, and many small models have rows of 576, 640, 896 or
1152 values. The table is llama.cpp's (llama-quant.cpp), so that a preset takes the same bytes here as there.
"""

from __future__ import annotations

from kanna import encodings
from kanna.encodings import Encoding

TABLE = {
    "iq1_s": "iq4_nl", "iq1_m": "iq4_nl", "iq2_xxs": "iq4_nl", "iq2_xs": "iq4_nl", "iq2_s": "iq4_nl",
    "iq3_xxs": "iq4_nl", "iq3_s": "iq4_nl", "iq4_xs": "iq4_nl",
    "q2_k": "q4_0", "q3_k": "q4_0", "tq1_0": "q4_0", "tq2_0": "q4_0",
    "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
    # llama.cpp has no answer for these three but Q2_0's.
    "q1_0": "q4_0", "q2_0": "q4_0", "nvfp4": "iq4_nl",
}  # fmt: skip
LAST = "f16"


def feasible(wanted: Encoding, cols: int) -> tuple[Encoding, str]:
    """The encoding that rows of `cols` values can have instead of `wanted`, and why ("" when it fits)."""
    if cols % wanted.block == 0:
        return wanted, ""
    reason = f"{cols} columns are not a multiple of {wanted.block}"
    other = encodings.get(TABLE.get(wanted.name, LAST))
    if cols % other.block:
        return encodings.get(LAST), reason + f", nor of {other.block}"
    return other, reason
