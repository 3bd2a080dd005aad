"""Floats of 4 and 8 bits, by the number their bits make.

E2M1, E4M3 and E8M0 are those of OCP Microscaling Formats 1.0; E4M3 has no infinities, and E5M2 is
the upper byte of a half (OCP 8-bit Floating Point Specification).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.model import F32

MAGNITUDES_E2M1: F32 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_NORMAL = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)][:-1]
MAGNITUDES_E4M3: F32 = np.array([m * 2.0**-9 for m in range(8)] + _NORMAL, np.float32)
"""All but the last of the 128, which is no number."""
_NAN = np.array([np.nan], np.float32)


def _e5m2() -> F32:
    bits: Any = np.arange(256, dtype=np.uint16) << np.uint16(8)
    return bits.view(np.float16).astype(np.float32)


E2M1: F32 = np.concatenate([MAGNITUDES_E2M1, -MAGNITUDES_E2M1])
E4M3: F32 = np.concatenate([MAGNITUDES_E4M3, _NAN, -MAGNITUDES_E4M3, _NAN])
E5M2: F32 = _e5m2()
E8M0: F32 = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), _NAN).astype(np.float32)
