"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from typing import Any


def trimmer() -> Any:
    """`malloc_trim` of the C library; None where it has none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None


def give_back() -> None:
    """Give back pages that glibc keeps between what is still used.

    The heap only shrinks at its end by itself. Elsewhere the allocator does so.
    """
    if (trim := trimmer()) is not None:
        trim(0)
